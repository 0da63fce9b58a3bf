//! What every watcher does with the pipeline, one session or many: inputs go in at the present moment, rows go to the audit
//! in their order, processes that a rule ends are ended. Which effects are left to the watcher, it is told.

use tracing::{debug, info, warn};

use super::{asking::Asked, clock, evasion};
use crate::{
    enforce,
    model::{
        Approval, ApprovalSettled, AuditRecord, BootTime, Grant, KernelPath, Loss, LossReason, Outcome,
        ProcessKey, Ruling, SessionId, Settlement, ToolCallId, Waiter,
    },
    pipeline::{self, Effect, Input, Limits, State},
    sensor::{self, Sensor, SensorError},
    store::{StoreError, Writer},
    tree::ProcessFacts,
};

/// The pipeline and the audit behind it.
pub(super) struct Recorder {
    state: State,
    writer: Writer,
    effects: Vec<Effect>,
    limits: Limits,
}

/// What the watcher has to do itself.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Sessions whose trees have ended.
    pub(super) ended: Vec<SessionId>,
    /// Labels of the children of processes.
    pub(super) labels: Vec<(ProcessKey, Option<ToolCallId>)>,
    /// Observations that were handed to the audit.
    pub(super) events: u64,
    /// And what is missing.
    pub(super) losses: Vec<Loss>,
    /// Questions that have an answer: who waits for it.
    pub(super) settled: Vec<Settled>,
    /// Grants that the kernel must forget.
    pub(super) ungranted: Vec<Grant>,
    /// What people are to be told of: a question, or its end.
    pub(super) notices: Vec<(Box<Approval>, Option<Box<ApprovalSettled>>)>,
    /// What became of answers, by their tickets.
    pub(super) answered: Vec<(u64, Result<(), String>)>,
}

/// Those who waited for one answer, and the answer.
#[derive(Debug)]
pub(super) struct Settled {
    /// What they asked.
    pub(super) approval: Box<Approval>,
    pub(super) waiters: Vec<Waiter>,
    pub(super) verdict: Settlement,
    /// How the question ended, if it did.
    pub(super) outcome: Option<Outcome>,
    /// The kernel need not ask again while it holds.
    pub(super) grant: Option<Box<Grant>>,
}

impl Settled {
    /// What a person said who refused it.
    pub(super) fn message(&self) -> Option<&str> {
        match &self.outcome {
            Some(Outcome::Ruled { ruling: Ruling::Deny, message, .. }) => message.as_deref(),
            _ => None,
        }
    }
}

impl Recorder {
    pub(super) fn new(writer: Writer) -> Self {
        Self { state: State::new(), writer, effects: Vec::new(), limits: Limits::default() }
    }

    /// Forgets every session and process; what is in the audit stays there.
    pub(super) fn forget(&mut self) {
        self.state = State::new();
        self.state.limit(self.limits);
        self.effects.clear();
    }

    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Differs whenever what is open or granted differs.
    pub(super) fn version(&self) -> u64 {
        self.state.version()
    }

    /// Bounds questions from now on.
    pub(super) fn limit(&mut self, limits: Limits) {
        self.limits = limits;
        self.state.limit(limits);
    }

    /// What is open and granted.
    pub(super) fn asked(&self) -> Asked {
        let open = self.state.approvals();
        Asked {
            open: open.map(|(approval, waiters)| (approval.clone(), waiters as u64)).collect(),
            grants: self.state.grants().cloned().collect(),
        }
    }

    /// When the next question's time is over.
    pub(super) fn next_deadline(&self) -> Option<BootTime> {
        self.state.next_deadline()
    }

    pub(super) fn step(&mut self, input: Input) {
        let evasion = if let Input::Event(event) = &input { evasion::of(event) } else { None };
        pipeline::step(&mut self.state, input, clock::boot_now(), &mut self.effects);
        // Behind the row that it rests on.
        let finding = evasion.map(|found| Effect::Store(AuditRecord::Finding(Box::new(found))));
        self.effects.extend(finding);
    }

    /// Carries out what the inputs since the last call have led to. Waits while the audit's queue is full.
    pub(super) fn carry_out(&mut self) -> Result<Due, StoreError> {
        let mut rows = Vec::with_capacity(self.effects.len());
        let (mut ends, mut due) = (Vec::new(), Due::default());
        let mut ended: Option<ApprovalSettled> = None;
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Store(record) => {
                    #[expect(clippy::wildcard_enum_match_arm, reason = "no other rows are counted")]
                    match &record {
                        AuditRecord::Event(_) => due.events += 1,
                        AuditRecord::Loss(loss) => due.losses.push(loss.clone()),
                        AuditRecord::Settled(settled) => ended = Some(settled.clone()),
                        _ => {}
                    }
                    rows.push(record);
                }
                Effect::TreeEnded { session } => due.ended.push(session),
                Effect::Kill(process) => ends.push(process),
                Effect::Settle { approval, waiters, verdict, grant, .. } => {
                    // Its row stands right before it.
                    let outcome =
                        ended.take().filter(|ended| ended.id == approval.id).map(|ended| ended.outcome);
                    due.settled.push(Settled { approval, waiters, verdict, outcome, grant });
                }
                Effect::Ungrant(grant) => due.ungranted.push(*grant),
                Effect::Notify(approval, end) => due.notices.push((approval, end)),
                Effect::Answered { ticket, result } => due.answered.push((ticket, result)),
                Effect::Label { process, call } => due.labels.push((process, call)),
            }
        }
        let stored = self.append(rows);
        // What it did is on its way into the audit by now.
        ends.into_iter().for_each(end);
        stored.map(|()| due)
    }

    /// Adds rows that the pipeline has nothing to say of.
    pub(super) fn append(&self, rows: Vec<AuditRecord>) -> Result<(), StoreError> {
        self.writer.append(rows)
    }

    pub(super) fn flush(&self) -> Result<(), StoreError> {
        self.writer.flush()
    }

    pub(super) fn into_writer(self) -> Writer {
        self.writer
    }

    /// Losses since the last call, which belong to this session if it is the only one. Whether an end may be among them.
    pub(super) fn losses(
        &mut self,
        sensor: &mut Sensor,
        session: Option<SessionId>,
    ) -> Result<bool, SensorError> {
        let mut ends = false;
        for loss in sensor.losses(clock::boot_now())? {
            ends |= loss.kind == "process_exit";
            if loss.kind == "process_fork" && loss.reason == LossReason::MapFull {
                warn!(count = loss.count, "processes are not watched: there is no room for more");
            }
            self.step(Input::Loss(Loss { session, ..loss }));
        }
        Ok(ends)
    }

    /// Processes of a session that do not run any more although no record says so. To be told to the pipeline when
    /// everything has been read that was in the rings when this was asked.
    pub(super) fn gone(&self, session: SessionId) -> Vec<ProcessKey> {
        self.state.live_in(session).filter(|key| !sensor::is_alive(*key)).collect()
    }
}

/// What `/proc` says of a process of a session; its start is exact, or 0 if that is not known.
pub(super) fn facts(key: ProcessKey, session: SessionId) -> Option<ProcessFacts> {
    let found = sensor::process_facts(key.tgid)?;
    let start_ns = if key.start_ns == 0 { found.start_ticks * sensor::TICK_NS } else { key.start_ns };
    let exe = found.exe.map(|text| KernelPath { text, ..KernelPath::default() }).unwrap_or_default();
    let key = ProcessKey { start_ns, ..key };
    Some(ProcessFacts { key, session, parent: None, exe, argv: found.argv })
}

/// Ends a process, if it is still the one that is meant.
fn end(process: ProcessKey) {
    let held = enforce::Held::open(process.tgid);
    // Asked when the descriptor is there: its pid cannot become another process's any more.
    match held {
        Ok(held) if sensor::is_alive(process) => match held.kill() {
            Ok(()) => info!(tgid = process.tgid, "ended, as the rule says"),
            Err(error) => warn!(tgid = process.tgid, %error, "a rule ends this process, but it could not be"),
        },
        Ok(_) => {}
        Err(error) => debug!(tgid = process.tgid, %error, "has ended before a rule could end it"),
    }
}
