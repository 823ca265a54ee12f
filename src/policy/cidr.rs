//! Networks: which addresses a line such as `10.0.0.0/8` stands for.
//!
//! An IPv4 address may arrive as itself or wrapped in IPv6 (`::ffff:10.0.0.1`, as a dual-stack socket
//! shows it). Both are the same client, so addresses and networks are unwrapped before they are compared.
//! IPv6 networks never cover IPv4 addresses: `::/0` is every IPv6 address and no other.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no network: one sentence that shows the right spelling.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CidrError(String);

/// How many bits an address of version 6 has before one of version 4 that it wraps.
const WRAPPED: u8 = 96;

impl Cidr {
    /// First and last address.
    fn range(self) -> Range {
        match self.address {
            IpAddr::V4(address) => {
                let first = address.to_bits();
                Range::V4(first, first | u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0))
            }
            IpAddr::V6(address) => {
                let first = address.to_bits();
                Range::V6(first, first | u128::MAX.checked_shr(self.prefix.into()).unwrap_or(0))
            }
        }
    }
}

enum Range {
    V4(u32, u32),
    V6(u128, u128),
}

/// Reads `10.0.0.0/8`, `2001:db8::/32`, or one address.
impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let refuse = |why: String| Err(CidrError(why));
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        if address.contains('%') {
            return refuse("an address with a zone (`%eth0`) is not a network: leave the zone out".to_owned());
        }
        if address.starts_with('[') {
            return refuse("write an IPv6 network without brackets, such as `2001:db8::/32`".to_owned());
        }
        let Ok(address) = address.parse::<IpAddr>() else {
            return refuse("write a network such as `10.0.0.0/8` or `2001:db8::/32`, or one address".to_owned());
        };
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match bits {
            None => most,
            Some(bits) => match bits.parse::<u8>() {
                Ok(prefix) if prefix <= most && bits.bytes().all(|byte| byte.is_ascii_digit()) => prefix,
                _ => return refuse(format!("behind `/` stands a number of bits from 0 to {most}")),
            },
        };
        let start = first_of(address, prefix);
        if start != address {
            let whole = Self { address: start, prefix };
            return refuse(format!("`{address}` is inside the network: write `{whole}`, or `{address}` for it alone"));
        }
        Ok(match address {
            IpAddr::V6(v6) if prefix >= WRAPPED && v6.to_ipv4_mapped().is_some() => {
                Self { address: address.to_canonical(), prefix: prefix - WRAPPED }
            }
            _ => Self { address, prefix },
        })
    }
}

/// The first address of the network that `address` is in.
fn first_of(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let rest = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & !rest).into()
        }
        IpAddr::V6(address) => {
            let rest = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & !rest).into()
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

/// A set of networks. A look-up takes logarithmic time, so a list may be long.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Networks {
    /// Whether it holds no address at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Whether `address` is in one of the networks.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => holds(&self.v4, address.to_bits()),
            IpAddr::V6(address) => holds(&self.v6, address.to_bits()),
        }
    }
}

impl FromIterator<Cidr> for Networks {
    fn from_iter<I: IntoIterator<Item = Cidr>>(networks: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network.range() {
                Range::V4(first, last) => v4.push((first, last)),
                Range::V6(first, last) => v6.push((first, last)),
            }
        }
        Self { v4: apart(v4), v6: apart(v6) }
    }
}

/// Sorted, and without what another range covers. Networks nest or are apart; they never overlap in part.
fn apart<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Box<[(T, T)]> {
    ranges.sort_unstable_by(|one, other| one.0.cmp(&other.0).then(other.1.cmp(&one.1)));
    ranges.dedup_by(|later, kept| later.1 <= kept.1);
    ranges.into_boxed_slice()
}

fn holds<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let behind = ranges.partition_point(|(first, _)| *first <= address);
    behind.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|(_, last)| address <= *last)
}

/// Which client addresses may use a route: one in `deny` may not, and if `allow` has networks, only those may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Networks that may; empty for all.
    pub allow: Networks,
    /// Networks that may not, whatever `allow` says.
    pub deny: Networks,
}

impl Access {
    /// Whether this client may.
    #[must_use]
    pub fn permits(&self, client: IpAddr) -> bool {
        !self.deny.contains(client) && (self.allow.is_empty() || self.allow.contains(client))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn networks(texts: &[&str]) -> Networks {
        texts.iter().map(|text| cidr(text)).collect()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn networks_and_single_addresses_are_read() {
        for (text, shown) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
        ] {
            assert_eq!(cidr(text).to_string(), shown);
        }
    }

    #[test]
    fn a_wrong_network_shows_the_right_spelling() {
        for (text, wanted) in [
            ("10.0.0.5/8", "write `10.0.0.0/8`, or `10.0.0.5` for it alone"),
            ("2001:db8::1/32", "write `2001:db8::/32`"),
            ("10.0.0.0/33", "from 0 to 32"),
            ("::/129", "from 0 to 128"),
            ("10.0.0.0/", "from 0 to 32"),
            ("10.0.0.0/+8", "from 0 to 32"),
            ("10.0.0.0/255.0.0.0", "from 0 to 32"),
            ("fe80::1%eth0", "leave the zone out"),
            ("[::1]", "without brackets"),
            ("localhost", "such as `10.0.0.0/8`"),
            ("10.0.0", "such as `10.0.0.0/8`"),
            ("010.0.0.1", "such as `10.0.0.0/8`"),
            (" 10.0.0.1", "such as `10.0.0.0/8`"),
            ("", "such as `10.0.0.0/8`"),
        ] {
            let error = text.parse::<Cidr>().err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn addresses_of_one_version_wrapped_in_the_other_are_the_same() {
        let private = networks(&["10.0.0.0/8", "fd00::/8"]);
        assert!(private.contains(ip("10.1.2.3")) && private.contains(ip("::ffff:10.1.2.3")));
        assert!(
            private.contains(ip("fdff::1")) && !private.contains(ip("fe00::1")) && !private.contains(ip("11.0.0.0"))
        );
        assert!(!networks(&["::/0"]).contains(ip("10.0.0.1")));
        assert!(!networks(&["0.0.0.0/0"]).contains(ip("::1")));
        assert!(!Networks::default().contains(ip("::1")));
    }

    #[test]
    fn deny_comes_first_and_an_empty_allow_is_everybody() {
        let open = Access::default();
        assert!(open.permits(ip("203.0.113.9")));
        let deny = Access { deny: networks(&["203.0.113.0/24"]), ..Access::default() };
        assert!(!deny.permits(ip("203.0.113.9")) && !deny.permits(ip("::ffff:203.0.113.9")) && deny.permits(ip("::1")));
        let both = Access { allow: networks(&["10.0.0.0/8", "::1"]), deny: networks(&["10.6.6.6"]) };
        assert!(both.permits(ip("10.6.6.7")) && both.permits(ip("::1")));
        assert!(!both.permits(ip("10.6.6.6")) && !both.permits(ip("192.0.2.1")) && !both.permits(ip("::2")));
    }

    proptest! {
        #[test]
        fn a_set_holds_what_one_of_its_networks_holds(
            list in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..12), probes in prop::collection::vec(any::<u32>(), 1..20)
        ) {
            let list: Vec<Cidr> = list
                .into_iter()
                .map(|(bits, prefix)| Cidr { address: first_of(Ipv4Addr::from_bits(bits).into(), prefix), prefix })
                .collect();
            let set: Networks = list.iter().copied().collect();
            for bits in probes.into_iter().chain(list.iter().filter_map(|network| match network.address {
                IpAddr::V4(address) => Some(address.to_bits()),
                IpAddr::V6(_) => None,
            })) {
                let address = IpAddr::from(Ipv4Addr::from_bits(bits));
                let naive = list.iter().any(|network| first_of(address, network.prefix) == network.address);
                prop_assert_eq!(set.contains(address), naive);
            }
        }

        #[test]
        fn what_is_printed_is_read_back(bits in any::<u128>(), prefix in 0_u8..=128) {
            let network = Cidr { address: first_of(Ipv6Addr::from_bits(bits).into(), prefix), prefix };
            prop_assert_eq!(network.to_string().parse::<Cidr>().map(|read| read.to_string()).ok(), Some(network.to_string()));
        }
    }
}
