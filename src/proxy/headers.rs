//! What the server is told about the request: who sent it, and under which name it is known.
//!
//! Clients are not believed: what they say about addresses is replaced by what the socket says.

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
    let added = fields(head, ctx);
    let upgrade = head.headers.get(header::UPGRADE).filter(|_| ctx.wants_upgrade).cloned();
    strip_hop_by_hop(&mut head.headers);
    let headers = &mut head.headers;
    for name in [header::TE, header::PROXY_AUTHORIZATION] {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    for (name, value) in added {
        match value {
            Some(value) => headers.insert(name, value),
            None => headers.remove(name),
        };
    }
    if let Some(host) = &ctx.host {
        headers.insert(header::HOST, host.clone());
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
    for name in [KEEP_ALIVE, PROXY_CONNECTION, header::UPGRADE] {
        headers.remove(name);
    }
}

/// The host that a URI names.
pub fn authority(uri: &Uri) -> Option<HeaderValue> {
    HeaderValue::from_str(uri.authority()?.as_str()).ok()
}

/// The fields that tell the server about the request; one without a value must not reach it.
fn fields(head: &request::Parts, ctx: &RequestContext) -> [(HeaderName, Option<HeaderValue>); 7] {
    let host = ctx.host.clone();
    let client_ip = Some(ctx.client_ip.clone());
    let scheme = Scheme::of(ctx.client_tls).as_str();
    let forwarded = forwarded(ctx.client, host.as_ref().and_then(|host| host.to_str().ok()), scheme);
    [
        (X_FORWARDED_FOR, ctx.forwarded_for.clone().or_else(|| client_ip.clone())),
        (X_REAL_IP, client_ip),
        (header::FORWARDED, Some(forwarded)),
        (X_FORWARDED_PROTO, Some(HeaderValue::from_static(scheme))),
        (X_FORWARDED_HOST, host),
        (REQUEST_ID, ctx.request_id.clone()),
        (header::VIA, Some(via(head))),
    ]
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

/// RFC 7239 4: an IPv6 address stands in brackets and quotes, a host with a port in quotes.
fn forwarded(client: std::net::IpAddr, host: Option<&str>, scheme: &str) -> HeaderValue {
    let mut text = match client {
        std::net::IpAddr::V4(client) => format!("for={client}"),
        std::net::IpAddr::V6(client) => format!("for=\"[{client}]\""),
    };
    if let Some(host) = host {
        let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
        let quote = if plain { "" } else { "\"" };
        text.push_str(";host=");
        text.push_str(quote);
        text.push_str(host);
        text.push_str(quote);
    }
    text.push_str(";proto=");
    text.push_str(scheme);
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
        assert_eq!(forwarded([10, 0, 0, 1].into(), Some("a.test"), "http"), "for=10.0.0.1;host=a.test;proto=http");
        let v6 = "2001:db8::1".parse().unwrap();
        assert_eq!(forwarded(v6, Some("a.test:80"), "https"), "for=\"[2001:db8::1]\";host=\"a.test:80\";proto=https");
        assert_eq!(forwarded([10, 0, 0, 1].into(), None, "http"), "for=10.0.0.1;proto=http");
    }
}
