//! Keys of patterns and objects, by the hashes that both sides share.

use std::net::IpAddr;

use defenseclaw_ebpf::image::{self as abi, class};

use crate::policy::image::{AddressRow, PathKey};

/// Hash and class of a path pattern.
pub(super) fn path(seed: u64, key: &PathKey) -> (u64, u32) {
    let part = |name: &[u8]| abi::component(seed, name);
    match key {
        PathKey::Anchored(components) => (anchored(seed, components), class::ANCHORED),
        PathKey::Name(name) => (abi::single(part(name)), class::SINGLE),
        PathKey::Pair(directory, name) => (abi::pair(part(directory), part(name)), class::PAIR),
        PathKey::Extension(extension) => (part(extension), class::EXTENSION),
    }
}

/// Hash of a path from the root.
pub(super) fn anchored<T: AsRef<[u8]>>(seed: u64, components: impl IntoIterator<Item = T>) -> u64 {
    components
        .into_iter()
        .fold(seed, |hash, component| abi::anchored(hash, abi::component(seed, component.as_ref())))
}

/// Hash of a network. IPv4 counts as `::ffff:0:0/96`.
pub(super) fn network(seed: u64, row: &AddressRow) -> u64 {
    let (bits, length) = match row.network {
        IpAddr::V4(network) => (network.to_ipv6_mapped().to_bits(), 96 + u32::from(row.length)),
        IpAddr::V6(network) => (network.to_bits(), u32::from(row.length)),
    };
    let (high, low) = halves(bits);
    abi::address(seed, high, low, length)
}

/// Most significant bits first.
#[expect(clippy::cast_possible_truncation, reason = "the halves are what is asked for")]
pub(super) fn halves(bits: u128) -> (u64, u64) {
    ((bits >> 64) as u64, bits as u64)
}
