//! The one loop body: what happened goes in, what is to be done comes out.
//!
//! It keeps the process tree and the sessions. It has no clock, no queue and no I/O: `runtime` feeds it one input
//! after the other and carries out the effects, in their order.

mod asking;
mod policies;
mod session;
#[cfg(test)]
mod tests;
mod unjudged;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use policies::Policies;
use session::Session;

pub use crate::approvals::Limits;
use crate::{
    approvals::{self, Approvals},
    correlate::{Correlator, Said},
    model::{
        Action, Answerer, Approval, ApprovalId, ApprovalSettled, AskingHook, AuditRecord, BootTime,
        Connector, Event, ExitStatus, Grant, GrantId, Handover, HandoverStep, HookCall, KernelPath, Loss,
        Origin, PolicyLoaded, PolicyRefused, PostureChange, ProcessKey, Remembered, Ruled, SessionId,
        SessionStart, Settlement, ToolCallId, Waiter,
    },
    policy,
    tree::{ProcessFacts, ProcessTree},
};

/// How long an ended process stays in the tree: late records of it should not make it look alive.
const KEEP_ENDED: Duration = Duration::from_secs(10);
/// Ended processes in the tree that make it forget at once, without waiting.
const ENDED_MAX: usize = 16_384;

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// A session began.
    Started(Box<SessionStart>),
    /// A session began, and another watcher has stored that many of its events. Nothing is stored.
    Resumed {
        start: Box<SessionStart>,
        events: u64,
        policies: Vec<PolicyLoaded>,
        judge: Option<Arc<policy::Session>>,
        questions: Remembered,
    },
    /// Another watcher has stored this event.
    Replayed(Box<Event>),
    /// Who watches a session has changed. Of one that was left nothing is remembered, and it gets no end.
    Handover(Handover),
    /// The kernel saw something.
    Event(Box<Event>),
    /// A policy is about to be, or has just come, into force; told before the first event it has judged. The second half
    /// judges what the kernel does not.
    PolicyLoaded(Box<PolicyLoaded>, Option<Arc<policy::Session>>),
    /// A policy was not taken.
    PolicyRefused(PolicyRefused),
    /// What the canary has found has changed.
    Posture(PostureChange),
    /// A hook was judged, and its answer waits: what this leads to is to be carried out before.
    Hook(Box<HookCall>),
    /// A hook asks a person. Where the reply is held, the hook is not in the audit yet: [`Input::Hook`] follows when it was
    /// answered. Where the agent asks itself, it was answered, and this is in place of [`Input::Hook`].
    Held(Box<AskingHook>),
    /// Who waited for the reply of a held hook does not any more.
    HungUp { ticket: u64 },
    /// Another policy judges a session by now: who is stopped in the kernel is to ask again.
    Reask { session: SessionId },
    /// While nobody watched, somebody else has settled this waiter of a question that was restored.
    Orphaned { session: SessionId, waiter: Waiter, allowed: bool },
    /// Somebody has answered a question. `ticket` comes back with [`Effect::Answered`].
    Ruled { ruled: Box<Ruled>, ticket: u64 },
    /// Somebody takes a grant back.
    Revoked { grant: GrantId, by: Answerer, ticket: u64 },
    /// Observations are missing.
    Loss(Loss),
    /// The main process of a session ended.
    MainExited { session: SessionId, status: ExitStatus },
    /// The main process of a session could not be started: errno.
    NotStarted { session: SessionId, errno: i32 },
    /// `/proc` knows this process.
    Learned(Box<ProcessFacts>),
    /// `/proc` does not know this process any more. To be asked when all records have been read, and of
    /// [`State::live_in`], because the record of an end may be lost.
    Gone(ProcessKey),
    /// Watching of one session ends: its tree has, and its last records have been read.
    Ended { session: SessionId },
    /// Watching ends, for every session.
    Stop,
    /// Time passed; expected every few seconds.
    Tick,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Append this to the audit.
    Store(AuditRecord),
    /// The main process and all others of this session have ended. Said once per session; records that are still
    /// on their way belong to it all the same, so it ends with [`Input::Ended`] or [`Input::Stop`] only.
    TreeEnded { session: SessionId },
    /// End this process, because a rule says so and the program that refused may not, or nothing could refuse.
    Kill(ProcessKey),
    /// Let those who wait for an answer go on, or refuse them. With a grant, the kernel need not ask again while it holds.
    /// `approval` is what they asked; a verdict is about nothing else.
    Settle {
        approval: Box<Approval>,
        waiters: Vec<Waiter>,
        verdict: Settlement,
        message: Option<String>,
        grant: Option<Box<Grant>>,
    },
    /// The kernel must ask again about what this grant was for.
    Ungrant(Box<Grant>),
    /// A person is to be told that there is a question, or that there is none any more.
    Notify(Box<Approval>, Option<Box<ApprovalSettled>>),
    /// What became of [`Input::Ruled`] or [`Input::Revoked`]: an error says why it was not taken.
    Answered { ticket: u64, result: Result<(), String> },
    /// From now on children of this process are born with the label of that call, or with none.
    Label { process: ProcessKey, call: Option<ToolCallId> },
}

/// Everything the pipeline remembers.
#[derive(Debug)]
pub struct State {
    tree: ProcessTree,
    sessions: BTreeMap<SessionId, Session>,
    policies: Policies,
    correlator: Correlator,
    approvals: Approvals,
    /// Whose hook was the last of a session, and what that agent calls its own.
    agents: BTreeMap<SessionId, (Connector, Option<String>)>,
    /// Empty between two steps.
    said: Vec<Said>,
    forget_at: usize,
}

impl Default for State {
    fn default() -> Self {
        Self {
            tree: ProcessTree::new(),
            sessions: BTreeMap::new(),
            policies: Policies::default(),
            correlator: Correlator::new(),
            approvals: Approvals::new(),
            agents: BTreeMap::new(),
            said: Vec::new(),
            forget_at: ENDED_MAX,
        }
    }
}

impl State {
    /// No session, no process.
    pub fn new() -> Self {
        Self::default()
    }

    /// The process tree.
    pub fn tree(&self) -> &ProcessTree {
        &self.tree
    }

    /// Processes of a session that have not ended as far as the kernel's records say.
    pub fn live_in(&self, session: SessionId) -> impl Iterator<Item = ProcessKey> {
        self.tree.live_in(session)
    }

    /// Events stored for a session; none if it is not running.
    pub fn n_events(&self, session: SessionId) -> Option<u64> {
        self.sessions.get(&session).map(|session| session.n_events)
    }

    /// Bounds questions from now on.
    pub fn limit(&mut self, limits: Limits) {
        self.approvals.limit(limits);
    }

    /// Questions that stand, and how many wait for each.
    pub fn approvals(&self) -> impl Iterator<Item = (&Approval, usize)> {
        self.approvals.open()
    }

    /// A question that stands, and how many wait for it.
    pub fn approval(&self, id: ApprovalId) -> Option<(&Approval, usize)> {
        self.approvals.get(id)
    }

    /// How a question ended, if it did so in the last minutes.
    pub fn ended_approval(&self, id: ApprovalId) -> Option<&ApprovalSettled> {
        self.approvals.ended(id)
    }

    /// Grants that hold.
    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.approvals.grants()
    }

    /// Changes with every change of questions and grants.
    pub fn version(&self) -> u64 {
        self.approvals.version()
    }

    /// When an [`Input::Tick`] is due for a question or a grant, if nothing else happens.
    pub fn next_deadline(&self) -> Option<BootTime> {
        self.approvals.next_deadline()
    }

    /// Sessions that are running.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.sessions.keys().copied()
    }
}

/// Takes in one input at `now` and appends what it leads to.
pub fn step(state: &mut State, input: Input, now: BootTime, effects: &mut Vec<Effect>) {
    if state.approvals.is_due(now) {
        let mut said = Vec::new();
        state.approvals.tick(now, &mut said);
        asking::carry(said, effects);
    }
    match input {
        Input::Started(start) => {
            note_agent(state, &start);
            // The root lives before its first event, so that a session is not over before it began.
            state.tree.learn(&root_facts(&start));
            state.sessions.insert(start.session, Session::new(&start));
            state.correlator.begin(&start);
            effects.push(Effect::Store(AuditRecord::SessionStart(start)));
        }
        Input::Resumed { start, events, policies, judge, questions } => {
            note_agent(state, &start);
            state.tree.learn(&root_facts(&start));
            let mut session = Session::new(&start);
            session.n_events = events;
            state.sessions.insert(start.session, session);
            state.correlator.begin(&start);
            let newest = policies.len();
            for (number, policy) in (1..).zip(policies) {
                // Only of the one in force it is known what judges by it.
                state.policies.load(policy, judge.clone().filter(|_| number == newest));
            }
            let mut said = Vec::new();
            state.approvals.restore(questions, now, &mut said);
            asking::carry(said, effects);
        }
        Input::Replayed(event) => {
            state.tree.apply(&event);
            note_main(state, &event);
            forget_if_full(state, now);
        }
        Input::Handover(change) => {
            match (&change.step, state.sessions.get_mut(&change.session)) {
                (HandoverStep::Adopted { .. }, Some(session)) => session.main_is_not_ours(),
                (HandoverStep::Left, _) => {
                    state.sessions.remove(&change.session);
                    state.correlator.forget(change.session);
                    state.approvals.forget(change.session);
                    state.agents.remove(&change.session);
                }
                (HandoverStep::Adopted { .. } | HandoverStep::Released, _) => {}
            }
            effects.push(Effect::Store(AuditRecord::Handover(change)));
        }
        Input::Event(mut event) => {
            let held = state.sessions.get(&event.session).map(|session| session.held);
            let explained = state.policies.explain(&mut event, &state.tree, held);
            let session = event.session;
            state.tree.apply(&event);
            note_main(state, &event);
            if let Some(session) = state.sessions.get_mut(&session) {
                session.n_events += 1;
            }
            state.correlator.event(&mut event, &state.tree, &mut state.said);
            // Only these few are needed behind their row.
            let asks = explained.asks.is_some()
                || matches!(event.action, Action::ProcessExit { .. } | Action::ProcessExec(_));
            let kept = asks.then(|| event.clone());
            effects.push(Effect::Store(AuditRecord::Event(event)));
            effects.extend(explained.kill.map(Effect::Kill));
            carry(&mut state.said, effects);
            if let Some(event) = kept {
                asking::event(state, &event, explained.asks, now, effects);
            }
            forget_if_full(state, now);
            check_tree(state, session, effects);
        }
        Input::PolicyLoaded(policy, judge) => {
            state.policies.load((*policy).clone(), judge);
            effects.push(Effect::Store(AuditRecord::PolicyLoaded(policy)));
        }
        Input::PolicyRefused(policy) => effects.push(Effect::Store(AuditRecord::PolicyRefused(policy))),
        Input::Posture(change) => effects.push(Effect::Store(AuditRecord::Posture(change))),
        Input::Hook(mut call) => {
            hook(state, &mut call, now, effects);
        }
        Input::Held(mut asking) => {
            if asking.native {
                hook(state, &mut asking.call, now, effects);
            }
            asking::hook(state, *asking, now, effects);
        }
        Input::HungUp { ticket } => settle(state, effects, |all, said| all.hung_up(ticket, now, said)),
        Input::Reask { session } => settle(state, effects, |all, said| all.reask(session, now, said)),
        Input::Orphaned { session, waiter, allowed } => {
            settle(state, effects, |all, said| all.orphaned(session, &waiter, allowed, now, said));
        }
        Input::Ruled { ruled, ticket } => {
            settle(state, effects, |all, said| all.rule(*ruled, ticket, now, said));
        }
        Input::Revoked { grant, by, ticket } => {
            settle(state, effects, |all, said| all.revoke(grant, by, ticket, now, said));
        }
        Input::Loss(loss) => effects.push(Effect::Store(AuditRecord::Loss(loss))),
        Input::MainExited { session, status } => {
            // The tree is not told: its own record comes after those of the children it made, so that none of them
            // is overlooked.
            if let Some(session) = state.sessions.get_mut(&session) {
                session.main_ended(status);
            }
            check_tree(state, session, effects);
        }
        Input::NotStarted { session, errno } => {
            if let Some(session) = state.sessions.get_mut(&session) {
                session.main_not_started(errno);
                // It ran nothing, so it has no children either.
                state.tree.gone(session.root, now);
            }
            check_tree(state, session, effects);
        }
        Input::Learned(facts) => state.tree.learn(&facts),
        Input::Gone(process) => {
            state.tree.gone(process, now);
            if let Some(id) = state.tree.session(process) {
                settle(state, effects, |all, said| all.exited(id, process, now, said));
                if let Some(session) = state.sessions.get_mut(&id).filter(|session| session.root == process) {
                    session.main_unseen();
                }
                check_tree(state, id, effects);
            }
        }
        Input::Ended { session } => {
            if let Some(known) = state.sessions.remove(&session) {
                end(state, session, known, now, effects);
            }
        }
        Input::Stop => {
            for (id, session) in std::mem::take(&mut state.sessions) {
                end(state, id, session, now, effects);
            }
            settle(state, effects, |all, said| all.stop(now, said));
        }
        Input::Tick => {
            state.tree.expire(now, KEEP_ENDED);
            state.correlator.tick(&state.tree, now, &mut state.said);
            carry(&mut state.said, effects);
            // Of a session that was resumed, everything may have ended before.
            let sessions: Vec<_> = state.sessions.keys().copied().collect();
            for id in sessions {
                check_tree(state, id, effects);
            }
        }
    }
}

fn settle(
    state: &mut State,
    effects: &mut Vec<Effect>,
    change: impl FnOnce(&mut Approvals, &mut Vec<approvals::Said>),
) {
    let mut said = Vec::new();
    change(&mut state.approvals, &mut said);
    asking::carry(said, effects);
}

/// A hook that was answered.
fn hook(state: &mut State, call: &mut HookCall, now: BootTime, effects: &mut Vec<Effect>) {
    state.correlator.hook(call, &state.tree, &mut state.said);
    effects.push(Effect::Store(AuditRecord::Hook(Box::new(call.clone()))));
    carry(&mut state.said, effects);
    asking::heard(state, call, now, effects);
}

/// What is known of the agent before its first hook.
fn note_agent(state: &mut State, start: &SessionStart) {
    if let Origin::Adopted { connector, agent_session, .. } = &start.origin {
        state.agents.insert(start.session, (*connector, agent_session.clone()));
    }
}

/// What joining has led to, behind the row that led to it.
fn carry(said: &mut Vec<Said>, effects: &mut Vec<Effect>) {
    effects.extend(said.drain(..).map(|said| match said {
        Said::Label { process, call } => Effect::Label { process, call },
        Said::Correlated(row) => Effect::Store(AuditRecord::Correlated(row)),
        Said::Finding(row) => Effect::Store(AuditRecord::Finding(row)),
    }));
}

/// Nobody waits for the main process of an adopted session: its record says how it ended.
fn note_main(state: &mut State, event: &Event) {
    if let (Action::ProcessExit { status }, Some(session)) =
        (&event.action, state.sessions.get_mut(&event.session))
        && session.root == event.process
    {
        session.main_recorded(*status);
    }
}

fn root_facts(start: &SessionStart) -> ProcessFacts {
    // Which file it is will be known by its exec.
    ProcessFacts {
        key: start.root,
        session: start.session,
        parent: None,
        exe: KernelPath::default(),
        argv: start.command.clone(),
    }
}

/// The last rows of a session.
fn end(state: &mut State, id: SessionId, session: Session, now: BootTime, effects: &mut Vec<Effect>) {
    settle(state, effects, |all, said| all.end(id, now, said));
    state.agents.remove(&id);
    state.policies.forget(id);
    state.correlator.end(id, &state.tree, now, &mut state.said);
    carry(&mut state.said, effects);
    let left_running = state.tree.n_live_in(id);
    effects.push(Effect::Store(AuditRecord::SessionEnd(session.end(id, left_running, now))));
}

fn check_tree(state: &mut State, id: SessionId, effects: &mut Vec<Effect>) {
    if let Some(session) = state.sessions.get_mut(&id)
        && session.may_end()
        && state.tree.n_live_in(id) == 0
    {
        session.tree_ended();
        effects.push(Effect::TreeEnded { session: id });
    }
}

/// A flood of short processes must not fill memory between two ticks.
fn forget_if_full(state: &mut State, now: BootTime) {
    if state.tree.len() - state.tree.n_live() >= state.forget_at {
        state.tree.expire(now, Duration::ZERO);
        // What stayed leads to living processes; looking again at once would not make it less.
        let ended = state.tree.len() - state.tree.n_live();
        state.forget_at = ENDED_MAX.max(2 * ended);
    }
}
