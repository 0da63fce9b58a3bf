//! A hook about which a person is asked: by its agent, or by holding it until there is an answer. What is asked, and what
//! follows from which answer; who is asked, and how, is not known here.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time};

use super::{
    Daemon, InForce,
    adopt::Lineage,
    bind,
    holds::{Hold, Told},
    judge::{self, Judged},
};
use crate::{
    config::ConnectorConfig,
    connectors,
    model::{
        Attendance, BootTime, Caller, Connector, Decision, Enforced, HookEvent, HookOutput, Mechanism, Mode,
        Outcome, PolicyAction, ProcessKey, Reply, Way,
    },
    policy,
    runtime::clock,
    sensor,
};

/// How long a person has, if the hook may be held for so long.
const PATIENCE: Duration = Duration::from_secs(90);
/// What is left of the time of a hook for telling the agent and for keeping its row.
const MARGIN: Duration = Duration::from_secs(3);
/// It is not worth asking anybody for less.
const LEAST: Duration = Duration::from_secs(1);

/// How a person is asked about the hooks of an agent.
pub(super) fn wanted(config: &ConnectorConfig, connector: Connector) -> Way {
    config.ask.unwrap_or(connectors::default_way(connector))
}

/// Whether a policy may be bound that asks. In which mode it is, the policy itself may say.
pub(super) fn may_ask(config: &ConnectorConfig, connector: Connector, mode: Option<Mode>) -> bool {
    wanted(config, connector) != Way::Fallback && mode.is_none_or(|mode| mode == Mode::Hitl)
}

/// How a person is asked about this event; looks at processes only where that decides.
pub(super) fn way(caller: Caller, config: &ConnectorConfig, event: &HookEvent, hold: Duration) -> Way {
    let wanted = wanted(config, event.connector);
    let attendance = if wanted == Way::Native { attendance(caller, event) } else { Attendance::Unattended };
    match connectors::way(event, wanted, attendance) {
        Way::Hold if time_for(hold).is_none() => Way::Fallback,
        way @ (Way::Native | Way::Hold | Way::Fallback) => way,
    }
}

/// How long a person has before a hook that waits so long must be answered.
fn time_for(hold: Duration) -> Option<Duration> {
    hold.checked_sub(MARGIN).filter(|time| *time >= LEAST).map(|time| time.min(PATIENCE))
}

/// Somebody is there if the agent has the foreground of a terminal, reads and writes there, and was not told to do without.
fn attendance(caller: Caller, event: &HookEvent) -> Attendance {
    let agent = Lineage::of(caller).and_then(|mut lineage| {
        let at = bind::agent(&lineage.ancestors, event.connector, caller.uid).ok()?;
        (at < lineage.ancestors.len()).then(|| lineage.ancestors.swap_remove(at))
    });
    let is_there = agent.is_some_and(|agent| {
        sensor::is_at_terminal(agent.pid) && connectors::is_interactive(event.connector, &agent.argv)
    });
    if is_there { Attendance::Attended } else { Attendance::Unattended }
}

fn later(boot: BootTime, by: Duration) -> BootTime {
    BootTime(boot.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
}

/// A hook that waits for a person.
pub(super) struct Waiting {
    pub(super) caller: Caller,
    /// As it came, for judging it again.
    pub(super) event: HookEvent,
    pub(super) session: Arc<policy::Session>,
    pub(super) in_force: Arc<InForce>,
    pub(super) config: ConnectorConfig,
    /// What holds if there is no answer: the event without secrets, and the decision so far.
    pub(super) kept: HookEvent,
    pub(super) judged: Judged,
    /// Who asked and its ancestors, as they were then.
    pub(super) ancestry: Vec<ProcessKey>,
}

/// Until when, on both clocks.
#[derive(Clone, Copy)]
pub(super) struct Until {
    /// For the question.
    pub(super) boot: BootTime,
    /// For whoever waits: the question's end takes a moment to come here.
    pub(super) instant: time::Instant,
    /// From now to the end of that.
    pub(super) within: Duration,
}

impl Until {
    pub(super) fn new(hold: Duration) -> Self {
        let time = time_for(hold).unwrap_or(LEAST);
        let within = time + MARGIN / 2;
        Self { boot: later(clock::boot_now(), time), instant: time::Instant::now() + within, within }
    }
}

/// How a held hook ends.
pub(super) enum End {
    /// The agent hears this.
    Answered(Reply, Decision),
    /// Nobody is there to hear it.
    Gone(Decision),
}

impl Waiting {
    /// Waits for the person, or until nobody waits for the answer.
    pub(super) async fn end(
        self,
        daemon: &Daemon,
        hold: &mut Hold,
        until: Until,
        caller: &mut oneshot::Sender<HookOutput>,
    ) -> (End, Self) {
        let told = tokio::select! {
            biased;
            told = hold.told(until.instant) => told,
            () = caller.closed() => {
                daemon.queue.withdraw(hold.ticket).await;
                let decision = self.judged.decision.clone();
                return (End::Gone(decision), self);
            }
        };
        let (reply, decision) = match told {
            Some(Told::Settled { allow: true, .. }) => self.allowed(daemon),
            Some(Told::Settled { allow: false, outcome }) => self.refused(outcome.as_ref()),
            Some(Told::Ended) => self.fell_back("nobody can be asked any more"),
            None => {
                daemon.queue.withdraw(hold.ticket).await;
                self.fell_back("nobody has answered in time")
            }
        };
        (End::Answered(reply, decision), self)
    }

    /// A person said yes, to what was asked. What is in force may have become stricter meanwhile.
    fn allowed(&self, daemon: &Daemon) -> (Reply, Decision) {
        let now = daemon.in_force();
        if now.generation != self.in_force.generation {
            let config = now.config.connector(self.event.connector);
            let mut event = self.event.clone();
            if let Ok(bound) = daemon.bound(self.caller, &now, &config, &event)
                && config.enabled
            {
                let again =
                    judge::decide(&bound.session, &bound.home, now.generation, &config, &mut event, |_| true);
                if again.decision.verdict.raw_action == PolicyAction::Block {
                    return (again.reply, again.decision);
                }
            }
        }
        let mut decided = self.judged.decision.clone();
        (decided.action, decided.mechanism) = (PolicyAction::Allow, Mechanism::HookReply);
        (Reply::Allow, decided)
    }

    fn refused(&self, outcome: Option<&Outcome>) -> (Reply, Decision) {
        let said = match outcome {
            Some(Outcome::Ruled { message: Some(message), .. }) => {
                format!("A person was asked and said no: {message}")
            }
            Some(Outcome::Ruled { message: None, .. }) | None => "A person was asked and said no.".to_owned(),
            Some(Outcome::Expired | Outcome::Orphaned) => {
                "A person was asked, and nobody has answered in time.".to_owned()
            }
            Some(Outcome::NotAsked { why } | Outcome::Withdrawn { why }) => {
                format!("A person would have been asked, but {why}.")
            }
        };
        let mut decided = self.judged.decision.clone();
        let reply = judge::held(&self.kept, format!("{}. {said}", self.judged.reason), &mut decided);
        (reply, decided)
    }

    pub(super) fn fell_back(&self, why: &str) -> (Reply, Decision) {
        let mut decided = self.judged.decision.clone();
        let reason = format!("{} ({why})", self.judged.reason);
        let reply = judge::fall_back(&self.session, &self.kept, &reason, &mut decided);
        (reply, decided)
    }
}

/// The agent asks: what becomes of it, later rows tell.
pub(super) fn asks_itself(decided: &mut Decision) {
    (decided.mechanism, decided.enforced) = (Mechanism::HookReply, Some(Enforced::Applied));
}
