//! Where a run takes place: namespaces of its own with a name server, hosts that accept connections, and an `/etc` that
//! names the server. The watcher and its command are born in them.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    net::TcpListener,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

use super::super::{interfaces, server::Server};
use crate::{
    check::{Setting, session::own_program},
    runs, sys,
};

/// Ports of the hosts.
pub(super) const PORTS: [u16; 2] = [8443, 8444];
/// Seconds for something to happen that needs no programs to be loaded.
const SOON: u64 = 60;

/// Enters the namespaces, says so, and becomes what its arguments say when it is told to go on.
pub(crate) fn main(arguments: &[&[u8]]) -> ExitCode {
    if let Err(err) = interfaces::enter() {
        eprintln!("the stage: {err:#}");
        return ExitCode::FAILURE;
    }
    println!("ready");
    let mut line = String::new();
    if std::io::stdin().lock().read_line(&mut line).is_err() || line != "go\n" {
        return ExitCode::FAILURE;
    }
    let mut words = arguments.iter().map(|word| std::ffi::OsStr::from_bytes(word));
    let error = Command::new(words.next().unwrap()).args(words).stdin(Stdio::null()).exec();
    eprintln!("the stage: {error}");
    ExitCode::FAILURE
}

/// Hides the hierarchy of cgroups from the calling process, in a mount namespace of its own.
pub(super) fn without_cgroups() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    umount2("/sys/fs/cgroup", MntFlags::MNT_DETACH)?;
    Ok(())
}

/// Accepts connections on every address of a network namespace.
struct Hosts {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Hosts {
    fn start(namespace: BorrowedFd<'_>) -> Result<Self> {
        let listeners = std::thread::scope(|scope| {
            scope
                .spawn(|| -> Result<Vec<TcpListener>> {
                    setns(namespace, CloneFlags::CLONE_NEWNET).context("setns")?;
                    PORTS.into_iter().map(|port| Ok(TcpListener::bind(("0.0.0.0", port))?)).collect()
                })
                .join()
                .unwrap()
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let threads = listeners.into_iter().map(|listener| -> Result<_> {
            listener.set_nonblocking(true)?;
            let stop = Arc::clone(&stop);
            Ok(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if listener.accept().is_err() {
                        std::thread::park_timeout(Duration::from_millis(5));
                    }
                }
            }))
        });
        Ok(Self { threads: threads.collect::<Result<_>>()?, stop })
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// A run, from before its watcher starts. All of it ends when this goes.
pub(super) struct Stage {
    pub(super) server: Server,
    pub(super) db: PathBuf,
    base: PathBuf,
    watcher: Option<Child>,
    pid: u32,
    _hosts: Hosts,
}

impl Stage {
    /// The asker will play `case` under this policy.
    pub(super) fn set(setting: &Setting, base: &Path, policy: &str, mode: &str, case: &str) -> Result<Self> {
        Self::set_with(setting, base, &own_program()?, policy, mode, case)
    }

    /// Likewise; `program` is this one under another name.
    pub(super) fn set_with(
        setting: &Setting,
        base: &Path,
        program: &Path,
        policy: &str,
        mode: &str,
        case: &str,
    ) -> Result<Self> {
        let (db, file) = (base.join("audit.db"), base.join("policy.yaml"));
        fs::write(&file, policy)?;
        let mut watcher = Command::new(own_program()?);
        watcher.arg("network-stage").arg(which(&setting.binary)?).arg("--db").arg(&db);
        watcher.args(["run", "--report", "none", "--mode", mode, "--policy"]).arg(&file).arg("--");
        watcher.arg(program).args(["network-asker", case]).arg(base);
        watcher.env("DEFENSECLAW_LOG", "info").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut watcher = watcher.stderr(File::create(base.join("stderr"))?).spawn()?;
        let pid = watcher.id();
        let mut output = BufReader::new(watcher.stdout.take().context("no pipe")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        ensure!(line == "ready\n", "the stage says {line:?}");
        // What the asker says goes to its files; the pipe only has to stay open.
        watcher.stdout = Some(output.into_inner());
        let namespace = OwnedFd::from(File::open(format!("/proc/{pid}/ns/net"))?);
        let (server, hosts) = (Server::start(namespace.as_fd())?, Hosts::start(namespace.as_fd())?);
        Ok(Self { server, db, base: base.to_owned(), watcher: Some(watcher), pid, _hosts: hosts })
    }

    /// Somebody in the same namespaces whom nobody watches.
    pub(super) fn outsider(&self) -> Result<Child> {
        let mut outsider = Command::new(own_program()?);
        outsider.args(["network-outsider", &self.pid.to_string()]).arg(&self.base).stdin(Stdio::null());
        Ok(outsider.spawn()?)
    }

    /// Starts the watcher.
    pub(super) fn go(&mut self) -> Result<()> {
        let watcher = self.watcher.as_mut().context("ended already")?;
        watcher.stdin.take().context("started already")?.write_all(b"go\n")?;
        Ok(())
    }

    /// Waits for the run to end.
    pub(super) fn wait(&mut self) -> Result<ExitStatus> {
        runs::wait(self.watcher.take().context("ended already")?)
    }

    pub(super) fn finish(&mut self) -> Result<ExitStatus> {
        self.go()?;
        self.wait()
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        let mut watcher = self.watcher.take().context("ended already")?;
        watcher.kill()?;
        watcher.wait()?;
        Ok(())
    }

    /// Waits until the asker has made this file.
    pub(super) fn wait_for(&mut self, file: &str) -> Result<()> {
        let path = self.base.join(file);
        self.wait_until(|| path.exists()).with_context(|| format!("no file `{file}`"))
    }

    /// Waits until so many policies have come into force.
    pub(super) fn wait_for_policies(&mut self, count: usize) -> Result<()> {
        let path = self.base.join("stderr");
        let loaded =
            || fs::read_to_string(&path).is_ok_and(|text| text.matches("policy in force").count() >= count);
        self.wait_until(loaded).with_context(|| format!("never {count} policies"))
    }

    /// Waits until the server has heard so many more questions.
    pub(super) fn wait_for_questions(&mut self, more: usize) -> Result<()> {
        let asked = self.server.counter();
        let goal = asked() + more;
        self.wait_until(|| asked() >= goal).with_context(|| format!("never {more} more questions"))
    }

    fn wait_until(&mut self, mut done: impl FnMut() -> bool) -> Result<()> {
        let (mut ended, mut there) = (false, false);
        let watcher = &mut self.watcher;
        sys::wait_until(runs::RUN_SECONDS.min(4 * SOON), || {
            ended = watcher
                .as_mut()
                .is_some_and(|watcher| watcher.try_wait().is_ok_and(|status| status.is_some()));
            there = done();
            there || ended
        });
        ensure!(there, "{}{}", if ended { "the run has ended: " } else { "" }, self.said());
        Ok(())
    }

    /// What the watcher and the asker complained about.
    pub(super) fn said(&self) -> String {
        let text = |file: &str| fs::read_to_string(self.base.join(file)).unwrap_or_default();
        format!("{}{}", text("asker"), text("stderr"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The asker ends at a deadline of its own, or when it sees this.
        fs::write(self.base.join("stop"), b"").ok();
        if let Some(mut watcher) = self.watcher.take() {
            watcher.kill().ok();
            watcher.wait().ok();
        }
    }
}

/// A program as a path: the stage has another `/etc`, and names are looked up before.
fn which(program: &Path) -> Result<PathBuf> {
    if program.components().count() > 1 {
        return Ok(fs::canonicalize(program)?);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file());
    found.with_context(|| format!("no {} in PATH", program.display()))
}
