//! Questions and grants that another watcher has left, as the audit knows them.

use super::{
    Approvals, End, Said,
    open::{Open, Whose},
};
use crate::model::{Answerer, BootTime, Outcome, Remembered, Ruling, Via, Waiter};

impl Approvals {
    /// Goes on with them. Of those who waited, the audit knows the first of each question; the others ask again, or somebody
    /// has settled them ([`Approvals::orphaned`]). Replies to hooks went with who held them.
    pub fn restore(&mut self, remembered: Remembered, now: BootTime, said: &mut Vec<Said>) {
        let Remembered { asked, grants, last_approval, last_grant } = remembered;
        self.last_approval = self.last_approval.max(last_approval);
        self.last_grant = self.last_grant.max(last_grant);
        for grant in grants {
            let Some(session) = grant.session else { continue };
            self.last_grant = self.last_grant.max(grant.id.0);
            if let Some(end) = grant.expires {
                self.wakes_at(end);
            }
            let bucket = self.buckets.entry(Whose::Session(session)).or_default();
            bucket.grants.insert(grant.subject.clone(), grant);
            self.version += 1;
        }
        for approval in asked {
            self.last_approval = self.last_approval.max(approval.id.0);
            let open = Open::new(approval, Vec::new());
            let whose = Whose::of(&open.approval);
            let grant = self.buckets.get(&whose).and_then(|bucket| bucket.grants.get(&open.approval.subject));
            if let Some(grant) = grant {
                let by = Answerer { via: Via::Grant, ..grant.by.clone() };
                let outcome = Outcome::Ruled { ruling: Ruling::Session, by, message: None };
                let end = End { grant: Some(Box::new(grant.clone())), ..End::by_itself(true, outcome) };
                self.finish(open, end, now, said);
            } else if matches!(open.approval.waiter, Waiter::Paused { .. } | Waiter::Held { .. }) {
                self.put(whose, open);
            } else {
                let why = "who kept the question was gone".to_owned();
                let mut open = open;
                open.waiters.clear();
                self.finish(open, End::by_itself(false, Outcome::Withdrawn { why }), now, said);
            }
        }
        self.tick(now, said);
    }
}
