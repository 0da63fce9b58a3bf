//! A run under watch, by the agent's own `runtime::run`, and what the watcher says about it.

use std::{
    ffi::OsString,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result};
use defenseclaw::{
    model::{AuditRecord, BootTime},
    runtime::{self, RunOptions, clock},
    sensor::SensorOptions,
    store::{Filter, Reader, StoreError},
};
use serde::{Deserialize, Serialize};

/// Run a command under watch and leave a report.
#[derive(Debug, clap::Args)]
pub(crate) struct Watched {
    #[arg(long)]
    database: PathBuf,
    #[arg(long)]
    report: PathBuf,
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// What the watcher saw and took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Observations of the kernel's half.
    pub(crate) seen: u64,
    /// Those that are not in the audit.
    pub(crate) lost: u64,
    /// Processor time of the watcher.
    pub(crate) cpu: Duration,
    /// Its greatest resident memory.
    pub(crate) peak_kib: u64,
    /// From its start to the first record.
    pub(crate) start: Duration,
}

/// A watcher to be started.
pub(super) struct Watcher {
    database: PathBuf,
    report: PathBuf,
    command: Vec<OsString>,
    started: BootTime,
}

impl Watcher {
    pub(super) fn new(database: &Path, arguments: Vec<OsString>) -> Result<Self> {
        let mut command = vec![std::env::current_exe()?.into_os_string()];
        command.extend(arguments);
        let (database, report) = (database.to_owned(), database.with_extension("json"));
        Ok(Self { database, report, command, started: clock::boot_now() })
    }

    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(self.command.first().cloned().unwrap_or_default());
        command.arg("watched").arg("--database").arg(&self.database).arg("--report").arg(&self.report);
        command.arg("--").args(&self.command);
        command
    }

    /// What it left; removes its files.
    pub(super) fn report(self) -> Result<Report> {
        let mut report: Report = serde_json::from_slice(&fs::read(&self.report)?)?;
        report.start = Duration::from_nanos(first_event(&self.database)?.0 - self.started.0);
        for suffix in ["", "-wal", "-shm", "-writers"] {
            let mut path = self.database.clone().into_os_string();
            path.push(suffix);
            // Not all of them are left behind.
            drop(fs::remove_file(path));
        }
        Ok(report)
    }
}

fn first_event(database: &Path) -> Result<BootTime> {
    let mut first = None;
    let filter = Filter { records: vec!["event"], ..Filter::default() };
    Reader::open(database)?.records(&filter, 0, Some(1), |stored| {
        if let AuditRecord::Event(event) = stored.record {
            first = Some(event.time);
        }
        Ok::<_, StoreError>(ControlFlow::Continue(()))
    })?;
    first.context("nothing was recorded")
}

/// The watcher's process.
pub(crate) fn watch(arguments: &Watched) -> Result<ExitCode> {
    let outcome = runtime::run(&RunOptions {
        approval_timeout: std::time::Duration::from_secs(90),
        tell: |_| {},
        policy: None,
        command: arguments.command.clone(),
        user: None,
        database: arguments.database.clone(),
        default_database: false,
        detach_after_main: false,
        persist: false,
        sensor: SensorOptions::default(),
    })?;
    for warning in &outcome.warnings {
        eprintln!("warning: {warning}");
    }
    let kernel = &outcome.stats.sensor.kernel;
    let seen = kernel.values().filter_map(|counts| counts.get("seen")).sum();
    let received: u64 = outcome.stats.sensor.received.values().sum();
    let lost = seen - received + outcome.stats.store_error;
    let (cpu, peak_kib) = usage();
    let report = Report { seen, lost, cpu, peak_kib, start: Duration::ZERO };
    fs::write(&arguments.report, serde_json::to_vec(&report)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Processor time of this process, and its greatest resident memory in KiB.
pub(crate) fn usage() -> (Duration, u64) {
    use nix::sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike as _,
    };
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return (Duration::ZERO, 0) };
    let time = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    let peak = fs::read_to_string("/proc/self/status").ok().and_then(|status| field(&status, "VmHWM:"));
    (Duration::from_micros(time.cast_unsigned()), peak.unwrap_or_default())
}

/// A size of `/proc/PID/status`, in KiB.
pub(crate) fn field(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}
