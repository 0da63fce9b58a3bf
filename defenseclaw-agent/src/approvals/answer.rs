//! What people say: answers to questions, and grants that they take back.

use super::{Approvals, End, GRANTS_MAX, RETRY_WITHIN, Said, after, open::Whose};
use crate::model::{
    Answerer, Approval, ApprovalId, ApprovalSettled, BootTime, Grant, GrantId, Outcome, Ruled, Ruling, Waiter,
};

/// Longest message to an agent, in bytes.
const MESSAGE_MAX: usize = 4 << 10;

impl Approvals {
    /// Somebody answers. The first answer counts; who comes later is told.
    pub fn rule(&mut self, ruled: Ruled, ticket: u64, now: BootTime, said: &mut Vec<Said>) {
        self.tick(now, said);
        let result = self.take_in(ruled, now, said);
        said.push(Said::Answered { ticket, result });
    }

    fn take_in(&mut self, ruled: Ruled, now: BootTime, said: &mut Vec<Said>) -> Result<(), String> {
        let Ruled { approval: id, ruling, mut message, expires, by } = ruled;
        let found =
            self.buckets.iter().find_map(|(whose, bucket)| Some((whose.clone(), bucket.open.get(&id)?)));
        let Some((whose, open)) = found else { return Err(self.why_not(id)) };
        if open.native {
            return Err(format!("{id} is asked in the agent's own dialogue; answer it there"));
        }
        let retried = open.waiters.iter().any(|waiter| matches!(waiter, Waiter::Retry { .. }));
        let ends = match ruling {
            Ruling::Deny => None,
            // What was refused already can only be allowed for its next try.
            Ruling::Once => retried.then(|| Some(after(now, RETRY_WITHIN))),
            Ruling::Session => Some(expires),
            Ruling::Always => Some(None),
        };
        let watched = matches!(whose, Whose::Session(_));
        if ruling == Ruling::Session && !watched {
            return Err(format!("{id} belongs to no watched session; allow it once, or deny it"));
        }
        if ends.flatten().is_some_and(|end| end <= now) {
            return Err("the grant would have expired before it was given; choose a later end".to_owned());
        }
        let bucket = self.buckets.get(&whose);
        if ends.is_some() && bucket.is_some_and(|bucket| bucket.grants.len() >= GRANTS_MAX) {
            return Err(format!(
                "this session has {GRANTS_MAX} grants; revoke some, allow it once, or deny it"
            ));
        }
        let Some(open) = self.take(&whose, id) else { return Err(self.why_not(id)) };
        let grant = ends.filter(|_| watched).map(|ends| self.grant(&open.approval, ends, &by, now, said));
        if let Some(message) = &mut message {
            message.truncate(message.floor_char_boundary(MESSAGE_MAX));
        }
        let outcome = Outcome::Ruled { ruling, by, message };
        self.finish(open, End { allowed: ruling != Ruling::Deny, outcome, grant }, now, said);
        Ok(())
    }

    pub(super) fn grant(
        &mut self,
        approval: &Approval,
        expires: Option<BootTime>,
        by: &Answerer,
        now: BootTime,
        said: &mut Vec<Said>,
    ) -> Box<Grant> {
        self.last_grant += 1;
        let grant = Grant {
            id: GrantId(self.last_grant),
            approval: approval.id,
            session: approval.session,
            subject: approval.subject.clone(),
            since: now,
            expires,
            by: by.clone(),
        };
        let whose = Whose::of(approval);
        let before = self.buckets.get(&whose).and_then(|bucket| bucket.grants.get(&grant.subject));
        // It would have answered the question, so there is none; if there is, there must not be two.
        if let Some(before) = before.map(|before| before.id) {
            self.end_grant(before, Some(by.clone()), now, said);
        }
        if let Some(end) = expires {
            self.wakes_at(end);
        }
        self.buckets.entry(whose).or_default().grants.insert(grant.subject.clone(), grant.clone());
        self.version += 1;
        Box::new(grant)
    }

    /// Somebody takes a grant back.
    pub fn revoke(&mut self, id: GrantId, by: Answerer, ticket: u64, now: BootTime, said: &mut Vec<Said>) {
        self.tick(now, said);
        let known = self.end_grant(id, Some(by), now, said);
        let result = known.then_some(()).ok_or_else(|| {
            let given = (1..=self.last_grant).contains(&id.0);
            if given { format!("{id} has ended already") } else { format!("there is no grant {id}") }
        });
        said.push(Said::Answered { ticket, result });
    }

    fn why_not(&self, id: ApprovalId) -> String {
        if let Some(settled) = self.ended(id) {
            return format!("{id} was settled already: {}", how(settled));
        }
        let given = (1..=self.last_approval).contains(&id.0);
        if given { format!("{id} was settled long ago") } else { format!("there is no question {id}") }
    }
}

/// How a question ended, in words.
fn how(settled: &ApprovalSettled) -> String {
    let became = if settled.allowed { "allowed" } else { "denied" };
    match &settled.outcome {
        Outcome::Ruled { ruling: Ruling::Deny, by, .. } => format!("denied by user {} ({})", by.uid, by.via),
        Outcome::Ruled { ruling, by, .. } => format!("allowed ({ruling}) by user {} ({})", by.uid, by.via),
        Outcome::Expired => format!("{became}, because nobody answered in time"),
        Outcome::NotAsked { why } => format!("{became}, and nobody was asked: {why}"),
        Outcome::Withdrawn { why } => format!("withdrawn: {why}"),
        Outcome::Orphaned => format!("{became} while nobody watched"),
    }
}
