//! Who the client is, when proxies stand in front of us.
//!
//! # Problem
//!
//! Behind a proxy every connection comes from that proxy, and the client's address stands in a field that
//! anybody can write. Access lists, rate limits and logs need the one address that nobody could forge.
//!
//! # Rules
//!
//! - A peer outside of `trusted_proxies` is the client; what it says about addresses is not read.
//! - A trusted peer is asked: `X-Forwarded-For`, else `Forwarded`, else `X-Real-IP`. Each proxy appends the
//!   address that it saw, so the list is read from its right end: the first address that is no trusted proxy
//!   is the client, and whatever stands left of it may be invented.
//! - At most [`MAX_ENTRIES`] entries are read. Where an entry is no address (`unknown`, a name), or the list
//!   ends, the last proxy that is known counts as the client: there is nobody else to hold to account.
//!
//! The proxies have to keep their side: the field that is read must be one that they append to or replace.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::cidr::Networks;

mod forwarded;

/// Most entries of a list that are read, from its right end.
pub const MAX_ENTRIES: usize = 20;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// Fields by which proxies of others tell an address. They mean nothing from a peer that is not trusted and
/// must not reach a server then; those that Arriero itself writes are not among them.
pub const CLAIMS: [HeaderName; 10] = [
    HeaderName::from_static("true-client-ip"),
    HeaderName::from_static("cf-connecting-ip"),
    HeaderName::from_static("cf-connecting-ipv6"),
    HeaderName::from_static("fastly-client-ip"),
    HeaderName::from_static("x-client-ip"),
    HeaderName::from_static("x-cluster-client-ip"),
    HeaderName::from_static("x-original-forwarded-for"),
    HeaderName::from_static("x-forwarded"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
];

/// The client of a request, and the way that the request took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Its address; one of version 4 is never wrapped in version 6.
    pub ip: IpAddr,
    /// Whether the client itself spoke TLS, to us or to a trusted proxy.
    pub tls: bool,
    /// Trusted proxies between the client and us, ours last; empty without any.
    pub proxies: Vec<IpAddr>,
}

impl Client {
    /// A client that is connected to us directly.
    #[must_use]
    pub fn direct(peer: IpAddr, tls: bool) -> Self {
        Self { ip: peer.to_canonical(), tls, proxies: Vec::new() }
    }

    /// The value of `X-Forwarded-For` for the server: the client and the trusted proxies, nothing invented.
    #[must_use]
    pub fn forwarded_for(&self) -> String {
        let mut text = self.ip.to_string();
        for proxy in &self.proxies {
            // Writing to a String cannot fail.
            let _ = write!(text, ", {proxy}");
        }
        text
    }
}

/// A trusted proxy sent a `Forwarded` field in which a quote is never closed, so that it cannot be told what is
/// the proxy's and what the client's: the request is answered 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the field `Forwarded` is broken")]
pub struct Ambiguous;

/// Who sent a request. `peer` is the other end of the connection, as the PROXY protocol tells it where that is
/// spoken; `tls` says whether that connection is encrypted; `fields` are those of the request.
///
/// # Errors
/// [`Ambiguous`]; never for a peer that is not trusted.
pub fn resolve(peer: IpAddr, tls: bool, trusted: &Networks, fields: &HeaderMap) -> Result<Client, Ambiguous> {
    let peer = peer.to_canonical();
    if trusted.is_empty() || !trusted.contains(peer) {
        return Ok(Client::direct(peer, tls));
    }
    let by_list = proto_of(fields).unwrap_or(tls);
    if fields.contains_key(X_FORWARDED_FOR) {
        let entries = fields.get_all(X_FORWARDED_FOR).iter().rev().flat_map(entries_of).map(|entry| (entry, None));
        return Ok(walk(peer, by_list, trusted, entries));
    }
    if fields.contains_key(header::FORWARDED) {
        let elements = forwarded::last_elements(fields)?;
        let entries = elements.into_iter().map(|element| (element.client, element.tls));
        return Ok(walk(peer, by_list, trusted, entries));
    }
    let real = fields.get_all(X_REAL_IP).iter().rev().take(1).map(|value| (address(value.as_bytes()), None));
    Ok(walk(peer, by_list, trusted, real))
}

/// The addresses of a list, its right end first; `None` for an entry that is no address.
fn entries_of(value: &HeaderValue) -> impl Iterator<Item = Option<IpAddr>> {
    let entries = value.as_bytes().rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    entries.filter(|entry| !entry.is_empty()).map(address)
}

fn walk(
    peer: IpAddr,
    tls: bool,
    trusted: &Networks,
    entries: impl Iterator<Item = (Option<IpAddr>, Option<bool>)>,
) -> Client {
    let mut client = Client { ip: peer, tls, proxies: Vec::new() };
    for (address, tls) in entries.take(MAX_ENTRIES) {
        let Some(address) = address else { break };
        client.proxies.push(client.ip);
        client.ip = address;
        client.tls = tls.unwrap_or(client.tls);
        if !trusted.contains(address) {
            break;
        }
    }
    client.proxies.reverse();
    client
}

/// What the nearest proxy says about the client's connection.
fn proto_of(fields: &HeaderMap) -> Option<bool> {
    let value = fields.get_all(X_FORWARDED_PROTO).iter().next_back()?;
    is_https(value.as_bytes().rsplit(|byte| *byte == b',').next()?.trim_ascii())
}

fn is_https(word: &[u8]) -> Option<bool> {
    if word.eq_ignore_ascii_case(b"https") {
        return Some(true);
    }
    word.eq_ignore_ascii_case(b"http").then_some(false)
}

/// An address as proxies write it: with or without port, brackets and quotes.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry.trim_ascii()).ok()?;
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let bare = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok().map(IpAddr::from);
    let with_port = || text.parse::<SocketAddr>().ok().filter(|_| !text.contains('%')).map(|address| address.ip());
    text.parse::<IpAddr>().ok().or_else(bare).or_else(with_port).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests;
