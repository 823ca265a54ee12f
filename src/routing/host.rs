//! The canonical form of a host, patterns of hosts, and which hosts a listener answers for.
//!
//! # Problem
//!
//! Ollama checks the Host only while it listens on a loopback address; behind a proxy it takes any. A page on
//! `evil.test`, whose name an attacker lets point at our address (DNS rebinding), could then read our answers in
//! the browser of somebody who may reach us. A list of the names that are ours ends that.
//!
//! # Rules
//!
//! One host is one text: small letters, without the dot of the root, without the scheme's own port, an IPv6
//! address in its one short form. Nothing else is changed: what is not a host and a port is refused ([`parse`],
//! 400), what is not in the list is refused ([`HostList::allows`], 421). Ports do not count in the list: which port
//! is ours is known from the listener. Names in other scripts are written as DNS has them (`xn--…`).
//!
//! A request's host is brought to this form once, when the request begins. Whatever compares hosts or counts by them
//! takes it from there: routes, limits, variables.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::Ipv6Addr;

/// The longest name (RFC 1035, 2.3.4) and its longest label.
const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;

/// What a request calls us, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName<'a> {
    /// A name or address, in small letters; an IPv6 address in brackets.
    pub name: Cow<'a, str>,
    /// The port, where it is not the scheme's own.
    pub port: Option<u16>,
}

impl HostName<'_> {
    /// The name to be kept beside the text that it was read from.
    #[must_use]
    pub fn keep(self) -> KeptName {
        match self.name {
            Cow::Borrowed(name) => KeptName::Front(name.len()),
            Cow::Owned(name) => KeptName::Own(name.into()),
        }
    }
}

/// A canonical name beside the text that it was read from, which nearly always begins with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptName {
    /// So many bytes of the text.
    Front(usize),
    /// Another text.
    Own(Box<str>),
}

impl Default for KeptName {
    fn default() -> Self {
        Self::Front(0)
    }
}

impl KeptName {
    /// The name; `text` is what it was read from.
    #[must_use]
    pub fn of<'t>(&'t self, text: &'t str) -> &'t str {
        match self {
            Self::Front(length) => text.get(..*length).unwrap_or_default(),
            Self::Own(name) => name,
        }
    }
}

/// A text that is no host: answered 400 with the reason `bad_request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostRefusal {
    /// No host at all.
    #[error("the Host field is empty")]
    Empty,
    /// Not a name or address: user information, a list, a path, white space, an empty or long label.
    #[error("the Host field is not a host name or address")]
    Name,
    /// Not a number from 1 to 65535.
    #[error("the port in the Host field is not a port")]
    Port,
}

/// Reads a Host field or an authority. `own_port` is that of the scheme: 80, or 443 with TLS.
///
/// # Errors
/// What is not `NAME`, `NAME:PORT`, or the same with an address.
pub fn parse(host: &str, own_port: u16) -> Result<HostName<'_>, HostRefusal> {
    if host.is_empty() {
        return Err(HostRefusal::Empty);
    }
    if let Some(rest) = host.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(HostRefusal::Name)?;
        let address: Ipv6Addr = address.parse().map_err(|_| HostRefusal::Name)?;
        let port = match port.strip_prefix(':') {
            Some(port) => Some(port),
            None if port.is_empty() => None,
            None => return Err(HostRefusal::Name),
        };
        let name = Cow::Owned(format!("[{address}]"));
        return Ok(HostName { name, port: parse_port(port, own_port)? });
    }
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.len() > LONGEST_NAME || !name.split('.').all(is_label) {
        return Err(HostRefusal::Name);
    }
    let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    };
    Ok(HostName { name, port: parse_port(port, own_port)? })
}

fn is_label(label: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=LONGEST_LABEL).contains(&label.len()) && label.bytes().all(known)
}

fn parse_port(port: Option<&str>, own_port: u16) -> Result<Option<u16>, HostRefusal> {
    let Some(port) = port else { return Ok(None) };
    if port.is_empty() || port.len() > 5 || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HostRefusal::Port);
    }
    match port.parse() {
        Ok(0) | Err(_) => Err(HostRefusal::Port),
        Ok(port) => Ok(Some(port).filter(|port| *port != own_port)),
    }
}

/// A name or address, or `*.` and a name, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This one.
    Exact(Box<str>),
    /// One or more labels in front of this name, which stands here without `*.`.
    Below(Box<str>),
    /// Any name, also none: `*`.
    Any,
}

impl HostPattern {
    /// Reads a pattern, which has no port; `None` if it is no name or has a `*` that is not its first label.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let below = text.strip_prefix("*.");
        // 0 is no scheme's own port, so one that was written is seen.
        let HostName { name, port: None } = parse(below.unwrap_or(text), 0).ok()? else { return None };
        Some(if below.is_some() { Self::Below(name.into()) } else { Self::Exact(name.into()) })
    }

    /// Whether it covers a host by its canonical name; a request without a host has an empty one.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => *host == **name,
            Self::Below(name) => host
                .strip_suffix(&**name)
                .and_then(|front| front.strip_suffix('.'))
                .is_some_and(|front| !front.is_empty()),
        }
    }
}

/// The hosts that a listener answers for. An empty list answers for any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostList {
    exact: HashSet<Box<str>>,
    below: Vec<HostPattern>,
}

impl HostList {
    /// A list of names, `*.` and names, and addresses; `None` if one of them is no such thing.
    #[must_use]
    pub fn new<'t>(hosts: impl IntoIterator<Item = &'t str>) -> Option<Self> {
        let mut list = Self::default();
        for host in hosts {
            match HostPattern::parse(host)? {
                below @ (HostPattern::Below(_) | HostPattern::Any) => list.below.push(below),
                HostPattern::Exact(name) => _ = list.exact.insert(name),
            }
        }
        Some(list)
    }

    /// Whether a request to this host is meant for us.
    #[must_use]
    pub fn allows(&self, host: &HostName<'_>) -> bool {
        let any = self.exact.is_empty() && self.below.is_empty();
        any || self.exact.contains(&*host.name) || self.below.iter().any(|below| below.covers(&host.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use HostRefusal as R;

    fn canonical(host: &str) -> Result<String, HostRefusal> {
        parse(host, 80).map(|host| match host.port {
            None => host.name.into_owned(),
            Some(port) => format!("{}:{port}", host.name),
        })
    }

    #[test]
    fn the_list_of_section_1d() {
        for (host, wanted) in [
            ("a.test", Ok("a.test")),
            ("A.TEST", Ok("a.test")),
            ("a.test.", Ok("a.test")),
            ("a.test:80", Ok("a.test")),
            ("A.test.:80", Ok("a.test")),
            ("a.test:0080", Ok("a.test")),
            ("a.test:8080", Ok("a.test:8080")),
            ("a.test:443", Ok("a.test:443")),
            ("a.test:99999", Err(R::Port)),
            ("a.test:", Err(R::Port)),
            ("a.test:0", Err(R::Port)),
            ("a.test:80:80", Err(R::Port)),
            ("a.test:+80", Err(R::Port)),
            ("a.test:http", Err(R::Port)),
            ("a.test:000080", Err(R::Port)),
            ("[::1]", Ok("[::1]")),
            ("[::1]:80", Ok("[::1]")),
            ("[::1]:8080", Ok("[::1]:8080")),
            ("[0:0:0:0:0:0:0:1]", Ok("[::1]")),
            ("[FD00:EC2::254]", Ok("[fd00:ec2::254]")),
            ("[::ffff:127.0.0.1]", Ok("[::ffff:127.0.0.1]")),
            ("[::1", Err(R::Name)),
            ("[::1]x", Err(R::Name)),
            ("[::1]:", Err(R::Port)),
            ("[::1].", Err(R::Name)),
            ("[]", Err(R::Name)),
            ("[a.test]", Err(R::Name)),
            ("[fe80::1%25eth0]", Err(R::Name)),
            ("::1", Err(R::Name)),
            ("127.0.0.1", Ok("127.0.0.1")),
            ("127.0.0.1.nip.io", Ok("127.0.0.1.nip.io")),
            ("localhost", Ok("localhost")),
            ("", Err(R::Empty)),
            (":80", Err(R::Name)),
            (".", Err(R::Name)),
            (".a.test", Err(R::Name)),
            ("a..test", Err(R::Name)),
            ("a.test..", Err(R::Name)),
            ("a.test, b.test", Err(R::Name)),
            ("a.test b.test", Err(R::Name)),
            ("a.test,b.test", Err(R::Name)),
            ("user@a.test", Err(R::Name)),
            ("a.test@evil", Err(R::Name)),
            ("user:pw@a.test", Err(R::Port)),
            ("a.test\t", Err(R::Name)),
            ("\ta.test", Err(R::Name)),
            ("a.test/x", Err(R::Name)),
            ("a.test?x", Err(R::Name)),
            ("a.test#x", Err(R::Name)),
            ("a%2etest", Err(R::Name)),
            ("a\\test", Err(R::Name)),
            ("a\0.test", Err(R::Name)),
            ("*.test", Err(R::Name)),
            ("xn--bcher-kva.test", Ok("xn--bcher-kva.test")),
            ("b\u{fc}cher.test", Err(R::Name)),
            ("a\u{3002}test", Err(R::Name)),
            ("my_app", Ok("my_app")),
        ] {
            assert_eq!(canonical(host).as_deref(), wanted.as_deref(), "{host:?}");
        }
        assert_eq!(parse("a.test:443", 443).map(|host| host.port), Ok(None));
        assert_eq!(canonical(&format!("{}.test", "a".repeat(64))), Err(R::Name));
        assert_eq!(canonical(&"a.".repeat(200)), Err(R::Name));
    }

    #[test]
    fn a_list_answers_for_its_names_in_any_spelling_and_for_no_other() {
        let list = HostList::new(["A.test", "*.example.com", "[0::1]", "10.0.0.1"]).expect("a list");
        let allows = |host: &str| parse(host, 80).map(|host| list.allows(&host));
        for ours in
            ["a.test", "A.TEST.", "a.test:8443", "x.example.com", "X.Y.Example.COM:80", "[::1]:8080", "10.0.0.1"]
        {
            assert_eq!(allows(ours), Ok(true), "{ours}");
        }
        for foreign in [
            "localhost",
            "127.0.0.1",
            "127.0.0.1.nip.io",
            "b.a.test",
            "a.test.evil",
            "example.com",
            "badexample.com",
            "[::2]",
            "[::ffff:10.0.0.1]",
            "evil",
            "xn--a-ccc.test",
            "10.1",
            "0x0a000001",
            "167772161",
        ] {
            assert_eq!(allows(foreign), Ok(false), "{foreign}");
        }
        assert!(HostList::default().allows(&HostName { name: "anything".into(), port: Some(1) }));
    }

    #[test]
    fn what_is_no_host_makes_no_list() {
        for bad in ["", "a.*.com", "http://a.test", "a.test/x", "a b", "a.test:80", "[::1"] {
            assert_eq!(HostList::new([bad]), None, "{bad}");
        }
    }

    #[test]
    fn a_name_is_kept_as_a_part_of_its_text_where_it_is_one() {
        for (text, kept) in [
            ("a.test", KeptName::Front(6)),
            ("a.test:8080", KeptName::Front(6)),
            ("a.test.", KeptName::Front(6)),
            ("A.test:80", KeptName::Own("a.test".into())),
            ("[::1]:80", KeptName::Own("[::1]".into())),
        ] {
            let name = parse(text, 80).expect("a host");
            let canonical = name.name.clone().into_owned();
            assert_eq!(name.keep(), kept, "{text}");
            assert_eq!(kept.of(text), canonical);
        }
        assert_eq!(KeptName::default().of(""), "");
    }

    fn covers(pattern: &str, host: &str) -> bool {
        let name = parse(host, 80).expect("a host").name;
        HostPattern::parse(pattern).is_some_and(|pattern| pattern.covers(&name))
    }

    #[test]
    fn patterns_cover_hosts_in_any_spelling() {
        assert!(covers("Example.com", "eXample.COM:8080"));
        assert!(covers("example.com.", "example.com"));
        assert!(covers("[0::1]", "[::1]:80"));
        assert!(!covers("example.com", "www.example.com"));
    }

    #[test]
    fn an_asterisk_stands_for_one_or_more_labels() {
        assert!(covers("*.example.com", "a.example.com"));
        assert!(covers("*.example.com", "a.b.EXAMPLE.com."));
        assert!(!covers("*.example.com", "example.com"));
        assert!(!covers("*.example.com", "badexample.com"));
        assert!(covers("*", "anything"));
    }

    #[test]
    fn an_asterisk_elsewhere_is_no_pattern() {
        for text in ["", "a.*.com", "*.*.com", "*a.com", "*.", "a*", "a.test:80"] {
            assert_eq!(HostPattern::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_request_without_a_host_is_covered_only_by_any() {
        assert!(HostPattern::Any.covers(""));
        assert!(!HostPattern::Exact("a".into()).covers(""));
        assert!(!HostPattern::Below("a".into()).covers(""));
    }

    proptest::proptest! {
        #[test]
        fn canonical_is_canonical(host in "[aA1.:_\\[\\]-]{0,12}") {
            if let Ok(once) = canonical(&host) {
                proptest::prop_assert_eq!(canonical(&once), Ok(once.clone()));
            }
        }
    }
}
