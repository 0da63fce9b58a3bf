//! System calls and facts of `/proc`, as the provocations and the checks need them. No expectations.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
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

/// Result as the kernel returns it: 0 or more, or a negative errno.
pub(crate) fn raw(result: &io::Result<i64>) -> i64 {
    match result {
        Ok(value) => *value,
        Err(error) => -i64::from(error.raw_os_error().unwrap_or(0)),
    }
}

/// Errno of a failed call, 0 otherwise.
pub(crate) fn errno(result: &io::Result<i64>) -> i32 {
    result.as_ref().err().and_then(io::Error::raw_os_error).unwrap_or(0)
}

/// Takes ownership of a descriptor that a raw call returned.
pub(crate) fn owned(fd: i64) -> OwnedFd {
    // SAFETY: the call has just returned it to us alone.
    unsafe { OwnedFd::from_raw_fd(fd as RawFd) }
}

pub(crate) fn c(bytes: impl AsRef<[u8]>) -> CString {
    CString::new(bytes.as_ref()).unwrap()
}

pub(crate) fn pid() -> u32 {
    std::process::id()
}

pub(crate) fn tid() -> u32 {
    nix::unistd::gettid().as_raw() as u32
}

/// Now, nanoseconds of `CLOCK_BOOTTIME`.
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

/// Start of a process in clock ticks, as `/proc/PID/stat` has it.
pub(crate) fn start_ticks(pid: u32) -> io::Result<u64> {
    let stat = fs::read(format!("/proc/{pid}/stat"))?;
    let text = String::from_utf8_lossy(&stat);
    // The second field is a name that may contain anything; 20 fields follow until the start.
    text.rsplit_once(") ")
        .and_then(|(_, rest)| rest.split(' ').nth(19)?.parse().ok())
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not understood: {text}")))
}

/// Device number in the kernel's own encoding, which differs from that of `stat`.
pub(crate) fn kernel_dev(dev: u64) -> u64 {
    u64::from(libc::major(dev)) << 20 | u64::from(libc::minor(dev))
}

/// Device and inode behind a path, without following a final link.
pub(crate) fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let stat = fs::symlink_metadata(path)?;
    Ok((kernel_dev(stat.dev()), stat.ino()))
}

/// Device and inode behind a descriptor.
pub(crate) fn fd_identity(fd: &impl AsRawFd) -> io::Result<(u64, u64)> {
    // SAFETY: the kernel fills the structure, for which zeroes are valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is large enough and outlives the call.
    outcome(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) }.into())?;
    Ok((kernel_dev(stat.st_dev), stat.st_ino))
}

/// Where the cgroup v2 hierarchy is mounted.
pub(crate) fn cgroup_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (place, what) = line.split_once(" - ")?;
        (what.starts_with("cgroup2 ")).then(|| PathBuf::from(place.split(' ').nth(4).unwrap_or_default()))
    })
}

/// Cgroup v2 id of this process: the inode number of its directory.
pub(crate) fn own_cgroup() -> Option<u64> {
    let list = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = list.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(fs::metadata(cgroup_mount()?.join(path)).ok()?.ino())
}

/// Asks `done` again until it says yes or the deadline is over; every wait of the suite for something that cannot be
/// waited for otherwise.
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

/// Whether a process exists and is not a zombie.
pub(crate) fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X'])))
}
