//! Rules about the collector that is told traces.

use http::{HeaderName, HeaderValue};

use super::{Rules, notifications, tls};
use crate::config::address::WebhookUrl;
use crate::config::codes;
use crate::config::tree::Path;
use crate::config::types::{Config, OtlpProtocol};
use crate::units::Duration;

/// How long spans may gather at most.
const LONGEST_INTERVAL: Duration = Duration(std::time::Duration::from_secs(60));

/// Fields that say how a message is carried, which is not for a rule to say.
const OWN: [&str; 8] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "te",
    "transfer-encoding",
    "user-agent",
];

pub(super) fn check(config: &Config, rules: &mut Rules<'_, '_, '_>) {
    let Some(tracing) = &config.telemetry.tracing else { return };
    let root = Path::Root.key("telemetry");
    let path = root.key("tracing");
    let url = path.key("url");
    match WebhookUrl::parse(&tracing.url) {
        Err(why) => {
            let shown = rules.shown(&url, &tracing.url);
            let why = rules.why(&url, why, "write it like `http://127.0.0.1:4317`");
            rules.value(codes::COLLECTOR, &url, format!("{shown} is not the URL of a collector"), why);
        }
        Ok(parsed) if tracing.protocol == OtlpProtocol::Grpc && parsed.target != "/" => {
            let hint = "write host and port alone, or `protocol: http`";
            rules.value(codes::COLLECTOR, &url, "gRPC has a path of its own, so this URL may have none", hint);
        }
        Ok(parsed) if !parsed.tls && tracing.tls.is_some() => {
            let message = "the collector's URL begins with `http://`, so nothing is encrypted";
            rules.key(codes::NOT_HERE, &path.key("tls"), message, "write `https://` in `url`, or remove `tls`");
        }
        Ok(_) => {}
    }
    if tracing.service_name.is_empty() {
        let hint = "leave it out for `arriero`";
        rules.value(codes::INVALID_VALUE, &path.key("service_name"), "a service needs a name", hint);
    }
    let attributes = path.key("attributes");
    for name in tracing.attributes.keys().filter(|name| name.is_empty() || *name == "service.name") {
        let message = format!("`{name}` cannot be an attribute here");
        rules.key(codes::INVALID_VALUE, &attributes.key(name), message, "name the service by `service_name`");
    }
    let headers = path.key("headers");
    for (name, value) in &tracing.headers {
        let at = headers.key(name);
        if HeaderName::try_from(name.as_str()).is_err() || HeaderValue::try_from(value.as_str()).is_err() {
            let hint = "names are letters, digits and `-`, values one line of ASCII";
            rules.key(codes::FIELD, &at, format!("`{name}` is not a header field that can be sent"), hint);
        } else if OWN.iter().any(|own| name.eq_ignore_ascii_case(own)) || name.to_ascii_lowercase().starts_with("grpc-")
        {
            let hint = "remove it: it says how the message is carried";
            rules.key(codes::UNTOUCHABLE, &at, format!("`{name}` is not for the configuration to say"), hint);
        } else if tracing.token_file.is_some() && name.eq_ignore_ascii_case("authorization") {
            let hint = "remove one of the two";
            rules.key(codes::CONTRADICTION, &at, "`token_file` sends another `Authorization`", hint);
        }
    }
    if let Some(file) = &tracing.token_file {
        notifications::secret(&path.key("token_file"), file, rules);
    }
    if let Some(settings) = &tracing.tls {
        tls::trust(&path.key("tls"), settings, "the collector's certificate is", rules);
    }
    rules.not_zero(&path.key("interval"), tracing.interval, "leave it out for the default");
    if tracing.interval > LONGEST_INTERVAL {
        let message = "spans that gather for longer than a minute are of little use";
        rules.value(codes::RANGE, &path.key("interval"), message, "write `1m` at most");
    }
    rules.not_zero(&path.key("timeout"), tracing.timeout, "leave it out for the default");
}
