//! nginx's ways to write times, sizes, rates and variables, in ours.

/// A time such as `60`, `30s`, `1h 30m` or `7d`, in ours; `None` when it is none.
pub(super) fn time(text: &str) -> Option<String> {
    let seconds = milliseconds(text)?;
    Some(duration(seconds))
}

/// Milliseconds of a time.
pub(super) fn milliseconds(text: &str) -> Option<u64> {
    let mut total: u64 = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let unit = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let factor = match &after[..unit] {
            "ms" => 1,
            "" | "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            "M" => 30 * 86_400_000,
            "y" => 365 * 86_400_000,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(factor)?)?;
        rest = after[unit..].trim_start();
    }
    Some(total)
}

/// A duration as people write it: `90s`, `5m`, `7d`; seconds up to an hour and a half.
pub(super) fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    match milliseconds {
        _ if !milliseconds.is_multiple_of(1000) => format!("{milliseconds}ms"),
        _ if seconds >= 86_400 && seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        _ if seconds > 5400 && seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        _ => format!("{seconds}s"),
    }
}

/// A size such as `1024`, `8k`, `50M` or `1g`, in ours; `0`, which is no limit in nginx, is 1 TiB.
pub(super) fn size(text: &str) -> Option<String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let unit = match &text[digits.len()..] {
        "" => "B",
        "k" | "K" => "KiB",
        "m" | "M" => "MiB",
        "g" | "G" => "GiB",
        _ => return None,
    };
    Some(if number == 0 { "1TiB".to_owned() } else { format!("{number}{unit}") })
}

/// A rate such as `10r/s` or `100r/m`, in ours.
pub(super) fn rate(text: &str) -> Option<String> {
    let (number, unit) = text.split_once("r/")?;
    number.parse::<u32>().ok()?;
    matches!(unit, "s" | "m").then(|| format!("{number}/{unit}"))
}

/// A value with variables in ours, or the first variable that has no counterpart.
pub(super) fn template(text: &str) -> Result<String, String> {
    // One idea in three variables.
    let text = text.replace("$uri$is_args$args", "$request_uri").replace("$document_uri", "$uri");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find(['$', '{']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix('{') {
            out.push_str("{{");
            rest = after;
            continue;
        }
        let (name, after) = match rest[1..].strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, after)) => (name, after),
            None => {
                let end = rest[1..].find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                rest[1..].split_at(end.unwrap_or(rest.len() - 1))
            }
        };
        match variable(name) {
            Some(ours) => out.push_str(&ours),
            None if name.is_empty() => out.push('$'),
            None => return Err(format!("${name}")),
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn variable(name: &str) -> Option<String> {
    let ours = match name {
        "host" => "{host}",
        "request_uri" => "{uri}",
        "uri" => "{path}",
        "args" | "query_string" => "{query}",
        "request_method" => "{method}",
        "scheme" => "{scheme}",
        "remote_addr" | "realip_remote_addr" => "{client_ip}",
        "request_id" => "{request_id}",
        "status" | "upstream_status" => "{status}",
        "upstream_addr" => "{server}",
        "proxy_host" => "{upstream}",
        _ => return name.strip_prefix("http_").map(|field| format!("{{header:{}}}", field.replace('_', "-"))),
    };
    Some(ours.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_sizes_and_rates() {
        let times =
            [("60", "60s"), ("900s", "900s"), ("7d", "7d"), ("1y", "365d"), ("1h 30m", "5400s"), ("500ms", "500ms")];
        for (theirs, ours) in times {
            assert_eq!(time(theirs).as_deref(), Some(ours));
            assert!(ours.parse::<crate::units::Duration>().is_ok());
        }
        for wrong in ["", "x", "5q", "-1"] {
            assert_eq!(time(wrong), None, "{wrong}");
        }
        for (theirs, ours) in [("50M", "50MiB"), ("8k", "8KiB"), ("1024", "1024B"), ("0", "1TiB"), ("1g", "1GiB")] {
            assert_eq!(size(theirs).as_deref(), Some(ours));
            assert!(ours.parse::<crate::units::ByteSize>().is_ok());
        }
        assert_eq!(rate("100r/m").as_deref(), Some("100/m"));
        assert_eq!(rate("10r/h"), None);
    }

    #[test]
    fn variables() {
        let cases = [
            ("https://$host$request_uri", "https://{host}{uri}"),
            ("/new$uri$is_args$args", "/new{uri}"),
            ("${scheme}s {x}", "{scheme}s {{x}"),
            ("$http_x_team", "{header:x-team}"),
            ("no-cache", "no-cache"),
        ];
        for (theirs, ours) in cases {
            assert_eq!(template(theirs).as_deref(), Ok(ours), "{theirs}");
            assert!(crate::routing::Template::parse(ours).is_ok());
        }
        assert_eq!(template("$server_port"), Err("$server_port".to_owned()));
    }
}
