//! The daemon's one loop, in a thread of its own: judged hooks and kernel records go in, rows of the audit and labels come
//! out. It binds each hook to a watched session, and adopts the tree of an agent that is not watched yet. Where programs
//! cannot be loaded it keeps the hooks' rows all the same. The queue to it is bounded; see `queue`.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{self, Instant, MissedTickBehavior},
};
use tracing::{error, info, warn};

use super::{
    adopt::{self, Lineage},
    bind,
    holds::Holds,
    queue::{Ask, Lost, Message, Question, Whose},
    view::{Live, View},
};
use crate::{
    model::{
        AuditRecord, Event, HookCall, LoadedRule, Loss, LossReason, Origin, PolicyLoaded, ProcessKey,
        SessionId, SessionStart, Text,
    },
    pipeline::Input,
    runtime::{
        asking::{self, Inbox, Mail, Taken},
        begin, clock, host, recorder,
        recorder::Recorder,
    },
    sensor::{self, Sensor, SensorError, SensorOptions},
    store::StoreError,
};

/// How often the rings are read while anything is watched and nothing else wakes us.
const READ_EVERY: Duration = Duration::from_millis(20);
/// Losses are looked for, and ended sessions closed, this often.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// `/proc` is asked about processes that should be alive every so many checks, in doubt or not.
const CHECKS_PER_CENSUS: u32 = 20;
/// Records taken at once. Few, because hooks wait for a turn of the loop.
const BATCH: usize = 512;
/// Batches read before the loop looks at anything else, where it wants the rings to be empty.
const DRAIN_MAX: usize = 256;
/// Hooks taken at once.
const HOOKS_MAX: usize = 64;
/// Sessions at once, of all users and of one.
const SESSIONS_MAX: usize = 512;
const SESSIONS_OF_ONE: usize = 128;

/// A session that is watched.
struct Watched {
    live: Live,
    /// Counts the daemon's policies; 0 if none judges it.
    generation: u64,
}

pub(super) struct Loop {
    pub(super) recorder: Recorder,
    /// Or why nothing is watched.
    sensor: Result<Sensor, String>,
    boot_id: String,
    sessions: BTreeMap<SessionId, Watched>,
    /// Enrolled while running, and not looked at again yet.
    fresh: Vec<ProcessKey>,
    /// Their trees have ended; their last records may be in the rings.
    over: Vec<SessionId>,
    /// The only session since the last look for losses.
    alone: Option<SessionId>,
    /// The record of an end may be missing: ask `/proc`.
    ends_in_doubt: bool,
    checks: u32,
    events: Vec<Event>,
    lost: Lost,
    view: View,
    /// Where questions are answered.
    inbox: Inbox,
    pub(super) holds: Holds,
    /// Hooks whose rows are not with the audit yet.
    in_hand: usize,
    /// Rows are neither stored nor accounted for.
    unwritten: Option<StoreError>,
}

/// Loads the programs, if this machine and user may.
pub(super) fn load() -> Result<Sensor, String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("the daemon does not run as root".to_owned());
    }
    if !host::in_initial_pid_namespace() {
        return Err("the daemon is not in the initial pid namespace".to_owned());
    }
    let mut sensor = Sensor::load(&SensorOptions::default()).map_err(|error| error.to_string())?;
    let reason = "trees that are adopted have no cgroup of their own";
    sensor.without_cgroup(reason);
    sensor.without_hold(reason);
    Ok(sensor)
}

impl Loop {
    pub(super) fn new(
        recorder: Recorder,
        sensor: Result<Sensor, String>,
        boot_id: String,
        lost: Lost,
        view: View,
        holds: Holds,
        inbox: Inbox,
    ) -> Self {
        view.level(sensor.as_ref().map(Sensor::protection).map_err(String::as_str));
        Self {
            recorder,
            sensor,
            boot_id,
            sessions: BTreeMap::new(),
            fresh: Vec::new(),
            over: Vec::new(),
            alone: None,
            ends_in_doubt: false,
            checks: 0,
            events: Vec::new(),
            lost,
            view,
            inbox,
            holds,
            in_hand: 0,
            unwritten: None,
        }
    }

    /// Until nobody can send hooks any more. An error if rows are neither stored nor accounted for.
    pub(super) fn run(mut self, mut hooks: mpsc::Receiver<Message>) -> Result<(), StoreError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        match runtime {
            // A defect of ours must not end the answers, nor what is kept of them.
            Ok(runtime) => {
                while catch_unwind(AssertUnwindSafe(|| runtime.block_on(self.turn(&mut hooks)))).is_err() {
                    self.give_up("the watching loop failed; the daemon's log says where");
                    self.recorder.forget();
                    self.inbox.forget();
                    self.holds.release();
                    self.lost.add(std::mem::take(&mut self.in_hand), clock::boot_now());
                }
            }
            Err(error) => {
                self.give_up(&format!("the watching loop has no timer: {error}"));
                while let Some(ask) = hooks.blocking_recv() {
                    self.answer(ask, &mut hooks);
                }
            }
        }
        self.finish()
    }

    async fn turn(&mut self, hooks: &mut mpsc::Receiver<Message>) {
        let mut check = time::interval(CHECK_EVERY);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut next_read = Instant::now();
        loop {
            let watches = self.sensor.is_ok() && !self.sessions.is_empty();
            tokio::select! {
                biased;
                ask = hooks.recv() => match ask {
                    Some(ask) => self.answer(ask, hooks),
                    None => return,
                },
                mail = self.inbox.next() => self.ruled(mail),
                () = asking::due(self.recorder.next_deadline()) => {
                    self.recorder.step(Input::Tick);
                    self.carry_out();
                }
                _ = check.tick() => self.check(),
                () = time::sleep_until(next_read), if watches => {
                    let full = self.read() >= BATCH;
                    self.carry_out();
                    next_read = Instant::now() + if full { Duration::ZERO } else { READ_EVERY };
                }
            }
        }
    }

    /// One message and those that wait behind it: each is told to the pipeline, and who sent it is when what that led to is
    /// done.
    fn answer(&mut self, first: Message, hooks: &mut mpsc::Receiver<Message>) {
        let mut messages = vec![first];
        while messages.len() < HOOKS_MAX
            && let Ok(next) = hooks.try_recv()
        {
            messages.push(next);
        }
        self.in_hand = messages.iter().filter(|message| matches!(message, Message::Hook(_))).count();
        // What happened before them comes before them.
        if !self.sessions.is_empty() {
            self.read();
        }
        let mut waiting = Vec::with_capacity(messages.len());
        for message in messages {
            match message {
                Message::Hook(ask) => {
                    let Ask { mut call, whose, ancestry, questions, done } = *ask;
                    call.session = self.session_of(&call, whose.as_ref(), &ancestry);
                    self.view.hook(call.session);
                    self.hook(call, questions);
                    waiting.push(done);
                }
                Message::Question { question, until, done } => {
                    let Question { mut call, whose, ancestry, questions, ticket } = *question;
                    call.session = self.session_of(&call, Some(&whose), &ancestry);
                    self.ask(&call, questions, ticket, until);
                    waiting.push(done);
                }
                Message::Withdrawn(ticket) => self.withdraw(ticket),
            }
        }
        self.carry_out();
        self.in_hand = 0;
        for done in waiting {
            // Who waited may have lost patience.
            done.send(()).ok();
        }
    }

    fn session_of(
        &mut self,
        call: &HookCall,
        whose: Option<&Whose>,
        ancestry: &[ProcessKey],
    ) -> Option<SessionId> {
        let bound = whose.map_or(Ok(None), |whose| self.bind(call, whose, ancestry));
        bound.unwrap_or_else(|error| {
            self.stop_watching(&error);
            None
        })
    }

    /// The session of a hook; none if nothing is watched or who asked has no agent.
    fn bind(
        &mut self,
        call: &HookCall,
        whose: &Whose,
        ancestry: &[ProcessKey],
    ) -> Result<Option<SessionId>, SensorError> {
        let Ok(sensor) = &self.sensor else { return Ok(None) };
        for process in ancestry {
            if let Some(session) = sensor.session_of(*process)? {
                self.judge(session, whose);
                return Ok(Some(session));
            }
        }
        // Who does not wait any more is not adopted: its next hook comes.
        let Some(lineage) = Lineage::of(call.caller) else { return Ok(None) };
        match bind::agent(&lineage.ancestors, call.connector, call.caller.uid) {
            Ok(at) => self.adopt(call, whose, &lineage, at),
            Err(why) => {
                tracing::debug!(pid = call.caller.pid, connector = %call.connector, "not watched: {why}");
                Ok(None)
            }
        }
    }

    fn adopt(
        &mut self,
        call: &HookCall,
        whose: &Whose,
        lineage: &Lineage,
        at: usize,
    ) -> Result<Option<SessionId>, SensorError> {
        let (Ok(sensor), Some(root), Some(agent)) =
            (&mut self.sensor, lineage.keys.get(at).copied(), lineage.ancestors.get(at))
        else {
            return Ok(None);
        };
        let uid = agent.uid;
        let of_one = self.sessions.values().filter(|known| known.live.uid == uid).count();
        if self.sessions.len() >= SESSIONS_MAX || of_one >= SESSIONS_OF_ONE {
            warn!(pid = root.tgid, uid, "not watched: there are too many sessions already");
            return Ok(None);
        }
        let wall = clock::wall_now();
        let mut session = SessionId::new(wall, begin::random());
        while self.sessions.contains_key(&session) {
            session = SessionId::new(wall, begin::random());
        }
        let enrolled = adopt::enrol(sensor, root, session)?;
        if enrolled.processes.is_empty() {
            return Ok(None);
        }
        let (boot, machine) = (clock::boot_now(), host::host());
        let event = call.event.as_ref();
        let agent_session = event.and_then(|event| event.session.clone());
        let start = SessionStart {
            session,
            wall,
            boot,
            boot_id: self.boot_id.clone(),
            root,
            command: agent.argv.clone(),
            project: Text(whose.project.clone().into_bytes()),
            home: Text(whose.home.clone().into_bytes()),
            host: machine.name,
            kernel: machine.kernel,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            origin: Origin::Adopted { connector: call.connector, agent_session: agent_session.clone(), uid },
            protection: sensor.protection().clone(),
        };
        info!(%session, pid = root.tgid, connector = %call.connector, processes = enrolled.processes.len(), "adopted");
        self.recorder.step(Input::Started(Box::new(start)));
        for (process, parent) in &enrolled.processes {
            if let Some(mut facts) = recorder::facts(*process, session) {
                facts.parent = *parent;
                self.recorder.step(Input::Learned(Box::new(facts)));
            }
            self.fresh.push(*process);
        }
        if enrolled.left_out > 0 {
            self.recorder.step(Input::Loss(Loss {
                kind: "process_fork".to_owned(),
                reason: LossReason::MapFull,
                count: enrolled.left_out,
                first: boot,
                last: boot,
                session: Some(session),
            }));
        }
        let live =
            Live { session, connector: call.connector, agent_session, uid, pid: root.tgid, since: wall };
        self.sessions.insert(session, Watched { live, generation: 0 });
        self.judge(session, whose);
        self.show();
        Ok(Some(session))
    }

    /// From now on the session is judged by the policy that has judged its hook, unless it is already.
    fn judge(&mut self, session: SessionId, whose: &Whose) {
        let (Some(known), Some(policy)) = (self.sessions.get_mut(&session), &whose.policy) else { return };
        if known.generation >= policy.generation {
            return;
        }
        known.generation = policy.generation;
        let rules = (0..=u16::MAX).map_while(|number| policy.session.rule(number));
        let rules = rules.map(|rule| LoadedRule {
            id: rule.id.clone(),
            severity: rule.severity,
            reason: rule.reason.clone(),
        });
        let loaded = PolicyLoaded {
            session,
            boot: clock::boot_now(),
            profile: 0,
            name: policy.name.clone(),
            mode: policy.session.mode(),
            generation: policy.generation,
            digest: policy.digest.clone(),
            rules: rules.collect(),
        };
        self.recorder.step(Input::PolicyLoaded(Box::new(loaded), Some(Arc::clone(&policy.session))));
    }

    /// An answer of a person. What happened before it comes before it.
    fn ruled(&mut self, mail: Mail) {
        if !self.sessions.is_empty() {
            self.read();
        }
        let sensor = &self.sensor;
        let taken = self.inbox.take(mail, |process| match sensor {
            Ok(sensor) => asking::is_watched(sensor, process),
            // Nobody is watched.
            Err(_) => Ok(false),
        });
        match taken {
            Taken::Input(input) => self.recorder.step(input),
            // The policy is read where requests are answered.
            Taken::Reread | Taken::Nothing => {}
            Taken::Limits(limits) => self.recorder.limit(limits),
        }
        self.carry_out();
    }

    /// Moves records from the rings into the pipeline.
    fn read(&mut self) -> usize {
        let Ok(sensor) = &mut self.sensor else { return 0 };
        let mut events = std::mem::take(&mut self.events);
        let taken = sensor.read(&mut events, BATCH);
        for event in events.drain(..) {
            self.recorder.step(Input::Event(Box::new(event)));
        }
        self.events = events;
        taken
    }

    fn drain(&mut self) {
        for _ in 0..DRAIN_MAX {
            let taken = self.read();
            self.carry_out();
            let empty = |sensor: &mut Sensor| sensor.is_drained().unwrap_or(true);
            if taken == 0 && self.sensor.as_mut().map_or(true, empty) {
                return;
            }
        }
    }

    fn carry_out(&mut self) {
        let due = match self.recorder.carry_out() {
            Ok(due) => due,
            Err(error) => return self.not_written(error),
        };
        self.view.stored(due.events, &due.losses);
        let state = &self.recorder;
        self.inbox.tell(due.answered, due.notices, state.version(), || state.asked());
        self.over.extend(due.ended);
        for settled in due.settled {
            self.tell_hooks(settled);
        }
        for (process, call) in due.labels {
            let Ok(sensor) = &mut self.sensor else { return };
            match sensor.label(process, call) {
                Ok(true) => {}
                Ok(false) => tracing::debug!(pid = process.tgid, "ended before it could be labelled"),
                Err(error) => self.view.error(&error.to_string()),
            }
        }
    }

    fn not_written(&mut self, error: StoreError) {
        self.view.error(&error.to_string());
        self.unwritten.get_or_insert(error);
    }

    fn check(&mut self) {
        if let Err(error) = self.look() {
            self.stop_watching(&error);
        }
        if let Some(loss) = self.lost.take() {
            self.recorder.step(Input::Loss(loss));
        }
        self.recorder.step(Input::Tick);
        self.carry_out();
        self.show();
    }

    fn look(&mut self) -> Result<(), SensorError> {
        let Ok(sensor) = &mut self.sensor else { return Ok(()) };
        let only = self.sessions.first_key_value().map(|(id, _)| *id).filter(|_| self.sessions.len() == 1);
        let alone = self.alone.filter(|alone| only == Some(*alone));
        self.alone = only;
        self.ends_in_doubt |= self.recorder.losses(sensor, alone)?;
        for process in std::mem::take(&mut self.fresh) {
            if !sensor::is_alive(process) {
                sensor.release_ended(process)?;
                self.ends_in_doubt = true;
            }
        }
        self.checks = self.checks.wrapping_add(1);
        let over = std::mem::take(&mut self.over);
        let census = std::mem::take(&mut self.ends_in_doubt) || self.checks.is_multiple_of(CHECKS_PER_CENSUS);
        if over.is_empty() && !census {
            return Ok(());
        }
        let sessions = self.sessions.keys().filter(|_| census);
        let gone: Vec<_> = sessions.flat_map(|session| self.recorder.gone(*session)).collect();
        // What ended before the look at /proc has its record in the rings by now.
        self.drain();
        for process in gone {
            self.recorder.step(Input::Gone(process));
        }
        for session in over {
            self.recorder.step(Input::Ended { session });
            self.sessions.remove(&session);
            info!(%session, "ended");
        }
        Ok(())
    }

    fn show(&mut self) {
        let events = |session| self.recorder.state().n_events(session).unwrap_or(0);
        let live = self.sessions.values().map(|known| (known.live.clone(), events(known.live.session)));
        self.view.show(live.collect());
        self.inbox.own(self.sessions.iter().map(|(session, known)| (*session, known.live.uid)).collect());
    }

    /// The sensor cannot go on: sessions end, hooks are answered all the same.
    fn stop_watching(&mut self, error: &SensorError) {
        self.recorder.step(Input::Stop);
        self.give_up(&error.to_string());
        self.carry_out();
    }

    fn give_up(&mut self, why: &str) {
        error!("nothing is watched any more: {why}");
        self.sensor = Err(why.to_owned());
        self.view.level(Err(why));
        let now = clock::boot_now();
        let losses = std::mem::take(&mut self.sessions).into_keys().map(|session| {
            let (kind, reason) = ("all".to_owned(), LossReason::Unclean);
            AuditRecord::Loss(Loss { kind, reason, count: 0, first: now, last: now, session: Some(session) })
        });
        if let Err(error) = self.recorder.append(losses.collect()) {
            self.not_written(error);
        }
        (self.fresh, self.over, self.alone) = (Vec::new(), Vec::new(), None);
        self.show();
    }

    fn finish(mut self) -> Result<(), StoreError> {
        self.drain();
        self.check();
        self.recorder.step(Input::Stop);
        self.carry_out();
        drop(self.sensor);
        let closed = self.recorder.into_writer().close().map(drop);
        self.unwritten.map_or(closed, Err)
    }
}
