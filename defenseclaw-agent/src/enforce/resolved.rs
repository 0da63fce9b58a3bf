//! What resolved names say of connecting to their addresses: the one writer of that map. It may be used beside the
//! enforcer, by another thread; what it writes is read only under the policy that it is from. Resolves nothing.

use std::{
    fmt,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use aya::maps::{HashMap, Map, MapData};
use defenseclaw_ebpf::image::{Resolved, ResolvedKey};

use super::{
    EnforceError, layout,
    maps::{ResolvedKeyPod, ResolvedPod, failed, is_absent, shape},
    owners::Numbers,
};
use crate::{
    model::BootTime,
    policy::image::{Entry, Image, Ports, Reach},
};

pub(super) const RESOLVED: &str = "RESOLVED";

/// A policy that is about to come into force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coming {
    /// Its number in its profile.
    pub generation: u64,
    /// The kernel's number of each list of executables that it spares, by its index in the policy; none: no entry may
    /// name it.
    pub sets: Vec<Option<u8>>,
}

/// What names said of an address, and under which policy.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// The decisive first.
    pub entries: &'a [(Ports, Entry)],
    /// Until when.
    pub expires: BootTime,
    /// The policy that says it.
    pub image: &'a Image,
    /// Its generation.
    pub generation: u64,
    /// As in [`Coming`].
    pub sets: &'a [Option<u8>],
}

/// Handle of the map.
pub struct Resolutions {
    map: Mutex<HashMap<MapData, ResolvedKeyPod, ResolvedPod>>,
}

impl fmt::Debug for Resolutions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolutions").finish_non_exhaustive()
    }
}

impl Resolutions {
    /// Takes the map from `map`.
    pub fn open(map: impl FnOnce(&'static str) -> Option<MapData>) -> Result<Self, EnforceError> {
        let data = map(RESOLVED).ok_or(EnforceError::NoMap { map: RESOLVED })?;
        let map = Map::from_map_data(data).and_then(HashMap::try_from).map_err(shape(RESOLVED))?;
        Ok(Self { map: Mutex::new(map) })
    }

    /// From now on connecting to the address is judged so under that policy.
    pub fn say(&self, profile: u32, address: IpAddr, said: &Said<'_>) -> Result<(), EnforceError> {
        let entries: Vec<_> =
            said.entries.iter().map(|(ports, entry)| (Reach::Exact, *ports, *entry)).collect();
        let cell = layout::cell(said.image, &entries, &Numbers::known(said.sets))?;
        let value = Resolved { cell, expires_ns: said.expires.0, generation: said.generation };
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        map.insert(key(profile, address, said.generation), ResolvedPod(value), 0)
            .map_err(failed("write", RESOLVED))
    }

    /// Nothing is said of the address any more under the policy of this generation.
    pub fn forget(&self, profile: u32, address: IpAddr, generation: u64) -> Result<(), EnforceError> {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        match map.remove(&key(profile, address, generation)) {
            Err(error) if !is_absent(&error) => Err(failed("remove a row of", RESOLVED)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

fn key(profile: u32, address: IpAddr, generation: u64) -> ResolvedKeyPod {
    let address = match address {
        IpAddr::V4(four) => four.to_ipv6_mapped(),
        IpAddr::V6(six) => six,
    };
    #[expect(clippy::cast_possible_truncation, reason = "the ABI takes the low bits")]
    let generation = generation as u32;
    ResolvedKeyPod(ResolvedKey { address: address.octets(), profile, generation })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{enforce::sample, model::Effects, policy::image::Unless};

    fn resolutions() -> Option<Resolutions> {
        nix::unistd::geteuid()
            .is_root()
            .then(|| Resolutions { map: Mutex::new(HashMap::create(4, 0).unwrap()) })
    }

    fn rows(resolutions: &Resolutions) -> Vec<(ResolvedKey, Resolved)> {
        let map = resolutions.map.lock().unwrap();
        let mut rows: Vec<_> = map.iter().map(Result::unwrap).map(|(key, value)| (key.0, value.0)).collect();
        rows.sort_by_key(|(key, _)| (key.generation, key.address));
        rows
    }

    #[test]
    fn each_policy_has_a_row_of_its_own() {
        let Some(resolutions) = resolutions() else {
            eprintln!("skipped: BPF maps need root");
            return;
        };
        let image = Image::default();
        let entry = |unless| Entry { effects: Effects::NET_CONNECT, unless, ..sample::entry(3) };
        let spared = [(Ports { first: 1, last: 443 }, entry(Some(Unless::Executable(1))))];
        let all = [(Ports::ANY, entry(None))];
        let said = |entries, generation| Said {
            entries,
            expires: BootTime(70),
            image: &image,
            generation,
            sets: &[None, Some(5)],
        };
        let address = "192.0.2.1".parse().unwrap();
        resolutions.say(0, address, &said(&spared, 1)).unwrap();
        resolutions.say(0, address, &said(&all, 2)).unwrap();
        let found = rows(&resolutions);
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];
        assert_eq!(found.iter().map(|(key, _)| key.generation).collect::<Vec<_>>(), [1, 2]);
        assert!(found.iter().all(|(key, value)| key.address == mapped && value.expires_ns == 70));
        assert_eq!((found[0].1.cell.entries[0].unless, found[0].1.cell.ports[0]), (6, 443 << 16 | 1));
        assert_eq!((found[1].1.cell.entries[0].unless, found[1].1.generation), (0, 2));

        let unknown = [(Ports::ANY, entry(Some(Unless::Executable(0))))];
        assert!(resolutions.say(0, address, &said(&unknown, 3)).is_err(), "a list without a number");
        resolutions.forget(0, address, 1).unwrap();
        resolutions.forget(0, address, 1).unwrap();
        assert_eq!(rows(&resolutions).len(), 1);
        for last in 2..5 {
            resolutions.say(0, [192, 0, 2, last].into(), &said(&all, 2)).unwrap();
        }
        let full = resolutions.say(0, [192, 0, 2, 5].into(), &said(&all, 2)).unwrap_err();
        assert!(full.to_string().contains(RESOLVED), "{full}");
    }
}
