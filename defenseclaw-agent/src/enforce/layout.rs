//! An image of a policy, as it lies in the kernel's maps: rows and what finds them. Nothing is written here.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use defenseclaw_ebpf::image::{
    self as abi, BLOOM_BITS, Cell, ENTRIES, Key, LENGTHS_MAX, PRIVILEGES, class, has,
};

use super::{EnforceError, cells, hashes, identity::Identity, owners::Numbers, words};
use crate::{
    model::PolicyAction,
    policy::image::{Entry, Image, PathKey, Ports, Reach},
};

/// Where an image goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) seed: u64,
    pub(super) slot: u32,
    pub(super) generation: u64,
    /// Of the image's sets.
    pub(super) numbers: &'a Numbers,
}

/// An image, ready to be written.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) image: Box<abi::Image>,
    /// With the number of the first rule of each.
    pub(super) rows: Vec<(Key, Cell, u16)>,
}

/// Entries of one key, in the order in which the kernel takes the first that fits.
#[derive(Debug, Default)]
struct Entries(Vec<(Reach, Ports, Entry)>);

/// Lays out an image, and the files it protects by inode.
pub(super) fn lay_out(
    image: &Image,
    identities: &[Identity],
    place: &Place<'_>,
) -> Result<Layout, EnforceError> {
    let mut cells: BTreeMap<(u32, u64), Entries> = BTreeMap::new();
    let mut add = |(hash, class): (u64, u32), reach, ports, entry: &Entry| {
        cells.entry((class, hash)).or_default().0.push((reach, ports, *entry));
    };
    for (key, said) in cells::all(image) {
        let key = hashes::path(place.seed, key);
        for (reach, entry) in &said {
            add(key, *reach, Ports::ANY, entry);
        }
    }
    for row in &image.addresses {
        let key = (hashes::network(place.seed, row), class::ADDRESS);
        for (ports, entry) in &row.entries {
            add(key, Reach::Exact, *ports, entry);
        }
    }
    for row in &image.abstract_names {
        let key = (abi::component(place.seed, &row.name), class::ABSTRACT);
        for entry in &row.entries {
            add(key, Reach::Exact, Ports::ANY, entry);
        }
    }
    for file in identities {
        let key = (abi::inode(place.seed, file.dev, file.ino), class::INODE);
        for entry in &file.entries {
            add(key, Reach::Exact, Ports::ANY, entry);
        }
    }

    let mut laid = empty(place);
    for (key, said) in cells::all(image) {
        name(&mut laid, place.seed, key, &said);
    }
    let mut rows = Vec::with_capacity(cells.len());
    for ((class, hash), Entries(entries)) in cells {
        let Some((.., first)) = entries.first() else { continue };
        let cell = cell(image, &entries, place.numbers)?;
        note(&mut laid, hash, class);
        rows.push((Key { hash, class, slot: place.slot }, cell, first.rule));
    }
    // Written when a name is resolved; what cannot be is refused now.
    for (_, entry) in image.hosts.iter().flat_map(|row| &row.entries) {
        words::entry(image, entry, Reach::Exact, place.numbers)?;
    }
    fill_lengths(image, &mut laid)?;
    fill_fixed(image, &mut laid, place.numbers)?;
    if !image.hosts.is_empty() {
        laid.has |= has::NAMES;
    }
    if blocks(image) {
        laid.has |= has::BLOCKS;
    }
    if image.asks.is_some() {
        laid.has |= has::ASKS;
    }
    Ok(Layout { image: laid, rows })
}

fn blocks(image: &Image) -> bool {
    let paths = image.paths.iter().flat_map(|row| &row.entries);
    let names = image.abstract_names.iter().flat_map(|row| &row.entries);
    let addresses = image.addresses.iter().flat_map(|row| row.entries.iter().map(|(_, entry)| entry));
    let hosts = image.hosts.iter().flat_map(|row| row.entries.iter().map(|(_, entry)| entry));
    let privileges = image.privileges.iter().map(|(_, entry)| entry);
    let mut all = paths.chain(names).chain(addresses).chain(hosts).chain(privileges).chain(&image.defaults);
    all.any(|entry| entry.action >= PolicyAction::Confirm)
}

#[expect(clippy::large_stack_arrays, reason = "32 KiB, moved to the heap at once")]
fn empty(place: &Place<'_>) -> Box<abi::Image> {
    Box::new(abi::Image {
        seed: place.seed,
        generation: place.generation,
        defaults: [abi::Entry::default(); 16],
        privileges: [[abi::Entry::default(); 2]; PRIVILEGES],
        unresolved: abi::Entry::default(),
        has: has::POLICY,
        lengths: [0; LENGTHS_MAX],
        lengths4: [0; LENGTHS_MAX],
        n_lengths: 0,
        n_lengths4: 0,
        bloom: [0; BLOOM_BITS / 64],
    })
}

/// Says in the image that a key may have a cell.
pub(super) fn note(image: &mut abi::Image, hash: u64, class: u32) {
    let (word, bit) = abi::bloom(hash, class);
    if let Some(word) = image.bloom.get_mut(word) {
        *word |= 1 << bit;
    }
    image.has |= match class {
        class::ANCHORED => has::ANCHORED,
        class::SINGLE => has::SINGLE,
        class::PAIR => has::PAIR,
        class::EXTENSION => has::EXTENSION,
        class::INODE => has::INODE,
        class::ADDRESS => has::ADDRESS,
        class::ABSTRACT => has::ABSTRACT,
        _ => 0,
    };
}

/// Says in the image that a path may be concerned that has this name at its end, or before.
fn name(laid: &mut abi::Image, seed: u64, key: &PathKey, said: &[(Reach, Entry)]) {
    let last = match key {
        PathKey::Anchored(components) => {
            let Some(last) = components.last() else {
                laid.has |= has::ROOT;
                return;
            };
            last
        }
        PathKey::Name(name) | PathKey::Pair(_, name) => name,
        // Asked for by themselves.
        PathKey::Extension(_) => return,
    };
    let last = abi::component(seed, last);
    for (reach, _) in said {
        if *reach != Reach::Children {
            note(laid, last, class::ENDS);
        }
        if matches!(reach, Reach::Children | Reach::Subtree) {
            note(laid, last, class::WITHIN);
        }
    }
}

/// A cell of these entries, the decisive first.
pub(super) fn cell(
    image: &Image,
    entries: &[(Reach, Ports, Entry)],
    numbers: &Numbers,
) -> Result<Cell, EnforceError> {
    let mut cell = Cell::default();
    if let Some((.., excess)) = entries.get(ENTRIES) {
        let reason = format!(
            "it is the {}th about the same path, address or name, and there is room for {ENTRIES}; \
             join rules, or give them different objects",
            ENTRIES + 1
        );
        return Err(words::refuse(image, excess, reason));
    }
    for ((reach, ports, entry), (target, range)) in
        entries.iter().zip(cell.entries.iter_mut().zip(&mut cell.ports))
    {
        *target = words::entry(image, entry, *reach, numbers)?;
        *range = self::ports(*ports);
    }
    Ok(cell)
}

/// `last << 16 | first`.
pub(super) fn ports(ports: Ports) -> u32 {
    u32::from(ports.last) << 16 | u32::from(ports.first)
}

fn fill_lengths(image: &Image, laid: &mut abi::Image) -> Result<(), EnforceError> {
    let abi::Image { lengths, lengths4, n_lengths, n_lengths4, .. } = laid;
    let six: (&mut [u8; LENGTHS_MAX], &mut u32, bool) = (lengths, n_lengths, false);
    for (slots, number, four) in [six, (lengths4, n_lengths4, true)] {
        let rows = || {
            let same_family = move |network: IpAddr| network.is_ipv4() == four;
            image.addresses.iter().filter(move |row| same_family(row.network) && !row.entries.is_empty())
        };
        let distinct: BTreeSet<u8> = rows().map(|row| row.length).collect();
        for (nth, length) in distinct.into_iter().rev().enumerate() {
            let Some(slot) = slots.get_mut(nth) else {
                let entry = rows().find(|row| row.length == length).and_then(|row| row.entries.first());
                let reason =
                    format!("networks of more than {LENGTHS_MAX} different prefix lengths; use fewer");
                return Err(match entry {
                    Some((_, entry)) => words::refuse(image, entry, reason),
                    None => EnforceError::Rule { rule: String::new(), reason },
                });
            };
            *slot = length;
            *number += 1;
        }
    }
    Ok(())
}

/// What is not looked up by key.
fn fill_fixed(image: &Image, laid: &mut abi::Image, numbers: &Numbers) -> Result<(), EnforceError> {
    for entry in &image.defaults {
        laid.has |= has::DEFAULTS;
        let word = words::entry(image, entry, Reach::Exact, numbers)?;
        for (effect, slot) in laid.defaults.iter_mut().enumerate() {
            // The first is decisive, as everywhere.
            if entry.effects.bits() >> effect & 1 != 0 && slot.action == 0 {
                *slot = word;
            }
        }
    }
    for (privilege, entry) in &image.privileges {
        let word = words::entry(image, entry, Reach::Exact, numbers)?;
        let slots = laid.privileges.get_mut(*privilege as usize).into_iter().flatten();
        let Some(slot) = slots.into_iter().find(|slot| slot.action == 0) else {
            let reason = format!("it is the third about {privilege}, and there is room for two; join rules");
            return Err(words::refuse(image, entry, reason));
        };
        *slot = word;
    }
    if let Some(entry) = &image.unresolved {
        laid.unresolved = words::entry(image, entry, Reach::Exact, numbers)?;
    }
    Ok(())
}

#[cfg(test)]
mod agreement;
#[cfg(test)]
mod tests;
