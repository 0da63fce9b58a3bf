//! Taking over maps in which another process has put policies in force: what stands in them is found again, so that the
//! next swap replaces it as a whole. Changes nothing.

use std::{collections::BTreeMap, time::Instant};

use aya::maps::MapError;
use defenseclaw_ebpf::image::{Key, PROFILES, SHARED, class};

use super::{
    EnforceError, Enforcer, Maps,
    maps::{CURRENT, CellPod, IMAGES, ImagePod, KeyPod, RULES, failed},
    owners::{self, Numbers, Registry},
    swap::{InForce, Profile, index},
};

impl Enforcer {
    /// Takes over maps in which policies are in force, and the seed that the programs were loaded with. Nothing is known of
    /// the policies but what the kernel needs: until another one is installed, none of it can be brought up to date.
    pub fn adopt(maps: Maps, seed: u64) -> Result<Self, EnforceError> {
        let mut by_slot: BTreeMap<u32, Vec<Key>> = BTreeMap::new();
        let mut owner_rows = BTreeMap::new();
        for row in &maps.rules {
            let (KeyPod(key), CellPod(cell)) = row.map_err(failed("read", RULES))?;
            if key.slot != SHARED {
                by_slot.entry(key.slot).or_default().push(key);
            } else if key.class & class::OWNER != 0 {
                owner_rows.insert((key.hash, key.class), owners::masks(&cell));
            }
        }
        let mut profiles = BTreeMap::new();
        for profile in 0..u32::try_from(PROFILES).unwrap_or(0) {
            let mut found = Profile::default();
            let current = match maps.current.get(&profile, 0) {
                Ok(current) => current,
                Err(MapError::OutOfBounds { .. }) => break,
                Err(error) => return Err(failed("read", CURRENT)(error)),
            };
            let slot = current.checked_sub(1);
            if let Some(slot) = slot {
                let ImagePod(image) = maps.images.get(&index(slot), 0).map_err(failed("read", IMAGES))?;
                found.generation = image.generation;
                found.in_force = Some(InForce {
                    slot,
                    keys: by_slot.remove(&slot).unwrap_or_default(),
                    image: Box::new(image),
                    numbers: Numbers::default(),
                });
            }
            // Written for a swap that never came, or replaced and not removed any more.
            let others = [2 * profile, 2 * profile + 1].into_iter().filter_map(|slot| by_slot.remove(&slot));
            let others: Vec<Key> = others.flatten().collect();
            if !others.is_empty() {
                found.leftover = Some((others, Instant::now()));
            }
            if found.in_force.is_some() || found.leftover.is_some() {
                profiles.insert(profile, found);
            }
        }
        Ok(Self { maps, seed, registry: Registry::resume(owner_rows.clone()), owner_rows, profiles })
    }
}
