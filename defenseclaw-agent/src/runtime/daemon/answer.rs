//! One hook: read, judged, decided, said in the agent's words, and kept. Whatever goes wrong on the way is answered by
//! the connector's fail mode, and kept, too.

use std::{
    collections::VecDeque,
    fs,
    os::unix::ffi::OsStringExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use nix::unistd::{Uid, User, geteuid};
use tokio::sync::oneshot;

use super::{
    Daemon, InForce, adopt,
    asking::{self, End, Until, Waiting},
    judge::{self, Judged},
    late,
    queue::Question,
};
use crate::{
    api::{Answered, Answers, Page, Peer, Unread, Wanted},
    config::ConnectorConfig,
    connectors,
    model::{
        Answer, Attendance, BootTime, Caller, Connector, Decision, FailMode, HookCall, HookEvent, HookOutput,
        JudgedBy, PolicyAction, Reply, VERIFY_EVENT, WallTime, Way,
    },
    policy::{self, Bindings},
    runtime::{asking::Local, clock},
};

/// Runs of agents whose bound policies are kept.
const SESSIONS_MAX: usize = 256;
/// Bytes of an agent's session id that tell one from another.
const ID_MAX: usize = 256;
/// Stands for a directory that nobody knows.
pub(super) const NOWHERE: &str = "/nonexistent";

/// A run of an agent, as it calls itself.
type Key = (u32, Connector, String);

/// Runs of agents, the one used last at the end.
#[derive(Default)]
pub(super) struct Sessions(VecDeque<Known>);

struct Known {
    key: Key,
    /// Where the agent was when it was first heard of.
    project: String,
    home: String,
    bound: Option<(u64, Arc<policy::Session>)>,
}

/// A policy bound to one run of an agent.
pub(super) struct Bound {
    pub(super) session: Arc<policy::Session>,
    /// Of its user.
    pub(super) home: String,
    pub(super) project: String,
}

/// What came of one hook, before it is kept.
struct Outcome {
    event: Option<HookEvent>,
    problem: Option<String>,
    judged: Option<(JudgedBy, Decision)>,
    reply: PolicyAction,
    output: HookOutput,
    /// A person is to be asked.
    asked: Option<Asked>,
}

/// How a person is asked, and about what.
struct Asked {
    way: Way,
    session: Arc<policy::Session>,
    judged: Judged,
}

/// A hook when it came.
#[derive(Clone, Copy)]
struct Came {
    wall: WallTime,
    boot: BootTime,
    caller: Caller,
    connector: Connector,
}

impl Came {
    fn call(self, mut outcome: Outcome, failed: Option<FailMode>) -> HookCall {
        let cut = outcome.event.as_mut().is_some_and(HookEvent::cut);
        let (policy, decision) = outcome.judged.unzip();
        HookCall {
            session: None,
            wall: self.wall,
            boot: self.boot,
            caller: self.caller,
            connector: self.connector,
            event: outcome.event,
            calls: Vec::new(),
            cut,
            problem: outcome.problem,
            policy,
            decision,
            answer: Answer::new(outcome.reply, failed, &outcome.output),
            latency_ns: clock::boot_now().0.saturating_sub(self.boot.0),
        }
    }
}

impl Answers for Daemon {
    async fn hook(
        self: &Arc<Self>,
        caller: Caller,
        connector: Connector,
        payload: Vec<u8>,
        hold: Duration,
    ) -> Answered {
        let came = Came { wall: clock::wall_now(), boot: clock::boot_now(), caller, connector };
        let in_force = self.in_force();
        let config = in_force.config.connector(connector);
        let fail_mode = if config.enabled { config.fail_mode } else { FailMode::Open };
        let parsed = connectors::parse(connector, &payload).map_err(|err| err.to_string());
        let outcome = parsed.and_then(|event| {
            // A defect of ours must not become a tool that runs, or an agent that hangs.
            let judged = || self.outcome(caller, &in_force, &config, event.clone(), hold);
            let panicked = |_| Err("the daemon failed while it judged; its log says where".to_owned());
            let outcome = catch_unwind(AssertUnwindSafe(judged)).unwrap_or_else(panicked);
            outcome.map(|outcome| (event, outcome))
        });
        let (mut outcome, failed) = match outcome {
            Ok((event, mut outcome)) => match outcome.asked.take() {
                Some(asked) if asked.way == Way::Hold => {
                    return self.hold(came, in_force, config, event, outcome, asked, hold).await;
                }
                asked => (Outcome { asked, ..outcome }, false),
            },
            Err(problem) => {
                let why = format!("DefenseClaw could not judge this: {problem}");
                let output = connectors::fail(connector, fail_mode, &payload, &why);
                let reply =
                    if fail_mode == FailMode::Closed { PolicyAction::Block } else { PolicyAction::Allow };
                let event = connectors::parse(connector, &payload).ok().and_then(judge::without_secrets);
                let problem = Some(problem);
                (Outcome { event, problem, judged: None, reply, output, asked: None }, true)
            }
        };
        self.count(failed);
        let output = outcome.output.clone();
        let asked = outcome.asked.take().map(|asked| asked.judged.questions);
        let call = came.call(outcome, failed.then_some(fail_mode));
        // Somebody tries whether we answer: no agent's process is behind it.
        let tried = call.event.as_ref().is_some_and(|event| event.name == VERIFY_EVENT);
        let whose = (!tried).then(|| self.whose(caller, &in_force, &config, call.event.as_ref()));
        let ancestry = whose.as_ref().map(|_| adopt::ancestry(caller)).unwrap_or_default();
        self.queue.add(call, whose, ancestry, asked.unwrap_or_default()).await;
        Answered::Now(output)
    }

    async fn missed(&self, caller: Caller, lines: Vec<u8>) -> usize {
        let calls = late::calls(caller, &lines, clock::boot_now(), clock::wall_now());
        let taken = calls.len();
        for call in calls {
            self.missed.fetch_add(1, Ordering::Relaxed);
            self.queue.keep(call).await;
        }
        taken
    }

    fn status(&self, peer: &Peer) -> serde_json::Value {
        let in_force = self.in_force();
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": process::id(),
            "policy": in_force.policy.name,
            "digest": in_force.digest,
            "generation": in_force.generation,
            "mode": in_force.config.mode,
            "connectors": in_force.config.connectors,
            "held": self.holds.count(),
            "answered": self.answered.load(Ordering::Relaxed),
            "hooks": self.hooks.status(),
            "missed": self.missed.load(Ordering::Relaxed),
            "failed": self.failed.load(Ordering::Relaxed),
            "watch": self.view.status(self.user(peer)),
        })
    }

    async fn sessions(&self, peer: &Peer) -> Result<Vec<u8>, Unread> {
        self.read_sessions(peer).await
    }

    async fn events(&self, peer: &Peer, wanted: Wanted) -> Result<Page, Unread> {
        self.read_events(peer, wanted).await
    }

    async fn reload(&self) -> Result<(), String> {
        self.read_again().map_err(|err| err.to_string())
    }

    fn controls(&self, peer: &Peer) -> bool {
        let uid = peer.caller.uid;
        uid == 0 || uid == geteuid().as_raw() || self.in_force().control.is_some_and(|gid| peer.is_in(gid))
    }
}

impl Daemon {
    fn outcome(
        &self,
        caller: Caller,
        in_force: &InForce,
        config: &ConnectorConfig,
        mut event: HookEvent,
        hold: Duration,
    ) -> Result<Outcome, String> {
        if !config.enabled || !judge::is_judged(event.phase) {
            // What is not judged is kept all the same, and so without what is secret.
            let bound = config.enabled.then(|| self.session(caller, in_force, config, &event).ok()).flatten();
            policy::inspect(bound.as_ref().map(|(session, _)| &**session), &mut event);
            return Ok(Outcome::new(event, None, &Reply::Allow, Attendance::Unattended));
        }
        let (session, home) = self.session(caller, in_force, config, &event)?;
        let mut way = Way::Fallback;
        let mut judged = judge::decide(&session, &home, in_force.generation, config, &mut event, |event| {
            way = asking::way(caller, config, event, hold);
            way != Way::Fallback
        });
        let asks = matches!(judged.reply, Reply::Confirm { .. });
        let attendance = if asks && way == Way::Native {
            asking::asks_itself(&mut judged.decision);
            Attendance::Attended
        } else {
            Attendance::Unattended
        };
        let by = judged_by(in_force, &session);
        let mut outcome = Outcome::new(event, Some((by, judged.decision.clone())), &judged.reply, attendance);
        outcome.asked = asks.then_some(Asked { way, session, judged });
        Ok(outcome)
    }

    /// Answers when a person has, if there is room for that; else by the policy's fallback.
    #[expect(clippy::too_many_arguments, reason = "everything that is known of one hook")]
    async fn hold(
        self: &Arc<Self>,
        came: Came,
        in_force: Arc<InForce>,
        config: ConnectorConfig,
        event: HookEvent,
        outcome: Outcome,
        asked: Asked,
        hold: Duration,
    ) -> Answered {
        let until = Until::new(hold);
        let Asked { session, mut judged, .. } = asked;
        let questions = std::mem::take(&mut judged.questions);
        let whose = self.whose(came.caller, &in_force, &config, outcome.event.as_ref());
        let ancestry = adopt::ancestry(came.caller);
        let kept = outcome.event.clone().unwrap_or_else(|| event.clone());
        let draft = came.call(outcome, None);
        let caller = came.caller;
        let waiting =
            Waiting { caller, event, session, in_force, config, kept, judged, ancestry: ancestry.clone() };
        let Some(mut hold) = self.holds.hold(questions.len()) else {
            let (reply, decision) = waiting.fell_back("too many hooks wait for a person already");
            return Answered::Now(self.finish(came, waiting, &reply, decision, None).await);
        };
        let question = Question { call: Box::new(draft), whose, ancestry, questions, ticket: hold.ticket };
        if !self.queue.ask(question, until.boot).await {
            let (reply, decision) = waiting.fell_back("nobody could be asked");
            return Answered::Now(self.finish(came, waiting, &reply, decision, None).await);
        }
        let (mut caller, output) = oneshot::channel();
        let daemon = Arc::clone(self);
        tokio::spawn(async move {
            let (end, waiting) = waiting.end(&daemon, &mut hold, until, &mut caller).await;
            match end {
                End::Answered(reply, decision) => {
                    let output = daemon.finish(came, waiting, &reply, decision, None).await;
                    caller.send(output).ok();
                }
                End::Gone(decision) => {
                    let reply = Reply::Confirm { reason: String::new() };
                    let why = "who asked did not wait until a person had answered";
                    daemon.finish(came, waiting, &reply, decision, Some(why)).await;
                }
            }
            // It counts as held until its row is on its way.
            drop(hold);
        });
        Answered::Held { within: until.within, output }
    }

    /// What goes back to the agent, when its row is on its way.
    async fn finish(
        &self,
        came: Came,
        waiting: Waiting,
        reply: &Reply,
        decision: Decision,
        problem: Option<&str>,
    ) -> HookOutput {
        let by = judged_by(&waiting.in_force, &waiting.session);
        let event = waiting.kept;
        let mut outcome = Outcome::new(event, Some((by, decision)), reply, Attendance::Unattended);
        if let Some(problem) = problem {
            outcome.problem = Some(problem.to_owned());
            outcome.output = HookOutput::default();
        }
        let output = outcome.output.clone();
        self.count(problem.is_some());
        let call = came.call(outcome, None);
        let whose = self.whose(came.caller, &waiting.in_force, &waiting.config, call.event.as_ref());
        self.queue.add(call, Some(whose), waiting.ancestry, Vec::new()).await;
        output
    }

    /// The policy, bound to the run of the agent that asks, and the home of its user.
    fn session(
        &self,
        caller: Caller,
        in_force: &InForce,
        config: &ConnectorConfig,
        event: &HookEvent,
    ) -> Result<(Arc<policy::Session>, String), String> {
        self.bound(caller, in_force, config, event).map(|bound| (bound.session, bound.home))
    }

    pub(super) fn bound(
        &self,
        caller: Caller,
        in_force: &InForce,
        config: &ConnectorConfig,
        event: &HookEvent,
    ) -> Result<Bound, String> {
        let id = event.session.as_deref().unwrap_or_default();
        let id = id.get(..id.floor_char_boundary(ID_MAX)).unwrap_or_default().to_owned();
        let key = (caller.uid, event.connector, id);
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let at = sessions.0.iter().position(|known| known.key == key);
        let mut known = at.and_then(|at| sessions.0.remove(at)).unwrap_or_else(|| Known {
            key,
            project: project(caller, event),
            home: home(caller.uid),
            bound: None,
        });
        let bound = match known.bound.take().filter(|(generation, _)| *generation == in_force.generation) {
            Some(bound) => bound,
            None => (in_force.generation, Arc::new(bind(&known, in_force, config, event.connector)?)),
        };
        let (home, project) = (known.home.clone(), known.project.clone());
        let found = Bound { session: Arc::clone(&bound.1), home, project };
        known.bound = Some(bound);
        if sessions.0.len() >= SESSIONS_MAX {
            sessions.0.pop_front();
        }
        sessions.0.push_back(known);
        Ok(found)
    }
}

impl Outcome {
    fn new(
        event: HookEvent,
        judged: Option<(JudgedBy, Decision)>,
        reply: &Reply,
        attendance: Attendance,
    ) -> Self {
        let output = connectors::encode(reply, &event, attendance);
        let action = match reply {
            Reply::Allow => PolicyAction::Allow,
            Reply::Alert { .. } => PolicyAction::Alert,
            Reply::Confirm { .. } => PolicyAction::Confirm,
            Reply::Block { .. } => PolicyAction::Block,
        };
        Self { event: Some(event), problem: None, judged, reply: action, output, asked: None }
    }
}

fn judged_by(in_force: &InForce, session: &policy::Session) -> JudgedBy {
    let name = in_force.policy.name.clone();
    JudgedBy { name, mode: session.mode(), digest: in_force.digest.clone() }
}

fn bind(
    known: &Known,
    in_force: &InForce,
    config: &ConnectorConfig,
    connector: Connector,
) -> Result<policy::Session, String> {
    let mode = config.mode.or(in_force.config.mode);
    let bindings = Bindings {
        home: known.home.clone().into(),
        project: known.project.clone().into(),
        profile: in_force.profile(connector),
        mode,
    };
    let said = |problems: Vec<policy::Problem>| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
    let bound = if asking::may_ask(config, connector, mode) {
        policy::Session::asking(&in_force.policy, &bindings)
    } else {
        policy::Session::new(&in_force.policy, &bindings)
    };
    let bound = bound.map_err(|problems| said(problems).join("; "))?;
    let local = Local::beside(&in_force.config.audit);
    Ok(local.bind(bound, &bindings.home, &bindings.project))
}

/// Where the agent says it is, else where who asks is.
fn project(caller: Caller, event: &HookEvent) -> String {
    let usable = |path: &String| policy::components(path.as_bytes()).is_some();
    let of_caller = || fs::read_link(format!("/proc/{}/cwd", caller.pid)).ok().and_then(text);
    event
        .cwd
        .clone()
        .filter(usable)
        .or_else(|| of_caller().filter(usable))
        .unwrap_or_else(|| NOWHERE.to_owned())
}

/// The user's home as the kernel names it, unless looking would mean to wait for somebody.
fn home(uid: u32) -> String {
    let home = User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.dir);
    let real = home.map(|home| fs::canonicalize(&home).unwrap_or(home));
    real.and_then(text).filter(|home| home.starts_with('/')).unwrap_or_else(|| NOWHERE.to_owned())
}

fn text(path: PathBuf) -> Option<String> {
    String::from_utf8(path.into_os_string().into_vec()).ok()
}
