//! A pseudo terminal with a program as its session leader, and us as the person in front of it.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{fs::OpenOptionsExt, process::CommandExt},
    },
    process::{Child, Command, ExitStatus},
    time::Instant,
};

use nix::{
    fcntl::OFlag,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    pty::{grantpt, posix_openpt, ptsname_r, unlockpt},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::harness::{DEADLINE, end};

pub(crate) struct Terminal {
    master: File,
    leader: Child,
    /// Read and not yet expected.
    pending: String,
}

impl Terminal {
    /// `command` must make its own session; this makes the terminal its controlling one.
    pub(crate) fn start(command: &mut Command) -> Self {
        let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname_r(&master).unwrap();
        let slave =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(name).unwrap();
        let copy = || OwnedFd::from(slave.try_clone().unwrap());
        command.stdin(copy()).stdout(copy()).stderr(copy()).env("TERM", "xterm").env("LC_ALL", "C");
        // SAFETY: ioctl is async-signal-safe; 0 is the command's standard input, the slave.
        unsafe {
            command.pre_exec(|| match libc::ioctl(0, libc::TIOCSCTTY, 0) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            });
        }
        let leader = command.spawn().unwrap();
        // The command's own copies, which hold the slave open.
        command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        command.stderr(std::process::Stdio::null());
        // SAFETY: the descriptor is taken out of `master`, which is forgotten.
        let master =
            unsafe { std::os::fd::FromRawFd::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(master)) };
        Self { master, leader, pending: String::new() }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.leader.id().cast_signed())
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub(crate) fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one winsize.
        assert_eq!(unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }, 0);
    }

    /// Reads until `text` appears; what came before it.
    pub(crate) fn expect(&mut self, text: &str) -> String {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(at) = self.pending.find(text) {
                let rest = self.pending.split_off(at + text.len());
                let mut before = std::mem::replace(&mut self.pending, rest);
                before.truncate(at);
                return before;
            }
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::try_from(left).unwrap()).unwrap();
            assert!(ready > 0, "no {text:?} within {DEADLINE:?}, but {:?}", self.pending);
            let mut buffer = [0; 4096];
            let length = self.master.read(&mut buffer).unwrap_or_else(|err| {
                panic!("no {text:?}, but {err} after {:?}", self.pending);
            });
            self.pending.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
    }

    pub(crate) fn end(self) -> ExitStatus {
        let Self { master, leader, .. } = self;
        let status = end(leader);
        drop(master);
        status
    }

    /// Closes our side, as a terminal window does.
    pub(crate) fn hang_up(self) -> ExitStatus {
        let Self { master, leader, .. } = self;
        drop(master);
        end(leader)
    }
}
