//! Whether and how a person is asked about what an agent announces: by the agent itself, by holding its hook, or not at
//! all. Nobody is asked here.

use std::time::Duration;

use super::{agent, control};
use crate::model::{Ask, Attendance, Connector, Hold, HookEvent, Phase, Text, Way};

/// Longest time that a hook process waits for a held answer, as we install it.
pub const HOLD_MAX: Duration = Duration::from_secs(100);
/// How long an agent waits for a hook that may be held: what is left is for starting it and for what it says at last.
pub(super) const HELD_TIMEOUT: Duration = Duration::from_secs(110);

/// How a person is asked, unless the configuration says otherwise: what is safe for this agent.
pub fn default_way(connector: Connector) -> Way {
    agent(connector).way
}

/// How a person is asked about this event. Only before a tool, and only where a block keeps it from happening: elsewhere
/// the fallback applies at once. Where nobody can answer the agent's own question, its hook is held.
pub fn way(event: &HookEvent, wanted: Way, attendance: Attendance) -> Way {
    let control = control(event);
    if event.phase != Phase::ToolPre || control.hold != Hold::Prevents {
        return Way::Fallback;
    }
    let is_there = attendance == Attendance::Attended && control.ask != Ask::None;
    match wanted {
        // In this mode Claude Code answers its own questions with no.
        Way::Native if is_there && event.permission_mode.as_deref() != Some("dontAsk") => Way::Native,
        Way::Native | Way::Hold => Way::Hold,
        Way::Fallback => Way::Fallback,
    }
}

/// Whether an agent that was started like this, in the foreground of a terminal, has a person to talk to. In doubt it has not.
pub fn is_interactive(connector: Connector, argv: &[Text]) -> bool {
    let words: Vec<_> = argv.iter().map(Text::lossy).collect();
    let is_itself = |word: &str| {
        let base = word.rsplit('/').next().unwrap_or(word);
        let stem = base.rsplit_once('.').map_or(base, |(stem, _)| stem);
        agent(connector).programs.iter().any(|name| base == *name || stem == *name)
            || word.contains("/node_modules/")
    };
    // What stands before is for the interpreter. Without its own name nothing is known of its arguments.
    let Some(at) = words.iter().position(|word| is_itself(word)) else { return false };
    let own: Vec<&str> = words.iter().skip(at + 1).map(AsRef::as_ref).collect();
    (agent(connector).talks)(&own)
}

/// For agents whose own question is never used.
pub(super) fn never(_: &[&str]) -> bool {
    false
}
