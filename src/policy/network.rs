//! Who a client is when all that is known of it is an address.
//!
//! Whoever has IPv6 has at least a whole /64 of it, 2^64 addresses, and may use another for each request. Limits
//! by address therefore count a /64 as one. An IPv4 address inside an IPv6 one (`::ffff:192.0.2.1`, as sockets
//! that listen on both have them) is that IPv4 address.

use std::net::{IpAddr, Ipv6Addr};

/// The address that stands for everything that is counted as one client with `address`.
#[must_use]
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() >> 64 << 64)),
        four => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> String {
        network_of(text.parse().unwrap()).to_string()
    }

    #[test]
    fn a_64_is_one_client() {
        assert_eq!(network("2001:db8:1:2::1"), "2001:db8:1:2::");
        assert_eq!(network("2001:db8:1:2:ffff:ffff:ffff:ffff"), "2001:db8:1:2::");
        assert_ne!(network("2001:db8:1:2::1"), network("2001:db8:1:3::1"));
    }

    #[test]
    fn an_ipv4_address_is_itself_however_it_is_written() {
        assert_eq!(network("192.0.2.1"), "192.0.2.1");
        assert_eq!(network("::ffff:192.0.2.1"), "192.0.2.1");
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }
}
