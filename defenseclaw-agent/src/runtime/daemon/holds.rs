//! Hooks whose answers wait for a person: between the loop, which learns what the person said, and the requests, which wait
//! for it. Their number is bounded; when the daemon stops, or the loop has forgotten what it was asked, nobody waits on.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time,
};

use crate::model::Outcome;

/// Hooks that are held at once, of all users. Fewer than connections, so that others are still answered.
const HELD_MAX: u32 = 256;

/// What a held hook learns.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// There is an answer to all that was asked, and how the last question ended.
    Settled { allow: bool, outcome: Option<Outcome> },
    /// There will be none.
    Ended,
}

/// Shared by requests and the loop.
#[derive(Clone)]
pub(super) struct Holds(Arc<Inner>);

struct Inner {
    next: AtomicU64,
    open: Mutex<Open>,
    room: Arc<Semaphore>,
}

#[derive(Default)]
struct Open {
    stopped: bool,
    held: BTreeMap<u64, Held>,
}

struct Held {
    /// Questions without an answer.
    left: usize,
    tell: oneshot::Sender<Told>,
}

/// One held hook. Nothing is left of it when this is gone.
pub(super) struct Hold {
    pub(super) ticket: u64,
    told: oneshot::Receiver<Told>,
    holds: Holds,
    _room: OwnedSemaphorePermit,
}

impl Default for Holds {
    fn default() -> Self {
        let room = Arc::new(Semaphore::new(HELD_MAX as usize));
        Self(Arc::new(Inner { next: AtomicU64::new(1), open: Mutex::default(), room }))
    }
}

impl Holds {
    fn with<R>(&self, change: impl FnOnce(&mut Open) -> R) -> R {
        change(&mut self.0.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Room for a hook about so many questions; none if there are too many, or if the daemon stops.
    pub(super) fn hold(&self, questions: usize) -> Option<Hold> {
        let room = Arc::clone(&self.0.room).try_acquire_owned().ok()?;
        let ticket = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        let taken = self.with(|open| {
            if !open.stopped {
                open.held.insert(ticket, Held { left: questions, tell });
            }
            !open.stopped
        });
        taken.then(|| Hold { ticket, told, holds: self.clone(), _room: room })
    }

    /// A question of a hook has an answer. The hook has one when all are allowed, or the first is not.
    pub(super) fn settle(&self, ticket: u64, allow: bool, outcome: Option<Outcome>) {
        self.with(|open| {
            let Some(held) = open.held.get_mut(&ticket) else { return };
            held.left = held.left.saturating_sub(1);
            if allow && held.left > 0 {
                return;
            }
            if let Some(held) = open.held.remove(&ticket) {
                // Who waited may have gone.
                held.tell.send(Told::Settled { allow, outcome }).ok();
            }
        });
    }

    /// Nobody knows any more what was asked.
    pub(super) fn release(&self) {
        for held in self.with(|open| std::mem::take(&mut open.held)).into_values() {
            held.tell.send(Told::Ended).ok();
        }
    }

    /// Nothing is held from now on.
    pub(super) fn stop(&self) {
        self.with(|open| open.stopped = true);
        self.release();
    }

    /// Waits a while until those that were held are answered and kept.
    pub(super) async fn drained(&self, patience: Duration) {
        time::timeout(patience, self.0.room.acquire_many(HELD_MAX)).await.ok();
    }

    pub(super) fn count(&self) -> usize {
        self.with(|open| open.held.len())
    }
}

impl Hold {
    /// What the person said; none if nobody said anything until then.
    pub(super) async fn told(&mut self, until: time::Instant) -> Option<Told> {
        // The sender is with the holds for as long as this is.
        time::timeout_at(until, &mut self.told).await.ok().map(|told| told.unwrap_or(Told::Ended))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.holds.with(|open| open.held.remove(&self.ticket));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn told(hold: &mut Hold) -> Option<Told> {
        hold.told(time::Instant::now()).await
    }

    #[tokio::test]
    async fn all_must_be_allowed_and_one_no_is_enough() {
        let holds = Holds::default();
        let yes = Told::Settled { allow: true, outcome: None };
        let no = Told::Settled { allow: false, outcome: Some(Outcome::Expired) };
        let [mut all, mut one] = [3, 3].map(|questions| holds.hold(questions).unwrap());
        for _ in 0..2 {
            holds.settle(all.ticket, true, None);
        }
        holds.settle(one.ticket, true, None);
        assert_eq!((told(&mut all).await, told(&mut one).await), (None, None));
        holds.settle(all.ticket, true, None);
        holds.settle(one.ticket, false, Some(Outcome::Expired));
        // Too late.
        holds.settle(one.ticket, true, None);
        assert_eq!((told(&mut all).await, told(&mut one).await), (Some(yes), Some(no)));
        assert_eq!(holds.count(), 0);
    }

    #[tokio::test]
    async fn there_is_room_for_so_many_and_none_after_the_end() {
        let holds = Holds::default();
        let mut held: Vec<_> = std::iter::from_fn(|| holds.hold(1)).collect();
        assert_eq!(held.len(), HELD_MAX as usize);
        held.truncate(2);
        assert_eq!(holds.count(), 2);
        holds.stop();
        assert!(holds.hold(1).is_none());
        for mut hold in held.drain(..) {
            assert_eq!(told(&mut hold).await, Some(Told::Ended));
        }
        holds.drained(Duration::from_mins(1)).await;
        assert_eq!(holds.0.room.available_permits(), HELD_MAX as usize);
    }
}
