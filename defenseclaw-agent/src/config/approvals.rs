//! What the configuration says about questions to a person.

use std::time::Duration;

use serde::Serialize;

use super::file::{as_text, duration};
use crate::policy::document::{Node, Reader};

pub(super) const KEYS: &[&str] = &["owner", "timeout", "open_max"];

/// The longest that a question may be open.
const TIMEOUT_MAX: Duration = Duration::from_hours(1);
const TIMEOUT_MIN: Duration = Duration::from_secs(1);

/// Questions to a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApprovalsConfig {
    /// Who runs an agent may answer what it asks.
    pub owner: bool,
    /// How long a question is open before its fallback applies.
    #[serde(serialize_with = "as_text")]
    pub timeout: Duration,
    /// Questions of one session that may be open; the fallback applies to more.
    pub open_max: usize,
}

impl Default for ApprovalsConfig {
    fn default() -> Self {
        Self { owner: true, timeout: Duration::from_secs(90), open_max: 32 }
    }
}

impl ApprovalsConfig {
    pub(super) fn read(&mut self, reader: &mut Reader<'_>, node: &Node) {
        let Some(fields) = reader.map(node, "approvals", KEYS) else { return };
        if let Some(node) = fields.get("owner") {
            self.owner = reader.flag(node, "owner");
        }
        if let Some(node) = fields.get("timeout")
            && let Some(text) = reader.text(node, "timeout")
        {
            match duration(text) {
                Some(timeout) if (TIMEOUT_MIN..=TIMEOUT_MAX).contains(&timeout) => self.timeout = timeout,
                _ => reader.wrong(
                    node,
                    format!("timeout cannot be {text:?}"),
                    "write seconds from 1s to 3600s, such as 90s",
                ),
            }
        }
        if let Some(node) = fields.get("open_max")
            && let Some(text) = reader.text(node, "open_max")
        {
            match text.parse() {
                Ok(count) if (1..=1024).contains(&count) => self.open_max = count,
                _ => reader.wrong(node, format!("open_max cannot be {text:?}"), "write 1 to 1024"),
            }
        }
    }
}
