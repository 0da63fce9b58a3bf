//! Addresses, ports and host names: what a policy writes and what matches it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::image::Ports;

/// A message and a hint.
type Wrong = (String, &'static str);

/// Addresses that begin alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    /// With host bits zero; IPv4-mapped ones stand here as IPv4.
    pub address: IpAddr,
    /// Prefix length in that family.
    pub length: u8,
}

impl Network {
    /// All of IPv4, all of IPv6.
    pub(super) const ALL: [Self; 2] = [
        Self { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), length: 0 },
        Self { address: IpAddr::V6(Ipv6Addr::UNSPECIFIED), length: 0 },
    ];

    /// Reads `192.0.2.1`, `192.0.2.0/24`, `2001:db8::/32`.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |message: &str, hint| Err((format!("{text:?} {message}"), hint));
        let (address, length) =
            text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let Ok(address) = address.parse::<IpAddr>() else {
            return wrong("is no address", "write 192.0.2.0/24 or 2001:db8::/32; names go to hosts");
        };
        let full = full_length(address);
        let length = match length.map(str::parse::<u8>) {
            None => full,
            Some(Ok(length)) if length <= full => length,
            Some(_) => {
                return wrong("has no prefix length of its family", "at most 32 for IPv4, 128 for IPv6");
            }
        };
        if cut(address, length) != address {
            let hint = "the part after the prefix must be zero: write the first address of the network";
            return wrong(&format!("begins at {}/{length}", cut(address, length)), hint);
        }
        Ok(match (address, canonical(address)) {
            (IpAddr::V6(_), mapped @ IpAddr::V4(_)) if length >= 96 => {
                Self { address: mapped, length: length - 96 }
            }
            _ => Self { address, length },
        })
    }

    /// Whether the address is in it. IPv4-mapped addresses are IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = canonical(address);
        self.address.is_ipv4() == address.is_ipv4() && cut(address, self.length) == self.address
    }

    /// Whether it is a single address.
    pub fn is_single(&self) -> bool {
        self.length == full_length(self.address)
    }
}

fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The same address, as IPv4 if that is what it means.
pub fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => six.to_ipv4_mapped().map_or(address, IpAddr::V4),
    }
}

/// The address with everything after the prefix zero.
pub(super) fn cut(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(four) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(four.to_bits() & mask))
        }
        IpAddr::V6(six) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(six.to_bits() & mask))
        }
    }
}

impl Ports {
    /// Reads `22` or `8000-8999`.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self { first, last }),
            (Ok(_), Ok(_)) => {
                Err((format!("ports {text:?} end before they begin"), "write the lower one first"))
            }
            _ => Err((format!("{text:?} is no port"), "write 22 or \"8000-8999\", at most 65535")),
        }
    }

    /// Whether the port is one of them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// How many there are, less one.
    pub(super) fn width(self) -> u16 {
        self.last - self.first
    }
}

/// `example.com`, `*.example.com`, `*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPattern {
    /// Labels in lower case, the top level last.
    pub labels: Vec<String>,
    /// Every name below, not the name itself.
    pub below: bool,
}

impl HostPattern {
    /// Reads a host pattern.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let wrong = |message: &str, hint| Err((format!("host {text:?} {message}"), hint));
        if text.parse::<IpAddr>().is_ok() || text.contains('/') {
            return wrong("is an address or URL", "addresses go to addresses; of a URL take the name only");
        }
        if !text.is_ascii() {
            return wrong("is not ASCII", "write it as DNS does, with xn--");
        }
        let (below, rest) = match text.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None if text == "*" => return Ok(Self { labels: Vec::new(), below: true }),
            None => (false, text),
        };
        if rest.contains('*') {
            return wrong("has a * that does not stand for all names below", "write *.example.com");
        }
        match labels(rest) {
            Some(labels) => Ok(Self { labels, below }),
            None => wrong("is no host name", "write example.com, *.example.com or *"),
        }
    }

    /// Whether a name, as labels, is meant.
    pub fn matches(&self, name: &[String]) -> bool {
        let more = name.len().checked_sub(self.labels.len());
        name.ends_with(&self.labels) && more.is_some_and(|more| if self.below { more > 0 } else { more == 0 })
    }

    /// More specific patterns are greater: the name itself, then the longer the common end.
    pub(super) fn specificity(&self) -> (bool, usize) {
        (!self.below, self.labels.len())
    }
}

/// Labels of a host name in lower case; none if it is none.
pub fn labels(name: &str) -> Option<Vec<String>> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    (name.len() <= 253 && name.split('.').all(fits))
        .then(|| name.split('.').map(str::to_ascii_lowercase).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses() {
        for (network, address, want) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("::ffff:1.2.3.4", "1.2.3.4", true),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("::/0", "1.2.3.4", false),
            ("::/0", "::ffff:1.2.3.4", false),
            ("fe80::/10", "febf::1", true),
            ("fe80::/10", "fec0::1", false),
            ("169.254.169.254", "169.254.169.254", true),
            ("169.254.169.254", "169.254.169.253", false),
        ] {
            let found = Network::parse(network).unwrap().contains(address.parse().unwrap());
            assert_eq!(found, want, "{address} in {network}");
        }
        for wrong in
            ["", "10.0.0.1/8", "1.2.3", "1.2.3.4/33", "::/129", "example.com", "1.2.3.4/", "1.2.3.4/x"]
        {
            assert!(Network::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn ports_are_inclusive() {
        let some = Ports::parse("8000-8999").unwrap();
        assert!(some.contains(8000) && some.contains(8999) && !some.contains(7999) && !some.contains(9000));
        assert_eq!(Ports::parse("22").unwrap(), Ports { first: 22, last: 22 });
        for wrong in ["", "x", "70000", "2-1", "-1", "1-", "1-2-3"] {
            assert!(Ports::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn hosts_match_whole_labels() {
        for (pattern, name, want) in [
            ("example.com", "example.com", true),
            ("example.com", "EXAMPLE.com.", true),
            ("example.com", "www.example.com", false),
            ("example.com", "badexample.com", false),
            ("*.example.com", "example.com", false),
            ("*.example.com", "a.b.Example.com", true),
            ("*.example.com", "badexample.com", false),
            ("*", "com", true),
        ] {
            let found = HostPattern::parse(pattern).unwrap().matches(&labels(name).unwrap());
            assert_eq!(found, want, "{name} for {pattern}");
        }
        for wrong in
            ["", ".", "a..b", "*x.com", "a.*.com", "1.2.3.4", "::1", "https://a.b/", "bücher.example", "a b"]
        {
            assert!(HostPattern::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
