//! The socket's end: what is open, for who may see it, and answers on their way to the loop.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::spawn_blocking,
    time,
};

use super::{
    Local,
    inbox::{Answer, Asked, Inbox, Mail, What},
    outside,
};
use crate::{
    api::{Granted, Lasting, Open, Peer, Pending, Question, Said, Since, Untaken},
    model::{
        Answerer, Approval, ApprovalId, ApprovalSettled, BootTime, Grant, GrantId, Ruled, Ruling, SessionId,
        Via,
    },
    pipeline::Limits,
    runtime::clock,
};

/// Answers that wait for the loop.
const QUEUE: usize = 64;
/// How long who answers waits for the loop.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests that wait for a change at once; more are answered at once.
const POLLS_MAX: usize = 64;
/// Questions that are remembered after their end, to say what became of them.
const SETTLED_MAX: usize = 256;

/// What a peer may do here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Rights {
    /// See and answer everything.
    pub(in super::super) all: bool,
    /// See and answer what their own sessions ask.
    pub(in super::super) own: bool,
}

#[derive(Debug, Default)]
struct Shown {
    asked: Asked,
    /// Whose sessions are, where that is known.
    owners: BTreeMap<SessionId, u32>,
    settled: VecDeque<(Box<Approval>, Box<ApprovalSettled>)>,
}

/// Shared by everybody who asks at the socket.
#[derive(Clone, Debug)]
pub(in super::super) struct Desk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shown: Mutex<Shown>,
    changed: watch::Sender<u64>,
    answers: mpsc::Sender<Mail>,
    polls: Semaphore,
    /// One writer at a time.
    local: tokio::sync::Mutex<Local>,
}

impl Desk {
    pub(in super::super) fn new(local: Local) -> (Self, Inbox) {
        let (answers, received) = mpsc::channel(QUEUE);
        let inner = Inner {
            shown: Mutex::default(),
            // Somebody may know a version of a watcher that was here before.
            changed: watch::Sender::new(clock::boot_now().0),
            answers,
            polls: Semaphore::new(POLLS_MAX),
            local: tokio::sync::Mutex::new(local),
        };
        let desk = Self(Arc::new(inner));
        (desk.clone(), Inbox::new(received, desk))
    }

    fn with<R>(&self, work: impl FnOnce(&mut Shown) -> R) -> R {
        work(&mut self.0.shown.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is open now.
    pub(super) fn show(&self, asked: Asked) {
        self.with(|shown| shown.asked = asked);
        self.0.changed.send_modify(|version| *version += 1);
    }

    /// Whose sessions there are.
    pub(in super::super) fn own(&self, owners: BTreeMap<SessionId, u32>) {
        self.with(|shown| shown.owners = owners);
    }

    /// A question was asked, or has ended.
    pub(super) fn note(&self, approval: Box<Approval>, end: Option<Box<ApprovalSettled>>) {
        let Some(end) = end else { return };
        self.with(|shown| {
            if shown.settled.len() >= SETTLED_MAX {
                shown.settled.pop_front();
            }
            shown.settled.push_back((approval, end));
        });
    }

    /// Bounds questions from now on.
    pub(in super::super) fn limit(&self, limits: Limits) {
        if self.0.answers.try_send(Mail::Limits(limits)).is_err() {
            tracing::warn!("the limits of questions stay as they were: the loop is behind");
        }
    }

    /// Nobody is to wait for a change any more.
    pub(in super::super) fn close(&self) {
        self.0.changed.send_replace(u64::MAX);
    }

    pub(in super::super) async fn open(&self, peer: &Peer, rights: Rights, since: Since) -> Open {
        if let Some(after) = since.after
            && let Ok(_place) = self.0.polls.try_acquire()
        {
            let mut changed = self.0.changed.subscribe();
            // Nothing has changed in time, or nobody will say so any more: what is known is the answer.
            time::timeout(since.wait, changed.wait_for(|version| *version != after)).await.map(drop).ok();
        }
        let now = clock::boot_now();
        self.with(|shown| Open {
            version: *self.0.changed.borrow(),
            approvals: shown
                .asked
                .open
                .iter()
                .filter(|(approval, _)| shown.may(peer, rights, approval.session, approval.uid))
                .map(|(approval, waiters)| pending(approval, *waiters, now))
                .collect(),
        })
    }

    pub(in super::super) fn question(&self, peer: &Peer, rights: Rights, id: ApprovalId) -> Option<Question> {
        let now = clock::boot_now();
        self.with(|shown| {
            let may = |approval: &Approval| shown.may(peer, rights, approval.session, approval.uid);
            let open = shown.asked.open.iter().find(|(approval, _)| approval.id == id);
            if let Some((approval, waiters)) = open {
                return may(approval)
                    .then(|| Question { pending: pending(approval, *waiters, now), settled: None });
            }
            let (approval, end) = shown.settled.iter().rev().find(|(approval, _)| approval.id == id)?;
            may(approval).then(|| Question {
                pending: Pending { remaining_ms: 0, ..pending(approval, end.waiters, now) },
                settled: Some((**end).clone()),
            })
        })
    }

    pub(in super::super) fn grants(&self, peer: &Peer, rights: Rights) -> Granted {
        self.with(|shown| Granted {
            grants: shown
                .asked
                .grants
                .iter()
                .filter(|grant| shown.may_grant(peer, rights, grant))
                .cloned()
                .collect(),
        })
    }

    /// The question that an answer is about, if it is open.
    fn asked(&self, peer: &Peer, rights: Rights, id: ApprovalId) -> Result<Box<Approval>, Untaken> {
        let question = self.question(peer, rights, id).ok_or(Untaken::Unknown)?;
        match question.settled {
            None => Ok(Box::new(question.pending.approval)),
            Some(end) => Err(Untaken::Settled(how(&end))),
        }
    }

    /// What "always" would write.
    pub(in super::super) async fn lasting(
        &self,
        peer: &Peer,
        rights: Rights,
        id: ApprovalId,
    ) -> Result<Lasting, Untaken> {
        let approval = self.asked(peer, rights, id)?;
        self.0.local.lock().await.change(&approval).map(|change| change.shown).map_err(Untaken::Impossible)
    }

    /// Hands an answer to the loop, and waits for what becomes of it. "Always" changes policy, so it is for who may.
    pub(in super::super) async fn rule(
        &self,
        peer: &Peer,
        rights: Rights,
        id: ApprovalId,
        said: Said,
    ) -> Result<(), Untaken> {
        let approval = self.asked(peer, rights, id)?;
        if said.ruling != Ruling::Always {
            return self.answer(peer, approval, said).await;
        }
        if !rights.all {
            let why = "only who may change the policy can say always; say session instead";
            return Err(Untaken::Forbidden(why.to_owned()));
        }
        let local = self.0.local.lock().await;
        // Everything that can fail comes before the answer, but for the last step.
        let ready = local.change(&approval).and_then(|change| local.prepare(&change));
        let ready = ready.map_err(Untaken::Impossible)?;
        self.answer(peer, approval, said).await?;
        ready.commit().map_err(|why| {
            tracing::error!("allowed for the session only: {why}");
            Untaken::Impossible(format!("allowed for the session only: {why}"))
        })?;
        self.0.answers.send(Mail::Reread).await.ok();
        Ok(())
    }

    async fn answer(&self, peer: &Peer, approval: Box<Approval>, said: Said) -> Result<(), Untaken> {
        let now = clock::boot_now();
        let by = answerer(peer, said.via);
        let ruled = Ruled {
            approval: approval.id,
            ruling: said.ruling,
            message: said.message,
            expires: said.expires_s.map(|seconds| BootTime(now.0 + seconds * 1_000_000_000)),
            by: by.clone(),
        };
        let result = self.hand(peer, What::Rule(Box::new(ruled), approval.clone()), by).await;
        // The end that came first says more than that there was one.
        match result {
            Err(Untaken::Impossible(why)) => {
                let end = self.with(|shown| {
                    let end = shown.settled.iter().rev().find(|(known, _)| known.id == approval.id);
                    end.map(|(_, end)| how(end))
                });
                Err(end.map_or(Untaken::Impossible(why), Untaken::Settled))
            }
            other => other,
        }
    }

    pub(in super::super) async fn revoke(
        &self,
        peer: &Peer,
        rights: Rights,
        id: GrantId,
        via: Via,
    ) -> Result<(), Untaken> {
        let known = self.with(|shown| {
            let grant = shown.asked.grants.iter().find(|grant| grant.id == id);
            grant.is_some_and(|grant| shown.may_grant(peer, rights, grant))
        });
        if !known {
            return Err(Untaken::Unknown);
        }
        let result = self.hand(peer, What::Revoke(id), answerer(peer, via)).await;
        // It was there a moment ago.
        result.map_err(|why| if let Untaken::Impossible(why) = why { Untaken::Settled(why) } else { why })
    }

    async fn hand(&self, peer: &Peer, what: What, by: Answerer) -> Result<(), Untaken> {
        let caller = peer.caller;
        // All of /proc may have to be looked at.
        let found = spawn_blocking(move || outside::suspects(caller)).await;
        let Ok(Some(suspects)) = found else {
            let why = "who answers is gone, or cannot be told";
            tracing::warn!(uid = by.uid, pid = by.pid, why, "an answer was refused");
            return Err(Untaken::Forbidden(why.to_owned()));
        };
        let (reply, answered) = oneshot::channel();
        let handed = async {
            self.0.answers.send(Mail::Answer(Answer { what, by, suspects, reply })).await.ok()?;
            answered.await.ok()
        };
        time::timeout(PATIENCE, handed).await.ok().flatten().unwrap_or(Err(Untaken::Late))
    }
}

impl Shown {
    /// Whether a peer may see and answer. Their own is what runs as them in a session of theirs: a process of somebody else
    /// in it asks for more than they have.
    fn may(&self, peer: &Peer, rights: Rights, session: Option<SessionId>, uid: u32) -> bool {
        let own = peer.caller.uid;
        let owner = session.and_then(|session| self.owners.get(&session).copied());
        rights.all || (rights.own && uid == own && owner.is_none_or(|owner| owner == own))
    }

    /// Of a grant only its session and its giver are known.
    fn may_grant(&self, peer: &Peer, rights: Rights, grant: &Grant) -> bool {
        let owner = grant.session.and_then(|session| self.owners.get(&session).copied());
        let own = peer.caller.uid;
        rights.all || (rights.own && owner.unwrap_or(grant.by.uid) == own)
    }
}

fn answerer(peer: &Peer, via: Via) -> Answerer {
    Answerer { uid: peer.caller.uid, pid: peer.caller.pid, via }
}

fn pending(approval: &Approval, waiters: u64, now: BootTime) -> Pending {
    let remaining_ms = approval.deadline.0.saturating_sub(now.0) / 1_000_000;
    Pending { approval: approval.clone(), waiters, remaining_ms }
}

/// How a question ended, for who comes too late.
fn how(end: &ApprovalSettled) -> String {
    use crate::model::Outcome;
    let became = if end.allowed { "allowed" } else { "blocked" };
    match &end.outcome {
        Outcome::Ruled { ruling, by, .. } => {
            format!("settled already: {became}, {ruling} by uid {} ({})", by.uid, by.via)
        }
        Outcome::Expired => format!("settled already: {became}, because nobody had answered in time"),
        Outcome::NotAsked { why } | Outcome::Withdrawn { why } => {
            format!("settled already: {became}, {why}")
        }
        Outcome::Orphaned => format!("settled already: {became}, because nobody kept the question"),
    }
}
