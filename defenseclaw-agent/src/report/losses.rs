//! What is missing, merged by kind and reason.

use std::collections::{BTreeMap, btree_map::Entry};

use serde::Serialize;

use crate::model::{Loss, LossReason};

/// What is missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Losses {
    /// One per kind and reason.
    pub rows: Vec<Loss>,
}

impl Losses {
    /// No observation was lost. One that was folded into another is known.
    pub fn nothing_lost(&self) -> bool {
        self.rows.iter().all(|loss| loss.reason == LossReason::Folded)
    }
}

#[derive(Debug, Default)]
pub(super) struct Builder {
    rows: BTreeMap<(LossReason, String), Loss>,
}

impl Builder {
    pub(super) fn push(&mut self, loss: &Loss) {
        match self.rows.entry((loss.reason, loss.kind.clone())) {
            Entry::Vacant(vacant) => _ = vacant.insert(loss.clone()),
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                // 0 says that the number is unknown, and then the sum is unknown as well.
                known.count = if known.count == 0 || loss.count == 0 { 0 } else { known.count + loss.count };
                known.first = known.first.min(loss.first);
                known.last = known.last.max(loss.last);
                known.session = known.session.filter(|session| Some(*session) == loss.session);
            }
        }
    }

    pub(super) fn finish(self) -> Losses {
        Losses { rows: self.rows.into_values().collect() }
    }
}
