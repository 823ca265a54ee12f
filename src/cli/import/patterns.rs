//! What a `location` matches, in paths of ours.
//!
//! Arriero has exact paths and prefixes of whole segments, and no regexes. Those regexes that people write in locations
//! are mostly lists of words, and these can be written out; the endings of files become globs of `files`.

/// What a location matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// These paths, as `match.path` has them, and the prefix that a rewrite takes off.
    Paths { paths: Vec<String>, prefix: String, exact: bool },
    /// Files with these endings.
    Endings(Vec<String>),
    /// Hidden files.
    Hidden,
}

/// What was read, and what differs.
pub(super) struct Read {
    pub(super) pattern: Pattern,
    /// Where nginx would look for it: exact before `^~`, before regexes, before prefixes.
    pub(super) class: u8,
    pub(super) differs: Vec<&'static str>,
}

/// Most paths that a regex is written out to.
const MAX_PATHS: usize = 64;

/// Reads the arguments of a location; `None` when it cannot be said in paths.
pub(super) fn read(args: &[String]) -> Option<Read> {
    let (modifier, text) = match args {
        [text] => match text.strip_prefix('~') {
            // nginx takes `location ~\.php$` too.
            Some(rest) => ("~", rest),
            None => ("", text.as_str()),
        },
        [modifier, text] => (modifier.as_str(), text.as_str()),
        _ => return None,
    };
    match modifier {
        "=" => {
            let pattern = Pattern::Paths { paths: vec![clean(text)?], prefix: text.to_owned(), exact: true };
            Some(Read { pattern, class: 0, differs: Vec::new() })
        }
        "" | "^~" => {
            let path = clean(text)?;
            let mut differs = Vec::new();
            let paths = if path.ends_with('/') {
                vec![path.clone()]
            } else {
                differs.push("as whole segments: nginx's prefix also takes what only begins alike");
                vec![path.clone(), format!("{path}/")]
            };
            let class = if modifier.is_empty() { 3 } else { 1 };
            Some(Read { pattern: Pattern::Paths { paths, prefix: path, exact: false }, class, differs })
        }
        "~" | "~*" => regex(text, modifier == "~*"),
        _ => None,
    }
}

/// A path that `match.path` can have.
fn clean(text: &str) -> Option<String> {
    let fine = text.starts_with('/') && !text.contains(['%', '?', '#', '*', ' ', '\\']) && !text.contains("//");
    fine.then(|| text.to_owned())
}

fn regex(text: &str, any_case: bool) -> Option<Read> {
    if matches!(text, r"/\." | r"/\.(?!well-known)" | r"/\.(?!well-known).*" | r"(^|/)\." | r"^/\.")
        || text.starts_with(r"/\.ht")
    {
        return Some(Read { pattern: Pattern::Hidden, class: 2, differs: Vec::new() });
    }
    if let Some(endings) = endings(text) {
        return Some(Read { pattern: Pattern::Endings(endings), class: 2, differs: Vec::new() });
    }
    let mut differs = Vec::new();
    let anchored = text.strip_prefix('^');
    if anchored.is_none() {
        differs.push("only at the beginning of the path");
    }
    if any_case {
        differs.push("in this letter case");
    }
    let body = anchored.unwrap_or(text);
    let (body, exact) = match body.strip_suffix('$') {
        Some(body) => (body, true),
        None => (body, false),
    };
    let (body, exact) = match body.strip_suffix("(.*)").or_else(|| body.strip_suffix(".*")) {
        Some(body) => (body, false),
        None => (body, exact),
    };
    let words = write_out(body)?;
    let mut paths = Vec::new();
    for word in &words {
        let path = clean(word)?;
        if !exact && !path.ends_with('/') {
            paths.push(path.clone());
            paths.push(format!("{path}/"));
        } else {
            paths.push(path);
        }
    }
    if !exact && words.iter().any(|word| !word.ends_with('/')) {
        differs.push("as whole segments");
    }
    let prefix = if let [one] = words.as_slice() { one.clone() } else { String::new() };
    Some(Read { pattern: Pattern::Paths { paths, prefix, exact }, class: 2, differs })
}

/// `\.(js|css)$` or `\.html$` as endings.
fn endings(text: &str) -> Option<Vec<String>> {
    let text = text
        .strip_prefix("^.+")
        .or_else(|| text.strip_prefix(".*"))
        .or_else(|| text.strip_prefix(".+"))
        .unwrap_or(text);
    let inner = text.strip_prefix(r"\.")?.strip_suffix('$')?;
    let inner = match inner.strip_prefix("(?:").or_else(|| inner.strip_prefix('(')) {
        Some(rest) => rest.strip_suffix(')')?,
        None => inner,
    };
    let mut found = Vec::new();
    for word in inner.split('|') {
        // `jpe?g` is two.
        match word.split_once('?') {
            Some((before, after)) if !before.is_empty() && !after.contains('?') => {
                found.push(format!("{before}{after}"));
                found.push(format!("{}{after}", &before[..before.len() - 1]));
            }
            _ => found.push(word.to_owned()),
        }
    }
    found.iter().all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(found)
}

/// Every text that a regex of letters, escaped signs and groups of alternatives stands for.
fn write_out(mut body: &str) -> Option<Vec<String>> {
    let mut words = vec![String::new()];
    while let Some(letter) = body.chars().next() {
        let rest = &body[letter.len_utf8()..];
        let (choices, after): (Vec<String>, &str) = match letter {
            '(' => {
                let (inner, after) = rest.split_once(')')?;
                let inner = inner.strip_prefix("?:").unwrap_or(inner);
                let choices = inner.split('|').map(|choice| write_out(choice).filter(|words| words.len() == 1));
                (choices.collect::<Option<Vec<_>>>()?.concat(), after)
            }
            '\\' => {
                let sign = rest.chars().next().filter(|sign| !sign.is_alphanumeric())?;
                (vec![sign.to_string()], &rest[sign.len_utf8()..])
            }
            '.' | '*' | '+' | '?' | '[' | ']' | '{' | '}' | ')' | '|' | '^' | '$' => return None,
            plain => (vec![plain.to_string()], rest),
        };
        if after.starts_with(['*', '+', '?', '{']) || choices.is_empty() {
            return None;
        }
        words = words.iter().flat_map(|word| choices.iter().map(move |choice| format!("{word}{choice}"))).collect();
        if words.len() > MAX_PATHS {
            return None;
        }
        body = after;
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(args: &[&str]) -> Option<Pattern> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        read(&args).map(|read| read.pattern)
    }

    fn paths(args: &[&str]) -> Vec<String> {
        match pattern(args) {
            Some(Pattern::Paths { paths, .. }) => paths,
            other => panic!("{args:?}: {other:?}"),
        }
    }

    #[test]
    fn prefixes_and_exact_paths() {
        assert_eq!(paths(&["/api/"]), ["/api/"]);
        assert_eq!(paths(&["/api"]), ["/api", "/api/"]);
        assert_eq!(paths(&["^~", "/ws"]), ["/ws", "/ws/"]);
        assert_eq!(paths(&["=", "/50x.html"]), ["/50x.html"]);
        assert_eq!(pattern(&["@named"]), None);
        assert_eq!(pattern(&["/a b"]), None);
    }

    #[test]
    fn regexes_that_are_lists_of_words() {
        let expected = ["/api/models/list", "/api/models/list/", "/api/models/vision", "/api/models/vision/"];
        assert_eq!(paths(&["~*", "/api/models/(list|vision)"]), expected);
        assert_eq!(paths(&["~", r"^/a\.b/(?:c|d)$"]), ["/a.b/c", "/a.b/d"]);
        assert_eq!(paths(&["~", "^/v1/(.*)$"]), ["/v1/"]);
        let endings = |text| match pattern(&["~*", text]) {
            Some(Pattern::Endings(endings)) => endings,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(endings(r"\.(js|css|jpe?g)$"), ["js", "css", "jpeg", "jpg"]);
        assert_eq!(endings(r"\.html$"), ["html"]);
        assert_eq!(pattern(&["~", r"/\."]), Some(Pattern::Hidden));
        for wrong in ["^/[a-z]+$", "^/a+b", r"^/\d+", "^/(a(b|c))", "^/a?b"] {
            assert_eq!(pattern(&["~", wrong]), None, "{wrong}");
        }
    }
}
