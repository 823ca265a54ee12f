//! What the server is told about the request: who sent it, and under which name it is known.
//!
//! Clients are not believed: what they say about addresses is replaced by what the socket says.

use http::{HeaderName, HeaderValue, Version, header};
use pingora_error::Result;
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::context::RequestContext;
use super::request::REQUEST_ID;
use crate::config::types::Kind;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Rewrites the head for the server.
pub fn for_server(session: &Session, request: &mut RequestHeader, ctx: &RequestContext) -> Result<()> {
    let host = request.headers.get(header::HOST).cloned();
    if let Some(connection) = &ctx.connection {
        request.insert_header(X_FORWARDED_FOR, connection.client_ip.clone())?;
        request.insert_header(X_REAL_IP, connection.client_ip.clone())?;
        let host = host.as_ref().and_then(|host| host.to_str().ok());
        request.insert_header(header::FORWARDED, forwarded(connection.client.ip().to_canonical(), host))?;
    }
    request.insert_header(X_FORWARDED_PROTO, HeaderValue::from_static("http"))?;
    if let Some(host) = host {
        request.insert_header(X_FORWARDED_HOST, host)?;
    }
    if let Some(id) = &ctx.request_id {
        request.insert_header(REQUEST_ID, id.clone())?;
    }
    request.insert_header(header::VIA, via(session, request))?;
    // Ollama answers 403 to a Host that it does not know; other servers want the client's.
    if let (Some(route), Some(attempt)) = (&ctx.route, &ctx.attempt)
        && route.upstream.kind != Kind::Http
    {
        let authority = attempt.slot.server().location.authority.clone();
        if route.upstream.http2 {
            set_authority(request, &authority);
        }
        request.insert_header(header::HOST, authority)?;
    }
    Ok(())
}

/// HTTP/2 servers read the authority from the URI.
fn set_authority(request: &mut RequestHeader, authority: &HeaderValue) {
    let mut parts = request.uri.clone().into_parts();
    parts.authority = authority.to_str().ok().and_then(|authority| authority.parse().ok());
    parts.scheme = parts.scheme.or(Some(http::uri::Scheme::HTTP));
    if let Ok(uri) = http::Uri::from_parts(parts) {
        request.set_uri(uri);
    }
}

/// RFC 7239 4: an IPv6 address stands in brackets and quotes, a host with a port in quotes.
fn forwarded(client: std::net::IpAddr, host: Option<&str>) -> HeaderValue {
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
    text.push_str(";proto=http");
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("for=unknown"))
}

/// RFC 9110 7.6.3.
fn via(session: &Session, request: &RequestHeader) -> HeaderValue {
    let own = match session.req_header().version {
        Version::HTTP_2 => "2 arriero",
        Version::HTTP_10 => "1.0 arriero",
        _ => "1.1 arriero",
    };
    match request.headers.get(header::VIA).and_then(|before| before.to_str().ok()) {
        Some(before) => {
            HeaderValue::try_from(format!("{before}, {own}")).unwrap_or(HeaderValue::from_static("1.1 arriero"))
        }
        None => HeaderValue::from_static(own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_is_quoted_where_the_grammar_wants_it() {
        assert_eq!(forwarded([10, 0, 0, 1].into(), Some("a.test")), "for=10.0.0.1;host=a.test;proto=http");
        let v6 = "2001:db8::1".parse().unwrap();
        assert_eq!(forwarded(v6, Some("a.test:80")), "for=\"[2001:db8::1]\";host=\"a.test:80\";proto=http");
        assert_eq!(forwarded([10, 0, 0, 1].into(), None), "for=10.0.0.1;proto=http");
    }
}
