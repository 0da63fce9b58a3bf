//! A process that the kernel has stopped, as `/proc` and signals reach it. Who it is and why it waits is known elsewhere.

use std::{fs, io};

use super::super::kill::Held;

/// Nanoseconds of a clock tick of `/proc`.
const TICK_NS: u64 = 10_000_000;
/// SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN and SIGTTOU: they only stop, or undo that.
const STOPS: u64 = bit(libc::SIGSTOP) | bit(libc::SIGTSTP) | bit(libc::SIGTTIN) | bit(libc::SIGTTOU);

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// A process, by a descriptor that stays its own.
#[derive(Debug)]
pub(crate) struct Task {
    tgid: u32,
    held: Held,
}

impl Task {
    pub(crate) fn open(tgid: u32) -> io::Result<Self> {
        Ok(Self { tgid, held: Held::open(tgid)? })
    }

    /// Whether it is the process that started then.
    pub(crate) fn is(&self, start_ns: u64) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.tgid)).unwrap_or_default();
        let Some((_, rest)) = stat.rsplit_once(')') else { return false };
        let start = rest.split_ascii_whitespace().nth(19).and_then(|ticks| ticks.parse::<u64>().ok());
        start.is_some_and(|ticks| ticks == start_ns / TICK_NS) && !rest.trim_start().starts_with(['Z', 'X'])
    }

    /// Whether a thread of it is stopped; none if it is gone.
    pub(crate) fn is_stopped(&self, tid: u32) -> Option<bool> {
        let stat = fs::read_to_string(format!("/proc/{}/task/{tid}/stat", self.tgid)).ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        match rest.trim_start().chars().next()? {
            'Z' | 'X' => None,
            state => Some(matches!(state, 'T' | 't')),
        }
    }

    pub(crate) fn signal(&self, signal: i32) -> io::Result<()> {
        self.held.signal(signal)
    }

    /// Stops it, by the thread: see [`Task::go_on`].
    pub(crate) fn stop(&self, tid: u32) -> io::Result<()> {
        // SAFETY: takes numbers.
        let done = unsafe { libc::syscall(libc::SYS_tgkill, self.tgid, tid, libc::SIGSTOP) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Lets it run, unless somebody else has stopped it, too: then it stays so until that one lets it go. Ours are
    /// sent to threads, others' to the process.
    pub(crate) fn go_on(&self) {
        let pending = self.pending_stops();
        self.signal(libc::SIGCONT).ok();
        if let Some(stop) = pending_stop(pending) {
            self.signal(stop).ok();
        }
    }

    fn pending_stops(&self) -> u64 {
        let Some(status) = status(self.tgid, self.tgid) else { return 0 };
        field(&status, "ShdPnd:") & STOPS
    }

    /// Whether signals wait that the thread would take if it ran.
    pub(crate) fn has_signals(&self, tid: u32) -> bool {
        let Some(status) = status(self.tgid, tid) else { return false };
        let open = (field(&status, "ShdPnd:") | field(&status, "SigPnd:")) & !field(&status, "SigBlk:");
        open & !STOPS & !bit(libc::SIGCONT) != 0
    }
}

fn pending_stop(pending: u64) -> Option<i32> {
    [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU]
        .into_iter()
        .find(|stop| pending & bit(*stop) != 0)
}

fn status(tgid: u32, tid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{tgid}/task/{tid}/status")).ok()
}

fn field(status: &str, name: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    value.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_read_as_the_kernel_writes_them() {
        let status =
            "Name:\tx\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000040000\nSigBlk:\t0000000000004000\n";
        assert_eq!(field(status, "ShdPnd:"), bit(libc::SIGSTOP));
        assert_eq!(field(status, "SigBlk:"), bit(libc::SIGTERM));
        assert_eq!(field(status, "SigIgn:"), 0);
        assert_eq!(pending_stop(field(status, "ShdPnd:")), Some(libc::SIGSTOP));
        assert_eq!(pending_stop(0), None);
    }
}
