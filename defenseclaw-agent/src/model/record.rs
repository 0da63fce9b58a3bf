//! What the audit holds: one closed list of row types.

use serde::{Deserialize, Serialize};

use super::{BootTime, Event, ExitStatus, Loss, ProcessKey, Protection, SessionId, Text, WallTime};

/// One row of the audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum AuditRecord {
    /// A session began.
    SessionStart(Box<SessionStart>),
    /// The kernel saw something.
    Event(Box<Event>),
    /// Something is missing.
    Loss(Loss),
    /// A session ended.
    SessionEnd(SessionEnd),
}

/// Begin of a session: everything that is needed to read its events later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStart {
    /// Its id.
    pub session: SessionId,
    /// Wall clock at `boot`.
    pub wall: WallTime,
    /// Boot clock at the start.
    pub boot: BootTime,
    /// `boot_id` of the machine: boot times of different boots do not compare.
    pub boot_id: String,
    /// Root process.
    pub root: ProcessKey,
    /// Command line that was started.
    pub command: Vec<Text>,
    /// Project: working directory at the start.
    pub project: Text,
    /// Home directory of the user the tree runs as.
    pub home: Text,
    /// Host name.
    pub host: String,
    /// Kernel release.
    pub kernel: String,
    /// Version of this program.
    pub version: String,
    /// Level and hooks.
    pub protection: Protection,
}

/// How the main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MainExit {
    /// It ended.
    Ended(ExitStatus),
    /// It was still running when watching ended.
    StillRunning,
    /// It could not be started: errno.
    NotStarted(i32),
}

/// End of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEnd {
    /// Its id.
    pub session: SessionId,
    /// Wall clock.
    pub wall: WallTime,
    /// Boot clock.
    pub boot: BootTime,
    /// How the main process ended.
    pub main: MainExit,
    /// Processes of the tree still alive; they are not watched any further.
    pub left_running: u64,
    /// Events stored for this session.
    pub events: u64,
}
