//! A hook that nobody judged, as the hook itself remembers it until there is a daemon to tell.

use serde::{Deserialize, Serialize};

use super::{Connector, FailMode, WallTime};

/// Bytes of a report that is taken at once.
pub const REPORT_MAX: usize = 16 << 10;

/// One of them. Written by a process of the agent's user: that user's word, and nothing more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// When.
    #[serde(rename = "t")]
    pub wall: WallTime,
    /// Whose hook.
    #[serde(rename = "c")]
    pub connector: Connector,
    /// What the agent heard.
    #[serde(rename = "f")]
    pub fail: FailMode,
    /// Why: one word.
    #[serde(rename = "r")]
    pub reason: String,
    /// The vendor's name of the event, if it could be read.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// The agent's own session id, likewise.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}
