//! Waiting until no program can still be using what it found before.

use std::{
    io,
    time::{Duration, Instant},
};

/// Where the kernel does not tell: programs run for microseconds, so this is far beyond any of them.
const LONG_ENOUGH: Duration = Duration::from_millis(200);

/// Waits for every program that was running when this was called. Programs run inside a read-side section of RCU, and
/// this call of membarrier is one wait for all of them.
pub(super) fn wait() -> io::Result<()> {
    // SAFETY: takes numbers only.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits for programs that were running at `since`, where [`wait`] is refused (CPUs without a timer tick, filters).
pub(super) fn wait_since(since: Instant) {
    if wait().is_err() {
        std::thread::sleep(LONG_ENOUGH.saturating_sub(since.elapsed()));
    }
}
