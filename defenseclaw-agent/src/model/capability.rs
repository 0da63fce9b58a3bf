//! What this kernel lets us do, as a report: a missing feature lowers a stated capability, never silently.

use serde::{Deserialize, Serialize};

use super::Mechanism;

/// Best vantage point of this kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// BPF LSM: observes, can deny and pause.
    Lsm,
    /// Trampolines on `security_*`: observes. Not built yet.
    Fentry,
    /// Scheduler tracepoints and system call exit: observes.
    Tracepoint,
    /// Nothing is observed: the command is confined only.
    None,
}

impl Level {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lsm => "lsm",
            Self::Fentry => "fentry",
            Self::Tracepoint => "tracepoint",
            Self::None => "none",
        }
    }
}

/// State of one capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapabilityState {
    /// Works.
    Available,
    /// Works with a limit that `reason` names.
    Degraded,
    /// Does not work.
    Missing,
}

/// One feature this kernel has or lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// Hook or feature, in the kernel's word: `lsm/file_open`, `tp_btf/sched_process_fork`.
    pub name: String,
    /// Whether it works here.
    pub state: CapabilityState,
    /// Why not, in words a user can act on; empty when available.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Level and capabilities a session ran with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// Vantage level.
    pub level: Level,
    /// Why not a better level; empty at `lsm`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub level_reason: String,
    /// Every hook, and every stated blind spot of the level.
    pub capabilities: Vec<Capability>,
    /// What holds the command back, one row each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub table: Vec<ProtectionRow>,
    /// Rules that block something, and how much of each is held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<RuleHold>,
}

/// State of one protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProtectionState {
    /// In force, as far as policy asks for it.
    Enforced,
    /// In force with a gap that `reason` names.
    Degraded,
    /// Not in force, for the `reason` given.
    Off,
}

impl ProtectionState {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Degraded => "degraded",
            Self::Off => "off",
        }
    }
}

/// One protection of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProtectionRow {
    /// Mechanism and what it covers: `landlock/file_read`.
    pub name: String,
    /// Whether it is in force.
    pub state: ProtectionState,
    /// Why not, or not wholly.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Something it forbids was tried from inside, and refused.
    pub verified: bool,
}

/// How much of a rule is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// Nothing.
    Nothing,
    /// Some of what it blocks.
    Part,
    /// All it blocks.
    Whole,
}

impl Held {
    /// The wire name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Part => "part",
            Self::Whole => "whole",
        }
    }
}

/// What one mechanism does for one rule that blocks something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleHold {
    /// The rule's id.
    pub rule: String,
    /// What holds it.
    pub mechanism: Mechanism,
    /// How much of it.
    pub held: Held,
    /// Why not all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
}

/// Of each rule what holds most of it, in the order of the rules. Where several hold equally little, each says why; what
/// was asked last says it first.
pub fn best_holds(rules: &[RuleHold]) -> Vec<RuleHold> {
    let mut best: Vec<RuleHold> = Vec::new();
    for hold in rules {
        match best.iter_mut().find(|known| known.rule == hold.rule) {
            Some(known) if hold.held > known.held => known.clone_from(hold),
            Some(known) if hold.held == known.held => {
                let before = std::mem::replace(&mut known.reasons, hold.reasons.clone());
                for reason in before {
                    if !known.reasons.contains(&reason) {
                        known.reasons.push(reason);
                    }
                }
            }
            Some(_) => {}
            None => best.push(hold.clone()),
        }
    }
    best
}

/// Whether blocking was proven to work: three operations that must fail were tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "posture", rename_all = "snake_case")]
pub enum Posture {
    /// Each of them failed.
    Enforced,
    /// At least one did not, or could not be tried.
    Degraded {
        /// Each with the reason.
        which: Vec<Unproven>,
    },
    /// No policy is in force.
    Off,
}

/// A forbidden operation that was not refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unproven {
    /// `open`, `exec`, `connect`; `canary` if none of them could be tried.
    pub operation: String,
    /// What happened instead.
    pub reason: String,
}

impl Posture {
    /// The wire name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Degraded { .. } => "degraded",
            Self::Off => "off",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_most_counts_and_otherwise_every_reason() {
        let hold = |rule: &str, mechanism, held, reason: &str| RuleHold {
            rule: rule.to_owned(),
            mechanism,
            held,
            reasons: [reason].into_iter().filter(|reason| !reason.is_empty()).map(str::to_owned).collect(),
        };
        let best = best_holds(&[
            hold("a", Mechanism::None, Held::Nothing, "no right"),
            hold("b", Mechanism::Landlock, Held::Whole, ""),
            hold("c", Mechanism::Landlock, Held::Part, "some"),
            hold("a", Mechanism::Lsm, Held::Nothing, "not active"),
            hold("b", Mechanism::Lsm, Held::Nothing, "not active"),
            hold("c", Mechanism::Lsm, Held::Whole, ""),
        ]);
        let best: Vec<_> =
            best.iter().map(|hold| (hold.rule.as_str(), hold.held, hold.reasons.join(", "))).collect();
        assert_eq!(
            best,
            [
                ("a", Held::Nothing, "not active, no right".to_owned()),
                ("b", Held::Whole, String::new()),
                ("c", Held::Whole, String::new()),
            ]
        );
    }
}
