//! The loop: kernel records, signals and the state of the command go in; rows of the audit come out.

use std::{future::poll_fn, os::fd::AsFd, task::Poll, time::Duration};

use tokio::{
    io::{Interest, unix::AsyncFd},
    time::{self, Instant, MissedTickBehavior},
};
use tracing::debug;

use super::{clock, pace::Pace, run::RunError};
use crate::{
    launcher::{Running, Signals, Step},
    model::{AuditRecord, Event, ExitStatus, Loss, SessionId, SessionStart},
    pipeline::{self, Effect, Input, State},
    sensor::{self, Sensor, SensorStats},
    store::{Writer, WriterStats},
};

/// How often the rings are read while nothing else wakes us. The kernel does not wake us for each record: at the
/// largest measured rate a ring of 8 MiB fills in about 100 ms.
const READ_EVERY: Duration = Duration::from_millis(20);
/// Losses are looked for, and processes without a recorded end looked after, this often.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// Records taken before signals are looked at again.
const BATCH: usize = 4096;

pub(super) struct Watch {
    sensor: Sensor,
    writer: Writer,
    state: State,
    session: SessionId,
    /// Until the kernel's first record says when the root process really started.
    start: Option<Box<SessionStart>>,
    events: Vec<Event>,
    effects: Vec<Effect>,
    tree_ended: bool,
    /// The record of an end may be missing: ask /proc.
    ends_in_doubt: bool,
    pace: Pace,
}

impl Watch {
    pub(super) fn new(sensor: Sensor, writer: Writer, start: SessionStart) -> Self {
        Self {
            sensor,
            writer,
            state: State::new(),
            session: start.session,
            start: Some(Box::new(start)),
            events: Vec::new(),
            effects: Vec::new(),
            tree_ended: false,
            ends_in_doubt: false,
            pace: Pace::new(),
        }
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
        let mut status = None;
        let mut next_read = Instant::now();
        let mut check = time::interval(CHECK_EVERY);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
                                self.writer.flush()?;
                                running.stop_along();
                            }
                            Step::Ended(end) => {
                                status = Some(end);
                                self.main_exited(end)?;
                            }
                            Step::Asked(signal) => {
                                debug!(signal, "asked to end");
                                return Ok(status);
                            }
                        }
                    }
                }
                _ = check.tick() => self.check()?,
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
            self.carry_out()?;
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

    /// Takes what is left, closes the session and the audit, and detaches everything.
    pub(super) fn finish(mut self) -> Result<(SensorStats, WriterStats), RunError> {
        self.drain()?;
        self.begin(None)?;
        self.losses()?;
        self.step(Input::Stop);
        self.carry_out()?;
        let stats = self.sensor.stats()?;
        drop(self.sensor);
        Ok((stats, self.writer.close()?))
    }

    /// Moves records from the rings into the pipeline.
    fn read(&mut self) -> Result<usize, RunError> {
        let mut events = std::mem::take(&mut self.events);
        let taken = self.sensor.read(&mut events, BATCH);
        if let (true, Some(first)) = (self.start.is_some(), events.first()) {
            self.begin(Some(first.process.start_ns).filter(|start| *start != 0))?;
        }
        for event in events.drain(..) {
            self.step(Input::Event(Box::new(event)));
        }
        self.events = events;
        self.carry_out()?;
        Ok(taken)
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
            self.step(Input::Started(start));
            self.carry_out()?;
            self.writer.flush()?;
        }
        Ok(())
    }

    fn losses(&mut self) -> Result<(), RunError> {
        for loss in self.sensor.losses(clock::boot_now())? {
            self.ends_in_doubt |= loss.kind == "process_exit";
            // These programs serve one session only.
            let loss = Loss { session: Some(self.session), ..loss };
            self.step(Input::Loss(loss));
        }
        Ok(())
    }

    /// Writes down losses, and asks /proc about processes whose end may have been lost.
    fn check(&mut self) -> Result<(), RunError> {
        self.losses()?;
        self.step(Input::Tick);
        if self.ends_in_doubt && self.sensor.is_drained().map_err(RunError::system("poll the rings"))? {
            let gone: Vec<_> =
                self.state.live_in(self.session).filter(|key| !sensor::is_alive(*key)).collect();
            // What ended between the look at the rings and the look at /proc has its record in the rings by now.
            self.drain()?;
            for key in gone {
                self.step(Input::Gone(key));
            }
        }
        Ok(())
    }

    fn step(&mut self, input: Input) {
        pipeline::step(&mut self.state, input, clock::boot_now(), &mut self.effects);
    }

    fn carry_out(&mut self) -> Result<(), RunError> {
        let mut rows = Vec::with_capacity(self.effects.len());
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Store(record) => rows.push(record),
                Effect::TreeEnded { session } => self.tree_ended |= session == self.session,
            }
        }
        if !rows.is_empty() {
            self.append(rows)?;
        }
        Ok(())
    }

    fn append(&self, rows: Vec<AuditRecord>) -> Result<(), RunError> {
        Ok(self.writer.append(rows)?)
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
