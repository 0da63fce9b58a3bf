//! The loop's end: takes answers in, says what became of them, and shows what is open. Only the loop that has the sensor can
//! tell whether who answers is watched, so it is asked here.

use std::{collections::BTreeMap, future::pending, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time,
};
use tracing::{info, warn};

use super::{Desk, outside::Suspect};
use crate::{
    api::Untaken,
    model::{Answerer, Approval, ApprovalSettled, BootTime, Grant, GrantId, ProcessKey, Ruled, SessionId},
    pipeline::{Input, Limits},
    runtime::clock,
    sensor::Sensor,
};

/// What an answer is about.
#[derive(Debug)]
pub(super) enum What {
    Rule(Box<Ruled>, Box<Approval>),
    Revoke(GrantId),
}

/// An answer on its way to the loop.
#[derive(Debug)]
pub(in super::super) struct Answer {
    pub(super) what: What,
    pub(super) by: Answerer,
    pub(super) suspects: Vec<Suspect>,
    pub(super) reply: oneshot::Sender<Result<(), Untaken>>,
}

/// What comes in.
#[derive(Debug)]
pub(in super::super) enum Mail {
    Answer(Answer),
    /// The local policy was written.
    Reread,
    /// Bounds questions from now on.
    Limits(Limits),
}

/// What is to be done about it.
#[derive(Debug)]
pub(in super::super) enum Taken {
    Input(Input),
    /// Read the policy again.
    Reread,
    Limits(Limits),
    /// It was refused.
    Nothing,
}

/// What the pipeline has to show.
#[derive(Debug, Default)]
pub(in super::super) struct Asked {
    /// Each with how many wait for it.
    pub(in super::super) open: Vec<(Approval, u64)>,
    pub(in super::super) grants: Vec<Grant>,
}

/// The loop's end of a [`Desk`].
#[derive(Debug)]
pub(in super::super) struct Inbox {
    answers: mpsc::Receiver<Mail>,
    desk: Desk,
    waiting: BTreeMap<u64, oneshot::Sender<Result<(), Untaken>>>,
    ticket: u64,
    shown: Option<u64>,
}

impl Inbox {
    pub(super) fn new(answers: mpsc::Receiver<Mail>, desk: Desk) -> Self {
        Self { answers, desk, waiting: BTreeMap::new(), ticket: 0, shown: None }
    }

    /// Whose sessions there are.
    pub(in super::super) fn own(&self, owners: BTreeMap<SessionId, u32>) {
        self.desk.own(owners);
    }

    /// The pipeline has forgotten everything, and with it who waits.
    pub(in super::super) fn forget(&mut self) {
        self.waiting.clear();
        self.shown = None;
    }

    /// The next answer; never, if nobody can give one any more.
    pub(in super::super) async fn next(&mut self) -> Mail {
        match self.answers.recv().await {
            Some(answer) => answer,
            None => pending().await,
        }
    }

    /// What the pipeline is to be told of an answer. Nothing if it was refused. `watched` says whether a process is in a
    /// tree that is watched.
    pub(in super::super) fn take(
        &mut self,
        mail: Mail,
        watched: impl Fn(ProcessKey) -> Result<bool, String>,
    ) -> Taken {
        let Answer { what, by, suspects, reply } = match mail {
            Mail::Answer(answer) => answer,
            Mail::Reread => return Taken::Reread,
            Mail::Limits(limits) => return Taken::Limits(limits),
        };
        let about = match &what {
            What::Rule(ruled, _) => ruled.approval.to_string(),
            What::Revoke(grant) => grant.to_string(),
        };
        if let Err(why) = outside(&what, &suspects, watched) {
            warn!(uid = by.uid, pid = by.pid, via = by.via.as_str(), about, why, "an answer was refused");
            reply.send(Err(Untaken::Forbidden(why))).ok();
            return Taken::Nothing;
        }
        // 0 is the ticket of inputs that nobody waits for.
        self.ticket += 1;
        let ticket = self.ticket;
        info!(uid = by.uid, pid = by.pid, via = by.via.as_str(), about, "an answer");
        self.waiting.insert(ticket, reply);
        Taken::Input(match what {
            What::Rule(ruled, _) => Input::Ruled { ruled, ticket },
            What::Revoke(grant) => Input::Revoked { grant, by, ticket },
        })
    }

    /// What became of answers, which questions there are no more, and what is open now.
    pub(in super::super) fn tell(
        &mut self,
        answered: Vec<(u64, Result<(), String>)>,
        notices: Vec<(Box<Approval>, Option<Box<ApprovalSettled>>)>,
        version: u64,
        asked: impl FnOnce() -> Asked,
    ) {
        for (approval, end) in notices {
            self.desk.note(approval, end);
        }
        if self.shown != Some(version) {
            self.shown = Some(version);
            self.desk.show(asked());
        }
        // After the picture: who has answered and looks again sees it.
        for (ticket, result) in answered {
            if let Some(reply) = self.waiting.remove(&ticket) {
                // Who waited may have lost patience.
                reply.send(result.map_err(Untaken::Impossible)).ok();
            }
        }
    }
}

fn outside(
    what: &What,
    suspects: &[Suspect],
    watched: impl Fn(ProcessKey) -> Result<bool, String>,
) -> Result<(), String> {
    for suspect in suspects {
        // Where nothing is watched, at least who asks and what it hangs from must not answer.
        let asks = match what {
            What::Rule(_, approval) => is_of(approval, suspect.process),
            What::Revoke(_) => false,
        };
        if asks || suspect.launched || watched(suspect.process)? {
            return Err(format!(
                "{} (pid {}) is watched itself; answer from a terminal that no agent has",
                suspect.what, suspect.process.tgid
            ));
        }
    }
    Ok(())
}

/// Whether a process asks the question, or is one of those above it that the session has.
fn is_of(approval: &Approval, process: ProcessKey) -> bool {
    use crate::{model::Waiter, sensor::TICK_NS};
    let (Waiter::Paused { process: first, .. }
    | Waiter::Held { process: first }
    | Waiter::Hook { process: first, .. }
    | Waiter::Agent { process: first }
    | Waiter::Retry { process: first, .. }) = &approval.waiter;
    let above = approval.ancestry.iter().map(|ancestor| &ancestor.process);
    std::iter::once(first)
        .chain(above)
        .any(|known| known.tgid == process.tgid && known.start_ns / TICK_NS == process.start_ns / TICK_NS)
}

/// Waits until the next question's time is over; for ever if none is open.
pub(in super::super) async fn due(deadline: Option<BootTime>) {
    match deadline {
        Some(at) => time::sleep(Duration::from_nanos(at.0.saturating_sub(clock::boot_now().0))).await,
        None => pending().await,
    }
}

/// Whether a process is in a tree that this sensor watches.
pub(in super::super) fn is_watched(sensor: &Sensor, process: ProcessKey) -> Result<bool, String> {
    // Who cannot be looked up is not let in.
    sensor.session_of(process).map(|found| found.is_some()).map_err(|error| error.to_string())
}
