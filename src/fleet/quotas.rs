//! Token quotas as they run: whom a request is counted for, and how much that one may use.
//!
//! The numbers are judged by [`policy::quota`](crate::policy::quota), the sums are in
//! [`history::quotas`](crate::history::quotas); here stands which quotas a request has and under which words it counts there.
//!
//! # Invariants
//! - A subject is a text without spaces in its parts, so that no two keys are written the same: `api_key=0a1b2c3d`,
//!   `client_ip=192.0.2.1 model=llava:latest`.
//! - A request without an API key counts under its address, as in rate limits; one without a header field under an empty value.
//! - What a client can choose is kept up to [`LONGEST`] bytes; of longer values their SHA-256.

use std::fmt::Write;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use sha2::{Digest, Sha256};

use super::keys::{Key, KeySet};
use super::limits::{Facts, KeyPart};
use crate::ollama::ModelPattern;
use crate::policy::network::network_of;
use crate::policy::quota::{Allowance, Counted, Level, Tokens, Window};

/// Longest value of a header field that stands in a subject as it is.
pub const LONGEST: usize = 128;

/// The subject where everything is counted together.
const ALL: &str = "all";

/// One quota.
#[derive(Debug)]
pub struct Quota {
    /// Its name.
    pub name: String,
    /// What it counts by; nothing counts everything together.
    pub key: Vec<KeyPart>,
    /// Which tokens.
    pub counted: Counted,
    /// How many; `None` where only keys with an amount of their own are limited.
    pub limit: Option<u64>,
    /// In which time.
    pub window: Window,
    /// From how many hundredths of the limit on it warns.
    pub warn_at: u8,
    /// Whether it only warns beyond the limit.
    pub only_warns: bool,
    /// Models that it is about; none for all.
    pub models: Vec<ModelPattern>,
    /// Routes that it holds for; `None` for all.
    pub routes: Option<Vec<String>>,
}

/// A quota of a route.
#[derive(Debug)]
pub struct RouteQuota {
    /// The quota.
    pub quota: Arc<Quota>,
    /// Requests of the route that it refused.
    pub refused: Counter,
    /// Tokens that were charged to it.
    pub charged: Counter,
    /// Requests of the route, under any quota, whose server did not tell how many tokens they used.
    pub untold: Counter,
}

impl Quota {
    /// Whether requests of a route for this model are counted.
    #[must_use]
    pub fn is_about(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|pattern| pattern.matches(model))
    }

    /// How much a request with this key may use; `None` for any amount.
    #[must_use]
    pub fn allowance(&self, key: Option<&Key>) -> Option<Allowance> {
        let own = key.filter(|_| self.counts_by_key()).and_then(|key| key.quota(&self.name));
        self.of_limit(own.or(self.limit)?)
    }

    /// How much may be used by whoever is counted under this subject, as the keys are now.
    #[must_use]
    pub fn allowance_of(&self, subject: &str, keys: Option<&KeySet>) -> Option<Allowance> {
        let id = subject.split(' ').find_map(|part| part.strip_prefix("api_key="));
        self.allowance(id.and_then(|id| keys?.by_id(id)))
    }

    /// How far what was used goes.
    #[must_use]
    pub fn level(&self, used: Tokens, allowance: Option<Allowance>) -> Level {
        allowance.map_or(Level::Within, |allowance| allowance.level(self.counted.of(used)))
    }

    const fn of_limit(&self, limit: u64) -> Option<Allowance> {
        Some(Allowance { limit, warn_at: self.warn_at, only_warns: self.only_warns })
    }

    fn counts_by_key(&self) -> bool {
        self.key.contains(&KeyPart::ApiKey)
    }

    /// Whether it counts anybody under this subject: one that counted by something else before a reload may have others.
    #[must_use]
    pub fn counts(&self, subject: &str) -> bool {
        let mut parts = subject.split(' ').map(|part| part.split_once('=').map_or(part, |(name, _)| name));
        let same = self.key.iter().all(|part| {
            let name = parts.next().unwrap_or_default();
            match part {
                KeyPart::ClientIp => name == "client_ip",
                KeyPart::ApiKey => name == "api_key" || name == "client_ip",
                KeyPart::Route => name == "route",
                KeyPart::Model => name == "model",
                KeyPart::Host => name == "host",
                KeyPart::Header(field) => name.strip_prefix("header:") == Some(field.as_str()),
            }
        });
        if self.key.is_empty() { subject == ALL } else { same && parts.next().is_none() }
    }

    /// Whom a request of this route is counted for.
    #[must_use]
    pub fn subject(&self, route: &str, facts: &Facts<'_>) -> String {
        if self.key.is_empty() {
            return ALL.to_owned();
        }
        let mut text = String::with_capacity(48);
        for part in &self.key {
            if !text.is_empty() {
                text.push(' ');
            }
            // Writing to a String cannot fail.
            let _ = match part {
                KeyPart::ClientIp => write!(text, "client_ip={}", network_of(facts.client_ip)),
                KeyPart::ApiKey => match facts.key_id {
                    Some(id) => write!(text, "api_key={id}"),
                    None if self.key.contains(&KeyPart::ClientIp) => write!(text, "api_key="),
                    None => write!(text, "client_ip={}", network_of(facts.client_ip)),
                },
                KeyPart::Route => write!(text, "route={route}"),
                KeyPart::Model => write!(text, "model={}", plain(facts.model.unwrap_or_default().as_bytes())),
                KeyPart::Host => write!(text, "host={}", plain(facts.host.as_bytes())),
                KeyPart::Header(name) => {
                    let values: Vec<&[u8]> = facts.headers.get_all(name).iter().map(|value| value.as_bytes()).collect();
                    write!(text, "header:{name}={}", plain(&values.join(&b", "[..])))
                }
            };
        }
        text
    }
}

/// A value of others as one word: `%` stands before what could end it, and one that is too long is a hash.
fn plain(value: &[u8]) -> String {
    if value.len() > LONGEST {
        let digest = Sha256::digest(value);
        return digest.iter().fold("sha256:".to_owned(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
    }
    let mut text = String::with_capacity(value.len());
    for byte in value {
        if byte.is_ascii_graphic() && *byte != b'%' {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName};

    use super::*;
    use crate::clock;

    fn quota(key: Vec<KeyPart>) -> Quota {
        Quota {
            name: "daily".to_owned(),
            key,
            counted: Counted::Total,
            limit: Some(1000),
            window: Window::Day,
            warn_at: 80,
            only_warns: false,
            models: vec![ModelPattern::parse("llava*").unwrap()],
            routes: None,
        }
    }

    fn subject(key: Vec<KeyPart>, key_id: Option<&str>, headers: &[(&'static str, &str)]) -> String {
        let mut fields = HeaderMap::new();
        for (name, value) in headers {
            fields.append(*name, value.parse().unwrap());
        }
        let facts = Facts {
            client_ip: "2001:db8::7".parse().unwrap(),
            key_id,
            model: Some("llava:latest"),
            host: "a.test",
            headers: &fields,
            now: clock::now(),
        };
        quota(key).subject("chat", &facts)
    }

    #[test]
    fn a_request_is_counted_for_whom_the_key_says() {
        use KeyPart::{ApiKey, ClientIp, Header, Host, Model, Route};
        let id = Some("0a1b2c3d");
        let team = || Header(HeaderName::from_static("x-team"));
        assert_eq!(subject(vec![], id, &[]), "all");
        assert_eq!(subject(vec![ApiKey], id, &[]), "api_key=0a1b2c3d");
        assert_eq!(subject(vec![ApiKey], None, &[]), "client_ip=2001:db8::");
        assert_eq!(subject(vec![ApiKey, ClientIp], None, &[]), "api_key= client_ip=2001:db8::");
        assert_eq!(subject(vec![Route, Model, Host], id, &[]), "route=chat model=llava:latest host=a.test");
        assert_eq!(subject(vec![team()], id, &[]), "header:x-team=");
        // Nobody can write themselves into the place of another one.
        let forged = [("x-team", "a model=b%20")];
        assert_eq!(subject(vec![team(), Model], id, &forged), "header:x-team=a%20model=b%2520 model=llava:latest");
        let two = [("x-team", "a"), ("x-team", "b")];
        assert_eq!(subject(vec![team()], id, &two), "header:x-team=a,%20b");
        let long = subject(vec![team()], id, &[("x-team", &"a".repeat(LONGEST + 1))]);
        assert!(long.starts_with("header:x-team=sha256:") && long.len() == 21 + 64, "{long}");
    }

    #[test]
    fn a_quota_knows_its_own_subjects() {
        use KeyPart::{ApiKey, Header, Model};
        let team = || Header(HeaderName::from_static("x-team"));
        for (key, good, bad) in [
            (vec![], "all", "route=all"),
            (vec![ApiKey], "api_key=0a1b2c3d", "all"),
            (vec![ApiKey], "client_ip=192.0.2.1", "api_key=0a1b2c3d model=m"),
            (vec![ApiKey, Model], "api_key=0a1b2c3d model=m", "api_key=0a1b2c3d"),
            (vec![team()], "header:x-team=a=b", "header:x-user=a"),
        ] {
            assert!(quota(key.clone()).counts(good) && !quota(key).counts(bad), "{good} {bad}");
        }
    }

    #[test]
    fn models_are_those_of_the_patterns() {
        assert!(quota(vec![]).is_about("llava:13b") && !quota(vec![]).is_about("mistral:latest"));
    }
}
