//! Who may speak to a host: Ollama's checks of `Host` and `Origin` when it listens on loopback.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderValue, Method};

use super::reply::{self, Reply};

/// Hosts from which browsers may call by default, with any port.
const LOCAL_ORIGINS: [&str; 3] = ["localhost", "127.0.0.1", "0.0.0.0"];

/// Schemes of desktop applications that may call by default.
const LOCAL_SCHEMES: [&str; 5] = ["app://", "file://", "tauri://", "vscode-webview://", "vscode-file://"];

/// The answer that ends the request here, if any: 403 with an empty body, or 204 to a preflight.
pub(super) fn refuse(head: &Parts) -> Option<Reply> {
    let host = requested_host(head);
    if let Some(origin) = head.headers.get(ORIGIN) {
        let origin_text = origin.to_str().unwrap_or("null");
        let same = origin_text
            .split_once("://")
            .is_some_and(|(scheme, rest)| matches!(scheme, "http" | "https") && rest == host);
        if !same && !is_allowed_origin(origin_text) {
            return Some(reply::empty(403));
        }
        if head.method == Method::OPTIONS && !same {
            return Some(preflight(origin));
        }
    }
    let name = without_port(&host);
    if let Ok(address) = name.parse::<IpAddr>() {
        return (!is_near(address)).then(|| reply::empty(403));
    }
    if !is_allowed_name(&name.to_lowercase()) {
        return Some(reply::empty(403));
    }
    (head.method == Method::OPTIONS).then(|| reply::empty(204))
}

/// Marks an answer to a browser as readable by its page.
pub(super) fn allow_origin(head: Option<&HeaderValue>, reply: &mut Reply) {
    if let Some(origin) = head {
        reply.headers_mut().insert("access-control-allow-origin", origin.clone());
        reply.headers_mut().insert("vary", HeaderValue::from_static("Origin"));
    }
}

fn preflight(origin: &HeaderValue) -> Reply {
    let mut reply = reply::empty(204);
    let headers = reply.headers_mut();
    let methods = HeaderValue::from_static("GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS");
    let names = HeaderValue::from_static("Authorization,Content-Type,User-Agent,Accept,X-Requested-With");
    headers.insert("access-control-allow-headers", names);
    headers.insert("access-control-allow-methods", methods);
    headers.insert("access-control-max-age", HeaderValue::from_static("43200"));
    allow_origin(Some(origin), &mut reply);
    reply
}

fn requested_host(head: &Parts) -> String {
    let header = head.headers.get(HOST).and_then(|value| value.to_str().ok());
    let authority = head.uri.authority().map(|authority| authority.as_str());
    authority.or(header).unwrap_or_default().to_owned()
}

fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or(rest);
    }
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    }
}

fn is_near(address: IpAddr) -> bool {
    let private = match address {
        IpAddr::V4(address) => address.is_private(),
        IpAddr::V6(address) => address.is_unique_local(),
    };
    private || address.is_loopback() || address.is_unspecified()
}

fn is_allowed_name(name: &str) -> bool {
    name.is_empty()
        || name == "localhost"
        || [".localhost", ".local", ".internal"].iter().any(|suffix| name.ends_with(suffix))
        || own_name().is_some_and(|own| own == name)
}

/// This machine's name.
fn own_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_lowercase())
}

fn is_allowed_origin(origin: &str) -> bool {
    if LOCAL_SCHEMES.iter().any(|scheme| origin.starts_with(scheme)) {
        return true;
    }
    origin
        .split_once("://")
        .is_some_and(|(scheme, rest)| matches!(scheme, "http" | "https") && LOCAL_ORIGINS.contains(&without_port(rest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn status(host: &str, origin: Option<&str>) -> u16 {
        let mut request = Request::get("/").header("host", host);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        let (head, ()) = request.body(()).unwrap_or_else(|error| panic!("{error}")).into_parts();
        refuse(&head).map_or(200, |reply| reply.status().as_u16())
    }

    #[test]
    fn only_near_hosts_are_served() {
        for host in [
            "localhost:11434",
            "127.0.0.1:1",
            "[::1]:1",
            "::1",
            "10.1.2.3",
            "192.168.0.9:80",
            "0.0.0.0",
            "a.local",
            "x.internal:1",
            "",
        ] {
            assert_eq!(status(host, None), 200, "{host}");
        }
        for host in ["ollama.example.com", "8.8.8.8:11434", "localhost.example.com", "[2001:db8::1]:1"] {
            assert_eq!(status(host, None), 403, "{host}");
        }
    }

    #[test]
    fn only_near_origins_are_served() {
        assert_eq!(status("localhost", Some("http://localhost:3000")), 200);
        assert_eq!(status("10.0.0.1:80", Some("http://10.0.0.1:80")), 200);
        assert_eq!(status("localhost", Some("tauri://app")), 200);
        assert_eq!(status("localhost", Some("https://evil.example")), 403);
    }
}
