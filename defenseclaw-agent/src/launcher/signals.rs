//! Signals to this process, as a descriptor: read in the loop, never handled between two instructions.
//!
//! Which of them the command already has: what the terminal generates (Ctrl-C, Ctrl-\, Ctrl-Z, a resized or closed
//! window) goes to the whole foreground process group, and the kernel says so in the signal's origin. What a process
//! sent may have been meant for us alone, so it is handed on. A sender that addressed the group cannot be told from
//! that: the command may then get such a signal a second time.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use libc::{c_int, pid_t};
use nix::sys::{
    signal::SigSet,
    signalfd::{SfdFlags, SignalFd},
};

use super::{
    LaunchError,
    inherited::{LAST_SIGNAL, sigset},
};

/// One received signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: c_int,
    /// Process that sent it; none: the kernel did, as for every key on a terminal.
    pub sender: Option<pid_t>,
}

/// Every signal that has a meaning for us or the command.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks the signals and opens the descriptor. To be called before any other thread is started: threads inherit
    /// the mask, and a thread without it would receive what the descriptor should.
    pub fn block() -> Result<Self, LaunchError> {
        let set = sigset(is_received);
        // SAFETY: a set that `sigset` has initialised.
        let set = unsafe { SigSet::from_sigset_t_unchecked(set) };
        // If SIGCHLD was ignored when we were started, the kernel would reap the command and forget how it ended.
        // SAFETY: the default disposition runs no code of ours.
        unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
        set.thread_block().map_err(LaunchError::system("block signals"))?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC);
        Ok(Self { fd: fd.map_err(LaunchError::system("open a signalfd"))? })
    }

    /// The next one that has arrived.
    pub fn next(&self) -> Result<Option<Received>, LaunchError> {
        let read = self.fd.read_signal().map_err(LaunchError::system("read a signal"))?;
        Ok(read.map(|info| Received {
            signal: c_int::try_from(info.ssi_signo).unwrap_or(0),
            // Positive codes are the kernel's; 0 (kill), -1 (sigqueue) and -6 (tkill) come from a process.
            sender: (info.ssi_code <= 0).then(|| pid_t::try_from(info.ssi_pid).unwrap_or(0)),
        }))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The same descriptor, and open, as long as `self` lives: what tokio's `AsyncFd` has to be promised.
impl AsRawFd for Signals {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// All but those that tell of our own faults, and those that cannot be blocked.
fn is_received(signal: c_int) -> bool {
    const OURS: [c_int; 12] = [
        libc::SIGABRT,
        libc::SIGBUS,
        libc::SIGFPE,
        libc::SIGILL,
        libc::SIGKILL,
        libc::SIGPIPE,
        libc::SIGSEGV,
        libc::SIGSTOP,
        libc::SIGSYS,
        libc::SIGTRAP,
        libc::SIGXCPU,
        libc::SIGXFSZ,
    ];
    // The C library keeps 32 and 33 to itself.
    signal <= LAST_SIGNAL && !OURS.contains(&signal) && signal != 32 && signal != 33
}

/// Whether it asks the receiver to end, rather than to do something.
pub(super) fn asks_to_end(signal: c_int) -> bool {
    matches!(signal, libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGTERM)
}
