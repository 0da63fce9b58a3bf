//! Ends a process that a rule ends, where the kernel's programs may not send signals. Who that is, is the caller's to know.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

/// A process that stays the same, whatever becomes of its pid.
#[derive(Debug)]
pub struct Held(OwnedFd);

impl Held {
    /// Takes hold of the process that has this pid now.
    pub fn open(tgid: u32) -> io::Result<Self> {
        // SAFETY: takes numbers only.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, tgid, 0) };
        let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel has just given us this descriptor, close-on-exec, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Ends it.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(libc::SIGKILL)
    }

    pub(super) fn signal(&self, signal: libc::c_int) -> io::Result<()> {
        let no_details = ptr::null::<libc::siginfo_t>();
        // SAFETY: takes numbers, and a null pointer for details that are not given.
        let done =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, no_details, 0) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
