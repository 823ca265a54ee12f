//! What the server is told about the request: who sent it, and under which name it is known.
//!
//! Clients are not believed: what they say about addresses is replaced by what the socket says.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, header, request};

use super::context::RequestContext;
use super::framing::Length;
use super::request::REQUEST_ID;
use crate::config::types::Kind;
use crate::fleet::server::ServerState;
use crate::routing::Scheme;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Completes the head that every attempt sends.
pub fn complete(head: &mut request::Parts, ctx: &RequestContext) {
    let scheme = Scheme::of(ctx.client_tls).as_str();
    let forwarded = forwarded(&ctx.client_ip, ctx.client, ctx.host.as_ref(), scheme);
    let via = via(head);
    let upgrade = head.headers.get(header::UPGRADE).filter(|_| ctx.wants_upgrade).cloned();
    strip_hop_by_hop(&mut head.headers);
    let headers = &mut head.headers;
    remove_all(headers, &[header::TE, header::PROXY_AUTHORIZATION]);
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    headers.insert(X_FORWARDED_FOR, ctx.forwarded_for.as_ref().unwrap_or(&ctx.client_ip).clone());
    headers.insert(X_REAL_IP, ctx.client_ip.clone());
    headers.insert(header::FORWARDED, forwarded);
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static(scheme));
    set(headers, X_FORWARDED_HOST, ctx.host.as_ref());
    set(headers, REQUEST_ID, ctx.request_id.as_ref());
    headers.insert(header::VIA, via);
    if let Some(host) = &ctx.host {
        headers.insert(header::HOST, host.clone());
    }
}

/// A field without a value must not reach the server.
fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<&HeaderValue>) {
    match value {
        Some(value) => headers.insert(name, value.clone()),
        None => headers.remove(name),
    };
}

/// Removes fields that are rarely there: to see that none is costs less than to look for each.
pub fn remove_all(headers: &mut HeaderMap, names: &[HeaderName]) {
    if headers.keys().any(|name| names.contains(name)) {
        for name in names {
            headers.remove(name);
        }
    }
}

/// What concerns a connection stops with it (RFC 9110 7.6.1).
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|token| HeaderName::from_bytes(token.trim().as_bytes()).ok())
            // How the body ends is not the other side's to take away.
            .filter(|name| !matches!(*name, header::TRANSFER_ENCODING | header::CONTENT_LENGTH | header::HOST))
            .collect();
        for name in named {
            headers.remove(name);
        }
        headers.remove(header::CONNECTION);
    }
    remove_all(headers, &[KEEP_ALIVE, PROXY_CONNECTION, header::UPGRADE]);
}

/// The host that a URI names.
pub fn authority(uri: &Uri) -> Option<HeaderValue> {
    HeaderValue::from_str(uri.authority()?.as_str()).ok()
}

/// Addresses the head of an attempt to its server and says how the body ends.
pub fn for_server(head: &mut request::Parts, kind: Kind, server: &ServerState, length: Length) {
    let headers = &mut head.headers;
    // Ollama answers 403 to a Host that it does not know; other servers want the client's.
    if kind != Kind::Http || !headers.contains_key(header::HOST) {
        headers.insert(header::HOST, server.location.authority.clone());
    }
    match length {
        Length::Unknown => headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
        Length::None | Length::Known(_) => headers.remove(header::TRANSFER_ENCODING),
    };
}

/// RFC 7239 4: an IPv6 address stands in brackets and quotes, a host with a port in quotes. `ip` is the client's address as text.
fn forwarded(ip: &HeaderValue, client: IpAddr, host: Option<&HeaderValue>, scheme: &str) -> HeaderValue {
    let (ip, host) = (ip.as_bytes(), host.and_then(|host| host.to_str().ok()).map(str::as_bytes));
    let mut text = Vec::with_capacity(32 + ip.len() + host.map_or(0, <[u8]>::len));
    let mut add = |parts: &[&[u8]]| parts.iter().for_each(|part| text.extend_from_slice(part));
    match client {
        IpAddr::V4(_) => add(&[b"for=", ip]),
        IpAddr::V6(_) => add(&[b"for=\"[", ip, b"]\""]),
    }
    if let Some(host) = host {
        let plain = host.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
        let quote: &[u8] = if plain { b"" } else { b"\"" };
        add(&[b";host=", quote, host, quote]);
    }
    add(&[b";proto=", scheme.as_bytes()]);
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("for=unknown"))
}

/// RFC 9110 7.6.3.
fn via(request: &request::Parts) -> HeaderValue {
    let own = match request.version {
        Version::HTTP_2 => "2 arriero",
        Version::HTTP_10 => "1.0 arriero",
        _ => "1.1 arriero",
    };
    let before = request.headers.get(header::VIA).and_then(|before| before.to_str().ok());
    before
        .and_then(|before| HeaderValue::try_from(format!("{before}, {own}")).ok())
        .unwrap_or(HeaderValue::from_static(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_is_quoted_where_the_grammar_wants_it() {
        let forwarded = |ip: &'static str, host: Option<&'static str>, scheme| {
            let host = host.map(HeaderValue::from_static);
            super::forwarded(&HeaderValue::from_static(ip), ip.parse().unwrap(), host.as_ref(), scheme)
        };
        assert_eq!(forwarded("10.0.0.1", Some("a.test"), "http"), "for=10.0.0.1;host=a.test;proto=http");
        let v6 = "for=\"[2001:db8::1]\";host=\"a.test:80\";proto=https";
        assert_eq!(forwarded("2001:db8::1", Some("a.test:80"), "https"), v6);
        assert_eq!(forwarded("10.0.0.1", None, "http"), "for=10.0.0.1;proto=http");
    }
}
