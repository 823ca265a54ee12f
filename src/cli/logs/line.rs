//! A request or a message on one line.

use serde_json::Value;

use crate::cli::output::Look;
use crate::cli::table::Tone;
use crate::cli::words::{milliseconds, plain, span, stamp};

fn text<'a>(one: &'a Value, key: &str) -> &'a str {
    one[key].as_str().unwrap_or_default()
}

/// A word of others, or `-`.
fn word(one: &Value, key: &str) -> String {
    let text = text(one, key);
    if text.is_empty() { "-".to_owned() } else { plain(text) }
}

/// `2026-02-03 04:05:06.789  200     1.2s  POST /api/chat  llama3.2:3b  a100-1  12+34 tokens`
pub fn of_request(one: &Value, look: &Look) -> String {
    let status = one["status"].as_u64().unwrap_or_default();
    let tone = match status {
        0 | 500.. => Tone::Bad,
        400..500 => Tone::Warning,
        _ => Tone::Good,
    };
    let duration = one["durationMs"].as_f64().map_or_else(|| "-".to_owned(), |time| span(milliseconds(time)));
    let mut line = format!(
        "{}  {}  {duration:>7}  {} {}  {}  {}",
        Tone::Faint.paint(&stamp(text(one, "at")), look.colour),
        tone.paint(&format!("{status:03}"), look.colour),
        word(one, "method"),
        word(one, "path"),
        word(one, "model"),
        word(one, "server"),
    );
    if let (Some(prompt), Some(output)) = (one["promptTokens"].as_u64(), one["outputTokens"].as_u64()) {
        line.push_str(&format!("  {prompt}+{output} tokens"));
    }
    if !text(one, "key").is_empty() {
        line.push_str(&format!("  key {}", word(one, "key")));
    }
    if !matches!(text(one, "reason"), "" | "none" | "ok") {
        line.push_str(&format!("  {}", Tone::Warning.paint(&word(one, "reason"), look.colour)));
    }
    line.push('\n');
    line
}

/// `2026-02-03 04:05:06.789  WARN   the file was refused  error=...`
pub fn of_message(one: &Value, look: &Look) -> String {
    let level = text(one, "level").to_uppercase();
    let tone = match level.as_str() {
        "ERROR" => Tone::Bad,
        "WARN" => Tone::Warning,
        "INFO" => Tone::Good,
        _ => Tone::Faint,
    };
    let mut line = format!(
        "{}  {}  {}",
        Tone::Faint.paint(&stamp(text(one, "at")), look.colour),
        tone.paint(&format!("{:<5}", plain(&level)), look.colour),
        word(one, "message"),
    );
    for (key, value) in one["fields"].as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        line.push_str(&Tone::Faint.paint(&format!("  {}={}", plain(key), plain(&value)), look.colour));
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LOOK: Look = Look { colour: false, width: usize::MAX, now: time::OffsetDateTime::UNIX_EPOCH };

    #[test]
    fn a_request_is_one_line_whatever_its_client_called_things() {
        let one = json!({
            "seq": 1, "at": "2026-02-03T04:05:06.789Z", "method": "POST", "path": "/api/chat\u{1b}[2J\n", "status": 200,
            "reason": "none", "durationMs": 1234.5, "model": "llama3.2:3b", "server": "a100-1", "key": null,
            "promptTokens": 12, "outputTokens": 34,
        });
        let wanted =
            "2026-02-03 04:05:06.789  200     1.2s  POST /api/chat\\u{1b}[2J\\n  llama3.2:3b  a100-1  12+34 tokens\n";
        assert_eq!(of_request(&one, &LOOK), wanted);
        let refused = json!({ "at": "2026-02-03T04:05:06Z", "method": "GET", "path": "/", "status": 503, "key": "ana", "reason": "no_server" });
        assert_eq!(
            of_request(&refused, &LOOK),
            "2026-02-03 04:05:06.000  503        -  GET /  -  -  key ana  no_server\n"
        );
    }

    #[test]
    fn a_message_has_its_fields_behind_it() {
        let one = json!({
            "at": "2026-02-03T04:05:06Z", "level": "warn", "message": "refused", "fields": { "n": 3, "error": "a\nb" },
        });
        assert_eq!(of_message(&one, &LOOK), "2026-02-03 04:05:06.000  WARN   refused  n=3  error=a\\nb\n");
    }
}
