//! The fields `Cache-Control` of requests and answers (RFC 9111, 5.2).

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

/// The largest number of seconds that means something (RFC 9111, 1.2.2).
const MOST_SECONDS: u64 = 1 << 31;

/// Directives, their names in small letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives(Vec<(String, Option<String>)>);

impl Directives {
    /// Reads all fields of a head. Names mean the same in any letter case, and an argument is a token or a quoted text; what
    /// stands twice stands twice.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let mut all = Vec::new();
        for value in headers.get_all(header::CACHE_CONTROL) {
            let text = String::from_utf8_lossy(value.as_bytes());
            all.extend(split(&text).filter_map(|part| {
                let (name, argument) = match part.split_once('=') {
                    Some((name, argument)) => (name, Some(unquoted(argument.trim()))),
                    None => (part, None),
                };
                let name = name.trim().to_ascii_lowercase();
                (!name.is_empty()).then_some((name, argument))
            }));
        }
        Self(all)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a directive stands there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// The seconds of a directive, the least where it stands several times; what is no number is none at all, and counts as
    /// zero (RFC 9111, 4.2.1). `None` where it does not stand there.
    #[must_use]
    pub fn seconds(&self, name: &str) -> Option<Duration> {
        let all = self.0.iter().filter(|(known, _)| known == name);
        all.map(|(_, argument)| Duration::from_secs(argument.as_deref().and_then(number).unwrap_or(0))).min()
    }

    /// The same where it has a number, and has it in all places; for directives of which the absence is the careful reading.
    #[must_use]
    pub fn seconds_if_told(&self, name: &str) -> Option<Duration> {
        let all = self.0.iter().filter(|(known, _)| known == name);
        let numbers: Option<Vec<u64>> = all.map(|(_, argument)| argument.as_deref().and_then(number)).collect();
        numbers?.into_iter().min().map(Duration::from_secs)
    }

    /// All of them as one field in which each name stands once, in small letters and without quotes; those that `leaves_out`
    /// names are left out.
    #[must_use]
    pub fn canonical(&self, leaves_out: &[&str]) -> Option<HeaderValue> {
        let mut text = String::new();
        for (place, (name, argument)) in self.0.iter().enumerate() {
            let stood_before = self.0[..place].iter().any(|(before, _)| before == name);
            let is_token = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            if stood_before || !is_token || leaves_out.contains(&name.as_str()) {
                continue;
            }
            if !text.is_empty() {
                text.push_str(", ");
            }
            text.push_str(name);
            if argument.is_some() && matches!(name.as_str(), "max-age" | "s-maxage" | "min-fresh") {
                text.push_str(&format!("={}", self.seconds(name).unwrap_or_default().as_secs()));
            }
        }
        HeaderValue::try_from(text).ok().filter(|value| !value.is_empty())
    }
}

/// Seconds as digits (RFC 9111, 1.2.2).
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX).min(MOST_SECONDS))
}

/// The members of a list; a comma inside quotes parts nothing.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |letter| {
        if escaped {
            escaped = false;
            return false;
        }
        match letter {
            '"' => quoted = !quoted,
            '\\' => escaped = quoted,
            ',' => return !quoted,
            _ => {}
        }
        false
    })
}

fn unquoted(text: &str) -> String {
    let Some(inside) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else { return text.to_owned() };
    let (mut plain, mut letters) = (String::with_capacity(inside.len()), inside.chars());
    while let Some(letter) = letters.next() {
        plain.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    plain
}

/// What a request says about caches (RFC 9111, 5.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// Nothing of it is to be kept, or to be answered from what is.
    pub no_store: bool,
    /// What is kept is not good enough unless its server says so now.
    pub no_cache: bool,
    /// Nobody else is to be asked.
    pub only_if_cached: bool,
    /// What is older is not good enough.
    pub max_age: Option<Duration>,
    /// What is not fresh for so long more is not.
    pub min_fresh: Option<Duration>,
    /// What has not been fresh for so long is still good enough.
    pub max_stale: Option<Duration>,
}

impl Wish {
    /// Reads the head of a request. `Pragma: no-cache` counts where there is no `Cache-Control` (RFC 9111, 5.4).
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let directives = Directives::of(headers);
        let pragma = || {
            let fields = headers.get_all(header::PRAGMA).iter().filter_map(|value| value.to_str().ok());
            fields.flat_map(|value| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case("no-cache"))
        };
        Self {
            no_store: directives.has("no-store"),
            no_cache: directives.has("no-cache") || directives.is_empty() && pragma(),
            only_if_cached: directives.has("only-if-cached"),
            max_age: directives.seconds("max-age"),
            // What is no number asks for more than anything has.
            min_fresh: directives
                .has("min-fresh")
                .then(|| directives.seconds_if_told("min-fresh").unwrap_or(Duration::from_secs(MOST_SECONDS))),
            // Without a number, whatever is kept will do (RFC 9111, 5.2.1.2).
            max_stale: directives.0.iter().find(|(name, _)| name == "max-stale").map(|(_, argument)| {
                let least = match argument {
                    None => MOST_SECONDS,
                    Some(text) => number(text).unwrap_or(0),
                };
                Duration::from_secs(least)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(name: &'static str, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn directives_are_read_whatever_stands_beside_them() {
        let of = |values: &[&'static str]| Directives::of(&head("cache-control", values));
        let seconds = |text: &'static str, name: &str| of(&[text]).seconds(name).map(|time| time.as_secs());
        assert_eq!(seconds("Max-Age=60", "max-age"), Some(60));
        assert_eq!(seconds("max-age=\"60\" , x", "max-age"), Some(60));
        assert_eq!(seconds("max-age", "max-age"), Some(0));
        assert_eq!(seconds("max-age=-1", "max-age"), Some(0));
        assert_eq!(seconds("max-age=1.5", "max-age"), Some(0));
        assert_eq!(seconds("max-age=99999999999999999999999", "max-age"), Some(1 << 31));
        assert_eq!(seconds("max-age=60, max-age=5", "max-age"), Some(5));
        assert_eq!(seconds("s-maxage=60", "max-age"), None);
        assert!(of(&["private=\"a, no-store\", MUST-REVALIDATE"]).has("must-revalidate"));
        assert!(!of(&["private=\"a, no-store\""]).has("no-store"));
        assert!(of(&["x", "No-Store"]).has("no-store"));
        assert!(of(&["x=\"a\\\"b, y\", no-store"]).has("no-store"));
        assert!(of(&["", " , ,"]).is_empty());
        assert_eq!(of(&["stale-if-error=5, stale-if-error=x"]).seconds_if_told("stale-if-error"), None);
        assert_eq!(of(&["public"]).seconds_if_told("stale-if-error"), None);
    }

    #[test]
    fn the_canonical_form_has_each_name_once() {
        let of =
            |values: &[&'static str]| Directives::of(&head("cache-control", values)).canonical(&["proxy-revalidate"]);
        assert_eq!(
            of(&["Public, MAX-AGE=\"60\"", "max-age=5, no-cache=\"Set-Cookie, x\""]).unwrap(),
            "public, max-age=5, no-cache"
        );
        assert_eq!(of(&["proxy-revalidate"]), None);
        assert_eq!(of(&["max-age=x, a b"]).unwrap(), "max-age=0");
    }

    #[test]
    fn what_a_request_wants_is_read() {
        let of = |values: &[&'static str]| Wish::of(&head("cache-control", values));
        let secs = Duration::from_secs;
        assert_eq!(of(&[]), Wish::default());
        assert_eq!(of(&["no-transform"]), Wish::default());
        assert!(of(&["private, No-Store"]).no_store);
        assert!(of(&["max-stale", "no-cache"]).no_cache);
        assert!(of(&["only-if-cached"]).only_if_cached);
        assert_eq!(of(&["max-age=60"]).max_age, Some(secs(60)));
        assert_eq!(of(&["max-age=soon"]).max_age, Some(secs(0)));
        assert_eq!(of(&["max-stale"]).max_stale, Some(secs(1 << 31)));
        assert_eq!(of(&["max-stale=5"]).max_stale, Some(secs(5)));
        assert_eq!(of(&["max-stale=x"]).max_stale, Some(secs(0)));
        assert_eq!(of(&["min-fresh=5"]).min_fresh, Some(secs(5)));
        assert_eq!(of(&["min-fresh=x"]).min_fresh, Some(secs(1 << 31)));
        assert!(Wish::of(&head("pragma", &["x, no-cache"])).no_cache);
        let mut both = head("pragma", &["no-cache"]);
        both.insert("cache-control", HeaderValue::from_static("max-age=60"));
        assert!(!Wish::of(&both).no_cache);
    }
}
