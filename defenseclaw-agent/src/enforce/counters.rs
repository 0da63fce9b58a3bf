//! Verdicts by rule, counted in the kernel whether or not a record got through.

use defenseclaw_ebpf::image::{COUNTED_RULES, action};

use super::{
    EnforceError, Enforcer,
    maps::{VERDICTS, failed},
};

/// What one rule has led to, since the programs were loaded. Simple permissions are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerdictTotals {
    /// Findings.
    pub alert: u64,
    /// Waiting for a person.
    pub confirm: u64,
    /// Refused.
    pub block: u64,
}

impl Enforcer {
    /// Totals of the first `rules` rules, by number. Rules from number 8191 on share the last row. Numbers mean what they
    /// mean in the policy in force; what was counted under the one before is in the same rows.
    pub fn verdicts(&self, rules: usize) -> Result<Vec<VerdictTotals>, EnforceError> {
        let last = u32::try_from(rules.min(COUNTED_RULES)).unwrap_or(0);
        (0..last)
            .map(|rule| {
                let rows = self.maps.verdicts.get(&rule, 0).map_err(failed("read", VERDICTS))?;
                let sum = |action: u8| {
                    rows.iter().filter_map(|row| row.0.counts.get(usize::from(action))).sum::<u64>()
                };
                Ok(VerdictTotals {
                    alert: sum(action::ALERT),
                    confirm: sum(action::CONFIRM),
                    block: sum(action::BLOCK),
                })
            })
            .collect()
    }
}
