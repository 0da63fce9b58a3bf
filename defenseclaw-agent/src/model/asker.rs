//! Who asked for a name.

use std::net::SocketAddr;

use super::{BootTime, ProcessKey, SessionId, ToolCallId};

/// Who asks for a name, and whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The server that the task meant.
    pub server: SocketAddr,
    /// When it asked.
    pub time: BootTime,
    /// Its session.
    pub session: SessionId,
    /// Its announced action, if any.
    pub tool_call: Option<ToolCallId>,
    /// Its process.
    pub process: ProcessKey,
    /// Its thread.
    pub tid: u32,
    /// Its real user id.
    pub uid: u32,
    /// Its cgroup v2 id.
    pub cgroup: u64,
    /// Which policy judges it.
    pub profile: u32,
    /// Sets of executables that its program belongs to, as the kernel numbers them.
    pub owner: u64,
    /// Those of its parent's program.
    pub parent_owner: u64,
}
