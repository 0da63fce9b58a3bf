//! Questions to a person: what is asked, who waits for the answer, what the answer permits from then on. How they are opened,
//! joined and settled is in `approvals`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    BootTime, Connector, HookCall, PolicyAction, ProcessKey, SessionId, Severity, Text, ToolCallId, WallTime,
    policy::words,
};

/// One question. Shown as `a` and hexadecimal digits; counts from 1 in each watcher, so session and id name it for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApprovalId(pub u64);

/// A permission or refusal that outlives its question. Shown as `g` and hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantId(pub u64);

/// The text is not an id of that kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an id of this kind: one letter (a: approval, g: grant) and hexadecimal digits")]
pub struct ParseApprovalIdError(pub String);

macro_rules! id {
    ($name:ident, $letter:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&format!(concat!($letter, "{:x}"), self.0))
            }
        }

        impl FromStr for $name {
            type Err = ParseApprovalIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let digits =
                    text.strip_prefix($letter).filter(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
                let value = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
                value.map(Self).ok_or_else(|| ParseApprovalIdError(text.to_owned()))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id!(ApprovalId, "a");
id!(GrantId, "g");

/// What a person is asked about. Equal subjects of one session are one question.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Subject {
    /// The decisive rule.
    pub rule: String,
    /// What would be done: a word of `Effect`, `Privilege` or `Content`; several of one operation are joined by `+`.
    pub effect: String,
    /// What it would be done to, as the kernel or the announcement names it: a path, an address with its port, a command.
    pub object: Text,
}

/// Who waits for the answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "waits", rename_all = "snake_case")]
pub enum Waiter {
    /// A thread, stopped in the kernel before the operation has happened.
    Paused {
        /// Its process.
        process: ProcessKey,
        /// The thread.
        tid: u32,
    },
    /// A program, stopped before its first instruction.
    Held {
        /// Its process.
        process: ProcessKey,
    },
    /// An agent, whose hook has not been answered.
    Hook {
        /// Who asked.
        process: ProcessKey,
        /// Counts the held hooks of this daemon.
        ticket: u64,
    },
    /// The agent asks in its own dialogue; what follows tells the outcome.
    Agent {
        /// Whose hook said so.
        process: ProcessKey,
    },
    /// Nobody: it was refused, and a grant lets the next try pass.
    Retry {
        /// Who tried.
        process: ProcessKey,
        /// The thread.
        tid: u32,
    },
}

/// A process above the one that asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    /// It.
    pub process: ProcessKey,
    /// Its program.
    pub exe: Text,
}

/// A question to a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Its id.
    pub id: ApprovalId,
    /// Session it belongs to; none where nothing is watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Agent whose hook it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connector: Option<Connector>,
    /// What the agent calls its own session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_session: Option<String>,
    /// User of the process that asks.
    pub uid: u32,
    /// What.
    #[serde(flatten)]
    pub subject: Subject,
    /// How bad the rule says it is.
    pub severity: Severity,
    /// Why the rule asks.
    pub reason: String,
    /// First who waited; more may have joined.
    pub waiter: Waiter,
    /// Command line of the process that asks.
    pub command: Vec<Text>,
    /// From its parent upwards, as far as the session goes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestry: Vec<Ancestor>,
    /// Announced action it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_call: Option<ToolCallId>,
    /// When it was opened.
    pub since: BootTime,
    /// The same, by the wall clock.
    pub wall: WallTime,
    /// When the fallback applies.
    pub deadline: BootTime,
    /// Block or allow.
    pub fallback: PolicyAction,
}

words! {
    /// What a person said.
    Ruling {
        /// Yes, this once.
        Once = "once",
        /// Yes, every time until the session ends or the grant expires.
        Session = "session",
        /// Yes, from now on: a rule was written to the local policy.
        Always = "always",
        /// No.
        Deny = "deny",
    }
}

words! {
    /// How an answer came.
    Via {
        /// A command of ours.
        Command = "command",
        /// The terminal view.
        View = "view",
        /// Another front end on the socket.
        Api = "api",
        /// The agent's own dialogue.
        Agent = "agent",
        /// A grant that was given before.
        Grant = "grant",
    }
}

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answerer {
    /// User.
    pub uid: u32,
    /// Process, as the kernel named it; 0 where there was none of ours.
    pub pid: u32,
    /// How.
    pub via: Via,
}

/// An answer to a question, before it is known whether the question still stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruled {
    /// Which.
    pub approval: ApprovalId,
    /// What.
    pub ruling: Ruling,
    /// For the agent, if it is denied and somebody took the trouble.
    pub message: Option<String>,
    /// How long a grant for the session holds; none: until the session ends.
    pub expires: Option<BootTime>,
    /// Who.
    pub by: Answerer,
}

/// How a question ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Somebody answered.
    Ruled {
        /// What.
        ruling: Ruling,
        /// Who.
        by: Answerer,
        /// What the agent is told besides.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// Nobody did in time: the fallback applied.
    Expired,
    /// Too many questions were open, or nobody could be asked: the fallback applied at once.
    NotAsked {
        /// Why.
        why: String,
    },
    /// Who asked is gone, or policy does not ask any more.
    Withdrawn {
        /// Why.
        why: String,
    },
    /// Who kept it was gone: its guardian applied the fallback.
    Orphaned,
}

/// The end of a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalSettled {
    /// Which.
    pub id: ApprovalId,
    /// Its session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Boot clock.
    pub boot: BootTime,
    /// Whether the operation may happen.
    pub allowed: bool,
    /// How it came to that.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// How many waited for it.
    pub waiters: u64,
}

/// A permission or refusal that outlives its question. Exact: for this session, rule, effect and object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// Question it came from.
    pub approval: ApprovalId,
    /// Session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// What.
    #[serde(flatten)]
    pub subject: Subject,
    /// When it was given.
    pub since: BootTime,
    /// When it ends; none: with the session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<BootTime>,
    /// Who gave it.
    pub by: Answerer,
}

/// A grant has ended before the session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantEnded {
    /// Which.
    pub id: GrantId,
    /// Its session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Boot clock.
    pub boot: BootTime,
    /// Who revoked it; none: it has expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Answerer>,
}

/// What those who waited do when their question has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Settlement {
    /// It may happen.
    Allow,
    /// It does not.
    Block,
    /// The kernel is to ask again: what was asked about is not what is in force any more.
    AskAgain,
}

/// A hook whose decision asks a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AskingHook {
    /// The hook. Where the agent asks, it was answered; where its reply is held, its answer means nothing yet.
    pub call: HookCall,
    /// The decisive rule, and what it asks about.
    pub subject: Subject,
    /// What becomes of it if nobody answers: block or allow.
    pub fallback: PolicyAction,
    /// When the agent would not wait any longer; none: it waits as long as a question stands.
    pub deadline: Option<BootTime>,
    /// Comes back with [`Waiter::Hook`]; 0 where the agent asks itself.
    pub ticket: u64,
    /// The agent asks in its own dialogue.
    pub native: bool,
}

/// What the audit knows of the questions of a session that another watcher has left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Questions without an end.
    pub asked: Vec<Approval>,
    /// Grants without an end.
    pub grants: Vec<Grant>,
    /// Greatest id that was given to a question; 0: none.
    pub last_approval: u64,
    /// Greatest id that was given to a grant; 0: none.
    pub last_grant: u64,
}
