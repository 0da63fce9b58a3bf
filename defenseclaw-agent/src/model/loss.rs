//! Missing data is data: a row in the audit, always.

use serde::{Deserialize, Serialize};

use super::{BootTime, SessionId};

/// Why observations are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossReason {
    /// The ring had no room.
    RingFull,
    /// Identical observations counted instead of recorded.
    Folded,
    /// The record would have been too large.
    Oversized,
    /// Memory could not be read.
    Unreadable,
    /// A map had no room; for `process_fork`: the child is not watched.
    MapFull,
    /// A record arrived that could not be decoded.
    DecodeError,
    /// A queue of ours had no room, or ended before the record was taken from it.
    QueueFull,
    /// A record could not be stored.
    StoreError,
    /// The writer ended without saying so: what was in flight is unknown.
    Unclean,
}

/// Observations of one kind that are missing, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Wire name of the event kind; `all` where it concerns every kind, `compat_syscall` for 32-bit programs.
    pub kind: String,
    /// Why.
    pub reason: LossReason,
    /// How many; 0: unknown.
    pub count: u64,
    /// None of them happened before.
    pub first: BootTime,
    /// None of them happened after.
    pub last: BootTime,
    /// Session, where one alone can have lost them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
}
