//! Which names the addresses of the last minutes belong to, and what follows for connecting to them. Pure: it takes the
//! time, and says what is to be written into the kernel.

use std::{
    cmp::Reverse,
    collections::{HashMap, hash_map::Entry as Slot},
    net::IpAddr,
};

use super::{name::HostName, names, names::Names};
use crate::{
    model::BootTime,
    policy::image::{Entry, Ports},
};

/// Entries that the kernel keeps for an address.
pub const ENTRIES: usize = 8;
/// Addresses of one profile.
const ADDRESSES: usize = 16_384;
/// Names of one address.
const NAMES: usize = 16;
const SECOND: u64 = 1_000_000_000;
/// An address counts for its name at least this long, however short its time to live: what was resolved has to be
/// connected to first.
const SHORTEST: u64 = 60;
/// And so much longer than its time to live: programs keep addresses a little too long.
const GRACE: u64 = 120;
/// How often expired addresses are looked for, in seconds; while the table is full more often.
const SWEEP: u64 = 60;
const SWEEP_FULL: u64 = 1;
/// A longer time to live is not believed: a week.
const LONGEST: u64 = 7 * 24 * 3600;

/// What is said of connecting to an address, for a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    /// The decisive first; at most [`ENTRIES`].
    pub entries: Vec<(Ports, Entry)>,
    /// Until when.
    pub expires: BootTime,
}

/// A name that led to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The name that was asked for.
    pub(super) name: HostName,
    /// Names on the way to the address.
    pub(super) aliases: Vec<HostName>,
    /// The server is one of the system's. Another one may restrict an address but never permit it: the task may have
    /// made it say what it likes.
    pub(super) trusted: bool,
}

/// No room for another address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Addresses and their names.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    addresses: HashMap<IpAddr, Vec<(Origin, BootTime)>>,
    /// When expired ones were looked for last.
    swept: BootTime,
}

impl Resolved {
    /// Takes in an answer, and says what the kernel has to know before it is passed on.
    pub(super) fn learn(
        &mut self,
        names: &Names,
        now: BootTime,
        origin: &Origin,
        addresses: &[(IpAddr, u32)],
    ) -> Result<Vec<(IpAddr, Permit)>, Full> {
        let matters = !entries(names, origin).is_empty();
        let mut permits = Vec::new();
        for (address, ttl) in addresses {
            let address = address.to_canonical();
            let room = self.addresses.len() < ADDRESSES;
            let known = match self.addresses.entry(address) {
                Slot::Occupied(slot) => slot.into_mut(),
                Slot::Vacant(slot) if room => slot.insert(Vec::new()),
                // Nothing is said of this name, so nothing is lost.
                Slot::Vacant(_) if !matters => continue,
                Slot::Vacant(_) => return Err(Full),
            };
            known.retain(|(other, until)| *until > now && other != origin);
            if known.len() >= NAMES {
                let first = known.iter().enumerate().min_by_key(|(_, (_, until))| *until).map(|(at, _)| at);
                known.swap_remove(first.unwrap_or(0));
            }
            known.push((origin.clone(), expiry(now, *ttl)));
            permits.extend(permit(names, now, known).map(|permit| (address, permit)));
        }
        Ok(permits)
    }

    /// What the kernel has to know under another policy.
    pub(super) fn judge_again(&self, names: &Names, now: BootTime) -> Vec<(IpAddr, Permit)> {
        self.addresses
            .iter()
            .filter_map(|(address, known)| Some((*address, permit(names, now, known)?)))
            .collect()
    }

    /// Likewise, of one address.
    pub(super) fn judge_one(&self, names: &Names, now: BootTime, address: IpAddr) -> Option<Permit> {
        permit(names, now, self.addresses.get(&address.to_canonical())?)
    }

    /// Addresses that have no name any more, for the kernel to forget. To be asked now and then; it looks when it is time.
    pub(super) fn expired(&mut self, now: BootTime) -> Vec<IpAddr> {
        let pause = if self.addresses.len() >= ADDRESSES { SWEEP_FULL } else { SWEEP };
        if now.0.saturating_sub(self.swept.0) < pause * SECOND {
            return Vec::new();
        }
        self.swept = now;
        let expired = |known: &Vec<(Origin, BootTime)>| known.iter().all(|(_, until)| *until <= now);
        self.addresses.extract_if(|_, known| expired(known)).map(|(address, _)| address).collect()
    }

    /// All of them, when nothing is judged by them any more.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.keys().copied()
    }
}

fn expiry(now: BootTime, ttl: u32) -> BootTime {
    let seconds = u64::from(ttl).clamp(SHORTEST, LONGEST) + GRACE;
    BootTime(now.0.saturating_add(seconds * SECOND))
}

/// What is said of the address of one name.
fn entries(names: &Names, origin: &Origin) -> Vec<(Ports, Entry)> {
    let mut found = names.connect(&origin.name);
    if !origin.trusted {
        found.retain(|(_, entry)| names::blocks(entry));
    }
    // Who restricts a name on the way means its address, too.
    let mut restricting: Vec<_> = origin
        .aliases
        .iter()
        .flat_map(|alias| names.connect(alias))
        .filter(|(_, entry)| names::blocks(entry) && !found.iter().any(|(_, known)| known == entry))
        .collect();
    if !restricting.is_empty() {
        restricting.append(&mut found);
        return merged(restricting);
    }
    found
}

/// What is said of an address of these names; none if nothing.
fn permit(names: &Names, now: BootTime, known: &[(Origin, BootTime)]) -> Option<Permit> {
    let said: Vec<_> = known
        .iter()
        .filter(|(_, until)| *until > now)
        .map(|(origin, until)| (entries(names, origin), *until))
        .filter(|(entries, _)| !entries.is_empty())
        .collect();
    let expires = said.iter().map(|(_, until)| *until).max()?;
    let mut distinct: Vec<Vec<(Ports, Entry)>> = Vec::new();
    for (entries, _) in said {
        if !distinct.contains(&entries) {
            distinct.push(entries);
        }
    }
    let entries = if distinct.len() == 1 { distinct.concat() } else { merged(distinct.concat()) };
    Some(Permit { entries: fitted(entries), expires })
}

/// Of several names: narrower ports first, then stricter actions.
fn merged(mut entries: Vec<(Ports, Entry)>) -> Vec<(Ports, Entry)> {
    entries.sort_by_key(|(ports, entry)| (ports.last.saturating_sub(ports.first), Reverse(entry.action)));
    let mut distinct: Vec<(Ports, Entry)> = Vec::new();
    for entry in entries {
        if !distinct.contains(&entry) {
            distinct.push(entry);
        }
    }
    distinct
}

/// As many as the kernel keeps. What does not fit becomes one entry for every port, the strictest of them.
fn fitted(mut entries: Vec<(Ports, Entry)>) -> Vec<(Ports, Entry)> {
    if entries.len() > ENTRIES {
        let rest = entries.split_off(ENTRIES - 1);
        let strictest = rest.into_iter().max_by_key(|(_, entry)| entry.action);
        entries.extend(strictest.map(|(_, entry)| (Ports::ANY, Entry { unless: None, ..entry })));
    }
    entries
}

#[cfg(test)]
mod tests;
