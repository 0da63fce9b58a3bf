//! Questions to people, as far as the pipeline has to do with them: which event asks, who asks it of whom, and which events
//! mean that nobody waits any more.

use std::sync::Arc;

use super::{Effect, State};
use crate::{
    approvals::{self, Said},
    model::{
        Action, Ancestor, Answerer, Approval, ApprovalId, AskingHook, BootTime, Caller, Event, HookCall,
        PolicyAction, ProcessKey, Severity, Text, Via, Waiter, WallTime,
    },
    policy,
    tree::ProcessTree,
};

/// Length of a clock tick, in which `/proc` counts starts of processes.
const TICK_NS: u64 = 10_000_000;
/// Processes above the one that asks that are shown.
const ANCESTRY_MAX: usize = 16;

/// What an event asks.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) rule: String,
    pub(super) severity: Severity,
    pub(super) reason: String,
    pub(super) fallback: PolicyAction,
    /// What asks, if that is known.
    pub(super) judge: Option<Arc<policy::Session>>,
    /// It was refused, and only a next try can pass.
    pub(super) retry: bool,
}

/// After the event's row: who does not wait any more, and who does now.
pub(super) fn event(
    state: &mut State,
    event: &Event,
    asks: Option<Question>,
    now: BootTime,
    effects: &mut Vec<Effect>,
) {
    let ends = matches!(event.action, Action::ProcessExit { .. });
    let starts = matches!(event.action, Action::ProcessExec(_));
    let mut said = Vec::new();
    if ends {
        state.approvals.exited(event.session, event.process, now, &mut said);
    } else if starts {
        state.approvals.replaced(event.session, event.process, now, &mut said);
    }
    if let Some(question) = asks
        && let Some((subject, exact)) = approvals::subject(&question.rule, event)
    {
        let local = question.judge.as_ref().and_then(|judge| judge.local());
        let standing = local.filter(|local| local.answers(&subject));
        let standing = standing.map(|local| Answerer { uid: local.owner(), pid: 0, via: Via::Grant });
        let wall = state.sessions.get(&event.session).map_or(WallTime(0), |session| session.wall_at(now));
        let agent = state.agents.get(&event.session);
        let approval = Approval {
            id: ApprovalId(0),
            session: Some(event.session),
            connector: agent.map(|(connector, _)| *connector),
            agent_session: agent.and_then(|(_, session)| session.clone()),
            uid: event.uid,
            subject,
            severity: question.severity,
            reason: question.reason,
            waiter: waiter(event, question.retry),
            command: command(&state.tree, event),
            ancestry: ancestry(&state.tree, event),
            tool_call: event.tool_call,
            since: now,
            wall,
            deadline: BootTime(u64::MAX),
            fallback: question.fallback,
        };
        state.approvals.ask(approval, exact, standing, now, &mut said);
    }
    carry(said, effects);
}

fn waiter(event: &Event, retry: bool) -> Waiter {
    let process = event.process;
    if retry {
        Waiter::Retry { process, tid: event.tid }
    } else if matches!(event.action, Action::ProcessExec(_)) {
        Waiter::Held { process }
    } else {
        Waiter::Paused { process, tid: event.tid }
    }
}

fn command(tree: &ProcessTree, event: &Event) -> Vec<Text> {
    if let Action::ProcessExec(exec) = &event.action {
        return exec.argv.clone();
    }
    let Some(image) = tree.get(event.process).and_then(|process| process.image()) else { return Vec::new() };
    let argv = image.argv.strip_suffix(&[0]).unwrap_or(&image.argv);
    argv.split(|byte| *byte == 0).map(Text::from).collect()
}

fn ancestry(tree: &ProcessTree, event: &Event) -> Vec<Ancestor> {
    let above = tree.ancestors(event.process).take_while(|(_, process)| process.session() == event.session);
    let named = above.map(|(process, known)| {
        let exe = known.image().map(|image| Text(image.exe.to_vec())).unwrap_or_default();
        Ancestor { process, exe }
    });
    named.take(ANCESTRY_MAX).collect()
}

/// A hook asks. Where its agent does, it was answered like any other.
pub(super) fn hook(state: &mut State, asking: AskingHook, now: BootTime, effects: &mut Vec<Effect>) {
    let mut said = Vec::new();
    let process = caller(&asking.call.caller, &state.tree);
    state.approvals.hook_asks(asking, process, now, &mut said);
    carry(said, effects);
}

/// A hook was answered.
pub(super) fn heard(state: &mut State, call: &HookCall, now: BootTime, effects: &mut Vec<Effect>) {
    if let Some(session) = call.session.filter(|session| state.sessions.contains_key(session)) {
        let named = call.event.as_ref().and_then(|event| event.session.clone());
        state.agents.insert(session, (call.connector, named));
    }
    let mut said = Vec::new();
    state.approvals.heard(call, now, &mut said);
    carry(said, effects);
}

/// The process at the other end of the socket, as the tree knows it, or else as exactly as `/proc` tells.
fn caller(caller: &Caller, tree: &ProcessTree) -> ProcessKey {
    let same = |key: &ProcessKey| caller.start_ticks == 0 || key.start_ns / TICK_NS == caller.start_ticks;
    let told = ProcessKey { tgid: caller.pid, start_ns: caller.start_ticks.saturating_mul(TICK_NS) };
    tree.with_pid(caller.pid).rev().find(same).unwrap_or(told)
}

pub(super) fn carry(said: Vec<Said>, effects: &mut Vec<Effect>) {
    effects.extend(said.into_iter().map(|said| match said {
        Said::Row(row) => Effect::Store(row),
        Said::Settle { approval, waiters, verdict, message, grant } => {
            Effect::Settle { approval, waiters, verdict, message, grant }
        }
        Said::Ungrant(grant) => Effect::Ungrant(grant),
        Said::Notify(approval, end) => Effect::Notify(approval, end),
        Said::Answered { ticket, result } => Effect::Answered { ticket, result },
    }));
}
