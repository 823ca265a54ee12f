//! A second reader of request bodies, written from the documentation of Go's `encoding/json` and not from our scan:
//! it has the whole body, builds a tree, and then fills Ollama's request struct as Go would. Slow and simple on
//! purpose. It is what the scan is compared with, in `tests/json_differential.rs` and in `fuzz/`.

/// What Ollama's handler would find in its request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    pub model: String,
    pub name: String,
    pub source: String,
    pub stream: Option<bool>,
    pub keep_alive: Option<Json>,
    pub options: Vec<(String, Json)>,
}

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Request {
    /// The request of a body, or `None` where Go returns an error and Ollama answers 400.
    pub fn read(body: &[u8]) -> Option<Request> {
        let Json::Object(fields) = Json::read(body)? else { return None };
        let mut request = Request::default();
        for (key, value) in fields {
            request.take(&key, value)?;
        }
        Some(request)
    }

    fn take(&mut self, key: &str, value: Json) -> Option<()> {
        match fold(key).as_str() {
            "MODEL" => text(&mut self.model, value),
            "NAME" => text(&mut self.name, value),
            "SOURCE" => text(&mut self.source, value),
            "STREAM" => match value {
                Json::Null => {
                    self.stream = None;
                    Some(())
                }
                Json::Bool(stream) => {
                    self.stream = Some(stream);
                    Some(())
                }
                _ => None,
            },
            "KEEP_ALIVE" => match value {
                Json::Null => {
                    self.keep_alive = None;
                    Some(())
                }
                Json::Number(number) if !number.is_finite() => None,
                Json::Number(_) | Json::Text(_) => {
                    self.keep_alive = Some(value);
                    Some(())
                }
                _ => None,
            },
            "OPTIONS" => match value {
                Json::Null => {
                    self.options.clear();
                    Some(())
                }
                Json::Object(fields) if fields.iter().all(|(_, value)| value.fits()) => {
                    for (key, value) in fields {
                        self.options.retain(|(known, _)| *known != key);
                        self.options.push((key, value));
                    }
                    Some(())
                }
                _ => None,
            },
            _ => Some(()),
        }
    }

    /// An option, by its exact key, as `Options.FromMap` looks it up.
    pub fn option(&self, key: &str) -> Option<&Json> {
        self.options.iter().find(|(known, value)| known == key && *value != Json::Null).map(|(_, value)| value)
    }
}

/// A string field: `null` leaves it as it is.
fn text(field: &mut String, value: Json) -> Option<()> {
    match value {
        Json::Null => {}
        Json::Text(text) => *field = text,
        _ => return None,
    }
    Some(())
}

/// Letters as Go compares them in the names of fields.
fn fold(key: &str) -> String {
    let fold = |letter: char| match letter {
        'ſ' => 'S',
        '\u{212a}' => 'K',
        letter => letter.to_ascii_uppercase(),
    };
    key.chars().map(fold).collect()
}

impl Json {
    /// The first value of a body. Whatever stands behind it is never looked at.
    pub fn read(body: &[u8]) -> Option<Json> {
        Reader { bytes: body, at: 0, depth: 0 }.value()
    }

    /// Whether every number in it fits a `float64`.
    fn fits(&self) -> bool {
        match self {
            Json::Number(number) => number.is_finite(),
            Json::List(items) => items.iter().all(Json::fits),
            Json::Object(fields) => fields.iter().all(|(_, value)| value.fits()),
            _ => true,
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn eat(&mut self, wanted: &[u8]) -> Option<()> {
        self.bytes[self.at..].starts_with(wanted).then(|| self.at += wanted.len())
    }

    fn value(&mut self) -> Option<Json> {
        self.space();
        let value = match self.peek()? {
            b'{' => self.nested(Self::object),
            b'[' => self.nested(Self::list),
            b'"' => self.string().map(Json::Text),
            b't' => self.eat(b"true").map(|()| Json::Bool(true)),
            b'f' => self.eat(b"false").map(|()| Json::Bool(false)),
            b'n' => self.eat(b"null").map(|()| Json::Null),
            _ => self.number(),
        }?;
        self.space();
        Some(value)
    }

    fn nested(&mut self, inner: fn(&mut Self) -> Option<Json>) -> Option<Json> {
        self.depth += 1;
        // Go's own limit is 10,000; this one keeps the recursion small. The scan ends at 64.
        let value = if self.depth > 200 { None } else { inner(self) };
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Option<Json> {
        let mut fields = Vec::new();
        self.eat(b"{")?;
        self.space();
        if self.eat(b"}").is_some() {
            return Some(Json::Object(fields));
        }
        loop {
            self.space();
            let key = self.string()?;
            self.space();
            self.eat(b":")?;
            fields.push((key, self.value()?));
            if self.eat(b",").is_none() {
                return self.eat(b"}").map(|()| Json::Object(fields));
            }
        }
    }

    fn list(&mut self) -> Option<Json> {
        let mut items = Vec::new();
        self.eat(b"[")?;
        self.space();
        if self.eat(b"]").is_some() {
            return Some(Json::List(items));
        }
        loop {
            items.push(self.value()?);
            if self.eat(b",").is_none() {
                return self.eat(b"]").map(|()| Json::List(items));
            }
        }
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn number(&mut self) -> Option<Json> {
        let start = self.at;
        let _ = self.eat(b"-");
        if self.eat(b"0").is_none() {
            self.digits()?;
        }
        if self.eat(b".").is_some() {
            self.digits()?;
        }
        if self.eat(b"e").or_else(|| self.eat(b"E")).is_some() {
            let _ = self.eat(b"+").or_else(|| self.eat(b"-"));
            self.digits()?;
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).ok()?;
        text.parse().ok().map(Json::Number)
    }

    /// Runs of escapes are UTF-16, runs of other bytes UTF-8; what is neither becomes U+FFFD.
    fn string(&mut self) -> Option<String> {
        self.eat(b"\"")?;
        let mut text = String::new();
        loop {
            let mut units = Vec::new();
            while self.eat(b"\\").is_some() {
                units.push(self.escape()?);
            }
            text.push_str(&String::from_utf16_lossy(&units));
            let rest = &self.bytes[self.at..];
            let raw = &rest[..rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\')?];
            text.push_str(&String::from_utf8_lossy(raw));
            self.at += raw.len();
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(text);
                }
                b'\\' => {}
                _ => return None,
            }
        }
    }

    fn escape(&mut self) -> Option<u16> {
        let byte = self.peek()?;
        self.at += 1;
        Some(match byte {
            b'"' | b'\\' | b'/' => u16::from(byte),
            b'b' => 8,
            b'f' => 12,
            b'n' => 10,
            b'r' => 13,
            b't' => 9,
            b'u' => {
                let digits = self.bytes.get(self.at..self.at + 4)?;
                self.at += 4;
                digits.iter().all(u8::is_ascii_hexdigit).then_some(())?;
                u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?
            }
            _ => return None,
        })
    }
}
