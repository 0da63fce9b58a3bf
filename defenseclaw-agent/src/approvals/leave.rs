//! Those who do not wait any more: they have ended, do something else, are to ask again, or nobody watches them.

use super::{
    Approvals, End, Said, falls_back_to_allow,
    open::{Open, Whose, process_of},
};
use crate::model::{Approval, ApprovalId, BootTime, Outcome, ProcessKey, SessionId, Settlement, Via, Waiter};

impl Approvals {
    /// A process has ended. Who tried and was refused may try again as another process: its question stands.
    pub fn exited(&mut self, session: SessionId, process: ProcessKey, now: BootTime, said: &mut Vec<Said>) {
        let gone = |waiter: &Waiter| {
            process_of(waiter) == process && !matches!(waiter, Waiter::Retry { .. } | Waiter::Agent { .. })
        };
        self.leave(&Whose::Session(session), gone, "who asked has ended", now, said);
    }

    /// A process runs another program: of those it ran before, no thread is left.
    pub fn replaced(&mut self, session: SessionId, process: ProcessKey, now: BootTime, said: &mut Vec<Said>) {
        let gone = |waiter: &Waiter| matches!(waiter, Waiter::Paused { process: one, .. } if *one == process);
        self.leave(&Whose::Session(session), gone, "who asked runs another program", now, said);
    }

    /// An agent does not wait for the reply to its hook any more.
    pub fn hung_up(&mut self, ticket: u64, now: BootTime, said: &mut Vec<Said>) {
        let all: Vec<_> = self.buckets.keys().cloned().collect();
        for whose in all {
            let gone = |waiter: &Waiter| matches!(waiter, Waiter::Hook { ticket: one, .. } if *one == ticket);
            self.leave(&whose, gone, "the agent does not wait for the reply any more", now, said);
        }
    }

    /// Who asks about something else is not stopped where it was any more: an answer to what it asked before must not let it
    /// do this. `joins`: it goes on waiting where it asks the same.
    pub(super) fn leave_for(
        &mut self,
        whose: &Whose,
        asks: &Approval,
        joins: bool,
        now: BootTime,
        said: &mut Vec<Said>,
    ) {
        let stopped = matches!(asks.waiter, Waiter::Paused { .. } | Waiter::Held { .. });
        let Some(bucket) = self.buckets.get(whose) else { return };
        let elsewhere = |open: &&Open| {
            let leaves = if open.approval.subject == asks.subject { !joins } else { stopped };
            leaves && open.waiters.contains(&asks.waiter)
        };
        let left: Vec<_> = bucket.open.values().filter(elsewhere).map(|open| open.approval.id).collect();
        for id in left {
            self.leave_one(
                whose,
                id,
                |waiter| *waiter == asks.waiter,
                "who asked does something else",
                now,
                said,
            );
        }
    }

    fn leave(
        &mut self,
        whose: &Whose,
        gone: impl Fn(&Waiter) -> bool,
        why: &str,
        now: BootTime,
        said: &mut Vec<Said>,
    ) {
        let Some(bucket) = self.buckets.get(whose) else { return };
        let concerned = bucket.open.values().filter(|open| open.waiters.iter().any(&gone));
        let ids: Vec<_> = concerned.map(|open| open.approval.id).collect();
        for id in ids {
            self.leave_one(whose, id, &gone, why, now, said);
        }
    }

    /// Some do not wait for this question any more. Without anybody who waits there is none.
    fn leave_one(
        &mut self,
        whose: &Whose,
        id: ApprovalId,
        gone: impl Fn(&Waiter) -> bool,
        why: &str,
        now: BootTime,
        said: &mut Vec<Said>,
    ) {
        let Some(open) = self.buckets.get_mut(whose).and_then(|bucket| bucket.open.get_mut(&id)) else {
            return;
        };
        open.waiters.retain(|waiter| !gone(waiter));
        self.version += 1;
        if open.waiters.is_empty()
            && let Some(open) = self.take(whose, id)
        {
            let outcome = Outcome::Withdrawn { why: why.to_owned() };
            self.finish(open, End::by_itself(false, outcome), now, said);
        }
    }

    /// Another policy judges a session: who is stopped before an operation asks again under it, and so does the next try of
    /// who was refused. Programs that are held and hooks cannot: their questions stand.
    pub fn reask(&mut self, session: SessionId, now: BootTime, said: &mut Vec<Said>) {
        self.tick(now, said);
        let whose = Whose::Session(session);
        let Some(bucket) = self.buckets.get(&whose) else { return };
        let ids: Vec<_> = bucket.open.keys().copied().collect();
        // What was allowed for good is in the policy, if it still is.
        let standing = bucket.grants.values().filter(|grant| grant.by.via == Via::Grant);
        let standing: Vec<_> = standing.map(|grant| grant.id).collect();
        for id in standing {
            self.end_grant(id, None, now, said);
        }
        for id in ids {
            let open = self.buckets.get(&whose).and_then(|bucket| bucket.open.get(&id));
            let Some(open) = open else { continue };
            let paused = |waiter: &&Waiter| matches!(waiter, Waiter::Paused { .. });
            let waiters: Vec<_> = open.waiters.iter().filter(paused).cloned().collect();
            let approval = Box::new(open.approval.clone());
            let again = |waiter: &Waiter| matches!(waiter, Waiter::Paused { .. } | Waiter::Retry { .. });
            if !open.waiters.iter().any(again) {
                continue;
            }
            let why = "the policy was loaded anew, and whoever still wants it asks again";
            self.leave_one(&whose, id, again, why, now, said);
            if !waiters.is_empty() {
                let verdict = Settlement::AskAgain;
                said.push(Said::Settle { approval, waiters, verdict, message: None, grant: None });
            }
        }
    }

    /// Who kept the questions was gone, and somebody else has settled this waiter.
    pub fn orphaned(
        &mut self,
        session: SessionId,
        waiter: &Waiter,
        allowed: bool,
        now: BootTime,
        said: &mut Vec<Said>,
    ) {
        let whose = Whose::Session(session);
        let Some(bucket) = self.buckets.get_mut(&whose) else { return };
        let waits = |open: &&mut Open| open.waiters.contains(waiter);
        let Some(open) = bucket.open.values_mut().find(waits) else { return };
        let id = open.approval.id;
        if open.waiters.len() > 1 {
            open.waiters.retain(|one| one != waiter);
            self.version += 1;
        } else if let Some(mut open) = self.take(&whose, id) {
            // Settled it is.
            open.waiters.clear();
            self.finish(open, End::by_itself(allowed, Outcome::Orphaned), now, said);
        }
    }

    /// Nobody watches a session any more: who still waits gets the fallback, and grants end with it.
    pub fn end(&mut self, session: SessionId, now: BootTime, said: &mut Vec<Said>) {
        self.end_all(&Whose::Session(session), now, said);
    }

    /// Nobody watches at all.
    pub fn stop(&mut self, now: BootTime, said: &mut Vec<Said>) {
        let all: Vec<_> = self.buckets.keys().cloned().collect();
        for whose in all {
            self.end_all(&whose, now, said);
        }
    }

    fn end_all(&mut self, whose: &Whose, now: BootTime, said: &mut Vec<Said>) {
        self.tick(now, said);
        let Some(bucket) = self.buckets.get_mut(whose) else { return };
        let grants = std::mem::take(&mut bucket.grants);
        let ids: Vec<_> = bucket.open.keys().copied().collect();
        for id in ids {
            let Some(open) = self.take(whose, id) else { continue };
            let why = "it is not watched any more".to_owned();
            let end = if open.native {
                End::by_itself(false, Outcome::Withdrawn { why })
            } else {
                End::by_itself(falls_back_to_allow(&open.approval), Outcome::NotAsked { why })
            };
            self.finish(open, end, now, said);
        }
        self.forget_if_empty(whose);
        self.version += 1;
        said.extend(grants.into_values().map(|grant| Said::Ungrant(Box::new(grant))));
    }

    /// A session is left to somebody else, with everything that is open in it.
    pub fn forget(&mut self, session: SessionId) {
        if let Some(bucket) = self.buckets.remove(&Whose::Session(session)) {
            self.n_open -= bucket.open.len();
            self.version += 1;
        }
    }
}
