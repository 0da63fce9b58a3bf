//! The embedded run: one command, watched from before its first instruction until its tree has ended, without a
//! daemon. Start-up order matters: programs are attached before the command exists, the command is enrolled before it
//! executes, and the audit is open before anything can happen that belongs in it.

use std::{ffi::OsString, io, os::unix::ffi::OsStrExt, path::PathBuf};

use serde::Serialize;

use super::{
    clock,
    confine::{ConfineError, Confinement, PolicyOptions},
    host, rootless,
    watch::Watch,
};
use crate::{
    launcher::{self, LaunchError, LaunchOptions, RunAs, Signals},
    model::{ExitStatus, Protection, SessionId, SessionStart, Text},
    sensor::{Sensor, SensorError, SensorOptions, SensorStats},
    store::{StoreError, Writer, WriterOptions, WriterStats},
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
    /// Sizes of the kernel's half.
    pub sensor: SensorOptions,
    /// What the command may do.
    pub policy: Option<PolicyOptions>,
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
    /// Policy.
    #[error(transparent)]
    Confine(#[from] ConfineError),
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
            Self::Confine(error) => error.hint(),
            Self::Launch(_) | Self::System { .. } => None,
        }
    }

    /// Exit code of `run`: what a shell says of a command that cannot be started, 125 for trouble of our own.
    pub fn exit_code(&self) -> u8 {
        if let Self::Launch(error) = self { error.exit_code() } else { 125 }
    }
}

/// Runs and watches. To be called before other threads are started: it blocks signals for all of them.
pub fn run(options: &RunOptions) -> Result<RunOutcome, RunError> {
    let confinement = Confinement::of(options)?;
    if let Some(confinement) = confinement.as_ref().filter(|_| options.is_rootless()) {
        return rootless::run(options, confinement);
    }
    if !host::in_initial_pid_namespace() {
        return Err(RunError::PidNamespace);
    }
    let signals = Signals::block()?;
    let boot_id = clock::boot_id().map_err(RunError::system("read the boot id"))?;
    let (wall, boot) = (clock::wall_now(), clock::boot_now());
    let session = SessionId::new(wall, random());
    let mut sensor = Sensor::load(&options.sensor)?;
    let writer = Writer::open(
        &options.database,
        &WriterOptions {
            create_parent: options.default_database,
            ..WriterOptions::new(boot, wall, boot_id.clone())
        },
    )?;

    let launch = LaunchOptions { command: options.command.clone(), session, user: options.user.clone() };
    let domain = confinement.as_ref().and_then(Confinement::domain);
    let prepared = launcher::prepare_in(&launch, domain)?;
    let root = u32::try_from(prepared.pid()).unwrap_or(0);
    let mut warnings = Vec::new();
    let mut protection = sensor.protection().clone();
    if let Some(confinement) = &confinement {
        confinement.describe(&prepared, &mut protection)?;
        warnings.extend(confinement.warnings());
    }
    match prepared.placement() {
        launcher::Placement::Cgroup(cgroup) => sensor.watch_cgroup(cgroup.path(), cgroup.id(), session),
        launcher::Placement::Shared { reason } => {
            sensor.without_cgroup(&format!("the command has no cgroup of its own: {reason}"));
            warnings.push(format!("no cgroup of its own: {reason}"));
        }
    }
    sensor.enrol(root, session)?;

    // The session starts here: loading programs is our time, not the command's.
    let (wall, boot) = (clock::wall_now(), clock::boot_now());
    let host = host::host();
    let start = SessionStart {
        session,
        wall,
        boot,
        boot_id,
        root: crate::model::ProcessKey { tgid: root, start_ns: prepared.start_ticks() * 10_000_000 },
        command: options.command.iter().cloned().map(host::text).collect(),
        project: host::project(),
        home: home(options),
        host: host.name,
        kernel: host.kernel,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protection: Protection { capabilities: sensor.protection().capabilities.clone(), ..protection },
    };
    let mut watch = Watch::new(sensor, writer, start);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(RunError::system("start the event loop"))?;

    let mut running = match prepared.release() {
        Ok(running) => running,
        Err(error) => {
            let errno =
                if let LaunchError::Exec { errno, .. } | LaunchError::BecomeUser { errno, .. } = &error {
                    *errno as i32
                } else {
                    0
                };
            watch.not_started(errno)?;
            watch.finish()?;
            return Err(error.into());
        }
    };
    let status = runtime.block_on(watch.until_the_end(&mut running, &signals, options.detach_after_main))?;
    let (sensor, written) = watch.finish()?;
    if let launcher::CgroupEnd::Left(path) = running.finish() {
        warnings.push(format!("processes are still in {}", path.display()));
    }
    Ok(outcome(session, status, sensor, &written, warnings))
}

fn outcome(
    session: SessionId,
    status: Option<ExitStatus>,
    sensor: SensorStats,
    written: &WriterStats,
    mut warnings: Vec<String>,
) -> RunOutcome {
    if let (1.., Some(error)) = (written.lost, &written.last_error) {
        warnings.push(format!("{} events could not be stored: {error}", written.lost));
    }
    RunOutcome {
        session,
        status,
        stats: RunStats { sensor, stored: written.rows, store_error: written.lost },
        warnings,
    }
}

pub(super) fn home(options: &RunOptions) -> Text {
    match &options.user {
        Some(user) => user.home.as_os_str().as_bytes().into(),
        None => std::env::var_os("HOME").map(host::text).unwrap_or_default(),
    }
}

/// Bits that keep two sessions of the same millisecond apart. Not a secret.
pub(super) fn random() -> u32 {
    use std::hash::{BuildHasher, RandomState};
    u32::try_from(RandomState::new().hash_one(std::process::id()) & 0xffff_ffff).unwrap_or(0)
}
