//! Identities and times. A process is never a bare pid: pids are reused, `(tgid, start)` is not.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Nanoseconds of `CLOCK_BOOTTIME`: kernel events are ordered by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootTime(pub u64);

/// Nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(pub i64);

/// Identity of a process: thread group id in the initial pid namespace, and when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessKey {
    /// Thread group id; what users call the pid.
    pub tgid: u32,
    /// Start, nanoseconds of `CLOCK_BOOTTIME`.
    pub start_ns: u64,
}

impl fmt::Display for ProcessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.tgid, self.start_ns)
    }
}

/// Run of an agent. Shown as 16 hexadecimal digits: milliseconds since 1970 in the upper 44 bits, so that ids sort
/// by time, then 20 random bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl SessionId {
    /// A new id for a session that starts at `now`; `random` keeps two of one millisecond apart.
    pub fn new(now: WallTime, random: u32) -> Self {
        let millis = u64::try_from(now.0 / 1_000_000).unwrap_or(0);
        Self((millis << 20) | u64::from(random & 0xf_ffff))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The text is not 16 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a session id (16 hexadecimal digits)")]
pub struct ParseSessionIdError(pub String);

impl FromStr for SessionId {
    type Err = ParseSessionIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        match u64::from_str_radix(text, 16) {
            Ok(value) if digits => Ok(Self(value)),
            _ => Err(ParseSessionIdError(text.to_owned())),
        }
    }
}

impl Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// One announced action of an agent, as the label of a task carries it. Shown as `t` and hexadecimal digits. Below 2^53,
/// so that every reader of JSON keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ToolCallId(pub u64);

impl fmt::Display for ToolCallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("t{:x}", self.0))
    }
}

/// The text is not a `t` with hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a tool call (`t` and hexadecimal digits)")]
pub struct ParseToolCallIdError(pub String);

impl FromStr for ToolCallId {
    type Err = ParseToolCallIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.strip_prefix('t').filter(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
        let value = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
        value.map(Self).ok_or_else(|| ParseToolCallIdError(text.to_owned()))
    }
}
