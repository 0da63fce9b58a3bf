//! Forgetting, so that a session of millions of processes fits into memory.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::Duration,
};

use super::{Link, ProcessTree};
use crate::model::{BootTime, ProcessKey};

/// Generations kept above a process that is kept, unless they live themselves. A chain of processes that each fork once and exit has a live
/// descendant for ever; without a bound it would never be forgotten.
const GENERATIONS_KEPT: u32 = 256;

impl ProcessTree {
    /// Forgets processes that ended at least `keep` before `now` and have no descendant that stays. Returns how many.
    pub fn expire(&mut self, now: BootTime, keep: Duration) -> usize {
        let keep = u64::try_from(keep.as_nanos()).unwrap_or(u64::MAX);
        let expired = |time: BootTime| now.0.saturating_sub(time.0) >= keep;
        // Ancestors that stay, with how many more may stay above each of them.
        let mut stay: BTreeMap<ProcessKey, u32> = BTreeMap::new();
        for (key, process) in self.iter() {
            if process.ended().is_some_and(|ended| expired(ended.time)) {
                continue;
            }
            let mut above = GENERATIONS_KEPT;
            for (ancestor, _) in self.ancestors(key) {
                match stay.entry(ancestor) {
                    // Everything above it was reached before, from closer by.
                    Entry::Occupied(known) if *known.get() >= above => break,
                    Entry::Occupied(mut known) => _ = known.insert(above),
                    Entry::Vacant(vacant) => _ = vacant.insert(above),
                }
                above -= 1;
                if above == 0 {
                    break;
                }
            }
        }
        let before = self.processes.len();
        let children = &mut self.children;
        self.processes.retain(|key, process| {
            let stays = stay.contains_key(key) || process.ended().is_none_or(|ended| !expired(ended.time));
            if let (false, Some(parent)) = (stays, process.parent()) {
                children.remove(&Link::new(parent, *key));
            }
            stays
        });
        before - self.processes.len()
    }
}
