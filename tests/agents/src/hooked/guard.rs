//! Our side of a trial: a daemon with its own socket, audit, configuration and policy, and the commands that people type.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use defenseclaw::{
    model::{AuditRecord, HookCall},
    store::{Filter, Reader, StoreError, verify},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{
    process::{self, Ended},
    run,
    terminal::View,
};

use super::stage::Stage;

const DEADLINE: Duration = Duration::from_mins(1);

/// A rule of the policy; its reason is what the agent must get to read.
pub(super) const EXEC_RULE: &str = "suite.exec";
/// Likewise.
pub(super) const FILE_RULE: &str = "suite.files";
/// A rule that has a person decide, in mode hitl.
pub(super) const ASKED_RULE: &str = "suite.asked";
/// A folder of this name may not be touched, wherever it is.
pub(super) const FLOATING: &str = "kept-from-agents";

/// Everything of ours that a trial has.
#[derive(Debug)]
pub(super) struct Guard {
    directory: TempDir,
    root: PathBuf,
    program: PathBuf,
    logs: PathBuf,
    daemon: Option<Child>,
    viewer: Option<Pid>,
}

impl Guard {
    /// Writes configuration and policy; starts nothing.
    pub(super) fn set(logs: PathBuf) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("dc-").tempdir()?;
        let root = directory.path().canonicalize()?;
        let guard =
            Self { directory, root, program: run::program_under_test()?, logs, daemon: None, viewer: None };
        fs::create_dir(guard.protected())?;
        fs::create_dir(guard.asked())?;
        fs::write(guard.secret(), "nobody is to read this\n")?;
        fs::write(guard.forbidden(), "#!/bin/sh\n: > \"$1\"\n")?;
        fs::set_permissions(guard.forbidden(), fs::Permissions::from_mode(0o755))?;
        let policy = format!(
            "version: 1
rules:
  - {{id: {EXEC_RULE}, effect: exec, match: {{executables: ['{}']}}, severity: critical, reason: not this program}}
  - {{id: {FILE_RULE}, effect: file.*, match: {{paths: ['{}/**', '**/{FLOATING}/**']}}, severity: critical, reason: not these files}}
  - {{id: {ASKED_RULE}, effect: file.read, match: {{paths: ['{}/**']}}, severity: high, reason: ask first}}
",
            guard.forbidden().display(),
            guard.protected().display(),
            guard.asked().display()
        );
        fs::write(guard.path("policy.yaml"), policy)?;
        guard.configure("action", "")?;
        Ok(guard)
    }

    /// Writes the configuration: the mode, and what else every connector is told.
    pub(super) fn configure(&self, mode: &str, more: &str) -> Result<()> {
        // An agent that starts on a busy machine gives a hook of ours little of a processor.
        let config = format!(
            "version: 1\nsocket: {}\naudit: {}\npolicy: {}\nmode: {mode}\nconnectors:\n  {}",
            self.path("d.sock").display(),
            self.path("audit.db").display(),
            self.path("policy.yaml").display(),
            defenseclaw::model::Connector::ALL
                .iter()
                .map(|connector| format!("{connector}: {{{more}timeout: 10s}}"))
                .collect::<Vec<_>>()
                .join("\n  ")
        );
        Ok(fs::write(self.path("config.yaml"), config + "\n")?)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Where stages are.
    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn logs(&self) -> &Path {
        &self.logs
    }

    /// No file in here may be touched.
    pub(super) fn protected(&self) -> PathBuf {
        self.path("protected")
    }

    /// A person decides about files in here.
    pub(super) fn asked(&self) -> PathBuf {
        self.path("asked")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.path("d.sock")
    }

    pub(super) fn secret(&self) -> PathBuf {
        self.protected().join("secret")
    }

    /// A program that may not be run; it makes the file that it is given.
    pub(super) fn forbidden(&self) -> PathBuf {
        self.path("forbidden")
    }

    /// Starts the daemon, and returns when it says that it answers.
    pub(super) fn start(&mut self) -> Result<()> {
        let notify = self.path("notify");
        let ready = UnixDatagram::bind(&notify)?;
        ready.set_read_timeout(Some(DEADLINE))?;
        let log = fs::File::create(self.logs.join("daemon.log"))?;
        let child = Command::new(&self.program)
            .arg("daemon")
            .arg("--config")
            .arg(self.path("config.yaml"))
            .env_clear()
            .env("HOME", &self.root)
            .env("NOTIFY_SOCKET", &notify)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start the daemon")?;
        self.daemon = Some(child);
        let mut said = [0; 256];
        loop {
            let length = ready.recv(&mut said).context("the daemon does not say that it is ready")?;
            if said.get(..length).is_some_and(|said| said.starts_with(b"READY=1")) {
                break;
            }
        }
        drop(ready);
        Ok(fs::remove_file(&notify)?)
    }

    /// The daemon's process.
    pub(super) fn pid(&self) -> Option<Pid> {
        self.daemon.as_ref().and_then(|child| i32::try_from(child.id()).ok()).map(Pid::from_raw)
    }

    /// What runs beside the agents of a trial.
    pub(super) fn spared(&self) -> Vec<Pid> {
        self.pid().into_iter().chain(self.viewer).collect()
    }

    /// Opens the terminal view, and spares it until it is closed.
    pub(super) fn view(&mut self) -> Result<View> {
        let view = View::start(&self.program, Some(&self.socket()), DEADLINE, &self.logs.join("view.log"))?;
        self.viewer = Some(view.pid()?);
        Ok(view)
    }

    /// The daemon is ended by somebody else, and must be so by now.
    pub(super) fn is_dead(&mut self) -> Result<()> {
        let mut child = self.daemon.take().context("there was no daemon")?;
        if child.try_wait()?.is_none() {
            child.kill()?;
            child.wait()?;
            bail!("the daemon still runs");
        }
        Ok(())
    }

    /// Ends the daemon, and reads what its audit holds of hooks.
    pub(super) fn stop(&mut self) -> Result<Vec<HookCall>> {
        let hook = |row| if let AuditRecord::Hook(call) = row { Some(*call) } else { None };
        let calls: Vec<HookCall> = self.records()?.into_iter().filter_map(hook).collect();
        fs::write(self.logs.join("rows.log"), format!("{calls:#?}\n"))?;
        Ok(calls)
    }

    /// Ends the daemon, and reads all that its audit holds.
    pub(super) fn records(&mut self) -> Result<Vec<AuditRecord>> {
        let pid = self.pid().context("there is no daemon")?;
        let mut child = self.daemon.take().context("there is no daemon")?;
        kill(pid, Signal::SIGTERM)?;
        let status = child.wait()?;
        ensure!(status.success(), "the daemon ended with {status}; its log is in {}", self.logs.display());
        let database = self.path("audit.db");
        let verified = verify(&database, None)?;
        ensure!(verified.first_break.is_none(), "the audit's chain is broken: {verified:?}");
        let mut records = Vec::new();
        Reader::open(&database)?.records(&Filter::default(), 0, None, |stored| {
            records.push(stored.record);
            Ok::<_, StoreError>(std::ops::ControlFlow::Continue(()))
        })?;
        Ok(records)
    }

    /// `defenseclaw connector WORDS`, for the agent of the stage.
    pub(super) fn connector(&self, stage: &Stage, action: &str, more: &[&str]) -> Result<Ended> {
        let mut command = Command::new(&self.program);
        command.args(["connector", action, stage.agent.name(), "--config"]).arg(self.path("config.yaml"));
        stage.surround(command.args(more));
        let name = format!("{}-{action}", stage.name);
        process::start(&mut command, &self.logs, &name)
            .and_then(|running| process::finish(vec![running], DEADLINE, &self.spared()))?
            .pop()
            .context("nothing was run")
    }

    /// Installs, and says so when that fails.
    pub(super) fn install(&self, stage: &Stage, more: &[&str]) -> Result<()> {
        self.connector(stage, "install", more)?.succeeded("connector install")
    }

    /// Whether the hook is as it was installed, and the daemon answers it.
    pub(super) fn verifies(&self, stage: &Stage, more: &[&str]) -> Result<bool> {
        let ended = self.connector(stage, "verify", more)?;
        match ended.status.code() {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => bail!("connector verify ended with {}", ended.status),
        }
    }

    /// Removes the folders, and says so when that fails.
    pub(super) fn strike(mut self) -> Result<()> {
        ensure!(self.daemon.is_none(), "the daemon still runs");
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir()?);
        directory.close().with_context(|| format!("cannot remove {}", self.root.display()))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(mut child) = self.daemon.take() {
            // A trial that failed: nothing more is to be learned from it.
            drop(child.kill());
            drop(child.wait());
        }
    }
}
