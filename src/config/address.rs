//! The forms of addresses: `HOST:PORT` of listeners, the admin address, URLs of servers.
//!
//! Only the form is checked: no name is resolved here. The messages never repeat the text, because it
//! may hold a password or come out of a variable.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A host and a port. The host is an IP address or a name, in small letters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// IP address (version 6 without brackets) or name.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl HostPort {
    /// Reads `HOST:PORT`, with brackets around an IPv6 address.
    ///
    /// # Errors
    /// What is wrong with the form, in one sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = split_port(text)?;
        match port {
            Some(port) => Ok(Self { host, port }),
            None => Err("the port is missing: write `HOST:PORT`, such as `0.0.0.0:8080`".to_owned()),
        }
    }

    /// Whether only this machine can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Whether somebody on this machine who connects to `target` comes to a listener at this address. `0.0.0.0` is for IPv4
    /// and `[::]` for IPv6 alone, as our listeners are. Names are not resolved, but for `localhost`.
    #[must_use]
    pub fn is_reached_at(&self, target: &Self) -> bool {
        let localhost = |host: &str| {
            [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
                .map(|ip: IpAddr| (host == "localhost").then_some(ip))
        };
        let ips = |host: &str| host.parse().ok().map_or_else(|| localhost(host), |ip| [Some(ip), None]);
        let meets = |own: IpAddr, other: IpAddr| {
            let here = other.is_loopback() || other.is_unspecified();
            own == other || own.is_unspecified() && here && own.is_ipv4() == other.is_ipv4()
        };
        let (own, other) = (ips(&self.host), ips(&target.host));
        let meet = own.iter().flatten().any(|own| other.iter().flatten().any(|other| meets(*own, *other)));
        self.port == target.port && self.port != 0 && (self.host == target.host || meet)
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

/// Where the admin listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    /// A TCP address.
    Tcp(HostPort),
    /// Path of a Unix socket.
    Unix(String),
}

impl AdminAddress {
    /// Reads `HOST:PORT` or `unix:/path/to/socket`.
    ///
    /// # Errors
    /// What is wrong with the form, in one sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            None => HostPort::parse(text).map(Self::Tcp),
            Some(path) if !path.starts_with('/') || path.len() < 2 => {
                Err("the path of a Unix socket starts with `/`: write `unix:/run/arriero.sock`".to_owned())
            }
            Some(path) if path.len() > 107 => Err("the path of a Unix socket has at most 107 bytes".to_owned()),
            Some(path) => Ok(Self::Unix(path.to_owned())),
        }
    }
}

/// The URL of a server, taken apart. Two equal values reach the same server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerUrl {
    /// `https`.
    pub tls: bool,
    /// Host and port; the port is 80 or 443 when the URL names none.
    pub address: HostPort,
}

impl ServerUrl {
    /// Reads `http://HOST:PORT` or `https://HOST:PORT`.
    ///
    /// # Errors
    /// What is wrong with the form and where it belongs instead, in one sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let scheme_end = text.find("://").ok_or("a URL starts with `http://` or `https://`")?;
        let tls = match text[..scheme_end].to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return Err("a URL starts with `http://` or `https://`".to_owned()),
        };
        let rest = &text[scheme_end + 3..];
        let (authority, after) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("a URL has no user or password: clients send their own `Authorization`".to_owned());
        }
        match after.chars().next() {
            None => {}
            Some('/') if after.len() == 1 => return Err("a URL ends after the port: remove the last `/`".to_owned()),
            Some('/') => return Err("a URL has no path: write it in `match.path` of a route".to_owned()),
            Some('?') => return Err("a URL has no query: clients send their own".to_owned()),
            Some(_) => return Err("a URL has no fragment: remove it".to_owned()),
        }
        let (host, port) = split_port(authority)?;
        if port == Some(0) {
            return Err("port 0 cannot be connected to".to_owned());
        }
        let port = port.unwrap_or(if tls { 443 } else { 80 });
        Ok(Self { tls, address: HostPort { host, port } })
    }
}

/// The URL of a Redis or Valkey, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RedisUrl {
    /// `rediss`.
    pub tls: bool,
    /// Host and port; the port is 6379 when the URL names none.
    pub address: HostPort,
    /// Number of the database.
    pub database: u16,
}

impl RedisUrl {
    /// Reads `redis://HOST[:PORT][/DATABASE]`, or the same with `rediss`.
    ///
    /// # Errors
    /// What is wrong with the form, in one sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        const SCHEME: &str = "a URL starts with `redis://`, or with `rediss://` for TLS";
        let (scheme, rest) = text.split_once("://").ok_or(SCHEME)?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "redis" => false,
            "rediss" => true,
            _ => return Err(SCHEME.to_owned()),
        };
        if rest.contains('@') {
            return Err("a URL has no user or password: write `username` and `password_file`".to_owned());
        }
        if rest.contains(['?', '#']) {
            return Err("a URL has no query and no fragment: remove it".to_owned());
        }
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        let (host, port) = split_port(authority)?;
        if port == Some(0) {
            return Err("port 0 cannot be connected to".to_owned());
        }
        let database = if database.is_empty() { Ok(0) } else { database.parse() };
        let database = database.map_err(|_| "behind the port comes the number of a database, such as `/1`")?;
        Ok(Self { tls, address: HostPort { host, port: port.unwrap_or(6379) }, database })
    }
}

/// The URL of a webhook, taken apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WebhookUrl {
    /// `https`.
    pub tls: bool,
    /// Host and port; the port is 80 or 443 when the URL names none.
    pub address: HostPort,
    /// Path and query.
    pub target: String,
}

impl WebhookUrl {
    /// Reads `http://HOST[:PORT][/PATH][?QUERY]`, or the same with `https`.
    ///
    /// # Errors
    /// What is wrong with the form, in one sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        let begin = text.find("://").map_or(0, |scheme| scheme + 3);
        let (server, target) = text.split_at(text[begin..].find(['/', '?', '#']).map_or(text.len(), |at| begin + at));
        if server.contains('@') {
            return Err("a URL has no user or password: what is sent is signed instead".to_owned());
        }
        let ServerUrl { tls, address } = ServerUrl::parse(server)?;
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        if target.contains('#') {
            return Err("a URL has no fragment: remove it".to_owned());
        }
        if !target.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("path and query are ASCII without blanks: write other characters as `%XX`".to_owned());
        }
        Ok(Self { tls, address, target })
    }

    /// As it may be shown: path and query may hold a secret, so of them only whether there are any.
    #[must_use]
    pub fn shown(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        let rest = if self.target == "/" { "" } else { "/…" };
        format!("{scheme}://{}{rest}", self.address)
    }
}

/// Host in small letters, and port if there is one.
fn split_port(text: &str) -> Result<(String, Option<u16>), String> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("the `]` after the IPv6 address is missing")?;
        host.parse::<Ipv6Addr>().map_err(|_| "this is not an IPv6 address in `[ ]`")?;
        let port = match after.strip_prefix(':') {
            Some(port) => Some(port),
            None if after.is_empty() => None,
            None => return Err("after `]` comes `:PORT`".to_owned()),
        };
        (host, port)
    } else {
        match text.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => {
                return Err("an IPv6 address needs brackets: `[::1]:8080`".to_owned());
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() {
        return Err("the host is missing: write `HOST:PORT`, such as `0.0.0.0:8080` for every interface".to_owned());
    }
    let ip = host.parse::<IpAddr>().is_ok();
    let numeric = host.chars().all(|c| c.is_ascii_digit() || c == '.');
    if !ip && (numeric || !is_host_name(host)) {
        return Err("the host is neither an IP address nor a name".to_owned());
    }
    let port = match port {
        None => None,
        Some(digits) => Some(parse_port(digits)?),
    };
    Ok((host.to_ascii_lowercase(), port))
}

fn parse_port(digits: &str) -> Result<u16, String> {
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = if valid { digits.parse().ok() } else { None };
    port.ok_or_else(|| "the port is a number from 0 to 65535".to_owned())
}

/// Whether `text` can be a host name: labels of letters, digits, `-`, `_`.
pub(super) fn is_host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_read() {
        for text in ["0.0.0.0:8080", "[::]:8080", "localhost:0", "a-b.c_d:65535"] {
            assert_eq!(HostPort::parse(text).map(|address| address.to_string()), Ok(text.to_owned()));
        }
        for text in ["8080", ":8080", "::1:80", "[::1]", "[::1]80", "a b:1", "1.2.3:1", "a:", "a:65536", "a:+1", ""] {
            assert!(HostPort::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn urls_are_read_and_compared_by_what_they_reach() {
        assert_eq!(ServerUrl::parse("http://Host"), ServerUrl::parse("HTTP://host:80"));
        assert_eq!(ServerUrl::parse("https://h").map(|url| url.address.port), Ok(443));
        assert_eq!(ServerUrl::parse("http://[::1]:1").map(|url| url.address.host), Ok("::1".to_owned()));
    }

    #[test]
    fn a_wrong_url_says_where_its_parts_belong() {
        let cases = [
            ("10.0.0.1:11434", "starts with `http://`"),
            ("ftp://a", "starts with `http://`"),
            ("http://u:p@a", "no user or password"),
            ("http://a/", "remove the last `/`"),
            ("http://a/v1", "match.path"),
            ("http://a?x", "no query"),
            ("http://a#x", "no fragment"),
            ("http://a:65536", "from 0 to 65535"),
            ("http://a:0", "port 0"),
            ("http://", "host is missing"),
        ];
        for (text, expected) in cases {
            let error = ServerUrl::parse(text).err().unwrap_or_default();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn webhooks_have_a_path_and_a_query_that_are_not_shown() {
        let url = WebhookUrl::parse("https://Hooks.test/T0/s3cret?a=b").unwrap();
        assert_eq!((url.tls, url.address.port, url.target.as_str()), (true, 443, "/T0/s3cret?a=b"));
        assert_eq!(url.shown(), "https://hooks.test:443/…");
        let plain = WebhookUrl::parse("http://127.0.0.1:9?x").unwrap();
        assert_eq!((plain.target.as_str(), plain.shown().as_str()), ("/?x", "http://127.0.0.1:9/…"));
        assert_eq!(WebhookUrl::parse("http://a").map(|url| url.shown()), Ok("http://a:80".to_owned()));
        for wrong in ["ftp://a/x", "a/b", "http://u:p@a/", "http://a/#x", "http://a/ b", "http:///x", "http://a:0/"] {
            assert!(WebhookUrl::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn admin_addresses_are_tcp_or_unix() {
        assert_eq!(AdminAddress::parse("unix:/run/a.sock"), Ok(AdminAddress::Unix("/run/a.sock".to_owned())));
        assert!(matches!(AdminAddress::parse("127.0.0.1:0"), Ok(AdminAddress::Tcp(address)) if address.is_loopback()));
        assert!(AdminAddress::parse("unix:run/a.sock").is_err());
        assert!(AdminAddress::parse(&format!("unix:/{}", "a".repeat(107))).is_err());
    }
}
