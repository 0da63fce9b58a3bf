//! Declared versus actual: which tool call is behind what the kernel saw, and what no tool call explains.
//!
//! Hooks and events go in, in the order in which they became known; an event counts by its own time. What comes out are
//! labels for processes, and rows. Who announces is told by the process tree: the first ancestor of a hook's process that
//! is no hook itself. Everything is kept per watched session, so nothing is ever joined across two of them. This room has
//! no clock, judges by no policy, and knows no agent by name.

mod attribute;
mod call;
mod conclude;
mod deeds;
mod findings;
mod flow;
mod hooks;
mod paths;
mod root;
#[cfg(test)]
pub(crate) mod sample;
mod session;
#[cfg(test)]
mod tests;
mod text;

use std::{collections::BTreeMap, time::Duration};

use session::Session;

use crate::{
    model::{
        BootTime, Correlated, Event, Finding, HookCall, ProcessKey, SessionId, SessionStart, ToolCallId,
    },
    tree::ProcessTree,
};

/// Records that come later than this after the end of a call are not joined to it by themselves any more; what its
/// processes do still is.
pub const LATENESS: Duration = Duration::from_secs(2);
/// Largest label: every reader of JSON keeps numbers below 2^53.
const ID_BITS: u32 = 53;
/// Labels count in units of 1,024 ns of the boot clock, which no machine's calls are faster than.
const ID_SHIFT: u32 = 10;

/// What joining leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// From now on children of this process are born with the label of that call, or with none.
    Label { process: ProcessKey, call: Option<ToolCallId> },
    /// A row.
    Correlated(Box<Correlated>),
    /// A row.
    Finding(Box<Finding>),
}

/// Everything that is remembered of calls and of who did what for them.
#[derive(Debug, Default)]
pub struct Correlator {
    sessions: BTreeMap<SessionId, Session>,
    last: u64,
}

impl Correlator {
    /// No session.
    pub fn new() -> Self {
        Self::default()
    }

    /// A session is watched. Nothing is done for it until its first hook.
    pub fn begin(&mut self, start: &SessionStart) {
        self.sessions.insert(start.session, Session::new(start));
    }

    /// Gives labels to the calls of a hook, opens and closes them. The tree should know the process that asked: records
    /// of it are to be read before.
    pub fn hook(&mut self, call: &mut HookCall, tree: &ProcessTree, said: &mut Vec<Said>) {
        let Some(session) = call.session.and_then(|session| self.sessions.get_mut(&session)) else { return };
        let last = &mut self.last;
        let now = call.boot;
        session.hook(call, tree, said, || {
            *last = (*last + 1).max(now.0 >> ID_SHIFT) & ((1 << ID_BITS) - 1);
            ToolCallId(*last)
        });
    }

    /// Says of an event which call is behind it. The tree knows the event already.
    pub fn event(&mut self, event: &mut Event, tree: &ProcessTree, said: &mut Vec<Said>) {
        if let Some(session) = self.sessions.get_mut(&event.session)
            && session.is_awake()
        {
            session.event(event, tree, said);
        }
    }

    /// Time has passed: what is settled by now becomes rows.
    pub fn tick(&mut self, tree: &ProcessTree, now: BootTime, said: &mut Vec<Said>) {
        for session in self.sessions.values_mut().filter(|session| session.is_awake()) {
            session.tick(tree, now, said);
        }
    }

    /// A session ends: everything becomes rows.
    pub fn end(&mut self, session: SessionId, tree: &ProcessTree, now: BootTime, said: &mut Vec<Said>) {
        if let Some(mut session) = self.sessions.remove(&session).filter(Session::is_awake) {
            session.end(tree, now, said);
        }
    }

    /// A session is left to somebody else: nothing is said of it.
    pub fn forget(&mut self, session: SessionId) {
        self.sessions.remove(&session);
    }
}
