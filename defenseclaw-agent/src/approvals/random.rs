//! Any order of questions, answers, ends, ticks and policies: what must hold whatever happens.

use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;

use super::{
    tests::{SECOND, process, question},
    *,
};
use crate::model::{Ruled, SessionId, Subject};

const WAIT: u64 = 30 * SECOND;
const OPEN_MAX: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Ask { who: u32, kind: u8, object: u8, exact: bool, lenient: bool },
    Answer { id: u64, ruling: Ruling, expires: u64 },
    Race { id: u64 },
    Revoke { id: u64 },
    Exit { who: u32 },
    Exec { who: u32 },
    HungUp { who: u32 },
    Pass { seconds: u64 },
    Reask { session: u64 },
    End { session: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let ruling = prop::sample::select(Ruling::ALL.to_vec());
    prop_oneof![
        8 => (0..8u32, 0..4u8, 0..5u8, prop::bool::weighted(0.9), any::<bool>()).prop_map(
            |(who, kind, object, exact, lenient)| Step::Ask { who, kind, object, exact, lenient }
        ),
        4 => (1..40u64, ruling, 1..60u64)
            .prop_map(|(id, ruling, expires)| Step::Answer { id, ruling, expires }),
        1 => (1..40u64).prop_map(|id| Step::Race { id }),
        1 => (1..10u64).prop_map(|id| Step::Revoke { id }),
        1 => (0..8u32).prop_map(|who| Step::Exit { who }),
        1 => (0..8u32).prop_map(|who| Step::Exec { who }),
        1 => (0..8u32).prop_map(|who| Step::HungUp { who }),
        3 => (0..20u64).prop_map(|seconds| Step::Pass { seconds }),
        1 => (0..2u64).prop_map(|session| Step::Reask { session }),
        1 => (0..2u64).prop_map(|session| Step::End { session }),
    ]
}

/// Processes stay in their session.
fn session_of(who: u32) -> SessionId {
    SessionId(u64::from(who % 2))
}

type Waits = (SessionId, Subject, Waiter);

/// What must be true, kept by hand.
#[derive(Default)]
struct Watch {
    all: Approvals,
    now: u64,
    /// Until when each of them may wait at most.
    pending: HashMap<Waits, u64>,
    asked: HashMap<ApprovalId, Approval>,
    settled: HashMap<ApprovalId, ApprovalSettled>,
    grants: BTreeMap<GrantId, Grant>,
    answered: HashSet<ApprovalId>,
    tickets: u64,
    /// Hooks are asked once each.
    hooks: u64,
}

impl Watch {
    fn time(&self) -> BootTime {
        BootTime(self.now)
    }

    fn step(&mut self, step: &Step) {
        let now = self.time();
        let mut said = Vec::new();
        match *step {
            Step::Ask { who, kind, object, exact, lenient } => {
                let process = process(who);
                let (waiter, object) = match kind {
                    0 => (Waiter::Paused { process, tid: who }, object),
                    // It cannot ask about anything else before it was let go on.
                    1 => (Waiter::Held { process }, 100 + u8::try_from(who).unwrap()),
                    2 => {
                        self.hooks += 1;
                        (Waiter::Hook { process, ticket: self.hooks * 8 + u64::from(who) }, object)
                    }
                    _ => (Waiter::Retry { process, tid: who }, object),
                };
                let session = session_of(who);
                let mut asks = question(Some(session), &format!("/{object}"), waiter.clone());
                asks.fallback = if lenient { PolicyAction::Allow } else { PolicyAction::Block };
                if kind == 0 {
                    self.pending.retain(|(_, subject, one), _| *one != waiter || *subject == asks.subject);
                }
                let key = (session, asks.subject.clone(), waiter);
                self.pending.entry(key).or_insert(self.now + WAIT);
                self.all.ask(asks, exact, None, now, &mut said);
            }
            Step::Answer { id, ruling, expires } => {
                self.answer(id, ruling, BootTime(self.now + expires * SECOND), &mut said);
            }
            Step::Race { id } => {
                let stood = self.all.get(ApprovalId(id)).is_some();
                let first = self.answer(id, Ruling::Once, BootTime(u64::MAX), &mut said);
                let second = self.answer(id, Ruling::Deny, BootTime(u64::MAX), &mut said);
                assert_eq!((first, second), (stood, false));
            }
            Step::Revoke { id } => {
                let known = self.grants.contains_key(&GrantId(id));
                let by = Answerer { uid: 0, pid: 0, via: Via::Api };
                self.all.revoke(GrantId(id), by, 0, now, &mut said);
                assert!(matches!(said.pop(), Some(Said::Answered { result, .. }) if result.is_ok() == known));
            }
            Step::Exit { who } => {
                self.pending.retain(|(.., waiter), _| {
                    open::process_of(waiter) != process(who) || matches!(waiter, Waiter::Retry { .. })
                });
                self.all.exited(session_of(who), process(who), now, &mut said);
            }
            Step::Exec { who } => {
                let gone = |waiter: &Waiter| matches!(waiter, Waiter::Paused { process: one, .. } if *one == process(who));
                self.pending.retain(|(.., waiter), _| !gone(waiter));
                self.all.replaced(session_of(who), process(who), now, &mut said);
            }
            Step::HungUp { who } => {
                let ticket = self.hooks * 8 + u64::from(who);
                self.pending.retain(
                    |(.., waiter), _| !matches!(waiter, Waiter::Hook { ticket: one, .. } if *one == ticket),
                );
                self.all.hung_up(ticket, now, &mut said);
            }
            Step::Pass { seconds } => {
                self.now += seconds * SECOND;
                self.all.tick(self.time(), &mut said);
            }
            Step::Reask { session } => {
                self.all.reask(SessionId(session), now, &mut said);
                // The next try of who was refused asks anew.
                self.pending.retain(|(one, _, waiter), _| {
                    *one != SessionId(session) || !matches!(waiter, Waiter::Retry { .. })
                });
            }
            Step::End { session } => {
                self.all.end(SessionId(session), now, &mut said);
                self.hear(said, step);
                said = Vec::new();
                self.grants.retain(|_, grant| grant.session != Some(SessionId(session)));
            }
        }
        self.hear(said, step);
        self.check();
    }

    /// Whether it was taken.
    fn answer(&mut self, id: u64, ruling: Ruling, expires: BootTime, said: &mut Vec<Said>) -> bool {
        let approval = ApprovalId(id);
        let stood = self.all.get(approval).is_some();
        self.tickets += 1;
        let by = Answerer { uid: 0, pid: 0, via: Via::Command };
        let ruled = Ruled { approval, ruling, message: None, expires: Some(expires), by };
        self.all.rule(ruled, self.tickets, self.time(), said);
        let Some(Said::Answered { ticket, result }) = said.pop() else { panic!("{said:?}") };
        assert_eq!(ticket, self.tickets);
        assert_eq!(result.is_ok(), stood, "{result:?}");
        if result.is_ok() {
            self.answered.insert(approval);
        }
        result.is_ok()
    }

    fn hear(&mut self, said: Vec<Said>, step: &Step) {
        for said in said {
            match said {
                Said::Row(AuditRecord::Asked(row)) => {
                    assert!(self.asked.insert(row.id, *row).is_none(), "asked twice");
                }
                Said::Row(AuditRecord::Settled(row)) => {
                    assert!(self.asked.contains_key(&row.id));
                    assert!(self.settled.insert(row.id, row).is_none(), "settled twice");
                }
                Said::Row(AuditRecord::Granted(row)) => {
                    assert!(self.answered.contains(&row.approval));
                    assert_eq!(self.asked[&row.approval].subject, row.subject);
                    let equal =
                        |grant: &Grant| (grant.session, &grant.subject) == (row.session, &row.subject);
                    assert!(!self.grants.values().any(equal), "two grants for one thing");
                    self.grants.insert(row.id, row);
                }
                Said::Row(AuditRecord::GrantEnded(row)) => {
                    assert!(self.grants.remove(&row.id).is_some());
                }
                Said::Row(row) => panic!("{row:?}"),
                Said::Settle { approval, waiters, verdict, grant, .. } => {
                    assert_eq!(self.asked[&approval.id].subject, approval.subject);
                    let end = self.settled.get(&approval.id);
                    match verdict {
                        Settlement::AskAgain => assert!(matches!(step, Step::Reask { .. })),
                        Settlement::Block => assert!(end.is_some_and(|end| !end.allowed)),
                        Settlement::Allow => {
                            assert!(end.is_some_and(|end| end.allowed && self.permitted(&approval, end)));
                        }
                    }
                    if let Some(grant) = grant {
                        assert_eq!(self.grants.get(&grant.id), Some(&*grant));
                        assert_eq!((&grant.subject, grant.session), (&approval.subject, approval.session));
                    }
                    for waiter in waiters {
                        let key = (approval.session.unwrap(), approval.subject.clone(), waiter);
                        assert!(self.pending.remove(&key).is_some(), "settled without waiting: {key:?}");
                    }
                }
                Said::Ungrant(grant) => {
                    assert!(matches!(step, Step::End { .. }) || !self.grants.contains_key(&grant.id));
                }
                Said::Notify(approval, end) => {
                    let over = end.is_some();
                    assert_eq!(over, self.settled.contains_key(&approval.id));
                }
                Said::Answered { .. } => panic!("nobody answered"),
            }
        }
    }

    /// Somebody or something said yes to exactly this.
    fn permitted(&self, approval: &Approval, end: &ApprovalSettled) -> bool {
        match &end.outcome {
            Outcome::Ruled { by, .. } if by.via == Via::Grant => self.grants.values().any(|grant| {
                (grant.session, &grant.subject) == (approval.session, &approval.subject)
                    && grant.expires.is_none_or(|end| end > self.time())
            }),
            Outcome::Ruled { ruling, .. } => *ruling != Ruling::Deny && self.answered.contains(&approval.id),
            Outcome::Expired | Outcome::NotAsked { .. } => approval.fallback == PolicyAction::Allow,
            Outcome::Withdrawn { .. } | Outcome::Orphaned => false,
        }
    }

    fn check(&self) {
        for (waits, until) in &self.pending {
            assert!(*until > self.now, "{waits:?} waits beyond its deadline");
        }
        let mut counts: BTreeMap<_, usize> = BTreeMap::new();
        let mut waiting = 0;
        for (asked, waiters) in self.all.open() {
            *counts.entry(asked.session).or_default() += 1;
            waiting += waiters;
            assert!(waiters > 0 && !self.settled.contains_key(&asked.id));
            assert!(self.all.next_deadline().is_some_and(|wake| wake <= asked.deadline));
        }
        assert_eq!(waiting, self.pending.len(), "{:?}", self.pending);
        assert!(counts.values().all(|count| *count <= OPEN_MAX));
        let listed: BTreeMap<_, _> = self.all.grants().map(|grant| (grant.id, grant.clone())).collect();
        assert_eq!(listed, self.grants);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn everybody_is_settled_once_in_time_and_only_with_a_reason(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut watch = Watch::default();
        watch.all.limit(Limits { open_max: OPEN_MAX, wait: Duration::from_nanos(WAIT) });
        for step in &steps {
            watch.step(step);
        }
        let mut said = Vec::new();
        watch.all.stop(watch.time(), &mut said);
        watch.hear(said, &Step::End { session: 0 });
        prop_assert!(watch.pending.is_empty(), "{:?}", watch.pending);
        prop_assert_eq!(watch.asked.len(), watch.settled.len());
        prop_assert_eq!(watch.all.open().count() + watch.all.grants().count(), 0);
    }
}
