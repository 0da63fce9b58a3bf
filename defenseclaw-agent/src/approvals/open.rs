//! What is kept of one session: its open questions, who waits for them, and what was granted.

use std::collections::BTreeMap;

use super::{WAITERS_MAX, native};
use crate::model::{Approval, ApprovalId, Connector, Grant, ProcessKey, SessionId, Subject, Waiter};

/// Among whom equal questions are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    /// A session that is watched.
    Session(SessionId),
    /// One that only its agent knows.
    Unwatched(u32, Option<Connector>, Option<String>),
}

impl Whose {
    pub(super) fn of(approval: &Approval) -> Self {
        match approval.session {
            Some(session) => Self::Session(session),
            None => Self::Unwatched(approval.uid, approval.connector, approval.agent_session.clone()),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub(super) open: BTreeMap<ApprovalId, Open>,
    pub(super) grants: BTreeMap<Subject, Grant>,
}

impl Bucket {
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.grants.is_empty()
    }
}

/// A question that stands.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) approval: Approval,
    /// Not empty while it stands.
    pub(super) waiters: Vec<Waiter>,
    /// With those who do not any more.
    pub(super) n_waited: u64,
    /// The agent asks, and nobody else waits.
    pub(super) native: bool,
    /// The tool calls that an agent asks about.
    pub(super) calls: Vec<native::Call>,
}

impl Open {
    pub(super) fn new(approval: Approval, calls: Vec<native::Call>) -> Self {
        let native = matches!(approval.waiter, Waiter::Agent { .. });
        Self { waiters: vec![approval.waiter.clone()], n_waited: 1, approval, native, calls }
    }

    /// One more waits, or the same one again; whether there was room.
    pub(super) fn join(&mut self, waiter: Waiter) -> bool {
        if self.waiters.contains(&waiter) {
            return true;
        }
        let room = self.waiters.len() < WAITERS_MAX;
        if room {
            self.waiters.push(waiter);
            self.n_waited += 1;
        }
        room
    }
}

/// The process that waits.
pub(super) fn process_of(waiter: &Waiter) -> ProcessKey {
    match *waiter {
        Waiter::Paused { process, .. }
        | Waiter::Held { process }
        | Waiter::Hook { process, .. }
        | Waiter::Agent { process }
        | Waiter::Retry { process, .. } => process,
    }
}
