//! Which of the events of a stream are wanted. Those of late were chosen by the admin listener, by the same rules.

use clap::ValueEnum;
use serde_json::Value;

use super::{Arguments, Kind, Level};
use crate::ollama::name::canonical;

impl Arguments {
    /// Whether one that came is wanted.
    pub(super) fn wants(&self, one: &Value) -> bool {
        let is = |key: &str, wanted: &Option<String>| wanted.as_deref().is_none_or(|wanted| one[key] == wanted);
        match self.kind {
            Kind::Messages => self.level.is_none_or(|least| level(one) <= least),
            Kind::Requests => {
                let model = one["model"].as_str().map(canonical);
                self.model.as_deref().is_none_or(|wanted| model == Some(canonical(wanted)))
                    && self.status.as_deref().is_none_or(|wanted| is_status(one["status"].as_u64(), wanted))
                    && is("server", &self.server)
                    && is("key", &self.key)
                    && is("reason", &self.reason)
            }
        }
    }
}

/// One without a level that is known is shown always.
fn level(one: &Value) -> Level {
    one["level"].as_str().and_then(|word| Level::from_str(word, true).ok()).unwrap_or(Level::Error)
}

/// `503` is itself, `5xx` all of its class.
fn is_status(status: Option<u64>, wanted: &str) -> bool {
    let status = status.map(|status| status.to_string()).unwrap_or_default();
    match wanted.strip_suffix("xx") {
        Some(class) => status.len() == 3 && status.starts_with(class),
        None => status == wanted,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn wants(words: &[&str], one: &Value) -> bool {
        Line::parse_from(std::iter::once(&"logs").chain(words)).arguments.wants(one)
    }

    #[test]
    fn requests_are_chosen_by_all_that_is_asked_for() {
        let one = json!({ "model": "m:latest", "server": "a", "key": null, "status": 503, "reason": "no_server" });
        for yes in [&[][..], &["--model", "M"], &["--status", "5xx", "--server", "a"], &["--status", "503"]] {
            assert!(wants(yes, &one), "{yes:?}");
        }
        for no in [&["--model", "n"][..], &["--status", "4xx"], &["--status", "50"], &["--key", "ana"], &["--reason", "x"]] {
            assert!(!wants(no, &one), "{no:?}");
        }
    }

    #[test]
    fn messages_are_chosen_by_their_level() {
        let of = |level: &str| json!({ "level": level });
        let warn = ["--kind", "messages", "--level", "warn"];
        assert!(wants(&warn, &of("WARN")) && wants(&warn, &of("error")) && !wants(&warn, &of("info")));
        assert!(wants(&warn[..2], &of("trace")));
    }
}
