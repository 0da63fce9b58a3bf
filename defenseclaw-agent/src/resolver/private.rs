//! Addresses that no public name has any business with, and names that are not public. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{name::HostName, names::contains};

/// Ends of names that are local by definition or by wide custom.
const LOCAL: &[&str] = &[
    "localhost",
    "local",
    "internal",
    "intranet",
    "private",
    "corp",
    "home",
    "lan",
    "home.arpa",
    "test",
    "localdomain",
];

/// Networks of this machine, of its links and of private sites, and where clouds keep credentials.
const PRIVATE: &[(IpAddr, u8)] = &[
    (v4(0, 0, 0, 0), 8),
    (v4(10, 0, 0, 0), 8),
    (v4(100, 64, 0, 0), 10),
    (v4(127, 0, 0, 0), 8),
    (v4(168, 63, 129, 16), 32),
    (v4(169, 254, 0, 0), 16),
    (v4(172, 16, 0, 0), 12),
    (v4(192, 0, 0, 0), 24),
    (v4(192, 168, 0, 0), 16),
    (v4(198, 18, 0, 0), 15),
    (v4(240, 0, 0, 0), 4),
    (v6(0, 0), 127),
    (v6(0x0064_ff9b_0001_0000, 0), 48),
    (v6(0xfc00_0000_0000_0000, 0), 7),
    (v6(0xfe80_0000_0000_0000, 0), 10),
    (v6(0xfec0_0000_0000_0000, 0), 10),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

const fn v6(high: u64, low: u64) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits((high as u128) << 64 | low as u128))
}

/// Whether an address is one of [`PRIVATE`], or an IPv6 address that carries one of them.
pub(super) fn is_private(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let listed = |address| PRIVATE.iter().any(|(network, length)| contains(*network, *length, address));
    listed(address) || inner(address).is_some_and(|inner| listed(inner.into()))
}

/// The IPv4 address that an IPv6 address leads to: IPv4-compatible, NAT64, 6to4.
fn inner(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = address else { return None };
    let bits = v6.to_bits();
    let low = Ipv4Addr::from_bits((bits & 0xffff_ffff) as u32);
    match (bits >> 96, bits >> 32) {
        (0, 0) | (_, 0x0064_ff9b_0000_0000_0000_0000) => Some(low),
        _ if bits >> 112 == 0x2002 => Some(Ipv4Addr::from_bits((bits >> 80 & 0xffff_ffff) as u32)),
        _ => None,
    }
}

/// Whether a name is local, so that a private address is what one expects of it: it has one label, a local ending, or
/// is in a domain that the system searches.
pub(super) fn is_local(name: &HostName, searched: &[HostName]) -> bool {
    name.labels().nth(1).is_none()
        || LOCAL.iter().any(|end| name.is_within(&HostName::from_text(end)))
        // A network that announces a whole top level as its own is not believed.
        || searched.iter().any(|domain| domain.labels().nth(1).is_some() && name.is_within(domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_in_every_disguise() {
        for address in [
            "127.0.0.1",
            "127.255.1.2",
            "0.0.0.0",
            "10.1.2.3",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.169.254",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "fd00:ec2::254",
            "fec0::1",
            "::ffff:127.0.0.1",
            "::ffff:a9fe:a9fe",
            "::127.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(is_private(address.parse().unwrap()), "{address}");
        }
        for address in [
            "1.1.1.1",
            "172.32.0.1",
            "172.15.0.1",
            "100.128.0.1",
            "192.0.2.1",
            "198.20.0.1",
            "2001:db8::1",
            "64:ff9b::101:101",
            "2002:101:101::",
            "::ffff:8.8.8.8",
            "2606:4700::1111",
        ] {
            assert!(!is_private(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn local_names() {
        let searched = [HostName::from_text("corp.example.com"), HostName::from_text("com")];
        for (name, local) in [
            ("printer", true),
            ("localhost", true),
            ("a.localhost", true),
            ("metadata.google.internal", true),
            ("git.corp.example.com", true),
            ("corp.example.com", true),
            ("example.com", false),
            ("evil.com", false),
            ("localhost.evil.org", false),
            ("notlocal.example.org", false),
        ] {
            assert_eq!(is_local(&HostName::from_text(name), &searched), local, "{name}");
        }
    }
}
