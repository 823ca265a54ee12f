//! The two headers of a form: its Content-Type, with the boundary, and each part's Content-Disposition.

/// The longest boundary of RFC 2046, 5.1.1.
const MAX_BOUNDARY_BYTES: usize = 70;

/// What a part's headers say about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disposition {
    /// The form's `model` field, and not a file.
    Model,
    /// Anything else.
    Other,
    /// Go may read it as the model and we do not, or the other way round.
    Ambiguous,
}

/// The boundary of a `multipart/form-data` Content-Type.
pub fn boundary(content_type: &str) -> Option<String> {
    let (essence, parameters) = content_type.split_once(';')?;
    if !essence.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let mut found = None;
    for (name, value) in parse_parameters(parameters)? {
        if name.eq_ignore_ascii_case("boundary") && found.replace(value).is_some() {
            return None;
        }
    }
    found.filter(|boundary| {
        (1..=MAX_BOUNDARY_BYTES).contains(&boundary.len()) && boundary.bytes().all(|byte| (b' '..=b'~').contains(&byte))
    })
}

/// Reads a part's header block, its closing empty line included.
pub(super) fn read_headers(block: &[u8]) -> Disposition {
    let block = String::from_utf8_lossy(block);
    // RFC 5322, 2.2.3: a line that begins with white space goes on with the one before.
    let block = block.replace("\r\n", "\n").replace("\n ", " ").replace("\n\t", " ");
    let mut disposition = None;
    let mut encoded = false;
    for line in block.lines() {
        let Some((name, value)) = line.split_once(':') else {
            continue;
        };
        if name.eq_ignore_ascii_case("content-disposition") {
            if disposition.replace(value).is_some() {
                return Disposition::Ambiguous;
            }
        } else if name.trim().eq_ignore_ascii_case("content-disposition") {
            return Disposition::Ambiguous;
        } else if name.trim().eq_ignore_ascii_case("content-transfer-encoding") {
            let plain = ["7bit", "8bit", "binary"];
            encoded |= !plain.iter().any(|word| value.trim().eq_ignore_ascii_case(word));
        }
    }
    match disposition.map_or(Disposition::Other, read_disposition) {
        Disposition::Model if encoded => Disposition::Ambiguous,
        disposition => disposition,
    }
}

/// RFC 7578, 4.2.
fn read_disposition(value: &str) -> Disposition {
    let (kind, parameters) = value.split_once(';').unwrap_or((value, ""));
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return Disposition::Other;
    }
    let Some(parameters) = parse_parameters(parameters) else {
        return Disposition::Ambiguous;
    };
    let (mut field, mut file) = (None, false);
    for (name, value) in parameters {
        let name = name.to_ascii_lowercase();
        if name == "name" {
            if field.replace(value).is_some() {
                return Disposition::Ambiguous;
            }
        } else if name == "filename" {
            file |= !value.is_empty();
        } else if name.starts_with("name*") {
            return Disposition::Ambiguous;
        } else if name.starts_with("filename*") {
            // RFC 2231; Go decodes it, and whatever it is, it names a file.
            file = true;
        }
    }
    if field.as_deref() == Some("model") && !file { Disposition::Model } else { Disposition::Other }
}

/// `; name=token; name="quoted \" string"`, as Go's `mime.ParseMediaType` takes them. `None` where it would not.
fn parse_parameters(text: &str) -> Option<Vec<(&str, String)>> {
    let mut parameters = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let (name, after) = (name.trim(), after.trim_start());
        if name.is_empty() || name.contains(|letter: char| letter.is_whitespace() || "\";,".contains(letter)) {
            return None;
        }
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                let value = after[..end].trim();
                if value.contains(|letter: char| letter.is_whitespace() || letter == '"') {
                    return None;
                }
                (value.to_owned(), &after[end..])
            }
        };
        parameters.push((name, value));
        let after = after.trim_start();
        if after.is_empty() {
            break;
        }
        rest = after.strip_prefix(';')?.trim();
    }
    Some(parameters)
}

/// The text up to the closing quote, and what follows it. Go takes a backslash as an escape only before a quote or
/// a backslash, because Internet Explorer sends Windows paths (`mime/mediatype.go`, `consumeValue`).
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match letters.peek() {
                Some(&(_, next @ ('"' | '\\'))) => {
                    value.push(next);
                    letters.next();
                }
                _ => value.push('\\'),
            },
            letter => value.push(letter),
        }
    }
    None
}
