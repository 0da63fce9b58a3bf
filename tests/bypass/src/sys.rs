//! System calls as the cases need them. No expectations.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

/// A raw system call: `sys!(libc::SYS_openat, dirfd, path.as_ptr(), flags, mode)?`. Every argument becomes a full word:
/// the seventh would otherwise reach the kernel with a random upper half.
macro_rules! sys {
    ($number:expr $(, $argument:expr)* $(,)?) => {{
        // SAFETY: pointers among the arguments stand for memory that outlives the call; the kernel checks the rest.
        $crate::sys::outcome(unsafe { libc::syscall($number $(, $argument as libc::c_long)*) })
    }};
}
pub(crate) use sys;

/// Turns -1 and errno into an error.
pub(crate) fn outcome(value: libc::c_long) -> io::Result<i64> {
    if value == -1 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Takes ownership of a descriptor that a raw call returned.
pub(crate) fn owned(fd: i64) -> OwnedFd {
    // SAFETY: the call has just returned it to us alone.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

pub(crate) fn c(bytes: impl AsRef<[u8]>) -> CString {
    CString::new(bytes.as_ref()).unwrap()
}

pub(crate) fn cpath(path: impl AsRef<Path>) -> CString {
    c(path.as_ref().as_os_str().as_bytes())
}

/// Opens a file, as given and with nothing else done to it.
pub(crate) fn open(path: impl AsRef<Path>, flags: i32) -> io::Result<OwnedFd> {
    let path = cpath(path);
    sys!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags | libc::O_CLOEXEC, 0o600).map(owned)
}

/// Now, nanoseconds of `CLOCK_BOOTTIME`: the clock of the audit.
pub(crate) fn boottime() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` outlives the call.
    let failed = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    assert_eq!(failed, 0, "no CLOCK_BOOTTIME");
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Ends this process without running anything else.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: always sound.
    unsafe { libc::_exit(code) }
}

/// SIGALRM ends this process after so many seconds, so that nothing can hang a run.
pub(crate) fn deadline(seconds: u32) {
    // SAFETY: always sound.
    unsafe { libc::alarm(seconds) };
}

/// Asks `done` again until it says yes or the deadline is over; every wait for something that cannot be waited for
/// otherwise.
pub(crate) fn wait_until(seconds: u64, mut done: impl FnMut() -> bool) -> bool {
    let end = boottime() + seconds * 1_000_000_000;
    while boottime() < end {
        if done() {
            return true;
        }
        std::thread::park_timeout(std::time::Duration::from_millis(5));
    }
    done()
}

/// Asks `done` again without any pause.
pub(crate) fn retry(seconds: u64, mut done: impl FnMut() -> bool) {
    let end = boottime() + seconds * 1_000_000_000;
    while !done() && boottime() < end {}
}

/// Whether a process exists and is not a zombie.
pub(crate) fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X'])))
}
