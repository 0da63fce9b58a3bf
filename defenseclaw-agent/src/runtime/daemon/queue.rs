//! From requests, which may not wait for a disk or a burst of records, to the loop, which may. The queue is bounded. Who
//! asks waits a while until the loop is done with its hook; a row that finds no room meanwhile is counted and becomes a
//! `Loss` row.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::{
    sync::{mpsc, oneshot},
    time,
};

use super::{
    holds::Holds,
    judge,
    view::View,
    watch::{self, Loop},
};
use crate::{
    model::{BootTime, HookCall, Loss, LossReason, ProcessKey},
    policy,
    runtime::{asking::Inbox, recorder::Recorder},
    store::{StoreError, Writer},
};

/// Hooks that wait for the loop.
const QUEUE: usize = 1024;
/// How long who asks is kept waiting; its own deadline is longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the loop is told.
pub(super) enum Message {
    /// A hook was judged.
    Hook(Box<Ask>),
    /// A person is to be asked about a hook, until then; its own row comes when it is answered.
    Question { question: Box<Question>, until: BootTime, done: oneshot::Sender<()> },
    /// The hook with this ticket does not wait any more.
    Withdrawn(u64),
}

/// A judged hook about which a person is to be asked.
pub(super) struct Question {
    /// Its answer is not the last word.
    pub(super) call: Box<HookCall>,
    pub(super) whose: Whose,
    pub(super) ancestry: Vec<ProcessKey>,
    /// Never empty.
    pub(super) questions: Vec<judge::Question>,
    pub(super) ticket: u64,
}

/// A judged hook whose answer waits.
pub(super) struct Ask {
    pub(super) call: Box<HookCall>,
    /// None of one that is told late: it says nothing of who runs now.
    pub(super) whose: Option<Whose>,
    /// Who asked and its ancestors.
    pub(super) ancestry: Vec<ProcessKey>,
    /// What the agent is about to ask its user.
    pub(super) questions: Vec<judge::Question>,
    /// Told when everything that it leads to is done.
    pub(super) done: oneshot::Sender<()>,
}

/// What is known of the run of the agent that asks.
pub(super) struct Whose {
    pub(super) home: String,
    pub(super) project: String,
    /// None where it is not judged.
    pub(super) policy: Option<Judge>,
}

/// The policy that judges a run of an agent.
pub(super) struct Judge {
    pub(super) name: String,
    pub(super) digest: String,
    /// Of the daemon's policies, not of the kernel's images.
    pub(super) generation: u64,
    pub(super) session: Arc<policy::Session>,
}

/// Rows that found no room.
#[derive(Clone, Default)]
pub(super) struct Lost(Arc<Mutex<Option<Loss>>>);

impl Lost {
    pub(super) fn take(&self) -> Option<Loss> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn add(&self, count: usize, boot: BootTime) {
        if count == 0 {
            return;
        }
        let mut lost = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sum = lost.get_or_insert_with(|| Loss {
            kind: "hook".to_owned(),
            reason: LossReason::QueueFull,
            count: 0,
            first: boot,
            last: boot,
            session: None,
        });
        sum.count += count as u64;
        sum.last = sum.last.max(boot);
    }
}

/// There is no room for more, or nobody takes any.
struct Full;

/// Where hooks go.
pub(super) struct Queue {
    sender: Mutex<Option<mpsc::Sender<Message>>>,
    lost: Lost,
}

/// The loop's thread.
pub(super) struct Thread {
    ready: oneshot::Receiver<()>,
    ended: oneshot::Receiver<Result<(), StoreError>>,
}

impl Queue {
    /// Starts the loop. It loads its programs first, if it is to watch; hooks can be sent meanwhile.
    pub(super) fn start(
        writer: Writer,
        boot_id: String,
        watch: bool,
        view: View,
        holds: Holds,
        inbox: Inbox,
    ) -> io::Result<(Self, Thread)> {
        let (sender, hooks) = mpsc::channel(QUEUE);
        let (loaded, ready) = oneshot::channel();
        let (done, ended) = oneshot::channel();
        let lost = Lost::default();
        let counted = lost.clone();
        view.level(Err("the programs are still being loaded"));
        thread::Builder::new().name("watch".to_owned()).spawn(move || {
            let sensor =
                if watch { watch::load() } else { Err("the configuration says `watch: false`".to_owned()) };
            match &sensor {
                Ok(sensor) => tracing::info!(level = sensor.protection().level.as_str(), "watching"),
                Err(why) if watch => tracing::warn!("nothing is watched: {why}"),
                Err(why) => tracing::info!("nothing is watched: {why}"),
            }
            let looping = Loop::new(Recorder::new(writer), sensor, boot_id, counted, view, holds, inbox);
            // If nobody waits for either any more, nobody needs it.
            loaded.send(()).ok();
            done.send(looping.run(hooks)).ok();
        })?;
        Ok((Self { sender: Mutex::new(Some(sender)), lost }, Thread { ready, ended }))
    }

    /// A row of which nothing follows.
    pub(super) async fn keep(&self, call: HookCall) {
        self.add(call, None, Vec::new(), Vec::new()).await;
    }

    /// Waits until the loop is done with a hook, but not for long: then its row is kept later, or counted.
    pub(super) async fn add(
        &self,
        call: HookCall,
        whose: Option<Whose>,
        ancestry: Vec<ProcessKey>,
        questions: Vec<judge::Question>,
    ) {
        let boot = call.boot;
        let make =
            |done| Message::Hook(Box::new(Ask { call: Box::new(call), whose, ancestry, questions, done }));
        match self.send(make).await {
            Ok(true) => {}
            Ok(false) => tracing::debug!("a hook is answered before the loop is done with it"),
            Err(Full) => self.lost.add(1, boot),
        }
    }

    /// Whether the loop has the question. It may be busy with it.
    pub(super) async fn ask(&self, question: Question, until: BootTime) -> bool {
        let question = Box::new(question);
        self.send(|done| Message::Question { question, until, done }).await.is_ok()
    }

    /// A hook does not wait any more. If that finds no room, its question ends with its deadline.
    pub(super) async fn withdraw(&self, ticket: u64) {
        let sender = self.sender();
        if let Some(sender) = sender {
            time::timeout(PATIENCE, sender.send(Message::Withdrawn(ticket))).await.ok();
        }
    }

    /// Whether the loop was done with it in time.
    async fn send(&self, make: impl FnOnce(oneshot::Sender<()>) -> Message) -> Result<bool, Full> {
        let sender = self.sender().ok_or(Full)?;
        let deadline = time::Instant::now() + PATIENCE;
        let room =
            time::timeout_at(deadline, sender.reserve()).await.ok().and_then(Result::ok).ok_or(Full)?;
        let (done, answered) = oneshot::channel();
        room.send(make(done));
        Ok(time::timeout_at(deadline, answered).await.is_ok())
    }

    fn sender(&self) -> Option<mpsc::Sender<Message>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// No more hooks: the loop takes what there is and ends.
    pub(super) fn end(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Thread {
    /// Waits until it watches, or has found out that it cannot.
    pub(super) async fn ready(&mut self) {
        // An error says that the thread is gone; its end says why.
        (&mut self.ready).await.ok();
    }

    /// An error if rows are neither stored nor accounted for.
    pub(super) async fn wait(self) -> Result<(), StoreError> {
        // The thread answers unless it panicked, and then the writer's own end has closed the audit.
        self.ended.await.unwrap_or(Ok(()))
    }
}
