//! What the server is told about the request: who sent it, and under which name it is known.
//!
//! Clients are not believed: what they say about addresses is replaced by what the socket says.

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
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

/// How many fields are added.
const ADDED: usize = 8;

/// Completes the head that every attempt sends a copy of.
///
/// Pingora keeps a second map beside the fields for the letter case of their names, and clones and
/// grows both. Field names mean the same in any case (RFC 9110 5.1), so that map is given up here; it
/// would cost a tenth of the processor time of a small request.
pub fn complete(session: &mut Session, ctx: &RequestContext) -> Result<()> {
    let via = via(session.req_header());
    let request = session.req_header_mut();
    if request.uri.path_and_query().map(|target| target.as_str().as_bytes()) != Some(request.raw_path()) {
        // The target cannot be told from the parsed URI alone: keep Pingora's own form of it.
        return complete_in_place(request, via, ctx);
    }
    let placeholder = RequestHeader::build_no_case(http::Method::GET, b"/", None)?;
    let mut parts = http::request::Parts::from(std::mem::replace(request, placeholder));
    parts.headers.reserve(ADDED);
    for (name, value) in fields(&parts.headers, &parts.uri, via, ctx) {
        match value {
            Some(value) => parts.headers.insert(name, value),
            None => parts.headers.remove(name),
        };
    }
    *request = RequestHeader::from(parts);
    Ok(())
}

fn complete_in_place(request: &mut RequestHeader, via: HeaderValue, ctx: &RequestContext) -> Result<()> {
    for (name, value) in fields(&request.headers, &request.uri, via, ctx) {
        match value {
            Some(value) => request.insert_header(name, value)?,
            None => drop(request.remove_header(&name)),
        }
    }
    Ok(())
}

/// The fields that tell the server about the request; one without a value must not reach it.
fn fields(
    headers: &HeaderMap,
    uri: &http::Uri,
    via: HeaderValue,
    ctx: &RequestContext,
) -> [(HeaderName, Option<HeaderValue>); 7] {
    // An HTTP/2 request names its host in the authority of the URI.
    let authority = || uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let host = headers.get(header::HOST).cloned().or_else(authority);
    let client = ctx.connection.as_ref();
    let client_ip = client.map(|connection| connection.client_ip.clone());
    let forwarded = client.map(|connection| {
        let host = host.as_ref().and_then(|host| host.to_str().ok());
        forwarded(connection.client.ip().to_canonical(), host)
    });
    [
        (X_FORWARDED_FOR, client_ip.clone()),
        (X_REAL_IP, client_ip),
        (header::FORWARDED, forwarded),
        (X_FORWARDED_PROTO, Some(HeaderValue::from_static("http"))),
        (X_FORWARDED_HOST, host),
        (REQUEST_ID, ctx.request_id.clone()),
        (header::VIA, Some(via)),
    ]
}

/// Addresses one attempt's copy of the head to its server.
pub fn for_server(request: &mut RequestHeader, ctx: &RequestContext) -> Result<()> {
    // Ollama answers 403 to a Host that it does not know; other servers want the client's.
    if let (Some(upstream), Some(attempt)) = (ctx.route.as_ref().and_then(|route| route.upstream()), &ctx.attempt)
        && upstream.kind != Kind::Http
    {
        let authority = attempt.slot.server().location.authority.clone();
        if upstream.http2 {
            set_authority(request, &authority);
        }
        request.insert_header("Host", authority)?;
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
fn via(request: &RequestHeader) -> HeaderValue {
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
        assert_eq!(forwarded([10, 0, 0, 1].into(), Some("a.test")), "for=10.0.0.1;host=a.test;proto=http");
        let v6 = "2001:db8::1".parse().unwrap();
        assert_eq!(forwarded(v6, Some("a.test:80")), "for=\"[2001:db8::1]\";host=\"a.test:80\";proto=http");
        assert_eq!(forwarded([10, 0, 0, 1].into(), None), "for=10.0.0.1;proto=http");
    }
}
