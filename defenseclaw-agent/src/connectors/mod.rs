//! What we know of each agent's hooks: how its payloads read, what each of its events can hold, and the bytes it
//! takes for an answer. One file per agent, no I/O. Whether something is allowed is not decided here.
//!
//! An answer is written for one agent and one event, never as a superset: most agents run the tool when a reply has
//! a key or a shape too much. Replies that were seen to fail are kept beside the real payloads and tested against.

mod agent;
mod asking;
mod claude_code;
mod codex;
mod copilot_cli;
mod cursor;
mod evasion;
mod fields;
mod gemini_cli;
mod intents;
mod openclaw;
mod opencode;
mod patch;
mod payload;
mod reason;
mod shell;
mod windsurf;

use std::time::Duration;

use agent::Agent;
pub use asking::{HOLD_MAX, default_way, is_interactive, way};
pub use evasion::{Evasion, evasions, started};
use payload::Payload;
pub use payload::PayloadError;

use crate::model::{
    Ask, Attendance, Connector, Control, FailMode, Hold, HookEvent, HookOutput, Phase, Reply,
};

fn agent(connector: Connector) -> &'static Agent {
    match connector {
        Connector::ClaudeCode => &claude_code::AGENT,
        Connector::Codex => &codex::AGENT,
        Connector::GeminiCli => &gemini_cli::AGENT,
        Connector::Cursor => &cursor::AGENT,
        Connector::OpenClaw => &openclaw::AGENT,
        Connector::OpenCode => &opencode::AGENT,
        Connector::CopilotCli => &copilot_cli::AGENT,
        Connector::Windsurf => &windsurf::AGENT,
    }
}

/// What an agent's program, its script or its package is called, to tell it from what merely started it.
pub fn programs(connector: Connector) -> &'static [&'static str] {
    agent(connector).programs
}

/// Reads what an agent wrote to its hook. The caller caps the length; a cut payload is [`PayloadError::Cut`].
pub fn parse(connector: Connector, payload: &[u8]) -> Result<HookEvent, PayloadError> {
    (agent(connector).event)(&Payload::read(payload)?)
}

/// What a reply can do at this event.
pub fn control(event: &HookEvent) -> Control {
    let agent = agent(event.connector);
    let nothing = Control { hold: Hold::Nothing, ask: Ask::None, note: false };
    let known = agent.row(&event.name).map_or(nothing, |row| row.control);
    // A stop that is held again and again would never end.
    let hold = if event.stop_repeated { Hold::Nothing } else { (agent.hold)(event, known.hold) };
    Control { hold, ..known }
}

/// The answer in the agent's own words. What the agent cannot do at this event is not said to it; see [`control`].
/// Where its own question is not safe, `Confirm` holds like `Block`.
pub fn encode(reply: &Reply, event: &HookEvent, attendance: Attendance) -> HookOutput {
    let agent = agent(event.connector);
    let control = control(event);
    match reply {
        Reply::Alert { note } if control.note => (agent.note)(event, &reason::clean(note)),
        Reply::Confirm { reason } => match (control.ask, attendance) {
            (Ask::Safe, _) | (Ask::Attended, Attendance::Attended) => {
                (agent.ask)(event, &reason::clean(reason))
            }
            (Ask::Attended | Ask::None, _) if control.hold >= Hold::Withholds => {
                (agent.block)(event, &reason::clean(reason))
            }
            (Ask::Attended | Ask::None, _) => (agent.allow)(),
        },
        Reply::Block { reason } if control.hold > Hold::Nothing => {
            (agent.block)(event, &reason::clean(reason))
        }
        Reply::Allow | Reply::Alert { .. } | Reply::Block { .. } => (agent.allow)(),
    }
}

/// The answer when nobody has judged: no daemon, a timeout, a payload that does not read. `payload` is what there is
/// of it; the event's name is taken from it if it is there, because a block is written differently for each event.
pub fn fail(connector: Connector, mode: FailMode, payload: &[u8], reason: &str) -> HookOutput {
    let agent = agent(connector);
    match mode {
        FailMode::Open => (agent.allow)(),
        FailMode::Closed => {
            let event = parse(connector, payload)
                .ok()
                .or_else(|| Payload::before_cut(payload).and_then(|fields| (agent.event)(&fields).ok()));
            let blind = || (agent.blind)(&reason::clean(reason));
            event.map_or_else(blind, |event| {
                encode(&Reply::Block { reason: reason.to_owned() }, &event, Attendance::Unattended)
            })
        }
    }
}

/// The connector's fail mode unless its configuration says otherwise: what the agent itself does.
pub fn default_fail_mode(connector: Connector) -> FailMode {
    agent(connector).fails
}

/// How long the agent waits for the hook at this event, as we install it: longer where its answer may be held until a person
/// has answered. After that it goes on without us, or, for [`FailMode::Closed`] agents, refuses.
pub fn timeout(connector: Connector, event: &str, holds: bool) -> Duration {
    let row = agent(connector).row(event);
    if holds && row.is_some_and(|row| row.phase == Phase::ToolPre && row.control.hold == Hold::Prevents) {
        return asking::HELD_TIMEOUT;
    }
    match (connector, event) {
        (Connector::Codex, "SessionEnd" | "Interrupt") => Duration::from_secs(3),
        (Connector::OpenClaw, _) => Duration::from_secs(15),
        _ => Duration::from_secs(30),
    }
}

/// The events that a connector registers for, with their phases, in the agent's own names.
pub fn events(connector: Connector) -> impl Iterator<Item = (&'static str, Phase)> {
    agent(connector).events.iter().filter(|row| row.registered).map(|row| (row.name, row.phase))
}

#[cfg(test)]
mod tests;
