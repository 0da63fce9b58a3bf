//! What policy says of host names and of addresses that are no names' business. Pure: rows in, entries out.
//!
//! Of patterns that match a name the longest wins: the name itself before `*.a.b.c` before `*.b.c`. Only entries that
//! speak of the effect, of the port, and do not spare the executable take part. Within a pattern narrower ports come
//! first, then stricter actions.

use std::{cmp::Reverse, collections::HashMap, net::IpAddr, sync::Arc};

use super::name::HostName;
use crate::{
    model::{Effect, Effects, PolicyAction},
    policy::image::{Entry, Image, Ports, Unless},
};

/// Sets of executables that the asking program and its parent belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Owners {
    /// Of the program.
    pub(super) own: u64,
    /// Of its parent's.
    pub(super) parent: u64,
}

impl Owners {
    fn are_spared(self, entry: &Entry) -> bool {
        let (set, index) = match entry.unless {
            None => return false,
            Some(Unless::Executable(index)) => (self.own, index),
            Some(Unless::Parent(index)) => (self.parent, index),
        };
        index < 64 && set >> index & 1 != 0
    }
}

/// One policy, ready to be asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    image: Arc<Image>,
    exact: HashMap<Vec<u8>, Vec<(Ports, Entry)>>,
    below: HashMap<Vec<u8>, Vec<(Ports, Entry)>>,
}

/// Whether what an entry says amounts to a refusal. `confirm` stands here only where its fallback was not applied.
pub(super) fn blocks(entry: &Entry) -> bool {
    entry.action >= PolicyAction::Confirm
}

/// Narrower ports first, then stricter actions.
fn precedence((ports, entry): &(Ports, Entry)) -> (u16, Reverse<PolicyAction>) {
    (ports.last.saturating_sub(ports.first), Reverse(entry.action))
}

impl Names {
    /// Of a compiled policy.
    pub(super) fn new(image: Arc<Image>) -> Self {
        let (mut exact, mut below) = (HashMap::new(), HashMap::new());
        for row in &image.hosts {
            let name = HostName::new(row.labels.iter().map(String::as_bytes)).as_bytes().to_vec();
            let entries: &mut Vec<_> =
                if row.below { &mut below } else { &mut exact }.entry(name).or_default();
            entries.extend_from_slice(&row.entries);
            entries.sort_by_key(precedence);
        }
        Self { image, exact, below }
    }

    /// The policy.
    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    /// Entries of the patterns that match, the longest pattern first.
    fn rows<'a>(&'a self, name: &'a HostName) -> impl Iterator<Item = &'a [(Ports, Entry)]> {
        let exact = self.exact.get(name.as_bytes());
        let below = name.ancestry().skip(1).filter_map(|parent| self.below.get(parent));
        exact.into_iter().chain(below).map(Vec::as_slice)
    }

    /// What the rules about names say of one effect, port and task; none if they are silent.
    pub(super) fn rule(&self, effect: Effect, name: &HostName, port: u16, owners: Owners) -> Option<Entry> {
        let effect = Effects::from(effect);
        self.rows(name)
            .flatten()
            .find(|(ports, entry)| {
                entry.effects.contains(effect)
                    && (ports.first..=ports.last).contains(&port)
                    && !owners.are_spared(entry)
            })
            .map(|(_, entry)| *entry)
    }

    /// What is said of an effect that no rule speaks of.
    pub(super) fn default_of(&self, effect: Effect, owners: Owners) -> Option<Entry> {
        let effect = Effects::from(effect);
        self.image
            .defaults
            .iter()
            .find(|entry| entry.effects.contains(effect) && !owners.are_spared(entry))
            .copied()
    }

    /// What is said of asking for a name. A name that no port may be connected to need not be resolved.
    pub(super) fn question(&self, name: &HostName, owners: Owners) -> Option<Entry> {
        let asked = self.rule(Effect::Dns, name, 0, owners).or_else(|| self.default_of(Effect::Dns, owners));
        match asked {
            Some(entry) if blocks(&entry) => Some(entry),
            said => self.closed(name, owners).or(said),
        }
    }

    /// The entry that blocks a name whatever the port, if rules about names do that.
    pub(super) fn closed(&self, name: &HostName, owners: Owners) -> Option<Entry> {
        // What is decided changes only where a range begins or ends.
        let ranges =
            self.rows(name).flatten().flat_map(|(ports, _)| [Some(ports.first), ports.last.checked_add(1)]);
        let mut found = None;
        for port in ranges.flatten().chain([0]) {
            let entry = self.rule(Effect::NetConnect, name, port, owners)?;
            if !blocks(&entry) {
                return None;
            }
            found = found.or(Some(entry));
        }
        found
    }

    /// Entries about connecting to a name, the decisive first.
    pub(super) fn connect(&self, name: &HostName) -> Vec<(Ports, Entry)> {
        let about = |(_, entry): &&(Ports, Entry)| entry.effects.contains(Effects::NET_CONNECT);
        self.rows(name).flatten().filter(about).copied().collect()
    }

    /// Whether a rule names exactly this host and lets it be connected to, on whatever port.
    pub(super) fn is_welcome(&self, name: &HostName, owners: Owners) -> bool {
        self.exact.get(name.as_bytes()).is_some_and(|entries| {
            entries.iter().any(|(_, entry)| {
                entry.effects.contains(Effects::NET_CONNECT) && !blocks(entry) && !owners.are_spared(entry)
            })
        })
    }

    /// What the rules about addresses say of connecting: the longest prefix that has something to say.
    pub(super) fn address(&self, address: IpAddr, port: u16, owners: Owners) -> Option<Entry> {
        let decisive = |entries: &[(Ports, Entry)]| {
            entries
                .iter()
                .filter(|(ports, entry)| {
                    entry.effects.contains(Effects::NET_CONNECT)
                        && (ports.first..=ports.last).contains(&port)
                        && !owners.are_spared(entry)
                })
                .min_by_key(|at| precedence(at))
                .copied()
        };
        self.image
            .addresses
            .iter()
            .filter(|row| contains(row.network, row.length, address))
            .filter_map(|row| Some((row.length, decisive(&row.entries)?)))
            .min_by_key(|(length, at)| (Reverse(*length), precedence(at)))
            .map(|(_, (_, entry))| entry)
    }

    /// Whether a rule about addresses lets some port of this one be connected to.
    pub(super) fn is_address_welcome(&self, address: IpAddr, owners: Owners) -> bool {
        self.image.addresses.iter().filter(|row| contains(row.network, row.length, address)).any(|row| {
            row.entries.iter().any(|(ports, _)| {
                self.address(address, ports.first, owners).is_some_and(|entry| !blocks(&entry))
            })
        })
    }
}

/// Whether an address lies in a network of the same family.
pub(super) fn contains(network: IpAddr, length: u8, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, true),
        IpAddr::V6(v6) => (u128::from(v6), false),
    };
    let ((network, network_v4), (address, address_v4)) = (bits(network), bits(address));
    let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
    network_v4 == address_v4 && (network ^ address) & mask == 0
}

#[cfg(test)]
pub(super) mod tests;
