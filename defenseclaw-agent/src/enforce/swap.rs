//! Putting a policy in force. Everything is written into the free slot of a profile; one update of one word is the swap;
//! what was in force before goes when no program can still be reading it. If anything fails, what was written is taken
//! back, and the policy before stays in force.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use aya::maps::MapError;
use defenseclaw_ebpf::image::{self as abi, Cell, Key, PROFILES, class};

use super::{
    Coming, EnforceError, Identity, Maps, Pauses, grace,
    layout::{self, Layout},
    maps::{CURRENT, CellPod, IMAGES, ImagePod, KeyPod, RULES, failed, is_full, said},
    owners::{self, Masks, Numbers, OwnerKey, Registry},
    running, words,
};
use crate::policy::image::Image;

/// `BPF_NOEXIST`: two objects with one key would be a mistake here.
const NOEXIST: u64 = 1;

/// The one writer of the kernel's verdict maps.
pub struct Enforcer {
    pub(super) maps: Maps,
    /// Where all hashes start. One for all images, because they share the cells of executables.
    pub(super) seed: u64,
    pub(super) registry: Registry,
    /// What stands in the map.
    pub(super) owner_rows: BTreeMap<OwnerKey, Masks>,
    pub(super) profiles: BTreeMap<u32, Profile>,
}

#[derive(Debug, Default)]
pub(super) struct Profile {
    pub(super) in_force: Option<InForce>,
    /// Of the last image; counts on when nothing is in force.
    pub(super) generation: u64,
    /// Rows of the other slot that programs may still have been reading when they were replaced.
    pub(super) leftover: Option<(Vec<Key>, Instant)>,
}

#[derive(Debug)]
pub(super) struct InForce {
    pub(super) slot: u32,
    pub(super) keys: Vec<Key>,
    pub(super) image: Box<abi::Image>,
    pub(super) numbers: Numbers,
}

/// How a policy came into force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swapped {
    /// Its number in this profile, from 1; verdicts carry the low byte.
    pub generation: u64,
    /// Rows that were written.
    pub rows: usize,
    /// Laying out and writing, while the policy before was in force.
    pub write: Duration,
    /// The swap itself.
    pub swap: Duration,
    /// Waiting for programs that still read the one before, and removing it.
    pub cleanup: Duration,
}

/// What to take back.
#[derive(Debug, Default)]
struct Undo {
    keys: Vec<Key>,
    /// With what stood there before.
    owners: Vec<(OwnerKey, Option<Masks>)>,
}

impl fmt::Debug for Enforcer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The seed is a secret.
        f.debug_struct("Enforcer").field("profiles", &self.profiles.keys()).finish_non_exhaustive()
    }
}

impl Enforcer {
    /// Takes over maps in which nothing is in force, and the seed that the programs were loaded with.
    pub fn new(maps: Maps, seed: u64) -> Self {
        Self {
            maps,
            seed,
            registry: Registry::default(),
            owner_rows: BTreeMap::new(),
            profiles: BTreeMap::new(),
        }
    }

    /// From now on the kernel asks where a policy does, and whoever has what this returns answers.
    pub fn ask(
        &mut self,
        map: impl FnMut(&'static str) -> Option<aya::maps::MapData>,
    ) -> Result<Pauses, EnforceError> {
        Pauses::begin(map, &mut self.maps, self.seed)
    }

    /// Puts a policy in force for a profile, in place of the one before.
    pub fn install(
        &mut self,
        profile: u32,
        policy: &Image,
        identities: &[Identity],
    ) -> Result<Swapped, EnforceError> {
        self.install_after(profile, policy, identities, |_coming| Ok(()))
    }

    /// Likewise; `ready` is called when everything is written, just before the swap, and can call it off.
    pub fn install_after(
        &mut self,
        profile: u32,
        policy: &Image,
        identities: &[Identity],
        ready: impl FnOnce(&Coming) -> Result<(), String>,
    ) -> Result<Swapped, EnforceError> {
        let started = Instant::now();
        let (slot, generation) = self.free_slot(profile)?;
        let mut registry = self.registry.clone();
        registry.recognise(policy, self.seed);
        let numbers = registry.register(policy);
        let place = layout::Place { seed: self.seed, slot, generation, numbers: &numbers };
        let Layout { image, rows } = layout::lay_out(policy, identities, &place)?;

        let mut undo = Undo::default();
        let written = self.write(policy, &registry, slot, &image, &rows, &mut undo);
        let written = written.and_then(|()| {
            running::refresh(&mut self.maps.scope, &registry);
            let coming = Coming { generation, sets: numbers.of_sets() };
            ready(&coming).map_err(|reason| EnforceError::Names { reason })?;
            let write = started.elapsed();
            self.maps.current.set(profile, index(slot), 0).map_err(failed("swap", CURRENT))?;
            Ok((write, started.elapsed()))
        });
        let (write, swapped) = match written {
            Ok(times) => times,
            Err(error) => {
                self.take_back(undo);
                return Err(error);
            }
        };

        self.owner_rows = registry.rows(self.seed);
        self.registry = registry;
        let keys: Vec<Key> = rows.iter().map(|(key, ..)| *key).collect();
        let n_rows = keys.len();
        let entry = self.profiles.entry(profile).or_default();
        entry.generation = generation;
        let before = entry.in_force.replace(InForce { slot, keys, image, numbers });
        // Programs that started before the swap were looked up in the image before, which may not know the new sets.
        running::refresh(&mut self.maps.scope, &self.registry);
        self.retire(profile, before);
        Ok(Swapped {
            generation,
            rows: n_rows,
            write,
            swap: swapped.saturating_sub(write),
            cleanup: started.elapsed().saturating_sub(swapped),
        })
    }

    /// From now on nothing is judged for a profile.
    pub fn withdraw(&mut self, profile: u32) -> Result<(), EnforceError> {
        self.maps.current.set(profile, 0, 0).map_err(failed("empty", CURRENT))?;
        let before = self.profiles.get_mut(&profile).and_then(|profile| profile.in_force.take());
        self.retire(profile, before);
        Ok(())
    }

    /// Brings the files that are protected by inode up to date: new ones first, then those that are gone go.
    pub fn refresh_identities(
        &mut self,
        profile: u32,
        policy: &Image,
        identities: &[Identity],
    ) -> Result<usize, EnforceError> {
        let Some(in_force) = self.profiles.get_mut(&profile).and_then(|profile| profile.in_force.as_mut())
        else {
            return Ok(0);
        };
        let InForce { slot, keys, image, numbers } = in_force;
        let place = layout::Place { seed: self.seed, slot: *slot, generation: image.generation, numbers };
        let files_only = Image { rules: policy.rules.clone(), ..Image::default() };
        let rows = layout::lay_out(&files_only, identities, &place)?.rows;

        let mut changed = 0;
        let mut added = Vec::new();
        let is_known: std::collections::HashSet<Key> = keys.iter().copied().collect();
        for (key, cell, rule) in &rows {
            if !is_known.contains(key) {
                layout::note(image, key.hash, key.class);
                added.push(*key);
            }
            let row = self.maps.rules.insert(KeyPod(*key), CellPod(*cell), 0);
            // What was added so far stays: it protects, and the next refresh knows it.
            if let Err(error) = row {
                keys.extend(&added);
                return Err(row_error(policy, &error, *rule));
            }
        }
        if !added.is_empty() {
            // Only bits are added to what programs may be reading.
            self.maps.images.set(index(*slot), ImagePod(**image), 0).map_err(failed("update", IMAGES))?;
            changed += added.len();
            keys.extend(&added);
        }
        let is_wanted: std::collections::HashSet<Key> = rows.iter().map(|(key, ..)| *key).collect();
        let is_stale = |key: &Key| key.class == class::INODE && !is_wanted.contains(key);
        for key in keys.extract_if(.., |key| is_stale(key)) {
            changed += 1;
            self.maps.rules.remove(&KeyPod(key)).ok();
        }
        Ok(changed)
    }

    /// Generation in force for a profile; none: nothing is judged.
    pub fn generation(&self, profile: u32) -> Option<u64> {
        let profile = self.profiles.get(&profile)?;
        profile.in_force.as_ref().map(|in_force| in_force.image.generation)
    }

    /// The slot that is not in force, emptied, and the generation that comes next.
    fn free_slot(&mut self, profile: u32) -> Result<(u32, u64), EnforceError> {
        if usize::try_from(profile).is_ok_and(|number| number >= PROFILES) {
            return Err(EnforceError::Profile { profile });
        }
        let known = self.profiles.entry(profile).or_default();
        if let Some((keys, since)) = known.leftover.take() {
            grace::wait_since(since);
            remove(&mut self.maps, &keys);
        }
        let first = 2 * profile;
        let taken = known.in_force.as_ref().is_some_and(|in_force| in_force.slot == first);
        Ok((if taken { first + 1 } else { first }, known.generation + 1))
    }

    fn write(
        &mut self,
        policy: &Image,
        registry: &Registry,
        slot: u32,
        image: &abi::Image,
        rows: &[(Key, Cell, u16)],
        undo: &mut Undo,
    ) -> Result<(), EnforceError> {
        for (key, masks) in registry.rows(self.seed) {
            let before = self.owner_rows.get(&key).copied();
            if before == Some(masks) {
                continue;
            }
            let (map_key, cell) = owners::row(key, masks);
            let row = self.maps.rules.insert(KeyPod(map_key), CellPod(cell), 0);
            row.map_err(|error| row_error(policy, &error, sparing_rule(policy)))?;
            undo.owners.push((key, before));
        }
        for (key, cell, rule) in rows {
            let row = self.maps.rules.insert(KeyPod(*key), CellPod(*cell), NOEXIST);
            row.map_err(|error| row_error(policy, &error, *rule))?;
            undo.keys.push(*key);
        }
        self.maps.images.set(index(slot), ImagePod(*image), 0).map_err(failed("write", IMAGES))
    }

    /// As if nothing had been written. A row that cannot be removed is in a slot that is not in force.
    fn take_back(&mut self, undo: Undo) {
        remove(&mut self.maps, &undo.keys);
        for (key, before) in undo.owners.into_iter().rev() {
            let (map_key, cell) = owners::row(key, before.unwrap_or_default());
            match before {
                Some(_) => self.maps.rules.insert(KeyPod(map_key), CellPod(cell), 0).ok(),
                None => self.maps.rules.remove(&KeyPod(map_key)).ok(),
            };
        }
        running::refresh(&mut self.maps.scope, &self.registry);
    }

    /// Removes what is no longer in force, as soon as nobody can be reading it.
    fn retire(&mut self, profile: u32, before: Option<InForce>) {
        let Some(before) = before else { return };
        let since = Instant::now();
        if grace::wait().is_ok() {
            remove(&mut self.maps, &before.keys);
        } else if let Some(profile) = self.profiles.get_mut(&profile) {
            profile.leftover = Some((before.keys, since));
        }
    }
}

/// Where the image of a slot lies, and what says that it is in force: the first one stays empty.
pub(super) fn index(slot: u32) -> u32 {
    slot + 1
}

fn remove(maps: &mut Maps, keys: &[Key]) {
    for key in keys {
        // Not there: it was removed before. Anything else leaves a row that the next image of this slot replaces.
        maps.rules.remove(&KeyPod(*key)).ok();
    }
}

/// The first rule that spares executables, for errors about these.
fn sparing_rule(policy: &Image) -> u16 {
    let paths = policy.paths.iter().flat_map(|row| &row.entries);
    let addresses = policy.addresses.iter().flat_map(|row| row.entries.iter().map(|(_, entry)| entry));
    let privileges = policy.privileges.iter().map(|(_, entry)| entry);
    let mut all = paths.chain(addresses).chain(privileges);
    all.find(|entry| entry.unless.is_some()).map_or(u16::MAX, |entry| entry.rule)
}

fn row_error(policy: &Image, error: &MapError, rule: u16) -> EnforceError {
    let rule = words::rule_id(policy, rule);
    if is_full(error) {
        EnforceError::Full { map: RULES, rule }
    } else {
        EnforceError::Rule { rule, reason: format!("its row was refused: {}", said(error)) }
    }
}

#[cfg(test)]
mod tests;
