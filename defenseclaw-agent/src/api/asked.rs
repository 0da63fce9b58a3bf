//! Questions to a person and their answers, as both ends of the socket write them. Who may answer, and what an answer leads
//! to, is decided by who implements [`Asks`].

use std::{future::Future, time::Duration};

use form_urlencoded::parse;
use serde::{Deserialize, Serialize};

use super::Peer;
use crate::model::{Approval, ApprovalId, ApprovalSettled, Grant, GrantId, Ruling, Via};

/// The longest that a request waits for a change.
pub const WAIT_MAX: Duration = Duration::from_secs(10);
/// Bytes of what an agent is told besides.
pub const MESSAGE_MAX: usize = 1 << 10;
/// The longest that a grant holds, if a time is named: 30 days.
pub const EXPIRES_MAX: u64 = 30 * 24 * 3600;
/// Bytes of an answer.
pub(super) const SAID_MAX: usize = 8 << 10;

/// A question that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// It.
    #[serde(flatten)]
    pub approval: Approval,
    /// How many wait for the answer.
    pub waiters: u64,
    /// How long they still wait.
    pub remaining_ms: u64,
}

/// Every question that is open, as far as who asks may see them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Differs whenever what is open differs.
    pub version: u64,
    /// They.
    pub approvals: Vec<Pending>,
}

/// One question, open or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// It.
    #[serde(flatten)]
    pub pending: Pending,
    /// How it ended, if it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled: Option<ApprovalSettled>,
}

/// Permissions that outlive their questions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// They.
    pub grants: Vec<Grant>,
}

/// What "always" would write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lasting {
    /// The file.
    pub path: String,
    /// What would change in it, line by line: `+` and `-` before those that do.
    pub diff: String,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// What.
    pub ruling: Ruling,
    /// For the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How long a grant for the session holds, in seconds; none: until the session ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_s: Option<u64>,
    /// How it came.
    #[serde(default = "api")]
    pub via: Via,
}

fn api() -> Via {
    Via::Api
}

impl Said {
    /// From a body; what is wrong with it otherwise.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        let said: Self = serde_json::from_slice(body).map_err(|err| format!("this is no answer: {err}"))?;
        if ![Via::Command, Via::View, Via::Api].contains(&said.via) {
            return Err(format!("nobody answers via {} here", said.via));
        }
        if said.message.as_ref().is_some_and(|message| message.len() > MESSAGE_MAX) {
            return Err(format!("a message has at most {MESSAGE_MAX} bytes"));
        }
        if said.expires_s.is_some_and(|seconds| !(1..=EXPIRES_MAX).contains(&seconds)) {
            return Err(format!("expires_s is from 1 to {EXPIRES_MAX}"));
        }
        if said.expires_s.is_some() && said.ruling != Ruling::Session {
            return Err("only an answer for the session expires".to_owned());
        }
        Ok(said)
    }
}

/// Since which version, and how long to wait for another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// The version that is known.
    pub after: Option<u64>,
    /// Wait so long for another one.
    pub wait: Duration,
}

impl Since {
    pub(super) fn parse(query: &str) -> Result<Self, String> {
        let mut since = Self::default();
        for (name, value) in parse(query.as_bytes()) {
            let number = || value.parse::<u64>().ok().ok_or_else(|| format!("{name} cannot be {value:?}"));
            match &*name {
                "after" => since.after = Some(number()?),
                "wait_ms" => since.wait = Duration::from_millis(number()?).min(WAIT_MAX),
                _ => return Err(format!("there is no {name:?} to ask for")),
            }
        }
        Ok(since)
    }

    pub(super) fn query(self) -> String {
        let after = self.after.map(|after| format!("after={after}&")).unwrap_or_default();
        format!("{after}wait_ms={}", self.wait.as_millis())
    }
}

/// Why an answer was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Untaken {
    /// Not from this peer.
    Forbidden(String),
    /// There is no such question or grant, or none that this peer may see.
    Unknown,
    /// It has been settled; how.
    Settled(String),
    /// It cannot be done, for this reason.
    Impossible(String),
    /// Nobody has taken it in time. What became of it is not known.
    Late,
}

/// Who knows the questions.
pub trait Asks: Send + Sync + 'static {
    /// What is open, at once or when it has changed.
    fn open(&self, peer: &Peer, since: Since) -> impl Future<Output = Open> + Send;

    /// One of them.
    fn question(&self, peer: &Peer, id: ApprovalId) -> Option<Question>;

    /// What "always" would write.
    fn lasting(&self, peer: &Peer, id: ApprovalId) -> impl Future<Output = Result<Lasting, Untaken>> + Send;

    /// Somebody answers.
    fn rule(
        &self,
        peer: &Peer,
        id: ApprovalId,
        said: Said,
    ) -> impl Future<Output = Result<(), Untaken>> + Send;

    /// What is granted.
    fn grants(&self, peer: &Peer) -> Granted;

    /// Somebody takes a grant back.
    fn revoke(&self, peer: &Peer, id: GrantId, via: Via) -> impl Future<Output = Result<(), Untaken>> + Send;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        BootTime, PolicyAction, ProcessKey, SessionId, Severity, Subject, Text, Waiter, WallTime,
    };

    #[test]
    fn an_answer_is_checked_before_anybody_sees_it() {
        let said = Said::parse(br#"{"ruling":"session","expires_s":600,"via":"view"}"#).unwrap();
        assert_eq!((said.ruling, said.expires_s, said.via), (Ruling::Session, Some(600), Via::View));
        assert_eq!(Said::parse(br#"{"ruling":"deny","message":"no"}"#).unwrap().via, Via::Api);
        let long = format!(r#"{{"ruling":"deny","message":"{}"}}"#, "x".repeat(MESSAGE_MAX + 1));
        for wrong in [
            "",
            "[]",
            "{}",
            r#"{"ruling":"maybe"}"#,
            r#"{"ruling":"once","via":"grant"}"#,
            r#"{"ruling":"once","via":"agent"}"#,
            r#"{"ruling":"once","uid":0}"#,
            r#"{"ruling":"session","expires_s":0}"#,
            r#"{"ruling":"session","expires_s":99999999}"#,
            r#"{"ruling":"once","expires_s":5}"#,
            &long,
        ] {
            Said::parse(wrong.as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn both_ends_write_the_same() {
        let approval = Approval {
            id: ApprovalId(10),
            session: Some(SessionId(7)),
            connector: None,
            agent_session: None,
            uid: 1000,
            subject: Subject {
                rule: "r".to_owned(),
                effect: "file.read".to_owned(),
                object: Text(b"/x\xff\x1b[2J".to_vec()),
            },
            severity: Severity::High,
            reason: "why".to_owned(),
            waiter: Waiter::Paused { process: ProcessKey { tgid: 5, start_ns: 6 }, tid: 8 },
            command: vec!["cat".into()],
            ancestry: Vec::new(),
            tool_call: None,
            since: BootTime(1),
            wall: WallTime(2),
            deadline: BootTime(3),
            fallback: PolicyAction::Block,
        };
        let pending = Pending { approval, waiters: 2, remaining_ms: 900 };
        let open = Open { version: 3, approvals: vec![pending.clone()] };
        let text = serde_json::to_string(&open).unwrap();
        assert_eq!(serde_json::from_str::<Open>(&text).unwrap(), open);
        let question = Question { pending, settled: None };
        let text = serde_json::to_string(&question).unwrap();
        assert!(text.contains(r#""id":"aa""#) && text.contains(r#""rule":"r""#), "{text}");
        assert_eq!(serde_json::from_str::<Question>(&text).unwrap(), question);
        let since = Since { after: Some(4), wait: Duration::from_secs(3) };
        assert_eq!(Since::parse(&since.query()), Ok(since));
        assert_eq!(Since::parse("wait_ms=99999999").unwrap().wait, WAIT_MAX);
        for wrong in ["after=x", "since=1"] {
            Since::parse(wrong).unwrap_err();
        }
    }
}
