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
                    && self.status.is_none_or(|wanted| one["status"] == wanted)
                    && self.server.as_deref().is_none_or(|wanted| is_server(one, wanted))
                    && is("key", &self.key)
                    && is("reason", &self.reason)
            }
        }
    }
}

/// A server is called by its name, or by `UPSTREAM/NAME`.
fn is_server(one: &Value, wanted: &str) -> bool {
    let longer = |(upstream, name): (&str, &str)| one["upstream"] == upstream && one["server"] == name;
    one["server"] == wanted || wanted.split_once('/').is_some_and(longer)
}

/// One without a level that is known is shown always.
fn level(one: &Value) -> Level {
    one["level"].as_str().and_then(|word| Level::from_str(word, true).ok()).unwrap_or(Level::Error)
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
        let one = json!({ "model": "m:latest", "upstream": "fleet", "server": "a", "key": null, "status": 503, "reason": "no_server" });
        for yes in [&[][..], &["--model", "M"], &["--server", "fleet/a", "--reason", "no_server"], &["--status", "503"]]
        {
            assert!(wants(yes, &one), "{yes:?}");
        }
        for no in
            [&["--model", "n"][..], &["--status", "200"], &["--server", "web/a"], &["--key", "ana"], &["--reason", "x"]]
        {
            assert!(!wants(no, &one), "{no:?}");
        }
    }

    #[test]
    fn messages_are_chosen_by_their_level() {
        let of = |level: &str| json!({ "level": level });
        let warn = ["--kind", "messages", "--level", "warn"];
        assert!(wants(&warn, &of("WARN")) && wants(&warn, &of("error")) && !wants(&warn, &of("info")));
        assert!(wants(&warn[..2], &of("debug")));
    }
}
