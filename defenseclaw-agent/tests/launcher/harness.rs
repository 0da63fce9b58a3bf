//! Starting this binary's programs, and waiting for what they do with a deadline.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader},
    os::{fd::AsFd, unix::process::CommandExt},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Long, for a busy machine; nothing waits this long unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// A test case.
pub(crate) fn trial(name: &str, body: fn()) -> Trial {
    Trial::test(name, move || {
        body();
        Ok::<(), Failed>(())
    })
}

/// One that needs something of this machine; without it the case is listed as ignored.
pub(crate) fn trial_if(possible: bool, name: &str, body: fn()) -> Trial {
    trial(name, body).with_ignored_flag(!possible)
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// This binary as one of its programs.
pub(crate) fn program(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg(name).env_remove("SUDO_UID");
    command
}

/// A watched command, in a session of its own: no terminal of whoever runs the tests takes part.
pub(crate) fn watched<S: AsRef<OsStr>>(command: impl IntoIterator<Item = S>) -> Command {
    watched_with([""; 0], command)
}

/// With options for the watcher.
pub(crate) fn watched_with<S: AsRef<OsStr>, O: AsRef<OsStr>>(
    options: impl IntoIterator<Item = O>,
    command: impl IntoIterator<Item = S>,
) -> Command {
    let mut watcher = program("watch");
    watcher.args(options).arg("--").args(command);
    in_new_session(&mut watcher);
    watcher
}

pub(crate) fn in_new_session(command: &mut Command) {
    // SAFETY: setsid is async-signal-safe.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(Into::into)) };
}

/// Waits for the end of a process that runs on its own.
pub(crate) fn end(mut child: Child) -> ExitStatus {
    let until = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > until {
            child.kill().unwrap();
            panic!("still running after {DEADLINE:?}: {child:?}");
        }
        pause();
    }
}

/// Between two looks at something that no descriptor tells of.
pub(crate) fn pause() {
    std::thread::park_timeout(Duration::from_millis(2));
}

/// Looks until it is so.
pub(crate) fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let until = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < until, "not within {DEADLINE:?}: {what}");
        pause();
    }
}

/// A process that talks to us line by line.
pub(crate) struct Talking {
    pub(crate) child: Child,
    lines: BufReader<ChildStdout>,
}

impl Talking {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next line; empty at the end.
    pub(crate) fn line(&mut self) -> String {
        if self.lines.buffer().is_empty() {
            let mut fds = [PollFd::new(self.lines.get_ref().as_fd(), PollFlags::POLLIN)];
            let milliseconds = PollTimeout::try_from(DEADLINE).unwrap();
            assert!(poll(&mut fds, milliseconds).unwrap() > 0, "silent for {DEADLINE:?}");
        }
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }
}

/// State letter of `/proc/PID/stat`, `-` if it is gone.
pub(crate) fn state(pid: Pid) -> char {
    let text = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = text.iter().rposition(|byte| *byte == b')').and_then(|close| text.get(close + 2));
    after.map_or('-', |letter| char::from(*letter))
}

/// The one child of a process.
pub(crate) fn child_of(pid: Pid) -> Pid {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    Pid::from_raw(text.trim().parse().unwrap())
}
