//! What the audit holds: one closed list of row types.

use serde::{Deserialize, Serialize};

use super::{
    Approval, ApprovalSettled, BootTime, Connector, Correlated, Event, ExitStatus, Finding, Grant,
    GrantEnded, HookCall, Loss, Mode, Posture, ProcessKey, Protection, SessionId, Severity, Text, WallTime,
};

/// One row of the audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum AuditRecord {
    /// A session began.
    SessionStart(Box<SessionStart>),
    /// The kernel saw something.
    Event(Box<Event>),
    /// A policy came into force.
    PolicyLoaded(Box<PolicyLoaded>),
    /// A policy was not taken; what was in force before still is.
    PolicyRefused(PolicyRefused),
    /// Whether enforcement was proven has changed.
    Posture(PostureChange),
    /// Who watches a session has changed.
    Handover(Handover),
    /// A hook of an agent was answered.
    Hook(Box<HookCall>),
    /// What an agent said and what was done were compared.
    Correlated(Box<Correlated>),
    /// Something is worth a person's time.
    Finding(Box<Finding>),
    /// A person is asked.
    Asked(Box<Approval>),
    /// A question has ended.
    Settled(ApprovalSettled),
    /// An answer holds from now on.
    Granted(Grant),
    /// It does not any more.
    GrantEnded(GrantEnded),
    /// Something is missing.
    Loss(Loss),
    /// A session ended.
    SessionEnd(SessionEnd),
}

/// Begin of a session: everything that is needed to read its events later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStart {
    /// Its id.
    pub session: SessionId,
    /// Wall clock at `boot`.
    pub wall: WallTime,
    /// Boot clock at the start.
    pub boot: BootTime,
    /// `boot_id` of the machine: boot times of different boots do not compare.
    pub boot_id: String,
    /// Root process.
    pub root: ProcessKey,
    /// Command line that was started.
    pub command: Vec<Text>,
    /// Project: working directory at the start.
    pub project: Text,
    /// Home directory of the user the tree runs as.
    pub home: Text,
    /// Host name.
    pub host: String,
    /// Kernel release.
    pub kernel: String,
    /// Version of this program.
    pub version: String,
    /// Level and hooks.
    pub protection: Protection,
    /// How it came to be watched.
    #[serde(default, skip_serializing_if = "Origin::is_launched")]
    pub origin: Origin,
}

/// How a session came to be watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "snake_case")]
pub enum Origin {
    /// We started its command, and have watched it from before its first instruction.
    #[default]
    Launched,
    /// It ran already when the first hook of its agent came: what it did before was not seen, and what is known of the
    /// processes that ran then is reconstructed. Their starts are in whole clock ticks.
    Adopted {
        /// Whose hook it was.
        connector: Connector,
        /// What the agent called its own session then. It may begin others.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent_session: Option<String>,
        /// The user whose processes these are.
        uid: u32,
    },
}

impl Origin {
    /// We started it.
    pub fn is_launched(&self) -> bool {
        *self == Self::Launched
    }
}

/// How the main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MainExit {
    /// It ended.
    Ended(ExitStatus),
    /// It was still running when watching ended.
    StillRunning,
    /// It could not be started: errno.
    NotStarted(i32),
    /// It ended while nobody watched, and the record of its end is lost.
    Unknown,
}

/// End of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEnd {
    /// Its id.
    pub session: SessionId,
    /// Wall clock.
    pub wall: WallTime,
    /// Boot clock.
    pub boot: BootTime,
    /// How the main process ended.
    pub main: MainExit,
    /// Processes of the tree still alive; they are not watched any further.
    pub left_running: u64,
    /// Events stored for this session.
    pub events: u64,
}

/// A policy came into force: what is needed to read the verdicts that follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyLoaded {
    /// Session it judges.
    pub session: SessionId,
    /// Boot clock.
    pub boot: BootTime,
    /// Number of its image in the kernel.
    pub profile: u32,
    /// Preset or file.
    pub name: String,
    /// What follows from severity.
    pub mode: Mode,
    /// Counts the policies of this profile, from 1.
    pub generation: u64,
    /// SHA-256 of its text, hexadecimal.
    pub digest: String,
    /// By the number that verdicts carry.
    pub rules: Vec<LoadedRule>,
}

/// One rule of a policy in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedRule {
    /// Id, as in the policy.
    pub id: String,
    /// How bad it is.
    pub severity: Severity,
    /// Why, and what to do instead.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A policy that was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRefused {
    /// Session it was meant for.
    pub session: SessionId,
    /// Boot clock.
    pub boot: BootTime,
    /// Preset or file.
    pub name: String,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

/// What the canary has found, when that has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostureChange {
    /// Session it concerns.
    pub session: SessionId,
    /// Boot clock.
    pub boot: BootTime,
    /// From now on.
    #[serde(flatten)]
    pub posture: Posture,
}

/// Who watches a session has changed. What its programs enforce has not, until they are released.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handover {
    /// Session it concerns.
    pub session: SessionId,
    /// Boot clock.
    pub boot: BootTime,
    /// What has happened.
    #[serde(flatten)]
    pub step: HandoverStep,
    /// Version of the program that says so.
    pub version: String,
}

/// What has happened to the watcher of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum HandoverStep {
    /// It went, and left its programs in force for another one.
    Left,
    /// Another one goes on with the programs of the one before.
    Adopted {
        /// The last row before: nothing that happened later was looked at before now.
        since: BootTime,
        /// The one before did not say that it would go: it was killed.
        died: bool,
        /// Hooks that were attached and have been taken off meanwhile, as in `Capability::name`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        missing: Vec<String>,
    },
    /// The programs are taken off: nothing is watched or enforced from here on.
    Released,
}
