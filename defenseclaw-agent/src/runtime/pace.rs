//! How much processor time the watcher takes from what it watches: little while the rings can wait, its full share as
//! soon as they fill faster than they are read. Does not read anything itself.

use std::{fs, io};

use tracing::debug;

/// Below everybody else by default, above those who asked for less still: about a tenth of a busy processor.
const CALM: i32 = 10;
const URGENT: i32 = 0;

/// Pace of every thread of this process.
#[derive(Debug)]
pub(super) struct Pace {
    /// Nice value we were started with: never go above it.
    started_at: i32,
    at: i32,
    refused: bool,
}

impl Pace {
    pub(super) fn new() -> Self {
        // SAFETY: takes numbers. -1 is a value, too; then we are at most that much too polite.
        let started_at = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
        Self { started_at, at: started_at, refused: false }
    }

    /// After a read: `full` if it ended only because it took as much as one read may take.
    pub(super) fn after_read(&mut self, full: bool) {
        let wanted = if full { URGENT } else { CALM }.max(self.started_at);
        if wanted == self.at || self.refused {
            return;
        }
        match set_all(wanted) {
            Ok(()) => self.at = wanted,
            Err(error) => {
                // Without the right to raise it again it must not be lowered at all; we are root, so this is rare.
                debug!(%error, "the pace stays as it is");
                self.refused = true;
            }
        }
    }
}

/// For every thread: the writer of the audit must keep up with the reader of the rings.
fn set_all(nice: i32) -> io::Result<()> {
    for thread in fs::read_dir("/proc/self/task")? {
        let Some(id) = thread?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // SAFETY: takes numbers.
        if unsafe { libc::setpriority(libc::PRIO_PROCESS, id, nice) } != 0 {
            let error = io::Error::last_os_error();
            // It may have ended meanwhile.
            if error.raw_os_error() != Some(libc::ESRCH) {
                return Err(error);
            }
        }
    }
    Ok(())
}
