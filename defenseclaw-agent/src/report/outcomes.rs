//! Results of operations that were merged into one line.

use std::collections::BTreeMap;

use serde::Serialize;

/// How often an operation succeeded or failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    /// It succeeded.
    #[serde(skip_serializing_if = "is_zero")]
    pub succeeded: u64,
    /// The vantage point is before the result.
    #[serde(skip_serializing_if = "is_zero")]
    pub not_known: u64,
    /// It failed, by errno.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub failed: BTreeMap<i64, u64>,
}

impl Outcomes {
    pub(super) fn add(&mut self, result: Option<i64>) {
        match result {
            None => self.not_known += 1,
            Some(0..) => self.succeeded += 1,
            Some(error) => *self.failed.entry(error.saturating_neg()).or_insert(0) += 1,
        }
    }

    /// Operations.
    pub fn total(&self) -> u64 {
        self.succeeded + self.not_known + self.failed.values().sum::<u64>()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
