//! From a compiled policy to what holds the command before it starts: plans Landlock, and says of each rule whether any
//! layer holds it. Refuses to claim more than is held.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

use super::{
    policy::{Compiled, Directories, PolicyOptions},
    run::{RunError, RunOptions},
};
use crate::{
    launcher::{
        LaunchError, Prepared,
        landlock::{self, Abi, Disk, Domain, LandlockPlan, PlanOptions, choose_level},
    },
    model::{Held, Mode, Protection, ProtectionState, RuleHold},
};

/// The command cannot be confined as policy asks.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// Mode action promises that block rules hold.
    #[error("these rules block, and are not held here: {}", joined(.0.iter().map(unheld)))]
    NotHeld(Vec<RuleHold>),
}

impl ConfineError {
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::NotHeld(_) => {
                "run as root, on a kernel with `bpf` in the list of active LSMs (lsm=…,bpf), for more layers, or accept it \
                 with --allow-degraded; --mode observe records what would be blocked"
            }
        }
    }
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join("; ")
}

fn unheld(hold: &RuleHold) -> String {
    let held = if hold.held == Held::Part { "in part" } else { "not at all" };
    format!("{} is held {held} ({})", hold.rule, hold.reasons.join(", "))
}

/// Everything that was worked out before the command exists.
#[derive(Debug)]
pub(super) struct Confinement {
    plan: LandlockPlan,
    domain: Option<Domain>,
    /// Why this level, if it was chosen for the command's sake.
    level_reason: String,
    /// Mode action, and nobody has accepted less.
    must_hold: bool,
}

impl Confinement {
    /// Works it out. Refuses nothing yet: other layers may hold what Landlock does not.
    pub(super) fn of(
        options: &RunOptions,
        chosen: &PolicyOptions,
        compiled: &Compiled,
        directories: &Directories,
    ) -> Result<Self, RunError> {
        let path = |bytes: &[u8]| Path::new(OsStr::from_bytes(bytes)).to_owned();
        let (home, project) = (path(&directories.home), path(&directories.project));
        let uid = options.user.as_ref().map_or_else(|| nix::unistd::geteuid().as_raw(), |user| user.uid);
        let (level, level_reason) = choose_level(chosen.landlock, &options.command, &home, &project);
        let plan = LandlockPlan::new(
            &compiled.image,
            &PlanOptions {
                level,
                abi: Abi::of_this_kernel(),
                places: &Disk { uid },
                siblings: chosen.siblings,
                home: &landlock::Path::new(&home),
            },
        );
        let domain = Domain::open(&plan).map_err(LaunchError::from)?;
        let must_hold = compiled.mode != Mode::Observe && !chosen.allow_degraded;
        Ok(Self { plan, domain, level_reason, must_hold })
    }

    pub(super) fn domain(&self) -> Option<&Domain> {
        self.domain.as_ref()
    }

    /// Refuses to go on if a rule that blocks is not wholly held by any layer, unless that was accepted.
    pub(super) fn check(&self, rules: &[RuleHold]) -> Result<(), ConfineError> {
        let unheld = super::policy::unheld(rules);
        if self.must_hold && !unheld.is_empty() { Err(ConfineError::NotHeld(unheld)) } else { Ok(()) }
    }

    /// Likewise, if there is no other layer.
    pub(super) fn check_alone(&self) -> Result<(), ConfineError> {
        self.check(&self.plan.rules)
    }

    /// Writes what Landlock holds of the process, with what its self-test found, into the session's protection.
    pub(super) fn describe(&self, prepared: &Prepared, protection: &mut Protection) {
        let tested = prepared.protections();
        let table = if tested.is_empty() { &self.plan.table[..] } else { tested };
        let mut rules = self.plan.rules.clone();
        for row in table.iter().filter(|row| row.reason.starts_with("self-test: ")) {
            // Which rules it touches is not worked out: none of them is claimed any more.
            for hold in rules.iter_mut().filter(|_| row.state == ProtectionState::Off) {
                hold.held = hold.held.min(Held::Part);
                hold.reasons.push(format!("{}: {}", row.name, row.reason));
            }
        }
        protection.table.extend_from_slice(table);
        protection.rules.append(&mut rules);
    }

    /// What the user should know beside the table.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.level_reason.is_empty() {
            let level = self.plan.level.as_str();
            warnings.push(format!(
                "{}, so Landlock is at level {level} (--landlock full changes that)",
                self.level_reason
            ));
        }
        let skipped = self.domain.iter().flat_map(|domain| &domain.skipped);
        warnings.extend(
            skipped.map(|skipped| format!("policy allows {}, but it {}", skipped.path, skipped.reason)),
        );
        warnings
    }
}
