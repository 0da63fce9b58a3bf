//! Who answers: reads what the kernel asks, and lets go on or refuses by what the object is called. `yes` and `no` are
//! answered, `late` waits until somebody else says so.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, anyhow, ensure};
use defenseclaw::{
    enforce::Pauses,
    model::{Event, EventKind, Level, Mode, PolicyAction, ProcessKey, Settlement, Waiter},
    policy::{self, Bindings, image::Image},
};
use tempfile::TempDir;

use crate::{
    check::session::run_dir,
    policy::kernel::{self, Kernel, place_program},
    sys,
};

/// One question.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) waiter: Waiter,
    pub(super) event: Event,
}

/// The place of a trial, and who answers in it.
pub(super) struct Client<'a> {
    pub(super) kernel: &'a mut Kernel,
    pub(super) pauses: Pauses,
    pub(super) dir: PathBuf,
    _dir: TempDir,
    /// Nobody has answered these.
    pub(super) late: Vec<Asked>,
    /// How many were answered, and how.
    pub(super) answered: BTreeMap<bool, usize>,
    /// Refused for now.
    pub(super) refused: Vec<Asked>,
    pub(super) events: Vec<Event>,
    /// A child is killed and reaped whatever happens.
    children: Vec<Child>,
    _open: Vec<Box<dyn Send>>,
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        for child in &mut self.children {
            child.kill().ok();
            child.wait().ok();
        }
        self.pauses.settle_all().ok();
        self.pauses.stop_asking().ok();
        self.kernel.withdraw().ok();
        self.kernel.drain();
    }
}

/// What a trial needs, made and taken away around it.
pub(super) fn with(level: Level, act: impl FnOnce(&mut Client<'_>) -> Result<()>) -> Result<()> {
    kernel::with(level, |kernel| {
        let dir = run_dir()?;
        let path = fs::canonicalize(dir.path())?;
        fs::create_dir(path.join("ask"))?;
        fs::create_dir(path.join("bin"))?;
        for name in ["yes", "no", "late", "free"] {
            place_program(&path.join("bin").join(name))?;
        }
        let open = super::operations::prepare(&path)?;
        let pauses = kernel.ask()?;
        kernel.install(&compile(&text(&path), &path)?)?;
        let mut client = Client {
            kernel,
            pauses,
            dir: path,
            _dir: dir,
            late: Vec::new(),
            answered: BTreeMap::new(),
            refused: Vec::new(),
            events: Vec::new(),
            children: Vec::new(),
            _open: open,
        };
        act(&mut client)
    })
}

fn text(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "version: 1
settings: {{unresolved: allow}}
rules:
  - {{id: files, effect: [file.read, file.write, file.create, file.delete, file.link, file.attr], severity: high, reason: r,
     match: {{paths: ['{dir}/ask/**']}}}}
  - {{id: sockets, effect: unix, severity: high, reason: r, match: {{unix: ['{dir}/ask/**']}}}}
  - {{id: programs, effect: exec, severity: high, reason: r, match: {{paths: ['{dir}/bin/yes', '{dir}/bin/no', '{dir}/bin/late']}}}}
  - {{id: addresses, effect: net.connect, severity: high, reason: r, match: {{addresses: [127.77.0.0/16]}}}}
  - {{id: ports, effect: net.bind, severity: high, reason: r, match: {{ports: [7701, 7702, 7703]}}}}
  - {{id: signals, effect: [priv.signal, priv.raw_socket, priv.chroot, priv.setid, priv.mount, priv.userns], severity: high, reason: r}}
"
    )
}

pub(super) fn compile(text: &str, base: &Path) -> Result<Image> {
    let directory: Vec<u8> = base.as_os_str().as_bytes().into();
    let bindings = Bindings {
        home: directory.clone(),
        project: directory,
        profile: "default".to_owned(),
        mode: Some(Mode::Hitl),
    };
    policy::load("pause", text, &|_| None)
        .and_then(|policy| policy::Session::asking(&policy, &bindings)?.image())
        .map_err(|problems| anyhow!("{problems:?}"))
}

impl Client<'_> {
    /// Starts a program of the trial, enrolled before it does anything.
    pub(super) fn start(&mut self, words: &[&str]) -> Result<u32> {
        self.start_as("free", words)
    }

    fn start_as(&mut self, name: &str, words: &[&str]) -> Result<u32> {
        let gate = self.dir.join(format!("gate-{}", self.children.len()));
        let child = Command::new(self.dir.join("bin").join(name))
            .arg("pause")
            .arg(&gate)
            .arg(&self.dir)
            .args(words)
            .stdin(Stdio::null())
            .spawn()?;
        let pid = child.id();
        self.children.push(child);
        self.kernel.enrol(pid)?;
        fs::write(&gate, b"")?;
        Ok(pid)
    }

    /// One turn: what was asked is answered, who has an answer is woken.
    pub(super) fn turn(&mut self) -> Result<()> {
        for event in self.kernel.read() {
            self.take(event)?;
        }
        self.pauses.tend(Instant::now());
        Ok(())
    }

    fn take(&mut self, event: Event) -> Result<()> {
        let verdict = event.verdict;
        let Some(verdict) = verdict else {
            self.events.push(event);
            return Ok(());
        };
        let process = event.process;
        if verdict.asks {
            let waiter = Waiter::Retry { process, tid: event.tid };
            self.refused.push(Asked { waiter, event });
            return Ok(());
        }
        if verdict.action != PolicyAction::Confirm {
            self.events.push(event);
            return Ok(());
        }
        let waiter = if event.kind() == EventKind::ProcessExec {
            Waiter::Held { process }
        } else {
            Waiter::Paused { process, tid: event.tid }
        };
        match says(&event) {
            Some(allow) => {
                self.answer(&waiter, allow)?;
                *self.answered.entry(allow).or_default() += 1;
                let all: usize = self.answered.values().sum();
                if all.is_multiple_of(10_000) {
                    println!("{all} answered, {} s since boot", sys::boottime() / 1_000_000_000);
                }
            }
            None => self.late.push(Asked { waiter, event }),
        }
        Ok(())
    }

    pub(super) fn answer(&mut self, waiter: &Waiter, allow: bool) -> Result<bool> {
        let decided = if allow { Settlement::Allow } else { Settlement::Block };
        Ok(self.pauses.settle(waiter, decided, None, sys::boottime())?)
    }

    /// Answers until `done`, at most that many seconds.
    pub(super) fn until(&mut self, seconds: u64, mut done: impl FnMut(&mut Self) -> bool) -> Result<bool> {
        let end = sys::boottime() + seconds * 1_000_000_000;
        while sys::boottime() < end {
            self.turn()?;
            if done(self) {
                return Ok(true);
            }
            std::thread::park_timeout(std::time::Duration::from_micros(300));
        }
        Ok(false)
    }

    /// Answers until a process of the trial has ended, and says how.
    pub(super) fn end(&mut self, pid: u32, seconds: u64) -> Result<std::process::ExitStatus> {
        let at = self.children.iter().position(|child| child.id() == pid).context("not a child of ours")?;
        let mut status = None;
        self.until(seconds, |client| {
            status = client.children[at].try_wait().ok().flatten();
            status.is_some()
        })?;
        let report = fs::read_to_string(self.dir.join(format!("report-{pid}"))).unwrap_or_default();
        let status = status.with_context(|| {
            let rows = self.pauses.waiting();
            format!("{pid} does not end: {report}; late {:?}; rows {rows:?}", self.late)
        })?;
        // What it did last may not have been read yet.
        self.turn()?;
        let judged = self.events.iter().rev().filter(|event| event.verdict.is_some()).take(8);
        let judged: Vec<_> = judged.collect();
        ensure!(report.is_empty(), "{report}; refused {:?}; judged last {judged:?}", self.refused);
        Ok(status)
    }

    /// Waits until that many questions are open that only the trial answers.
    pub(super) fn wait_late(&mut self, number: usize) -> Result<()> {
        let there = self.until(60, |client| client.late.len() >= number)?;
        ensure!(there, "{} of {number} questions", self.late.len());
        Ok(())
    }

    /// What the programs of the trial think is wrong, and which of them have ended.
    fn reports(&mut self) -> String {
        let dir = self.dir.clone();
        let one = |child: &mut Child| {
            let report = fs::read_to_string(dir.join(format!("report-{}", child.id()))).unwrap_or_default();
            format!("{} ended {:?}: {report}", child.id(), child.try_wait().ok().flatten())
        };
        self.children.iter_mut().map(one).collect::<Vec<_>>().join("; ")
    }

    /// The state letter of a thread.
    pub(super) fn state(process: ProcessKey) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", process.tgid)).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// Waits until a process is stopped.
    pub(super) fn wait_stopped(&mut self, process: ProcessKey) -> Result<()> {
        let there = self.until(60, |_| Self::state(process) == Some('T'))?;
        ensure!(there, "{process} is {:?}; {}", Self::state(process), self.reports());
        Ok(())
    }
}

/// What the name of an object says. Its other numbers say nothing: an inode may have that of a port.
fn says(event: &Event) -> Option<bool> {
    let text = format!("{:?}", event.action);
    let has = |names: &[&str]| names.iter().any(|name| text.contains(name));
    if has(&["ask/late", "bin/late", "(127.77.3.", "port: 7703"]) {
        return None;
    }
    Some(!has(&["ask/no-", "bin/no", "(127.77.2.", "port: 7702"]))
}
