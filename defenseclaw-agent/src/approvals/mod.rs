//! Questions to people: opened, joined, answered, settled. Every waiter is settled once, by an answer, a grant, the fallback
//! at the deadline, or because nobody waits any more; what changes is a row before it is done.
//!
//! No clock, no I/O, and no word of who may answer: that is for who takes the answer in. Whether something asks is policy's
//! business; what is asked about, [`subject`] reads from what the kernel saw.

mod answer;
mod leave;
mod native;
mod open;
#[cfg(test)]
mod random;
mod restore;
mod subject;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use open::{Bucket, Open, Whose};
pub use subject::subject;

use crate::model::{
    Answerer, Approval, ApprovalId, ApprovalSettled, AuditRecord, BootTime, Grant, GrantEnded, GrantId,
    Outcome, PolicyAction, Ruling, Settlement, Via, Waiter,
};

/// Waiters of one question; more get the fallback.
const WAITERS_MAX: usize = 1024;
/// Questions that are open at once, of all sessions.
const TOTAL_MAX: usize = 16_384;
/// Grants of one session.
const GRANTS_MAX: usize = 1024;
/// Ended questions that are remembered, so that who answers late is told how it ended.
const ENDED_MAX: usize = 1024;
/// And for how long.
const ENDED_KEPT: Duration = Duration::from_mins(10);
/// How long a next try may take, where what was allowed once had been refused already.
const RETRY_WITHIN: Duration = Duration::from_mins(1);
/// How long the outcome of an agent's own dialogue is looked for.
const NATIVE_WITHIN: Duration = Duration::from_hours(1);

/// What bounds questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Questions of one session that are open at once; more get the fallback.
    pub open_max: usize,
    /// How long a question stands.
    pub wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { open_max: 32, wait: Duration::from_secs(90) }
    }
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// Append this to the audit.
    Row(AuditRecord),
    /// Let those who wait go on, or refuse them.
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
    /// What became of an answer.
    Answered { ticket: u64, result: Result<(), String> },
}

/// All questions and grants of one watcher.
#[derive(Debug, Default)]
pub struct Approvals {
    limits: Limits,
    buckets: BTreeMap<Whose, Bucket>,
    n_open: usize,
    /// The oldest first, and when they ended.
    ended: VecDeque<ApprovalSettled>,
    last_approval: u64,
    last_grant: u64,
    version: u64,
    /// Nothing ends by itself before.
    wake: Option<BootTime>,
}

/// How a question ends.
struct End {
    allowed: bool,
    outcome: Outcome,
    grant: Option<Box<Grant>>,
}

impl End {
    /// Without an answer.
    fn by_itself(allowed: bool, outcome: Outcome) -> Self {
        Self { allowed, outcome, grant: None }
    }
}

impl Approvals {
    /// No question, no grant.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on; open questions keep their deadlines.
    pub fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Counts changes of what is open and of what is granted.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Open questions and how many wait for each, by session and then by id.
    pub fn open(&self) -> impl Iterator<Item = (&Approval, usize)> {
        let all = self.buckets.values().flat_map(|bucket| bucket.open.values());
        all.map(|open| (&open.approval, open.waiters.len()))
    }

    /// An open question, and how many wait for it.
    pub fn get(&self, id: ApprovalId) -> Option<(&Approval, usize)> {
        let open = self.buckets.values().find_map(|bucket| bucket.open.get(&id))?;
        Some((&open.approval, open.waiters.len()))
    }

    /// How a question ended, if that was not long ago.
    pub fn ended(&self, id: ApprovalId) -> Option<&ApprovalSettled> {
        self.ended.iter().rev().find(|settled| settled.id == id)
    }

    /// Grants that hold, by session and then by what they are for.
    pub fn grants(&self) -> impl Iterator<Item = &Grant> {
        self.buckets.values().flat_map(|bucket| bucket.grants.values())
    }

    /// Nothing ends by itself before this moment; none: nothing does at all.
    pub fn next_deadline(&self) -> Option<BootTime> {
        self.wake
    }

    /// Somebody asks: `approval` is the question as it would stand if it were new; its id, time and deadline are given here,
    /// the latter no later than the one it has. `exact`: its object names one thing only.
    /// `standing`: who has allowed it for good.
    pub fn ask(
        &mut self,
        approval: Approval,
        exact: bool,
        standing: Option<Answerer>,
        now: BootTime,
        said: &mut Vec<Said>,
    ) {
        self.asked(approval, exact, standing, &[], now, said);
    }

    fn asked(
        &mut self,
        mut approval: Approval,
        exact: bool,
        standing: Option<Answerer>,
        calls: &[native::Call],
        now: BootTime,
        said: &mut Vec<Said>,
    ) {
        self.tick(now, said);
        let native = matches!(approval.waiter, Waiter::Agent { .. });
        let whose = Whose::of(&approval);
        approval.since = now;
        let wait = if native { NATIVE_WITHIN } else { self.limits.wait };
        approval.deadline = approval.deadline.min(after(now, wait));
        self.leave_for(&whose, &approval, exact, now, said);
        let bucket = self.buckets.entry(whose.clone()).or_default();
        if let Some(grant) = bucket.grants.get(&approval.subject).filter(|_| exact && !native) {
            let grant = Box::new(grant.clone());
            let by = Answerer { via: Via::Grant, ..grant.by.clone() };
            let outcome = Outcome::Ruled { ruling: Ruling::Session, by, message: None };
            let end = End { grant: Some(grant), ..End::by_itself(true, outcome) };
            return self.at_once(approval, end, said);
        }
        if let Some(by) = standing.filter(|_| exact && !native) {
            approval.id = self.next_approval();
            let watched = approval.session.is_some();
            let grant = watched.then(|| self.grant(&approval, None, &by, now, said));
            let outcome = Outcome::Ruled { ruling: Ruling::Always, by, message: None };
            let end = End { grant, ..End::by_itself(true, outcome) };
            return self.at_once(approval, end, said);
        }
        // Each of an agent's own dialogues is answered by itself.
        let joins = |open: &&mut Open| !open.native && open.approval.subject == approval.subject;
        if exact
            && !native
            && let Some(open) = bucket.open.values_mut().find(joins)
        {
            if open.join(approval.waiter.clone()) {
                self.version += 1;
                return;
            }
            return self.not_asked(approval, "too many wait for this answer already", said);
        }
        let n_open = bucket.open.values().filter(|open| open.native == native).count();
        let why = if !exact {
            Some("what this is about has no exact name, so an answer could mean something else")
        } else if n_open >= self.limits.open_max {
            Some("too many questions of this session are open")
        } else if self.n_open >= TOTAL_MAX {
            Some("too many questions are open")
        } else {
            None
        };
        if let Some(why) = why {
            // An agent that asks itself does so all the same.
            return self.not_asked(approval, why, said);
        }
        approval.id = self.next_approval();
        said.push(Said::Row(AuditRecord::Asked(Box::new(approval.clone()))));
        said.push(Said::Notify(Box::new(approval.clone()), None));
        self.put(whose, Open::new(approval, calls.to_vec()));
    }

    fn not_asked(&mut self, approval: Approval, why: &str, said: &mut Vec<Said>) {
        let allowed = falls_back_to_allow(&approval);
        let outcome = Outcome::NotAsked { why: why.to_owned() };
        self.at_once(approval, End::by_itself(allowed, outcome), said);
    }

    /// A question that ends as it begins. Nobody was told of it, so nobody is told of its end.
    fn at_once(&mut self, mut approval: Approval, end: End, said: &mut Vec<Said>) {
        if approval.id == ApprovalId(0) {
            approval.id = self.next_approval();
        }
        self.forget_if_empty(&Whose::of(&approval));
        said.push(Said::Row(AuditRecord::Asked(Box::new(approval.clone()))));
        let now = approval.since;
        self.close(Open::new(approval, Vec::new()), end, now, said);
    }

    fn next_approval(&mut self) -> ApprovalId {
        self.last_approval += 1;
        ApprovalId(self.last_approval)
    }

    fn put(&mut self, whose: Whose, open: Open) {
        self.wakes_at(open.approval.deadline);
        self.buckets.entry(whose).or_default().open.insert(open.approval.id, open);
        self.n_open += 1;
        self.version += 1;
    }

    fn wakes_at(&mut self, time: BootTime) {
        self.wake = Some(self.wake.map_or(time, |wake| wake.min(time)));
    }

    /// Takes a question out; what becomes of it is to be said by [`Approvals::finish`].
    fn take(&mut self, whose: &Whose, id: ApprovalId) -> Option<Open> {
        let open = self.buckets.get_mut(whose)?.open.remove(&id)?;
        self.forget_if_empty(whose);
        self.n_open -= 1;
        self.version += 1;
        Some(open)
    }

    fn forget_if_empty(&mut self, whose: &Whose) {
        if self.buckets.get(whose).is_some_and(Bucket::is_empty) {
            self.buckets.remove(whose);
        }
    }

    /// The end of a question that people know of.
    fn finish(&mut self, open: Open, end: End, now: BootTime, said: &mut Vec<Said>) {
        let approval = Box::new(open.approval.clone());
        let settled = self.close(open, end, now, said);
        said.push(Said::Notify(approval, Some(Box::new(settled))));
    }

    fn close(&mut self, open: Open, end: End, now: BootTime, said: &mut Vec<Said>) -> ApprovalSettled {
        let Open { approval, mut waiters, n_waited, .. } = open;
        let End { allowed, outcome, grant } = end;
        let message = match &outcome {
            Outcome::Ruled { message, .. } => message.clone(),
            Outcome::Expired | Outcome::NotAsked { .. } | Outcome::Withdrawn { .. } | Outcome::Orphaned => {
                None
            }
        };
        let (id, session) = (approval.id, approval.session);
        let settled = ApprovalSettled { id, session, boot: now, allowed, outcome, waiters: n_waited };
        said.push(Said::Row(AuditRecord::Settled(settled.clone())));
        if let Some(grant) = grant.as_ref().filter(|grant| grant.approval == id) {
            said.push(Said::Row(AuditRecord::Granted(Grant::clone(grant))));
        }
        // The agent's own dialogue is the agent's.
        waiters.retain(|waiter| !matches!(waiter, Waiter::Agent { .. }));
        if !waiters.is_empty() {
            let verdict = if allowed { Settlement::Allow } else { Settlement::Block };
            said.push(Said::Settle { approval: Box::new(approval), waiters, verdict, message, grant });
        }
        self.ended.push_back(settled.clone());
        if self.ended.len() > ENDED_MAX {
            self.ended.pop_front();
        }
        settled
    }

    /// Something may have ended by itself.
    pub fn is_due(&self, now: BootTime) -> bool {
        self.wake.is_some_and(|wake| wake <= now)
    }

    /// Time has passed: applies fallbacks, ends grants.
    pub fn tick(&mut self, now: BootTime, said: &mut Vec<Said>) {
        while self.ended.front().is_some_and(|old| after(old.boot, ENDED_KEPT) <= now) {
            self.ended.pop_front();
        }
        if !self.is_due(now) {
            return;
        }
        let mut late = Vec::new();
        let mut over = Vec::new();
        for (whose, bucket) in &self.buckets {
            let due = bucket.open.values().filter(|open| open.approval.deadline <= now);
            late.extend(due.map(|open| (whose.clone(), open.approval.id)));
            let due = bucket.grants.values().filter(|grant| grant.expires.is_some_and(|end| end <= now));
            over.extend(due.map(|grant| grant.id));
        }
        for (whose, id) in late {
            if let Some(open) = self.take(&whose, id) {
                let end = if open.native {
                    let why = "what was said in the agent's own dialogue did not become known".to_owned();
                    End::by_itself(false, Outcome::Withdrawn { why })
                } else {
                    End::by_itself(falls_back_to_allow(&open.approval), Outcome::Expired)
                };
                self.finish(open, end, now, said);
            }
        }
        for id in over {
            self.end_grant(id, None, now, said);
        }
        let deadlines = self.buckets.values().flat_map(|bucket| {
            let questions = bucket.open.values().map(|open| open.approval.deadline);
            questions.chain(bucket.grants.values().filter_map(|grant| grant.expires))
        });
        self.wake = deadlines.min();
    }

    /// Whether there was such a grant.
    fn end_grant(&mut self, id: GrantId, by: Option<Answerer>, now: BootTime, said: &mut Vec<Said>) -> bool {
        for (whose, bucket) in &mut self.buckets {
            let Some(subject) = bucket.grants.values().find(|grant| grant.id == id) else { continue };
            let (whose, subject) = (whose.clone(), subject.subject.clone());
            let Some(grant) = bucket.grants.remove(&subject) else { continue };
            self.forget_if_empty(&whose);
            self.version += 1;
            let row = GrantEnded { id, session: grant.session, boot: now, by };
            said.push(Said::Row(AuditRecord::GrantEnded(row)));
            said.push(Said::Ungrant(Box::new(grant)));
            return true;
        }
        false
    }
}

fn falls_back_to_allow(approval: &Approval) -> bool {
    approval.fallback < PolicyAction::Confirm
}

fn after(time: BootTime, wait: Duration) -> BootTime {
    BootTime(time.0.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)))
}
