//! The PROXY protocol, versions 1 and 2: a load balancer in front tells whose connection it passes on.
//!
//! The header stands before the first byte of TLS or HTTP. It is read from what has arrived so far and asks for
//! more until it is whole. Anybody can write one, so it is accepted only from `trusted_proxies`, and required
//! from them: a connection with a header that is optional could be forged by leaving it to the client to send one.
//!
//! A health check of the load balancer itself speaks for nobody (`UNKNOWN`, `LOCAL`); its own address counts then.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Most bytes of a header. Version 1 has at most 107, version 2 sixteen, the addresses, and extensions (TLVs).
pub const MAX_BYTES: usize = 536;

/// How version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of version 2 before the addresses.
const FIXED: usize = 16;
/// How version 1 begins.
const WORD: &[u8; 6] = b"PROXY ";
/// Most bytes of version 1, its line end included.
const LONGEST_LINE: usize = 107;

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// That of this client, which connected to this address.
    Proxied {
        /// The client.
        source: SocketAddr,
        /// Where it connected to.
        destination: SocketAddr,
    },
    /// That of the peer itself: the addresses of the socket count.
    Local,
}

/// The bytes are no header: the connection is closed without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a PROXY protocol header")]
pub struct Malformed;

/// Reads a header from all bytes that have arrived so far; `None` while more are needed, else the header and how
/// many bytes it took. Never asks for more than [`MAX_BYTES`] in all.
///
/// # Errors
/// [`Malformed`], as early as it can be told.
pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    let begins = |pattern: &[u8]| bytes.iter().zip(pattern).all(|(byte, wanted)| byte == wanted);
    if begins(SIGNATURE) {
        if bytes.len() < FIXED { early(bytes).map(|()| None) } else { binary(bytes) }
    } else if begins(WORD) {
        line(bytes)
    } else {
        Err(Malformed)
    }
}

/// What can be told of version 2 before its fixed part is whole.
fn early(bytes: &[u8]) -> Result<(), Malformed> {
    if bytes.get(12).is_some_and(|byte| !matches!(byte, 0x20 | 0x21)) || bytes.get(13).is_some_and(|byte| !known(*byte))
    {
        return Err(Malformed);
    }
    Ok(())
}

/// Address family and transport that version 2 knows.
const fn known(family: u8) -> bool {
    family >> 4 <= 3 && family & 0xf <= 2
}

/// Version 2.
fn binary(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    early(bytes)?;
    let (fixed, rest) = bytes.split_at(FIXED);
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let whole = FIXED + length;
    if whole > MAX_BYTES {
        return Err(Malformed);
    }
    let (local, family, transport) = (fixed[12] == 0x20, fixed[13] >> 4, fixed[13] & 0xf);
    let needed = match family {
        1 => 12,
        2 => 36,
        3 => 216,
        _ => 0,
    };
    if !local && length < needed {
        return Err(Malformed);
    }
    let Some(addresses) = rest.get(..length) else { return Ok(None) };
    if local || transport != 1 {
        // Whoever is meant, it is no TCP client: UNSPEC, or datagrams that cannot arrive here.
        return Ok(Some((Header::Local, whole)));
    }
    let header = match family {
        1 => addresses.first_chunk::<12>().map(|[a, b, c, d, e, f, g, h, ports @ ..]| {
            pair(Ipv4Addr::new(*a, *b, *c, *d).into(), Ipv4Addr::new(*e, *f, *g, *h).into(), *ports)
        }),
        2 => addresses.first_chunk::<36>().and_then(|all| {
            let (source, rest) = all.split_first_chunk::<16>()?;
            let (destination, ports) = rest.split_first_chunk::<16>()?;
            Some(pair(v6(*source), v6(*destination), *ports.first_chunk::<4>()?))
        }),
        _ => Some(Header::Local),
    };
    header.map(|header| Some((header, whole))).ok_or(Malformed)
}

fn v6(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

fn pair(source: IpAddr, destination: IpAddr, [a, b, c, d]: [u8; 4]) -> Header {
    Header::Proxied {
        source: SocketAddr::new(source, u16::from_be_bytes([a, b])),
        destination: SocketAddr::new(destination, u16::from_be_bytes([c, d])),
    }
}

/// Version 1: one line of text.
fn line(bytes: &[u8]) -> Result<Option<(Header, usize)>, Malformed> {
    let seen = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = seen.iter().position(|byte| *byte == b'\n') else {
        let plain = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
        let (last, before) = seen.split_last().ok_or(Malformed)?;
        let fits = bytes.len() < LONGEST_LINE && before.iter().all(plain) && (plain(last) || *last == b'\r');
        return if fits { Ok(None) } else { Err(Malformed) };
    };
    let text = seen[..end].strip_suffix(b"\r").and_then(|text| std::str::from_utf8(text).ok()).ok_or(Malformed)?;
    if !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        return Err(Malformed);
    }
    let mut words = text.split(' ').skip(1);
    let header = match words.next() {
        // Whatever follows is to be passed over.
        Some("UNKNOWN") => Header::Local,
        Some(family @ ("TCP4" | "TCP6")) => {
            let mut next = || words.next().ok_or(Malformed);
            let (source, destination) = (ip(next()?, family)?, ip(next()?, family)?);
            let (from, to) = (port(next()?)?, port(next()?)?);
            if words.next().is_some() {
                return Err(Malformed);
            }
            Header::Proxied { source: SocketAddr::new(source, from), destination: SocketAddr::new(destination, to) }
        }
        _ => return Err(Malformed),
    };
    Ok(Some((header, end + 1)))
}

fn ip(text: &str, family: &str) -> Result<IpAddr, Malformed> {
    let address: IpAddr = text.parse().map_err(|_| Malformed)?;
    if address.is_ipv4() == (family == "TCP4") { Ok(address.to_canonical()) } else { Err(Malformed) }
}

fn port(text: &str) -> Result<u16, Malformed> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    if plain { text.parse().map_err(|_| Malformed) } else { Err(Malformed) }
}

/// Reads a header from the beginning of a connection, and nothing behind it.
///
/// # Errors
/// When it is malformed or the connection breaks.
pub async fn read(tcp: &mut TcpStream) -> io::Result<Header> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed PROXY header");
    let mut bytes = Vec::with_capacity(MAX_BYTES);
    loop {
        let before = bytes.len();
        bytes.resize(MAX_BYTES, 0);
        let seen = tcp.peek(&mut bytes[before..]).await?;
        bytes.truncate(before + seen);
        let parsed = parse(&bytes).map_err(|_| malformed())?;
        // A header that is not complete has no end yet: all that was seen belongs to it.
        let taken = parsed.map_or(seen, |(_, length)| length.saturating_sub(before));
        if seen == 0 || taken > seen {
            return Err(malformed());
        }
        tcp.read_exact(&mut bytes[before..before + taken]).await?;
        if let Some((header, _)) = parsed {
            return Ok(header);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxied(source: &str, destination: &str) -> Header {
        Header::Proxied { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    /// A header of version 2.
    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, addresses].concat()
    }

    fn v4_addresses() -> Vec<u8> {
        [&[192, 0, 2, 7][..], &[10, 0, 0, 1], &[0x1f, 0x90], &[0, 80]].concat()
    }

    fn v6_addresses() -> Vec<u8> {
        let source: Ipv6Addr = "2001:db8::7".parse().unwrap();
        [&source.octets()[..], &Ipv6Addr::LOCALHOST.octets(), &[0x1f, 0x90], &[0, 80]].concat()
    }

    /// Holds that these bytes are this header, that more behind them is left alone, and that every shorter piece of
    /// them asks for more.
    #[track_caller]
    fn is(bytes: &[u8], wanted: Header) {
        assert_eq!(parse(bytes), Ok(Some((wanted, bytes.len()))));
        assert_eq!(parse(&[bytes, b"GET / HTTP/1.1\r\n\r\n"].concat()), Ok(Some((wanted, bytes.len()))));
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), Ok(None), "{cut} of {} bytes", bytes.len());
        }
    }

    #[test]
    fn version_one_is_read_at_every_split() {
        is(b"PROXY TCP4 192.0.2.7 10.0.0.1 8080 80\r\n", proxied("192.0.2.7:8080", "10.0.0.1:80"));
        is(b"PROXY TCP6 2001:db8::7 ::1 8080 0\r\n", proxied("[2001:db8::7]:8080", "[::1]:0"));
        is(b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 65535\r\n", proxied("192.0.2.7:1", "[::1]:65535"));
        is(b"PROXY UNKNOWN\r\n", Header::Local);
        is(b"PROXY UNKNOWN ffff:f...f:ffff whatever 65535\r\n", Header::Local);
        is(format!("PROXY UNKNOWN {}\r\n", "f".repeat(LONGEST_LINE - 16)).as_bytes(), Header::Local);
    }

    #[test]
    fn version_two_is_read_at_every_split() {
        let tlv = [4, 0, 3, 1, 2, 3];
        is(&v2(0x21, 0x11, &v4_addresses()), proxied("192.0.2.7:8080", "10.0.0.1:80"));
        is(&v2(0x21, 0x11, &[&v4_addresses()[..], &tlv].concat()), proxied("192.0.2.7:8080", "10.0.0.1:80"));
        is(&v2(0x21, 0x21, &v6_addresses()), proxied("[2001:db8::7]:8080", "[::1]:80"));
        is(&v2(0x21, 0x21, &[&v6_addresses()[..], &tlv].concat()), proxied("[2001:db8::7]:8080", "[::1]:80"));
        is(&v2(0x20, 0x00, &[]), Header::Local);
        is(&v2(0x20, 0x11, &v4_addresses()), Header::Local);
        is(&v2(0x20, 0x11, &[]), Header::Local);
        is(&v2(0x21, 0x00, &tlv), Header::Local);
        is(&v2(0x21, 0x31, &[0; 216]), Header::Local);
        is(&v2(0x21, 0x12, &v4_addresses()), Header::Local);
        is(
            &v2(0x21, 0x11, &[&v4_addresses()[..], &[0; MAX_BYTES - FIXED - 12]].concat()),
            proxied("192.0.2.7:8080", "10.0.0.1:80"),
        );
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(LONGEST_LINE));
        for text in [
            "GET / HTTP/1.1\r\n",
            "proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY\r\n",
            "PROXY  TCP4 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY TCP5 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY TCP4 ::1 ::1 1 1\r\n",
            "PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 1 \r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 +1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 01\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 \r\n",
            "PROXY TCP4 1.1.1.01 1.1.1.1 1 1\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n",
            "PROXY TCP4 1.1.1.1 1.1.1.1 1 1\r\r\n",
            "PROXY UNKNOWN \0\r\n",
            "PROXY \u{e9}",
            "PROXY TCP4\rx",
            "\r\n\r\n\0\r\nQUIT ",
            "\x16\x03\x01",
            &long,
            &long[..LONGEST_LINE],
        ] {
            assert_eq!(parse(text.as_bytes()), Err(Malformed), "{text:?}");
        }
        for bytes in [
            v2(0x22, 0x11, &v4_addresses()),
            v2(0x11, 0x11, &v4_addresses()),
            v2(0x21, 0x41, &v4_addresses()),
            v2(0x21, 0x13, &v4_addresses()),
            v2(0x21, 0x11, &v4_addresses()[..11]),
            v2(0x21, 0x21, &v6_addresses()[..35]),
            v2(0x21, 0x31, &[0; 215]),
            v2(0x21, 0x11, &[0; MAX_BYTES - FIXED + 1]),
            [&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat(),
        ] {
            assert_eq!(parse(&bytes), Err(Malformed), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail_or_wait_for_ever(
            begin in prop::sample::select(vec![&b""[..], b"PROXY ", b"PROXY TCP4 1.1.1.1 ", &SIGNATURE[..], b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x02\x10"]),
            rest in prop::collection::vec(any::<u8>(), 0..700),
        ) {
            let bytes = [begin, &rest].concat();
            let whole = parse(&bytes);
            if bytes.len() >= MAX_BYTES {
                prop_assert_ne!(whole, Ok(None));
            }
            // What is told of a piece holds for the whole.
            for cut in (0..bytes.len()).step_by(7) {
                match parse(&bytes[..cut]) {
                    Ok(None) => {}
                    told => prop_assert_eq!(told, whole),
                }
            }
            if let Ok(Some((_, consumed))) = whole {
                prop_assert!(consumed <= bytes.len().min(MAX_BYTES));
            }
        }
    }
}
