//! The embedded run: one command, watched from before its first instruction until its tree has ended, without a
//! daemon. Start-up order matters: programs are attached before the command exists, the command is enrolled before it
//! executes, and the audit is open before anything can happen that belongs in it.

use std::{collections::BTreeMap, ffi::OsString, io, path::PathBuf, time::Duration};

use serde::Serialize;
use tracing::warn;

use super::{
    asking::{self, AskingError, Local, Served},
    begin::{self, Beginning},
    confine::{ConfineError, Confinement},
    guard::{Guard, RuleVerdicts},
    handed::{self, Withheld},
    host,
    manifest::{self, Manifest, ManifestPolicy},
    names::{self, Names},
    persist::{Kept, PersistError, Place},
    policy::{self, Directories, PolicyOptions, PolicyRejected, PolicySource},
    rootless,
    watch::{Begin, Policy, Watch},
};
use crate::{
    enforce::{self, EnforceError},
    launcher::{self, Guardian, LaunchError, LaunchOptions, RunAs},
    model::{ExitStatus, SessionId, Unproven},
    pipeline::Limits,
    resolver::ResolverStats,
    sensor::{self, Sensor, SensorError, SensorOptions, SensorStats},
    store::StoreError,
};

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Program and arguments.
    pub command: Vec<OsString>,
    /// Run it as this user.
    pub user: Option<RunAs>,
    /// Audit database.
    pub database: PathBuf,
    /// The database is our own default place: make its directory.
    pub default_database: bool,
    /// Stop watching when the command itself has ended, whatever its children do.
    pub detach_after_main: bool,
    /// Leave programs and maps in force when this process ends before the tree.
    pub persist: bool,
    /// Judge by this policy; without it nothing is judged.
    pub policy: Option<PolicyOptions>,
    /// How long a question to a person is open.
    pub approval_timeout: Duration,
    /// Says a word to the person at the terminal before the command has it.
    pub tell: fn(&str),
    /// Sizes of the kernel's half.
    pub sensor: SensorOptions,
}

/// How it went.
#[derive(Debug)]
pub struct RunOutcome {
    /// The session.
    pub session: SessionId,
    /// How the command ended; none if watching was ended before it.
    pub status: Option<ExitStatus>,
    /// Counters of every stage.
    pub stats: RunStats,
    /// What the user should know: a cgroup that could not be had, rows that could not be stored.
    pub warnings: Vec<String>,
}

impl RunOptions {
    /// Without root nothing can be watched. With a policy the command can be confined all the same.
    pub fn is_rootless(&self) -> bool {
        self.policy.is_some() && !nix::unistd::geteuid().is_root()
    }
}

/// Counters of every stage, for the loss equations.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RunStats {
    /// Kernel and reader.
    #[serde(flatten)]
    pub sensor: SensorStats,
    /// Rows stored.
    pub stored: u64,
    /// Events that could not be stored.
    pub store_error: u64,
    /// Records of the check of enforcement, which are not stored.
    #[serde(skip_serializing_if = "is_zero")]
    pub filtered: u64,
    /// What the resolver was asked, if names were resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<ResolverStats>,
    /// Verdicts of the policy's rules as the kernel counts them, whether or not a record got through.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<RuleVerdicts>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Why it could not be run, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The kernel's half.
    #[error("the command cannot be watched")]
    Sensor(#[from] SensorError),
    /// The command.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The audit.
    #[error("the audit cannot be kept")]
    Store(#[from] StoreError),
    /// The policy's text.
    #[error(transparent)]
    Policy(#[from] PolicyRejected),
    /// Putting the policy in force.
    #[error("the policy cannot be enforced")]
    Enforce(#[from] EnforceError),
    /// Not everything that policy blocks is held.
    #[error(transparent)]
    Confine(#[from] ConfineError),
    /// A protected file would have been a standard stream of the command.
    #[error(transparent)]
    Withheld(#[from] Withheld),
    /// The check of enforcement was not refused what is forbidden to it.
    #[error("enforcement does not work here: {}", unproven(which))]
    Unproven {
        /// What was not refused.
        which: Vec<Unproven>,
    },
    /// Nobody can be asked.
    #[error(transparent)]
    Asking(#[from] AskingError),
    /// Leaving programs in the kernel, or taking them over.
    #[error(transparent)]
    Persist(#[from] PersistError),
    /// Pids here are not the kernel's.
    #[error("this is not the initial pid namespace, so processes cannot be told apart")]
    PidNamespace,
    /// The machine.
    #[error("cannot {step}")]
    System {
        /// What was tried.
        step: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl RunError {
    pub(super) fn system(step: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { step, source }
    }

    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Sensor(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::PidNamespace => {
                Some("in a container, share the host's pid namespace (`--pid=host`, `hostPID: true`)")
            }
            Self::Confine(error) => Some(error.hint()),
            Self::Persist(error) => error.hint(),
            Self::Unproven { .. } => {
                Some("see `defenseclaw doctor`; --allow-degraded goes on although blocking is not proven")
            }
            Self::Withheld(_)
            | Self::Policy(_)
            | Self::Enforce(_)
            | Self::Launch(_)
            | Self::Asking(_)
            | Self::System { .. } => None,
        }
    }

    /// Exit code of `run`: what a shell says of a command that cannot be started, 125 for trouble of our own.
    pub fn exit_code(&self) -> u8 {
        if let Self::Launch(error) = self { error.exit_code() } else { 125 }
    }
}

/// An error with all its causes in one line.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn unproven(which: &[Unproven]) -> String {
    let which = which.iter().map(|unproven| format!("{}: {}", unproven.operation, unproven.reason));
    which.collect::<Vec<_>>().join("; ")
}

/// Runs and watches. To be called before other threads are started: it blocks signals for all of them.
pub fn run(options: &RunOptions) -> Result<RunOutcome, RunError> {
    let directories = Directories::new(&begin::home(options).0, &host::project().0);
    // First of all: what is wrong with it needs no kernel to be said.
    let policy = match &options.policy {
        Some(chosen) => {
            let mut chosen =
                PolicyOptions { asks: policy::asks().then(|| options.database.clone()), ..chosen.clone() };
            let compiled = policy::compile(&chosen, &directories)?;
            // A policy that is read later asks only if this one does: else nobody listens for answers.
            chosen.asks = chosen.asks.filter(|_| compiled.image.asks.is_some());
            let confinement = Confinement::of(options, &chosen, &compiled, &directories)?;
            Some((chosen, compiled, confinement))
        }
        None => None,
    };
    if options.persist && !nix::unistd::geteuid().is_root() {
        return Err(PersistError::NotRoot.into());
    }
    if let Some((_, compiled, confinement)) = policy.as_ref().filter(|_| options.is_rootless()) {
        confinement.check_alone()?;
        return rootless::run(options, confinement, compiled);
    }
    if !host::in_initial_pid_namespace() {
        return Err(RunError::PidNamespace);
    }
    let beginning = Beginning::new()?;
    let session = beginning.session;
    let asks = matches!(&policy, Some((chosen, ..)) if chosen.asks.is_some());
    // Who is paused when we are killed is judged until somebody has told them.
    let place = (options.persist || asks).then(|| Place::make(session)).transpose()?;
    let asking = match &policy {
        Some((chosen, ..)) if chosen.asks.is_some() => {
            let owner =
                options.user.as_ref().map_or_else(|| nix::unistd::geteuid().as_raw(), |user| user.uid);
            Some(Served::start(session, Some(owner), Local::beside(&options.database))?)
        }
        _ => None,
    };
    let mut sensor = Sensor::load(&options.sensor)?;
    let writer = beginning.writer(options)?;

    let launch = LaunchOptions { command: options.command.clone(), session, user: options.user.clone() };
    let domain = policy.as_ref().and_then(|(_, _, confinement)| confinement.domain());
    let prepared = launcher::prepare_in(&launch, domain)?;
    let mut warnings = Vec::new();
    match prepared.placement() {
        launcher::Placement::Cgroup(cgroup) => {
            sensor.watch_cgroup(cgroup.path(), cgroup.id(), session);
            if policy.is_some() {
                sensor.hold_cgroup(cgroup.path());
            }
        }
        launcher::Placement::Shared { reason } => {
            let words = format!("the command has no cgroup of its own: {reason}");
            sensor.without_cgroup(&words);
            if policy.is_some() {
                sensor.without_hold(&words);
            }
            warnings.push(format!("no cgroup of its own: {reason}"));
        }
    }
    let mut protection = sensor.protection().clone();
    let (mut judged, mut kept_policy, mut n_handed) = (None, None, 0);
    if let Some((chosen, compiled, confinement)) = policy {
        confinement.describe(&prepared, &mut protection);
        let mut names = Names::of(&sensor, &prepared);
        protection.capabilities.extend(names::serve(&mut names, &compiled.image));
        protection.rules.extend(enforce::holds(&compiled.image, &protection));
        confinement.check(&protection.rules)?;
        warnings.extend(confinement.warnings());
        let skipped = &compiled.identities.skipped;
        warnings.extend(skipped.iter().map(|skipped| format!("not protected by inode: {skipped}")));
        let handed = handed::withhold(&prepared, &compiled)?;
        warnings.extend(handed.iter().filter_map(|handed| handed.warning(&compiled)));
        n_handed = handed.len() as u64;
        let cgroup = prepared.placement().cgroup();
        let (mut guard, loaded) =
            Guard::install(&sensor, session, &chosen, directories.clone(), compiled, &protection, names)?;
        kept_policy = Some(ManifestPolicy::new(&chosen, &directories, loaded.clone()));
        let posture = guard.prove(&mut sensor, cgroup)?;
        let file = match &chosen.source {
            PolicySource::File(file) => Some(file.clone()),
            PolicySource::Preset(_) => None,
        };
        judged = Some(Policy { guard, file, begin: Some(Begin { loaded, posture, handed }) });
    }
    sensor.enrol(begin::root(&prepared).tgid, session)?;
    let start = beginning.start(options, &prepared, protection);
    let kept = match place {
        Some((place, mounted)) => {
            warnings.extend(mounted);
            let cgroup = prepared.placement().cgroup().map(|cgroup| manifest::text(cgroup.path()));
            let manifest = Manifest {
                format: manifest::FORMAT,
                abi: sensor::abi(),
                object: sensor::object_digest(),
                database: manifest::text(&manifest::absolute(&options.database)),
                start: start.clone(),
                pinned: false,
                cgroup,
                attached: sensor.attached(),
                policy: kept_policy,
                filtered: BTreeMap::new(),
                handed: n_handed,
            };
            Some(Kept::pin(place, manifest, &mut sensor)?)
        }
        None => None,
    };
    let mut watch = Watch::new(sensor, writer, start, judged, kept);
    // Until the watch is over: who answers at the very end is told what became of it.
    let _served = asking.map(|(served, inbox)| {
        watch.ask(inbox);
        served.limit(Limits { wait: options.approval_timeout, ..Limits::default() });
        (options.tell)(&asking::how_to_answer(session));
        served
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(RunError::system("start the event loop"))?;

    let _guardian = asks.then(|| Guardian::start(session, !options.persist)).transpose()?;
    let mut running = match prepared.release() {
        Ok(running) => running,
        Err(error) => {
            watch.not_started(error.errno())?;
            watch.finish()?;
            return Err(error.into());
        }
    };
    // Until here nothing has run that would have to be held without us.
    if options.persist {
        watch.outlive();
    }
    let unless_ended = |error| {
        if options.persist {
            warn!("{}", left_in_force(session));
        }
        error
    };
    let watched =
        runtime.block_on(watch.until_the_end(&mut running, &beginning.signals, options.detach_after_main));
    let status = watched.map_err(unless_ended)?;
    let left = watch.leaves();
    let (stats, last_error) = watch.finish().map_err(unless_ended)?;
    if left {
        warnings.push(left_in_force(session));
    }
    if let launcher::CgroupEnd::Left(path) = running.finish() {
        warnings.push(format!("processes are still in {}", path.display()));
    }
    warnings.extend(not_stored(stats.store_error, last_error.as_ref()));
    Ok(RunOutcome { session, status, stats, warnings })
}

pub(super) fn left_in_force(session: SessionId) -> String {
    format!(
        "session {session} is left in force: `defenseclaw adopt {session}` goes on with it, `defenseclaw release {session}` \
         takes it off"
    )
}

/// What the audit does not have.
pub(super) fn not_stored(count: u64, error: Option<&StoreError>) -> Option<String> {
    error.filter(|_| count > 0).map(|error| format!("{count} rows could not be stored: {error}"))
}
