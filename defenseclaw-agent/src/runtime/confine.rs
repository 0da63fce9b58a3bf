//! From a policy to what holds the command: reads and compiles the policy for this session, plans Landlock, and says of
//! each rule whether it is held. Refuses to claim more than is held.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::run::{RunError, RunOptions, home};
use crate::{
    launcher::{
        LaunchError, Prepared,
        landlock::{
            self, Abi, Disk, Domain, LandlockChoice, LandlockPlan, PlanOptions, Siblings, choose_level,
        },
    },
    model::{Held, Mode, Protection, ProtectionState, RuleHold},
    policy::{self, Bindings, Problem, Session},
};

/// What the user says of policy.
#[derive(Clone, Debug)]
pub struct PolicyOptions {
    /// A preset's name, or a file.
    pub policy: OsString,
    /// Instead of the policy's own.
    pub mode: Option<Mode>,
    /// How much Landlock may do.
    pub landlock: LandlockChoice,
    /// Whether Landlock holds rules where it takes away what the command makes there later.
    pub siblings: Siblings,
    /// Go on although rules that block are not held.
    pub allow_degraded: bool,
}

/// The command cannot be confined as policy asks.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// No such file, or it cannot be read.
    #[error("cannot read policy {path}: {source}")]
    Read {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Mistakes in it.
    #[error("the policy is not valid: {}", joined(.0.iter().map(ToString::to_string)))]
    Invalid(Vec<Problem>),
    /// The home or project directory.
    #[error("cannot find out what {path} really is: {source}")]
    Place {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Mode action promises that block rules hold.
    #[error("these rules block, and are not held here: {}", joined(.0.iter().map(unheld)))]
    NotHeld(Vec<RuleHold>),
}

impl ConfineError {
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotHeld(_) => Some("run as root for more layers, or accept it with --allow-degraded"),
            Self::Read { .. } => Some("name a file, or one of the presets observe, default, strict"),
            Self::Invalid(_) | Self::Place { .. } => None,
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
    /// None without a policy.
    pub(super) fn of(options: &RunOptions) -> Result<Option<Self>, RunError> {
        let Some(chosen) = &options.policy else { return Ok(None) };
        let home = real(Path::new(OsStr::from_bytes(&home(options).0)))?;
        let project = real(Path::new("."))?;
        let session = session(chosen, &home, &project)?;
        let mode = session.mode();
        let image = session.image().map_err(ConfineError::Invalid)?;
        let uid = options.user.as_ref().map_or_else(|| nix::unistd::geteuid().as_raw(), |user| user.uid);
        let (level, level_reason) = choose_level(chosen.landlock, &options.command, &home, &project);
        let plan = LandlockPlan::new(
            &image,
            &PlanOptions {
                level,
                abi: Abi::of_this_kernel(),
                places: &Disk { uid },
                siblings: chosen.siblings,
                home: &landlock::Path::new(&home),
            },
        );
        let domain = Domain::open(&plan).map_err(LaunchError::from)?;
        let must_hold = mode != Mode::Observe && !chosen.allow_degraded;
        let confinement = Self { plan, domain, level_reason, must_hold };
        confinement.check(&confinement.plan.rules)?;
        Ok(Some(confinement))
    }

    pub(super) fn domain(&self) -> Option<&Domain> {
        self.domain.as_ref()
    }

    /// Rules that block and are not wholly held.
    fn check(&self, rules: &[RuleHold]) -> Result<(), ConfineError> {
        let unheld: Vec<_> = rules.iter().filter(|hold| hold.held != Held::Whole).cloned().collect();
        if self.must_hold && !unheld.is_empty() {
            return Err(ConfineError::NotHeld(unheld));
        }
        Ok(())
    }

    /// Writes what holds the process into the session's protection. An error if the self-test has refuted what the
    /// plan promised, and that was needed.
    pub(super) fn describe(
        &self,
        prepared: &Prepared,
        protection: &mut Protection,
    ) -> Result<(), ConfineError> {
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
        self.check(&rules)?;
        protection.table.extend_from_slice(table);
        protection.rules.append(&mut rules);
        Ok(())
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

fn session(chosen: &PolicyOptions, home: &Path, project: &Path) -> Result<Session, ConfineError> {
    let name = chosen.policy.to_string_lossy().into_owned();
    let text = match policy::preset(&name) {
        Some(text) => text.to_owned(),
        None => fs::read_to_string(&chosen.policy).map_err(|source| ConfineError::Read {
            path: Path::new(&chosen.policy).display().to_string(),
            source,
        })?,
    };
    let presets = |name: &str| policy::preset(name).map(str::to_owned);
    let policy = policy::load(&name, &text, &presets).map_err(ConfineError::Invalid)?;
    let bindings = Bindings {
        home: home.as_os_str().as_bytes().to_vec(),
        project: project.as_os_str().as_bytes().to_vec(),
        profile: "default".to_owned(),
        mode: chosen.mode,
    };
    Session::new(&policy, &bindings).map_err(ConfineError::Invalid)
}

/// As the kernel names it: absolute, without symbolic links.
fn real(path: &Path) -> Result<PathBuf, ConfineError> {
    path.canonicalize().map_err(|source| ConfineError::Place { path: path.display().to_string(), source })
}
