//! One child process, held by its pidfd: changes of state, signals, and the little of `/proc` that is needed.
//!
//! `waitid` is called directly, because nix cannot say that a real-time signal ended a process.

use std::{
    fs,
    mem::MaybeUninit,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use libc::{c_int, pid_t};
use nix::errno::Errno;

use super::LaunchError;
use crate::model::ExitStatus;

/// A change of state that `waitid` reports once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Ended(ExitStatus),
    Stopped(c_int),
    Continued,
}

/// A child of ours. Until it has ended and was reaped, its pid cannot be reused.
#[derive(Debug)]
pub(super) struct Child {
    pub(super) pid: pid_t,
    pub(super) pidfd: OwnedFd,
    pub(super) ended: Option<ExitStatus>,
    /// As of the last change that was reported.
    pub(super) stopped: bool,
    /// It waits before its first exec, and is nobody's but ours: dropping it ends it.
    held: bool,
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.held {
            // If it cannot be killed, the gate that closes next to this ends it.
            self.signal(libc::SIGKILL).ok();
            self.wait_for_end().ok();
        }
    }
}

impl Child {
    pub(super) fn held(pid: pid_t, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, ended: None, stopped: false, held: true }
    }

    /// From now on it is the user's command.
    pub(super) fn let_go(&mut self) {
        self.held = false;
    }

    /// The next change that has not been reported yet; reaps the child when it has ended.
    pub(super) fn next_change(&mut self) -> Result<Option<Change>, LaunchError> {
        self.wait(libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG)
    }

    /// Waits until it has ended.
    pub(super) fn wait_for_end(&mut self) -> Result<(), LaunchError> {
        self.wait(libc::WEXITED).map(drop)
    }

    fn wait(&mut self, options: c_int) -> Result<Option<Change>, LaunchError> {
        if self.ended.is_some() {
            return Ok(None);
        }
        let id = libc::id_t::try_from(self.pidfd.as_raw_fd()).unwrap_or(libc::id_t::MAX);
        let info = loop {
            let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
            // SAFETY: waitid writes `info`, which is valid when all zero, too: what it is when nothing has changed.
            let info =
                unsafe { (libc::waitid(libc::P_PIDFD, id, info.as_mut_ptr(), options), info.assume_init()) };
            match info {
                (0, info) => break info,
                _ if Errno::last() == Errno::EINTR => {}
                _ => return Err(LaunchError::system("wait for the command")(Errno::last())),
            }
        };
        // SAFETY: `si_pid` and `si_status` are what waitid fills in; zero if nothing has changed.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if pid == 0 {
            return Ok(None);
        }
        let number = u8::try_from(status & 0xff).unwrap_or(0);
        let change = match info.si_code {
            libc::CLD_EXITED => Change::Ended(ExitStatus::Code(number)),
            libc::CLD_KILLED | libc::CLD_DUMPED => Change::Ended(ExitStatus::Signal(number)),
            libc::CLD_CONTINUED => Change::Continued,
            _ => Change::Stopped(status),
        };
        self.stopped = matches!(change, Change::Stopped(_));
        if let Change::Ended(status) = change {
            self.ended = Some(status);
        }
        Ok(Some(change))
    }

    /// Sends a signal. One that has ended is no error: that is what its end says.
    pub(super) fn signal(&self, signal: c_int) -> Result<(), LaunchError> {
        // SAFETY: without siginfo (null) the call takes numbers only.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                signal,
                ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        match Errno::result(result) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(LaunchError::system("pass a signal to the command")(errno)),
        }
    }

    /// Whether it is stopped right now, reported or not.
    pub(super) fn is_stopped_now(&self) -> bool {
        self.ended.is_none() && stat(self.pid).is_ok_and(|stat| stat.state == b'T')
    }
}

/// A pidfd of a child that has not been reaped.
pub(super) fn open_pidfd(pid: pid_t) -> Result<OwnedFd, LaunchError> {
    // SAFETY: takes numbers only.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
        .map_err(LaunchError::system("open a pidfd of the command"))?;
    let fd = RawFd::try_from(fd).unwrap_or(-1);
    // SAFETY: the kernel has just given us this descriptor, close-on-exec, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Fields of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) state: u8,
    pub(super) parent: pid_t,
    /// Clock ticks since boot.
    pub(super) start_ticks: u64,
}

/// Reads it.
pub(super) fn stat(pid: pid_t) -> Result<Stat, LaunchError> {
    let path = format!("/proc/{pid}/stat");
    let read = fs::read(&path)
        .and_then(|text| parse_stat(&text).ok_or_else(|| std::io::ErrorKind::InvalidData.into()));
    read.map_err(|source| LaunchError::Proc { path, source })
}

/// The name in parentheses may hold anything, also spaces and parentheses.
fn parse_stat(text: &[u8]) -> Option<Stat> {
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let parent = fields.next()?.parse().ok()?;
    // Field 22 of proc_pid_stat(5); field 5 is next.
    let start_ticks = fields.nth(17)?.parse().ok()?;
    Some(Stat { state, parent, start_ticks })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_a_hostile_name() {
        let text = b"12 (a) R 9 (\xff)) T 7 12 12 0 -1 4 1 2 3 4 5 6 7 8 20 0 1 0 4711 1 1\n";
        assert_eq!(parse_stat(text), Some(Stat { state: b'T', parent: 7, start_ticks: 4711 }));
        for cut in 0..text.len() - 10 {
            assert_eq!(parse_stat(&text[..cut]), None, "{cut}");
        }
    }

    #[test]
    fn stat_of_this_process() {
        let own = stat(pid_t::try_from(std::process::id()).unwrap()).unwrap();
        assert_eq!(own.parent, nix::unistd::getppid().as_raw());
        assert!(own.start_ticks > 0);
    }
}
