//! What joining an agent's words with kernel evidence comes to: rows about one tool call, about what no tool call
//! explains, and findings for a person. How it is joined is in `correlate`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{BootTime, EventKind, ProcessKey, SessionId, Severity, Text, ToolCallId, policy::words};

words! {
    /// Whether what was said and what was done agree.
    Correlation {
        /// It was said, and done.
        Matched = "matched",
        /// It was done, and no tool call explains it.
        KernelOnly = "kernel_only",
        /// It was said, and nothing was seen of it.
        HookOnly = "hook_only",
        /// One thing was said, and another done.
        Conflict = "conflict",
    }
}

words! {
    /// What ties a process, or an operation of the agent itself, to a tool call. The strongest first.
    Evidence {
        /// The environment of the program names the agent's id of the call.
        CallId = "call_id",
        /// The arguments of the program hold the announced text.
        Text = "text",
        /// The arguments of the program are the announced command, word by word.
        Words = "words",
        /// The arguments of the program hold a value that was passed to the tool.
        Argument = "argument",
        /// The agent itself touched the announced path or address, while the call was open.
        Target = "target",
        /// The result names the process group.
        ProcessGroup = "process_group",
        /// The kernel gave it the label of the call when it was born.
        Label = "label",
        /// The agent started it while only this call could have wanted it.
        OnlyOpen = "only_open",
        /// An agent that a process of the call runs has started it.
        Agent = "agent",
    }
}

/// A process that was tied to a call with everything below it, or an operation of the agent itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributed {
    /// The process; the agent's own for what it did itself.
    pub process: ProcessKey,
    /// When it was done or started.
    pub time: BootTime,
    /// What ties it.
    pub by: Evidence,
    /// What it was: command or path, cut.
    pub what: Text,
    /// Other calls that it fits as well: it is a guess between them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alternatives: Vec<ToolCallId>,
}

/// How much was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Processes.
    pub processes: u64,
    /// Operations on files.
    pub files: u64,
    /// Connections and datagrams to internet addresses.
    pub connects: u64,
    /// Events, with all of these.
    pub events: u64,
}

/// What became of a tool call, or what was done without one. A later row about the same call takes the place of this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Correlated {
    /// Session it belongs to.
    pub session: SessionId,
    /// Boot clock, when this was concluded.
    pub boot: BootTime,
    /// The call; none where no call explains it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call: Option<ToolCallId>,
    /// The vendor's name of the tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// The answer.
    pub correlation: Correlation,
    /// Why, in words.
    pub reason: String,
    /// What no call explains: the process with everything below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessKey>,
    /// What it ran.
    #[serde(default, skip_serializing_if = "Text::is_empty")]
    pub program: Text,
    /// How much.
    pub seen: Seen,
    /// The first of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first: Option<BootTime>,
    /// The last of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<BootTime>,
    /// What ties it to the call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributed: Vec<Attributed>,
    /// More of these, not listed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unlisted: u64,
}

/// An event that a finding rests on: these three name its row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceRef {
    /// When.
    pub time: BootTime,
    /// Who.
    pub process: ProcessKey,
    /// What kind.
    pub kind: EventKind,
    /// The object: path, address or command, cut.
    pub what: Text,
}

/// Worth a person's time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Session it belongs to.
    pub session: SessionId,
    /// Boot clock, when it was found.
    pub boot: BootTime,
    /// Which rule found it.
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// What it is, in words; texts of processes in it are untrusted.
    pub summary: String,
    /// The call behind it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call: Option<ToolCallId>,
    /// The process behind it, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessKey>,
    /// What it rests on, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub evidence: Vec<EvidenceRef>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}
