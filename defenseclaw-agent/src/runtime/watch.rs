//! The loop: kernel records, signals and the state of the command go in; rows of the audit come out.

use std::{
    collections::HashSet,
    future::{pending, poll_fn},
    os::fd::AsFd,
    path::PathBuf,
    task::Poll,
    time::Duration,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    task::JoinHandle,
    time::{self, Instant, MissedTickBehavior},
};
use tracing::{debug, warn};

use super::{
    asking::{self, Inbox, Mail, Taken},
    changes::Changes,
    clock,
    guard::{CANARY_SESSION, Guard},
    handed::Handed,
    pace::Pace,
    persist::Kept,
    policy::{Compiled, PolicyRejected},
    recorder::{self, Recorder},
    run::{RunError, RunStats},
};
use crate::{
    enforce::{Identities, Stopped},
    launcher::{Running, Signals, Step},
    model::{
        Approval, Event, ExitStatus, Handover, HandoverStep, Loss, PolicyAction, PolicyLoaded, PostureChange,
        SessionId, SessionStart, Waiter,
    },
    pipeline::Input,
    resolver::ResolverStats,
    sensor::Sensor,
    store::{Past, StoreError, Writer},
};

/// How often the rings are read while nothing else wakes us. The kernel does not wake us for each record: at the
/// largest measured rate a ring of 8 MiB fills in about 100 ms.
const READ_EVERY: Duration = Duration::from_millis(20);
/// Losses are looked for, and processes without a recorded end looked after, this often.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// Enforcement is tried, and protected files are looked for, this often.
const PROVE_EVERY: Duration = Duration::from_secs(30);
/// Records taken before signals are looked at again.
const BATCH: usize = 4096;
/// After so many full batches what was in the rings before has been read, however fast they fill: no record has fewer
/// than 64 bytes.
const ROUNDS: usize = (12 << 20) / 64 / BATCH;

/// The policy of the session.
pub(super) struct Policy {
    pub(super) guard: Guard,
    /// To be read again when it changes.
    pub(super) file: Option<PathBuf>,
    /// Until the session's first row is written.
    pub(super) begin: Option<Begin>,
}

/// What the audit has to say before the first event.
pub(super) struct Begin {
    pub(super) loaded: PolicyLoaded,
    pub(super) posture: Option<PostureChange>,
    /// Files that were open already.
    pub(super) handed: Vec<Handed>,
}

/// What takes too long for the loop, and is done beside it.
enum Done {
    Compiled(Box<Result<Compiled, PolicyRejected>>),
    Files(Identities),
}

pub(super) struct Watch {
    sensor: Sensor,
    recorder: Recorder,
    session: SessionId,
    /// Until the kernel's first record says when the root process really started.
    start: Option<Box<SessionStart>>,
    policy: Option<Policy>,
    /// What outlives this process, if it does not come to the end.
    kept: Option<Kept>,
    /// Until it is written: another watcher was here before us.
    handover: Option<Handover>,
    /// Another watcher was here before us, and what it has missed was looked for already.
    settled: Option<bool>,
    /// One at a time.
    job: Option<JoinHandle<Done>>,
    /// To be started when the other job is done.
    reload: Option<Reload>,
    filtered: u64,
    /// Answers to questions for names, until everything is read that happened before them.
    answered: Vec<Event>,
    /// Batches read since they were given.
    rounds: usize,
    events: Vec<Event>,
    tree_ended: bool,
    /// The record of an end may be missing: ask /proc.
    ends_in_doubt: bool,
    pace: Pace,
    /// Where questions are answered, if any are asked.
    inbox: Option<Inbox>,
}

/// Why a policy is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reload {
    /// Its file has changed.
    Changed,
    /// Somebody has asked.
    Asked,
}

impl Watch {
    pub(super) fn new(
        sensor: Sensor,
        writer: Writer,
        start: SessionStart,
        policy: Option<Policy>,
        kept: Option<Kept>,
    ) -> Self {
        Self {
            sensor,
            recorder: Recorder::new(writer),
            session: start.session,
            start: Some(Box::new(start)),
            policy,
            kept,
            handover: None,
            settled: None,
            job: None,
            reload: None,
            filtered: 0,
            answered: Vec::new(),
            rounds: 0,
            events: Vec::new(),
            tree_ended: false,
            ends_in_doubt: false,
            pace: Pace::new(),
            inbox: None,
        }
    }

    /// From now on answers come from there.
    pub(super) fn ask(&mut self, inbox: Inbox) {
        self.inbox = Some(inbox);
    }

    /// From now on what is kept stays in force if this process ends before the tree.
    pub(super) fn outlive(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.place.keep();
        }
    }

    /// Goes on where another watcher has stopped. `past` is what the audit has of it; nothing, if it came to no row.
    pub(super) fn resume(&mut self, handover: Handover, past: Option<&Past>) {
        self.filtered = self.kept.iter().flat_map(|kept| kept.manifest.filtered.values()).sum();
        (self.settled, self.ends_in_doubt) = (Some(false), true);
        // What is in force stays so until it was read again.
        self.reload = Some(Reload::Asked);
        let Some(past) = past else {
            self.handover = Some(handover);
            return;
        };
        self.start = None;
        self.step(Input::Resumed {
            start: Box::new(past.start.clone()),
            events: past.events.values().sum(),
            policies: past.policies.clone(),
            judge: self.policy.as_ref().and_then(|policy| policy.guard.judge()),
            questions: past.questions.clone(),
        });
        self.orphans(&past.questions.asked);
        self.step(Input::Handover(handover));
        if let Some(posture) =
            self.policy.as_mut().and_then(|policy| policy.begin.take()).and_then(|begin| begin.posture)
        {
            self.step(Input::Posture(posture));
        }
    }

    /// Who was asked about and does not wait any more was given the fallback while nobody watched: by the guardian, or by
    /// whoever else took over.
    fn orphans(&mut self, asked: &[Approval]) {
        let waiting = self.policy.as_ref().and_then(|policy| policy.guard.waiting());
        let Some(waiting) = waiting else { return };
        for approval in asked.iter().filter(|approval| !waits(&waiting, &approval.waiter)) {
            let allowed = approval.fallback == PolicyAction::Allow;
            self.step(Input::Orphaned { session: self.session, waiter: approval.waiter.clone(), allowed });
        }
    }

    /// Of the events before: those of processes.
    pub(super) fn replay(&mut self, event: Box<Event>) {
        self.step(Input::Replayed(event));
    }

    /// Watches until the tree has ended, the command has (`detach`), or a signal asks for an end after that.
    pub(super) async fn until_the_end(
        &mut self,
        running: &mut Running,
        signals: &Signals,
        detach: bool,
    ) -> Result<Option<ExitStatus>, RunError> {
        let signals_readable =
            // SAFETY: the descriptor belongs to `signals`, which outlives this function and so the registration.
            unsafe { AsyncFd::register_with_interest(signals.as_fd(), Interest::READABLE) }
                .map_err(|error| RunError::system("wait for signals")(error.into()))?;
        let changes = self.changes();
        if self.policy.is_some() {
            running.keep_hangup();
        }
        let mut status = None;
        let mut tend = self.tend();
        let mut next_read = Instant::now();
        let mut check = time::interval(CHECK_EVERY);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut prove = time::interval_at(Instant::now() + PROVE_EVERY, PROVE_EVERY);
        prove.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                ready = signals_readable.readable() => {
                    let mut ready = ready.map_err(RunError::system("wait for signals"))?;
                    ready.clear_ready();
                    loop {
                        match running.step(signals)? {
                            Step::Idle => break,
                            Step::Stop => {
                                self.drain()?;
                                self.recorder.flush()?;
                                running.stop_along();
                            }
                            Step::Ended(end) => {
                                status = Some(end);
                                self.main_exited(end)?;
                            }
                            Step::Hangup => self.reload = self.reload.max(Some(Reload::Asked)),
                            Step::Asked(signal) => {
                                debug!(signal, "asked to end");
                                return Ok(status);
                            }
                        }
                    }
                }
                mail = mail(self.inbox.as_mut()) => self.ruled(mail)?,
                () = asking::due(self.recorder.next_deadline()) => self.step(Input::Tick),
                () = at(tend) => {}
                _ = check.tick() => self.check()?,
                _ = prove.tick(), if self.policy.is_some() => self.prove(running),
                changed = changed(changes.as_ref()) => {
                    if changed {
                        self.reload = self.reload.max(Some(Reload::Changed));
                    }
                }
                done = finished(&mut self.job) => {
                    self.job = None;
                    self.take_in(done)?;
                }
                () = time::sleep_until(next_read) => {
                    let taken = self.read()?;
                    let full = taken >= BATCH;
                    self.pace.after_read(full);
                    next_read = Instant::now() + if full { Duration::ZERO } else { READ_EVERY };
                    if full {
                        give_way().await;
                    }
                }
            }
            self.start_reload();
            self.carry_out()?;
            tend = self.tend();
            if self.tree_ended || (detach && status.is_some()) {
                return Ok(status);
            }
        }
    }

    fn main_exited(&mut self, status: ExitStatus) -> Result<(), RunError> {
        // It may have ended before its first record was read; the pipeline must know the session before its end.
        self.drain()?;
        self.begin(None)?;
        // From here on it must not be overlooked that the last process has ended.
        self.ends_in_doubt = true;
        self.step(Input::MainExited { session: self.session, status });
        Ok(())
    }

    /// The command was never executed.
    pub(super) fn not_started(&mut self, errno: i32) -> Result<(), RunError> {
        self.begin(None)?;
        self.step(Input::NotStarted { session: self.session, errno });
        Ok(())
    }

    fn changes(&self) -> Option<AsyncFd<Changes>> {
        let file = self.policy.as_ref()?.file.as_ref()?;
        let watched = Changes::of(file).and_then(|changes| {
            // SAFETY: the descriptor belongs to `changes`, which the registration owns.
            unsafe { AsyncFd::register_with_interest(changes, Interest::READABLE) }.map_err(Into::into)
        });
        watched
            .inspect_err(|error| {
                warn!(file = %file.display(), %error, "the file is not watched; SIGHUP reads it again");
            })
            .ok()
    }

    /// Tries again what is forbidden, and looks for files to protect.
    fn prove(&mut self, running: &Running) {
        let Some(policy) = &mut self.policy else { return };
        let change = policy.guard.check(&mut self.sensor, running.placement().cgroup());
        if self.job.is_none() {
            let find = policy.guard.find_files();
            self.job = Some(tokio::task::spawn_blocking(|| Done::Files(find())));
        }
        if let Some(change) = change {
            self.step(Input::Posture(change));
        }
    }

    fn start_reload(&mut self) {
        if self.job.is_some() {
            return;
        }
        let (Some(reload), Some(policy)) = (self.reload.take(), &self.policy) else { return };
        if let Some(compile) = policy.guard.reload(reload == Reload::Asked) {
            self.job = Some(tokio::task::spawn_blocking(|| Done::Compiled(Box::new(compile()))));
        }
    }

    fn take_in(&mut self, done: Result<Done, tokio::task::JoinError>) -> Result<(), RunError> {
        let Some(policy) = &mut self.policy else { return Ok(()) };
        match done {
            Ok(Done::Files(found)) => policy.guard.protect(&found),
            Ok(Done::Compiled(compiled)) => {
                // Nothing is read between the swap and this: the pipeline knows the policy before its first verdict.
                let replaced = policy.guard.replace(*compiled);
                let taken = replaced.is_ok();
                let input = match replaced {
                    Ok(loaded) => Input::PolicyLoaded(Box::new(loaded), policy.guard.judge()),
                    Err(refused) => Input::PolicyRefused(refused),
                };
                if taken {
                    policy.guard.forget_grants();
                }
                self.begin(None)?;
                self.step(input);
                if taken {
                    // Who is paused is judged by what is in force now.
                    self.step(Input::Reask { session: self.session });
                }
            }
            Err(error) => warn!(%error, "reading the policy was cut off"),
        }
        Ok(())
    }

    /// Takes what waits in the rings, and commits that somebody watches again.
    pub(super) fn catch_up(&mut self) -> Result<(), RunError> {
        // Bounded: the tree may be faster than we are.
        for _ in 0..64 {
            if self.read()? < BATCH {
                break;
            }
        }
        self.begin(None)?;
        self.learn();
        self.carry_out()?;
        Ok(self.recorder.flush()?)
    }

    /// Whether processes go on under what is left in force.
    pub(super) fn leaves(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.place.is_kept()) && !self.tree_ended
    }

    /// Ends the session now, whoever still runs.
    pub(super) fn release(mut self) -> Result<(RunStats, Option<StoreError>), RunError> {
        self.drain()?;
        self.begin(None)?;
        let change = self.change(HandoverStep::Released);
        self.step(Input::Handover(change));
        self.tree_ended = true;
        self.finish()
    }

    fn change(&self, step: HandoverStep) -> Handover {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Handover { session: self.session, boot: clock::boot_now(), step, version }
    }

    /// Takes what is left, closes the session and the audit, and detaches everything, unless it is left in force. Besides the counters: why the last
    /// row that could not be stored was not.
    pub(super) fn finish(mut self) -> Result<(RunStats, Option<StoreError>), RunError> {
        self.drain()?;
        self.begin(None)?;
        if let Some(policy) = &mut self.policy {
            policy.guard.end_asking();
        }
        let names = self.end_names()?;
        self.settle()?;
        self.losses()?;
        if self.leaves() {
            let change = self.change(HandoverStep::Left);
            self.step(Input::Handover(change));
        } else {
            self.step(Input::Stop);
        }
        self.carry_out()?;
        let sensor = self.sensor.stats()?;
        let verdicts = self.policy.as_ref().map(|policy| policy.guard.verdicts()).unwrap_or_default();
        // The canary ends with it, while its enrolment is still known.
        drop(self.policy);
        if let Some(kept) = &mut self.kept
            && self.tree_ended
        {
            // Whoever finds names without an end of the session goes on with it; the other way round it would have none.
            self.recorder.flush()?;
            kept.place.give_up();
        }
        drop(self.kept);
        drop(self.sensor);
        let written = self.recorder.into_writer().close()?;
        let stats = RunStats {
            sensor,
            stored: written.rows,
            store_error: written.lost,
            filtered: self.filtered,
            names,
            verdicts,
        };
        Ok((stats, written.last_error))
    }

    /// Ends the resolver and takes its last answers.
    fn end_names(&mut self) -> Result<Option<ResolverStats>, RunError> {
        self.tell_answers()?;
        let Some(policy) = &mut self.policy else { return Ok(None) };
        let stats = policy.guard.end_names();
        self.answered = policy.guard.answered();
        // Of who asked last the rings may hold something yet.
        self.drain()?;
        self.tell_answers()?;
        Ok(stats)
    }

    /// Moves records from the rings into the pipeline.
    fn read(&mut self) -> Result<usize, RunError> {
        if self.answered.is_empty()
            && let Some(policy) = &mut self.policy
        {
            self.answered = policy.guard.answered();
            self.rounds = 0;
        }
        let mut events = std::mem::take(&mut self.events);
        let taken = self.sensor.read(&mut events, BATCH);
        let all = events.len();
        if let Some(kept) = &mut self.kept {
            kept.note_filtered(events.iter().filter(|event| event.session == CANARY_SESSION));
        }
        events.retain(|event| event.session != CANARY_SESSION);
        self.filtered += u64::try_from(all - events.len()).unwrap_or(0);
        if let (true, Some(first)) = (self.start.is_some(), events.first()) {
            self.begin(Some(first.process.start_ns).filter(|start| *start != 0))?;
        }
        for event in events.drain(..) {
            self.step(Input::Event(Box::new(event)));
        }
        self.events = events;
        self.rounds += 1;
        // Who asked is known only when the record of its start has been read.
        if !self.answered.is_empty() && (taken < BATCH || self.rounds >= ROUNDS) {
            self.tell_answers()?;
        }
        self.carry_out()?;
        Ok(taken)
    }

    fn tell_answers(&mut self) -> Result<(), RunError> {
        self.begin(None)?;
        for event in std::mem::take(&mut self.answered) {
            self.step(Input::Event(Box::new(event)));
        }
        Ok(())
    }

    fn drain(&mut self) -> Result<(), RunError> {
        while self.read()? > 0 || !self.sensor.is_drained().map_err(RunError::system("poll the rings"))? {}
        Ok(())
    }

    /// The first row. `start_ns` is the exact start of the root process; without it `/proc` knows clock ticks.
    /// Committed at once: if we are killed, the audit at least says what was being watched.
    fn begin(&mut self, start_ns: Option<u64>) -> Result<(), RunError> {
        if let Some(mut start) = self.start.take() {
            start.root.start_ns = start_ns.unwrap_or(start.root.start_ns);
            let boot = start.boot;
            let root = start.root;
            self.step(Input::Started(start));
            let judging = self.policy.as_mut().and_then(|policy| {
                let begin = policy.begin.take()?;
                Some((begin, policy.guard.judge()))
            });
            if let Some((Begin { mut loaded, mut posture, handed }, judge)) = judging {
                // Both were ready before the session began.
                loaded.boot = boot;
                if let Some(change) = &mut posture {
                    change.boot = boot;
                }
                let generation = loaded.generation;
                self.step(Input::PolicyLoaded(Box::new(loaded), judge));
                for handed in handed {
                    let event = handed.event(self.session, root, boot, generation);
                    self.step(Input::Event(Box::new(event)));
                }
                if let Some(change) = posture {
                    self.step(Input::Posture(change));
                }
            }
            if let Some(change) = self.handover.take() {
                self.step(Input::Handover(change));
            }
            self.carry_out()?;
            self.recorder.flush()?;
        }
        Ok(())
    }

    fn losses(&mut self) -> Result<(), RunError> {
        // These programs serve one session only.
        self.ends_in_doubt |= self.recorder.losses(&mut self.sensor, Some(self.session))?;
        let unanswered = self.policy.as_mut().and_then(|policy| policy.guard.unanswered(clock::boot_now()));
        if let Some(loss) = unanswered {
            self.step(Input::Loss(loss));
        }
        Ok(())
    }

    /// Says what a watcher before us has taken out of the rings and not stored.
    fn settle(&mut self) -> Result<(), RunError> {
        if self.settled.is_none() {
            return Ok(());
        }
        self.settled = Some(true);
        self.sensor.note_submitted()?;
        self.drain()?;
        for loss in self.sensor.missed(clock::boot_now()) {
            let loss = Loss { session: Some(self.session), ..loss };
            self.step(Input::Loss(loss));
        }
        Ok(())
    }

    /// Takes in processes that are enrolled and that no record speaks of.
    fn learn(&mut self) {
        let live: HashSet<u32> = self.recorder.state().live_in(self.session).map(|key| key.tgid).collect();
        for key in self.sensor.enrolled_in(self.session) {
            let is_known = if key.start_ns == 0 {
                live.contains(&key.tgid)
            } else {
                self.recorder.state().tree().get(key).is_some()
            };
            if let (false, Some(facts)) = (is_known, recorder::facts(key, self.session)) {
                self.step(Input::Learned(Box::new(facts)));
            }
        }
    }

    /// Writes down losses, and asks /proc about processes whose end may have been lost.
    fn check(&mut self) -> Result<(), RunError> {
        self.losses()?;
        self.step(Input::Tick);
        if self.settled == Some(false)
            && self.sensor.is_drained().map_err(RunError::system("poll the rings"))?
        {
            self.settle()?;
            self.learn();
        }
        if self.ends_in_doubt && self.sensor.is_drained().map_err(RunError::system("poll the rings"))? {
            let gone = self.recorder.gone(self.session);
            // What ended between the look at the rings and the look at /proc has its record in the rings by now.
            self.drain()?;
            for key in gone {
                self.step(Input::Gone(key));
            }
        }
        Ok(())
    }

    /// An answer of a person. What happened before it comes before it.
    fn ruled(&mut self, mail: Mail) -> Result<(), RunError> {
        self.read()?;
        let Some(inbox) = &mut self.inbox else { return Ok(()) };
        let sensor = &self.sensor;
        let taken = inbox.take(mail, |process| asking::is_watched(sensor, process));
        match taken {
            Taken::Input(input) => self.step(input),
            Taken::Reread => self.reload = self.reload.max(Some(Reload::Asked)),
            Taken::Limits(limits) => self.recorder.limit(limits),
            Taken::Nothing => {}
        }
        Ok(())
    }

    fn step(&mut self, input: Input) {
        self.recorder.step(input);
    }

    fn carry_out(&mut self) -> Result<(), RunError> {
        // An embedded run hears of no tool calls, so there are no labels.
        let due = self.recorder.carry_out()?;
        if let Some(inbox) = &mut self.inbox {
            let recorder = &self.recorder;
            inbox.tell(due.answered, due.notices, recorder.version(), || recorder.asked());
        }
        if let Some(policy) = &mut self.policy {
            due.settled.iter().for_each(|settled| policy.guard.settle(settled));
            if !due.ungranted.is_empty() {
                policy.guard.forget_grants();
            }
        }
        self.tree_ended |= due.ended.contains(&self.session);
        Ok(())
    }

    fn tend(&mut self) -> Option<Instant> {
        self.policy.as_mut().and_then(|policy| policy.guard.tend()).map(Instant::from_std)
    }
}

/// Whether this one is among those who wait in the kernel.
fn waits(waiting: &[Stopped], waiter: &Waiter) -> bool {
    waiting.iter().any(|one| match waiter {
        Waiter::Paused { process, tid } => !one.held && one.process == *process && one.tid == *tid,
        Waiter::Held { process } => one.held && one.process == *process,
        Waiter::Hook { .. } | Waiter::Agent { .. } | Waiter::Retry { .. } => false,
    })
}

/// Waits for a moment; for ever if there is none.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => time::sleep_until(moment).await,
        None => pending().await,
    }
}

/// Waits until the policy's file may have changed; for ever if it is not watched.
async fn changed(changes: Option<&AsyncFd<Changes>>) -> bool {
    let Some(changes) = changes else { return pending().await };
    match changes.readable().await {
        Ok(mut ready) => {
            ready.clear_ready();
            changes.get_ref().take().unwrap_or(true)
        }
        Err(_) => pending().await,
    }
}

/// The next answer; none ever where nobody is asked.
async fn mail(inbox: Option<&mut Inbox>) -> Mail {
    match inbox {
        Some(inbox) => inbox.next().await,
        None => pending().await,
    }
}

/// Waits for the job beside the loop; for ever if there is none.
async fn finished(job: &mut Option<JoinHandle<Done>>) -> Result<Done, tokio::task::JoinError> {
    match job {
        Some(job) => job.await,
        None => pending().await,
    }
}

/// Lets signals and timers have a turn.
async fn give_way() {
    let mut given = false;
    poll_fn(|context| {
        if given {
            return Poll::Ready(());
        }
        given = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ProcessKey, Settlement};

    #[test]
    fn who_waits_in_the_kernel_is_told_from_who_does_not() {
        let process = ProcessKey { tgid: 7, start_ns: 9 };
        let one = |held| Stopped { process, tid: 7, held, fallback: Settlement::Block };
        let paused = Waiter::Paused { process, tid: 7 };
        let held = Waiter::Held { process };
        assert!(waits(&[one(false)], &paused) && waits(&[one(true)], &held));
        assert!(!waits(&[one(true)], &paused) && !waits(&[one(false)], &held) && !waits(&[], &paused));
        // Another thread, and another process of the same number.
        assert!(!waits(&[one(false)], &Waiter::Paused { process, tid: 8 }));
        let other = ProcessKey { start_ns: 10, ..process };
        assert!(!waits(&[one(true)], &Waiter::Held { process: other }));
    }
}
