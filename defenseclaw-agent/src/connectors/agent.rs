//! The form in which each agent's file states what it knows.

use serde_json::Value;

use super::payload::{Payload, PayloadError};
use crate::model::{Ask, Control, FailMode, Hold, HookEvent, HookOutput, Phase, Way};

/// Everything about one agent.
pub(super) struct Agent {
    /// What its program, its script or its package is called.
    pub(super) programs: &'static [&'static str],
    pub(super) events: &'static [Row],
    /// What the agent does when its hook fails.
    pub(super) fails: FailMode,
    /// How a person is asked unless somebody says otherwise.
    pub(super) way: Way,
    /// Whether these arguments of its own are those of somebody who talks to it.
    pub(super) talks: fn(&[&str]) -> bool,
    pub(super) event: fn(&Payload) -> Result<HookEvent, PayloadError>,
    /// What a block really comes to, when that depends on more than the event's name.
    pub(super) hold: fn(&HookEvent, Hold) -> Hold,
    /// No opinion. The same at every event.
    pub(super) allow: fn() -> HookOutput,
    /// Only called where [`Control::note`] says so.
    pub(super) note: fn(&HookEvent, &str) -> HookOutput,
    /// Only called where [`Control::ask`] says so.
    pub(super) ask: fn(&HookEvent, &str) -> HookOutput,
    /// Only called where [`Control::hold`] says so.
    pub(super) block: fn(&HookEvent, &str) -> HookOutput,
    /// A block for an event whose name nobody knows.
    pub(super) blind: fn(&str) -> HookOutput,
}

impl Agent {
    pub(super) fn row(&self, name: &str) -> Option<&'static Row> {
        self.events.iter().find(|row| row.name == name)
    }

    /// What kind of moment an event is; unknown ones are `Other`.
    pub(super) fn phase(&self, name: &str) -> Phase {
        self.row(name).map_or(Phase::Other, |row| row.phase)
    }
}

/// One event of an agent.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) phase: Phase,
    pub(super) control: Control,
    pub(super) registered: bool,
}

impl Row {
    /// An event at which the agent listens to us.
    pub(super) const fn held(name: &'static str, phase: Phase, hold: Hold) -> Self {
        Self { name, phase, control: Control { hold, ask: Ask::None, note: false }, registered: true }
    }

    /// An event that we only hear of.
    pub(super) const fn seen(name: &'static str, phase: Phase) -> Self {
        Self::held(name, phase, Hold::Nothing)
    }

    /// An event that we know and do not register for, because a registered hook changes what the agent does, or
    /// because it carries a whole conversation and says nothing that others do not.
    pub(super) const fn left(name: &'static str, phase: Phase) -> Self {
        Self { registered: false, ..Self::seen(name, phase) }
    }

    pub(super) const fn asks(mut self, ask: Ask) -> Self {
        self.control.ask = ask;
        self
    }

    pub(super) const fn notes(mut self) -> Self {
        self.control.note = true;
        self
    }
}

/// One whole JSON value on stdout, exit code 0.
pub(super) fn json(value: &Value) -> HookOutput {
    HookOutput { stdout: value.to_string().into_bytes(), ..HookOutput::default() }
}

/// No byte, exit code 0.
pub(super) fn silence() -> HookOutput {
    HookOutput::default()
}

/// Exit code 2 with the reason on stderr. The reason is never empty: some agents take an empty one for a failure.
pub(super) fn exit_2(reason: &str) -> HookOutput {
    HookOutput { stderr: reason.as_bytes().to_vec(), exit_code: 2, ..HookOutput::default() }
}

/// For agents whose block is the same whatever else the event holds.
pub(super) fn as_stated(_: &HookEvent, hold: Hold) -> Hold {
    hold
}

/// For agents without notes or questions: the table never lets it be called.
pub(super) fn unsaid(_: &HookEvent, _: &str) -> HookOutput {
    silence()
}
