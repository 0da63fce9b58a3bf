//! One kernel observation.

use serde::{Deserialize, Serialize};

use super::{Action, BootTime, Decision, EventKind, PolicyAction, ProcessKey, SessionId, ToolCallId};

/// Where in the kernel it was seen; says how far its details can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vantage {
    /// On the kernel's own objects: an LSM hook, a scheduler tracepoint, a cgroup hook.
    Kernel,
    /// When the system call returned: paths may be the process's own text, and memory may have changed meanwhile.
    SyscallExit,
    /// By the launcher: it was open already when the command started.
    Handed,
}

/// What policy said, as the kernel writes it: numbers that the pipeline turns into a [`Decision`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelVerdict {
    /// What was done.
    pub action: PolicyAction,
    /// Before mode.
    pub raw_action: PolicyAction,
    /// Another mode would have blocked it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub would_block: bool,
    /// Number of the decisive rule in its policy.
    pub rule: u16,
    /// Low byte of the policy's generation.
    pub generation: u8,
    /// It was refused for now: an answer of a person may let the next try pass.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub asks: bool,
}

/// What an enrolled process did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub time: BootTime,
    /// Session of the label the task carried.
    pub session: SessionId,
    /// Who; `tgid` 0 where the kernel cannot tell (DNS answers).
    pub process: ProcessKey,
    /// Thread that acted.
    pub tid: u32,
    /// Real user id.
    pub uid: u32,
    /// Cgroup v2 id.
    pub cgroup: u64,
    /// Announced action of the label, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call: Option<ToolCallId>,
    /// Result of the system call where the vantage point knows it: 0 or more, or a negative errno.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<i64>,
    /// Where it was seen.
    pub vantage: Vantage,
    /// What policy said. Only where the policy is not known whose rules it counts: otherwise it has become `decision`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<KernelVerdict>,
    /// What policy said, and what became of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Box<Decision>>,
    /// What.
    #[serde(flatten)]
    pub action: Action,
}

impl Event {
    /// The wire name of what happened.
    pub fn kind(&self) -> EventKind {
        self.action.kind()
    }

    /// What policy did about it; none if no policy spoke.
    pub fn policy_action(&self) -> Option<PolicyAction> {
        let decision = self.decision.as_ref().map(|decision| decision.action);
        decision.or(self.verdict.map(|verdict| verdict.action))
    }
}
