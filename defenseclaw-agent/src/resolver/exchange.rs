//! One question from the moment it arrives to the moment it is answered: whose it is, what is said of it, what the server
//! says, what the kernel has to know first.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use hickory_proto::op::ResponseCode;
use tokio::sync::{Semaphore, mpsc};
use tracing::debug;

use super::{
    Answered, Kernel, ResolverStats,
    answer::Answer,
    judge::{Judge, Ruling, System},
    name::HostName,
    question::{self, Question, Unfit},
    resolved::{Origin, Resolved},
    upstream,
};
use crate::model::{Action, Asker, BootTime, Decision, Event, NetEndpoint, Text, Transport, Vantage};

/// Questions of one profile that wait for a server.
const AT_ONCE: usize = 64;
/// A question that was sent longer ago is not this one: somebody else has its port now.
const FRESH_NS: u64 = 10_000_000_000;
const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// What all namespaces share.
pub(super) struct Shared {
    kernel: Arc<dyn Kernel>,
    report: mpsc::Sender<Answered>,
    profiles: RwLock<HashMap<u32, Arc<Profile>>>,
    counts: Counts,
}

/// One profile: its policy, and what was resolved under it.
struct Profile {
    state: Mutex<State>,
    places: Semaphore,
}

#[derive(Default)]
struct State {
    /// None until the first policy is in force.
    judge: Option<Arc<Judge>>,
    /// Soon to be in force. What is resolved meanwhile is handed to the kernel for both.
    next: Option<Arc<Judge>>,
    resolved: Resolved,
}

impl State {
    /// That of the policy in force, before any is that of the first one.
    fn judge(&self) -> Option<&Arc<Judge>> {
        self.judge.as_ref().or(self.next.as_ref())
    }

    fn forget(&self, kernel: &dyn Kernel, profile: u32, judge: &Judge) {
        for address in self.resolved.addresses() {
            kernel.forget(profile, address, judge.rules().generation);
        }
    }
}

#[derive(Default)]
struct Counts {
    asked: AtomicU64,
    refused: AtomicU64,
    failed: AtomicU64,
    unreported: AtomicU64,
}

/// Where a question arrived.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) netns: u64,
    pub(super) transport: Transport,
    pub(super) from: SocketAddr,
    pub(super) lane: u16,
    pub(super) system: Arc<System>,
}

fn one(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}

/// Nanoseconds of `CLOCK_BOOTTIME`. Without that clock everything counts as expired.
fn now() -> BootTime {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(BootTime(u64::MAX), |now| {
        let part = |value: i64| u64::try_from(value).unwrap_or(0);
        BootTime(part(now.tv_sec()) * 1_000_000_000 + part(now.tv_nsec()))
    })
}

impl Shared {
    pub(super) fn new(kernel: Arc<dyn Kernel>, report: mpsc::Sender<Answered>) -> Self {
        Self { kernel, report, profiles: RwLock::default(), counts: Counts::default() }
    }

    pub(super) fn stats(&self) -> ResolverStats {
        let Counts { asked, refused, failed, unreported } = &self.counts;
        let [asked, refused, failed, unreported] =
            [asked, refused, failed, unreported].map(|count| count.load(Ordering::Relaxed));
        ResolverStats { asked, refused, failed, unreported }
    }

    /// Hands to the kernel what the next policy says of what was resolved before.
    pub(super) fn stage(&self, profile: u32, judge: Judge) -> Result<(), String> {
        let known = {
            let mut profiles = self.profiles.write().unwrap_or_else(PoisonError::into_inner);
            let fresh = || Arc::new(Profile { state: Mutex::default(), places: Semaphore::new(AT_ONCE) });
            Arc::clone(profiles.entry(profile).or_insert_with(fresh))
        };
        let mut state = known.state();
        for (address, permit) in state.resolved.judge_again(judge.names(), now()) {
            if let Err(why) = self.kernel.permit(profile, address, &permit, judge.rules()) {
                state.forget(&*self.kernel, profile, &judge);
                return Err(why);
            }
        }
        state.next = Some(Arc::new(judge));
        Ok(())
    }

    /// The kernel has swapped: what the policy before said is read by nobody any more.
    pub(super) fn commit(&self, profile: u32) {
        let Some(known) = self.profile(profile) else { return };
        let mut state = known.state();
        let Some(next) = state.next.take() else { return };
        let generation = next.rules().generation;
        let before = state.judge.replace(next);
        if let Some(before) = before.filter(|before| before.rules().generation != generation) {
            state.forget(&*self.kernel, profile, &before);
        }
    }

    /// The kernel has not swapped.
    pub(super) fn discard(&self, profile: u32) {
        let Some(known) = self.profile(profile) else { return };
        let mut state = known.state();
        if let Some(next) = state.next.take() {
            state.forget(&*self.kernel, profile, &next);
        }
    }

    pub(super) fn remove(&self, profile: u32) {
        let removed = self.profiles.write().unwrap_or_else(PoisonError::into_inner).remove(&profile);
        let Some(removed) = removed else { return };
        let state = removed.state();
        for judge in state.judge.iter().chain(&state.next) {
            state.forget(&*self.kernel, profile, judge);
        }
    }

    fn profile(&self, profile: u32) -> Option<Arc<Profile>> {
        self.profiles.read().unwrap_or_else(PoisonError::into_inner).get(&profile).cloned()
    }

    /// Answers one message. None: it deserves no answer.
    pub(super) async fn answer(&self, arrival: &Arrival, message: &[u8]) -> Option<Vec<u8>> {
        one(&self.counts.asked);
        let Arrival { netns, transport, from, lane, .. } = *arrival;
        let asker = self.kernel.asker(netns, transport, from, lane);
        let fresh = |asker: &Asker| now().0.saturating_sub(asker.time.0) < FRESH_NS;
        let known = asker.filter(fresh).and_then(|asker| {
            let profile = self.profile(asker.profile)?;
            let judge = profile.judge()?;
            Some((asker, profile, judge))
        });
        let Some((asker, profile, judge)) = known else {
            debug!(%from, lane, "a question of nobody we watch");
            one(&self.counts.refused);
            return question::refusal(message, ResponseCode::Refused, "");
        };
        match question::read(message) {
            Ok(question) => self.exchange(arrival, &asker, &profile, &judge, &question, message).await,
            Err(Unfit::Silent) => None,
            Err(Unfit::Code(code)) => {
                one(&self.counts.refused);
                question::refusal(message, code, "")
            }
        }
    }

    async fn exchange(
        &self,
        arrival: &Arrival,
        asker: &Asker,
        profile: &Profile,
        judge: &Judge,
        question: &Question,
        message: &[u8],
    ) -> Option<Vec<u8>> {
        let system = &arrival.system;
        let refused = Answer { code: ResponseCode::Refused.into(), ..Answer::default() };
        let ruling = judge.question(system, asker.server, &question.name, judge.owners(asker));
        if ruling.refuse {
            return self.refuse(arrival, asker, question, &refused, ruling, message).await;
        }
        let Ok(_place) = profile.places.try_acquire() else {
            return self.fail(arrival, asker, question, message, "too many questions wait for an answer");
        };
        let asked = upstream::ask(asker.server, arrival.transport, question, message).await;
        let (bytes, answer) = match asked {
            Ok(answered) => answered,
            Err(error) => return self.fail(arrival, asker, question, message, &error.to_string()),
        };
        // By the policy of this moment: it may have changed while the server was asked.
        let judge = profile.judge()?;
        let answer_ruling = judge.answer(system, &question.name, &answer, judge.owners(asker));
        if answer_ruling.refuse {
            let told = Answer { code: refused.code, ..answer };
            return self.refuse(arrival, asker, question, &told, answer_ruling, message).await;
        }
        if let Err(why) = self.permit(asker, profile, system, question, &answer) {
            return self.fail(arrival, asker, question, message, &why);
        }
        let decision = answer_ruling.decision.or(ruling.decision);
        // What something was said of is not lost; it waits for room.
        if decision.is_some() {
            self.report_surely(answered(arrival, asker, &question.name, &answer, decision)).await;
        } else {
            self.report_if_room(answered(arrival, asker, &question.name, &answer, None));
        }
        Some(bytes)
    }

    /// Tells the kernel, before the task can connect.
    fn permit(
        &self,
        asker: &Asker,
        profile: &Profile,
        system: &System,
        question: &Question,
        answer: &Answer,
    ) -> Result<(), String> {
        let mut state = profile.state();
        let State { judge, next, resolved } = &mut *state;
        let judges = || judge.iter().chain(&*next);
        let origin = Origin {
            name: question.name.clone(),
            aliases: answer.aliases.clone(),
            trusted: system.trusts(asker.server),
        };
        for address in resolved.expired(now()) {
            for judge in judges() {
                self.kernel.forget(asker.profile, address, judge.rules().generation);
            }
        }
        let Some(first) = judges().next() else { return Err("no policy is in force".to_owned()) };
        let permits = resolved
            .learn(first.names(), now(), &origin, &answer.addresses)
            .map_err(|_full| "no room for more resolved addresses".to_owned())?;
        for (address, permit) in permits {
            self.kernel.permit(asker.profile, address, &permit, first.rules())?;
        }
        for judge in judges().skip(1) {
            for (address, _) in &answer.addresses {
                if let Some(permit) = resolved.judge_one(judge.names(), now(), *address) {
                    self.kernel.permit(asker.profile, address.to_canonical(), &permit, judge.rules())?;
                }
            }
        }
        Ok(())
    }

    async fn refuse(
        &self,
        arrival: &Arrival,
        asker: &Asker,
        question: &Question,
        told: &Answer,
        ruling: Ruling,
        message: &[u8],
    ) -> Option<Vec<u8>> {
        one(&self.counts.refused);
        let why =
            ruling.decision.as_ref().map(|decision| decision.verdict.reason.clone()).unwrap_or_default();
        self.report_surely(answered(arrival, asker, &question.name, told, ruling.decision)).await;
        question::refusal(message, ResponseCode::Refused, &why)
    }

    fn fail(
        &self,
        arrival: &Arrival,
        asker: &Asker,
        question: &Question,
        message: &[u8],
        why: &str,
    ) -> Option<Vec<u8>> {
        debug!(server = %asker.server, why, "a question stays without an answer");
        one(&self.counts.failed);
        let told = Answer { code: ResponseCode::ServFail.into(), ..Answer::default() };
        self.report_if_room(answered(arrival, asker, &question.name, &told, None));
        question::refusal(message, ResponseCode::ServFail, "")
    }

    async fn report_surely(&self, answered: Answered) {
        let mut owed = Owed { counts: &self.counts, told: false };
        owed.told = self.report.send(answered).await.is_ok();
    }

    fn report_if_room(&self, answered: Answered) {
        if self.report.try_send(answered).is_err() {
            one(&self.counts.unreported);
        }
    }
}

/// A report that waits for room. Nobody is told of it if the wait is cut off, so it counts as lost then.
struct Owed<'a> {
    counts: &'a Counts,
    told: bool,
}

impl Drop for Owed<'_> {
    fn drop(&mut self) {
        if !self.told {
            one(&self.counts.unreported);
        }
    }
}

impl Profile {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self) -> Option<Arc<Judge>> {
        self.state().judge().cloned()
    }
}

fn answered(
    arrival: &Arrival,
    asker: &Asker,
    name: &HostName,
    answer: &Answer,
    decision: Option<Decision>,
) -> Answered {
    let server = NetEndpoint {
        transport: arrival.transport,
        address: Some(asker.server.ip().to_canonical()),
        port: asker.server.port(),
        family: if asker.server.ip().to_canonical().is_ipv4() { AF_INET } else { AF_INET6 },
    };
    let action = Action::DnsAnswer {
        server,
        name: Text(name.text()),
        code: answer.code,
        aliases: answer.aliases.iter().map(|alias| Text(alias.text())).collect(),
        addresses: answer
            .addresses
            .iter()
            .map(|(address, _)| *address)
            .chain(answer.others.iter().copied())
            .collect(),
        truncated: answer.truncated,
    };
    Answered {
        event: Event {
            time: now(),
            session: asker.session,
            process: asker.process,
            tid: asker.tid,
            uid: asker.uid,
            cgroup: asker.cgroup,
            tool_call: asker.tool_call,
            result: None,
            vantage: Vantage::Kernel,
            verdict: None,
            decision: None,
            action,
        },
        decision,
    }
}
