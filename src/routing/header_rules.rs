//! Header rules: fields that are removed, set and added.
//!
//! The new values may be made of the very fields that are about to change, so a change has two steps: work out
//! ([`HeaderRules::changes`]) and apply ([`Changes::apply`]). Order: remove, then set, then add.
//!
//! A `set` whose value comes out empty or unfit removes the field, as nginx does it; an `add` then does nothing.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::template::{Facts, Template};

/// Fields that frame a message or belong to one connection: no rule may touch them, in either direction.
const UNTOUCHABLE: &[&str] = &[
    "connection",
    "content-encoding",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Why no rule may touch a field, with what to do instead; `None` when one may.
#[must_use]
pub fn refusal(name: &str, response: bool) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "host" if response => Some("`Host` is a field of requests"),
        "content-encoding" => Some("it says how the body is coded: use `compress`, or leave it to the server"),
        "connection" | "upgrade" | "keep-alive" | "proxy-connection" | "te" => {
            Some("it belongs to one connection: Arriero writes it, also for WebSockets")
        }
        _ if UNTOUCHABLE.contains(&name.as_str()) => Some("it frames the body: Arriero writes it"),
        _ => None,
    }
}

/// What happens to the fields of a head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules {
    /// Fields that are removed.
    pub remove: Vec<HeaderName>,
    /// Fields that replace all of their name.
    pub set: Vec<(HeaderName, Template)>,
    /// Fields beside those of their name.
    pub add: Vec<(HeaderName, Template)>,
}

impl HeaderRules {
    /// Whether nothing happens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.set.is_empty() && self.add.is_empty()
    }

    /// The values for one request.
    #[must_use]
    pub fn changes(&self, facts: &Facts<'_>) -> Changes<'_> {
        let render = |rules: &'_ [(HeaderName, Template)]| -> Vec<Option<HeaderValue>> {
            rules.iter().map(|(_, template)| template.render(facts)).collect()
        };
        Changes { rules: self, set: render(&self.set), add: render(&self.add) }
    }
}

/// Values that are about to be applied.
#[derive(Clone, Debug)]
pub struct Changes<'r> {
    rules: &'r HeaderRules,
    set: Vec<Option<HeaderValue>>,
    add: Vec<Option<HeaderValue>>,
}

impl Changes<'_> {
    /// Applies them.
    pub fn apply(self, headers: &mut HeaderMap) {
        for name in &self.rules.remove {
            headers.remove(name);
        }
        for ((name, _), value) in self.rules.set.iter().zip(self.set) {
            match value {
                Some(value) => headers.insert(name.clone(), value),
                None => headers.remove(name),
            };
        }
        for ((name, _), value) in self.rules.add.iter().zip(self.add) {
            if let Some(value) = value {
                headers.append(name.clone(), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(remove: &[&'static str], set: &[(&'static str, &str)], add: &[(&'static str, &str)]) -> HeaderRules {
        let pairs = |list: &[(&'static str, &str)]| {
            list.iter().map(|(name, value)| (HeaderName::from_static(name), Template::parse(value).unwrap())).collect()
        };
        HeaderRules {
            remove: remove.iter().map(|name| HeaderName::from_static(name)).collect(),
            set: pairs(set),
            add: pairs(add),
        }
    }

    fn facts(headers: &HeaderMap) -> Facts<'_> {
        Facts {
            host: "h",
            path: "/",
            query: None,
            method: "GET",
            scheme: "http",
            client_ip: None,
            request_id: "",
            route: "r",
            upstream: "",
            server: "",
            model: "",
            status: None,
            headers,
        }
    }

    #[test]
    fn fields_are_removed_set_and_added_in_this_order() {
        let mut headers = HeaderMap::new();
        headers.append("server", HeaderValue::from_static("x"));
        headers.append("x-a", HeaderValue::from_static("1"));
        headers.append("x-a", HeaderValue::from_static("2"));
        headers.append("vary", HeaderValue::from_static("origin"));
        let rules = rules(&["server"], &[("x-a", "{header:x-a}!")], &[("vary", "accept"), ("x-a", "again")]);
        let facts_of = headers.clone();
        rules.changes(&facts(&facts_of)).apply(&mut headers);
        let all = |name: &str| headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all("server"), Vec::<&str>::new());
        assert_eq!(all("x-a"), ["1, 2!", "again"]);
        assert_eq!(all("vary"), ["origin", "accept"]);
    }

    #[test]
    fn an_empty_value_removes_what_was_there() {
        let mut headers = HeaderMap::new();
        headers.append("accept-encoding", HeaderValue::from_static("gzip"));
        let rules = rules(&[], &[("accept-encoding", ""), ("x-model", "{model}")], &[("x-b", "{model}")]);
        let before = headers.clone();
        rules.changes(&facts(&before)).apply(&mut headers);
        assert!(headers.is_empty(), "{headers:?}");
    }

    #[test]
    fn framing_and_connection_fields_cannot_be_touched() {
        for name in ["Content-Length", "transfer-encoding", "Connection", "upgrade", "TE", "content-encoding"] {
            assert!(refusal(name, true).is_some() && refusal(name, false).is_some(), "{name}");
        }
        assert!(refusal("Host", true).is_some() && refusal("host", false).is_none());
        assert!(refusal("x-frame-options", true).is_none());
    }
}
