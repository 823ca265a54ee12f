//! Where servers may be that are added at run time.
//!
//! # Problem
//! Whoever may add a server makes this process connect to an address of their choice, and reads its answers: to the
//! metadata of a cloud at 169.254.169.254, say, or to a database that listens on loopback only (CWE-918). So such servers are kept to
//! networks. A name is judged by the addresses that it has when a connection is made, not by those that it had when it
//! was added (DNS rebinding).

use std::net::{IpAddr, Ipv6Addr};

use super::cidr::Networks;

/// The address of the metadata service of EC2 over IPv6.
const METADATA: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);

/// The networks; none stands for all ordinary addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach(pub Networks);

impl Reach {
    /// Why a server may not be at this address; `None` when it may.
    #[must_use]
    pub fn objection(&self, address: IpAddr) -> Option<&'static str> {
        let address = address.to_canonical();
        if !self.0.is_empty() {
            return (!self.0.contains(address)).then_some("it is in none of `admin.server_networks`");
        }
        let (link_local, broadcast) = match address {
            IpAddr::V4(address) => (address.is_link_local(), address.is_broadcast() || address.octets()[0] == 0),
            IpAddr::V6(address) => (address.is_unicast_link_local() || address == METADATA, false),
        };
        if address.is_unspecified() || address.is_multicast() || broadcast {
            Some("it is not the address of a host")
        } else if address.is_loopback() {
            Some("it is this machine")
        } else if link_local {
            Some("it is a link-local address, where clouds keep their metadata")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cidr::Cidr;
    use super::*;

    #[test]
    fn ordinary_addresses_are_taken_and_traps_are_not() {
        let reach = Reach::default();
        for good in ["10.0.0.1", "192.168.1.1", "203.0.113.7", "2001:db8::1", "fd12::1"] {
            assert_eq!(reach.objection(good.parse().unwrap()), None, "{good}");
        }
        for bad in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fd00:ec2::254",
            "fe80::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "127.0.0.1",
            "127.8.8.8",
            "::1",
            "::ffff:127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
        ] {
            assert!(reach.objection(bad.parse().unwrap()).is_some(), "{bad}");
        }
    }

    #[test]
    fn networks_that_are_given_are_all_that_counts() {
        let reach = Reach(["127.0.0.0/8", "10.1.0.0/16"].iter().map(|text| text.parse::<Cidr>().unwrap()).collect());
        assert_eq!(reach.objection("127.0.0.1".parse().unwrap()), None);
        assert_eq!(reach.objection("::ffff:10.1.2.3".parse().unwrap()), None);
        assert!(reach.objection("10.2.0.1".parse().unwrap()).is_some());
        assert!(reach.objection("169.254.169.254".parse().unwrap()).is_some());
    }
}
