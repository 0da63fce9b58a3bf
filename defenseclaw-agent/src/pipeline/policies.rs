//! What policy says of each event. Where the kernel judged, its numbers become words: the rules of the last policies of each
//! session. Where it did not, the policy that was in force then is asked, and what it says is written down as what it is:
//! nothing was held.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{
    asking::Question,
    unjudged::{self, InKernel, Names},
};
use crate::{
    model::{
        Action, Decision, Enforced, Event, EventKind, KernelVerdict, Level, Mechanism, PolicyAction,
        PolicyLoaded, ProcessKey, SessionId, Severity, Vantage, Verdict,
    },
    policy,
    tree::ProcessTree,
};

/// Policies of a session that are remembered: records of the one before are still on their way when the next is in
/// force, and a verdict carries only the low byte of its generation.
const KEEP: usize = 8;
/// What a refused operation returns.
const EPERM: i64 = 1;
const EACCES: i64 = 13;
/// What a refused fork returns.
const EAGAIN: i64 = 11;
/// Number of the rule of a refusal that no rule is behind.
const NO_RULE: u16 = u16::MAX;

#[derive(Debug, Default)]
pub(super) struct Policies(BTreeMap<SessionId, Judges>);

/// What judges one session.
#[derive(Debug, Default)]
struct Judges {
    /// The newest first, and what judges by it in user space, if that is known.
    policies: VecDeque<(PolicyLoaded, Option<Arc<policy::Session>>)>,
    names: Names,
}

/// What the machine does for a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) level: Level,
    pub(super) in_kernel: InKernel,
    /// Landlock holds addresses: what it refuses has EACCES.
    pub(super) landlock: bool,
}

impl Policies {
    pub(super) fn load(&mut self, policy: PolicyLoaded, judge: Option<Arc<policy::Session>>) {
        let Self(sessions) = self;
        let known = &mut sessions.entry(policy.session).or_default().policies;
        known.push_front((policy, judge));
        known.truncate(KEEP);
    }

    pub(super) fn forget(&mut self, session: SessionId) {
        self.0.remove(&session);
    }

    /// Says of an event what policy says of it, before the tree knows the event. What follows from it besides is the answer.
    pub(super) fn explain(&mut self, event: &mut Event, tree: &ProcessTree, held: Option<Held>) -> Explained {
        let Self(sessions) = self;
        let asked = event.verdict.filter(|verdict| asks(event, *verdict));
        let Some(judges) = sessions.get_mut(&event.session) else {
            return Explained { kill: None, asks: asked.map(unknown) };
        };
        judges.names.learn(&event.action);
        let kill_refused = judges.translate(event, held.map(|held| held.level));
        let kill_detected = held.is_some_and(|held| judges.detect(event, tree, held));
        let kill = (kill_refused || kill_detected).then_some(event.process);
        Explained {
            kill: kill.filter(|process| process.tgid != 0),
            asks: asked.filter(|_| event.process.tgid != 0).map(|verdict| judges.question(event, verdict)),
        }
    }
}

/// What follows from what policy says of an event.
#[derive(Debug, Default)]
pub(super) struct Explained {
    /// Who is to be ended.
    pub(super) kill: Option<ProcessKey>,
    /// What a person is asked.
    pub(super) asks: Option<Question>,
}

/// Whether somebody waits for a person: stopped before the operation, or refused until a next try may pass.
fn asks(event: &Event, verdict: KernelVerdict) -> bool {
    match verdict.action {
        PolicyAction::Confirm => event.vantage == Vantage::Kernel,
        PolicyAction::Block => verdict.asks && verdict.raw_action == PolicyAction::Confirm,
        PolicyAction::Allow | PolicyAction::Alert => false,
    }
}

/// Who is stopped is to be let go on, whether or not it is known which rule it was.
fn unknown(verdict: KernelVerdict) -> Question {
    Question {
        rule: format!("number {} of policy {}", verdict.rule, verdict.generation),
        severity: Severity::High,
        reason: String::new(),
        fallback: PolicyAction::Block,
        judge: None,
        retry: verdict.action == PolicyAction::Block,
    }
}

impl Judges {
    fn of_generation(&self, low: u8) -> Option<&(PolicyLoaded, Option<Arc<policy::Session>>)> {
        self.policies.iter().find(|(policy, _)| policy.generation & 0xff == u64::from(low))
    }

    /// What the event asks, when it was explained.
    fn question(&self, event: &Event, verdict: KernelVerdict) -> Question {
        let known = self.of_generation(verdict.generation);
        let rule = known.and_then(|(policy, _)| policy.rules.get(usize::from(verdict.rule)));
        let Some(rule) = rule.filter(|_| event.decision.is_some()) else { return unknown(verdict) };
        let judge = known.and_then(|(_, judge)| judge.clone());
        let fallback = judge.as_ref().and_then(|judge| judge.asks());
        Question {
            rule: rule.id.clone(),
            severity: rule.severity,
            reason: rule.reason.clone(),
            // Only who may say so is known to allow.
            fallback: fallback.unwrap_or(PolicyAction::Block),
            judge,
            retry: verdict.action == PolicyAction::Block,
        }
    }

    /// Turns the verdict of an event into a decision; without the policy the event keeps its numbers. Whether the process
    /// is to be ended, because the program that refused may not.
    fn translate(&self, event: &mut Event, level: Option<Level>) -> bool {
        let Some(verdict) = event.verdict else { return false };
        if verdict.rule == NO_RULE && event.kind() == EventKind::ProcessFork {
            event.verdict = None;
            event.result = Some(-EAGAIN);
            let generation = self.policies.front().map_or(0, |(policy, _)| policy.generation);
            event.decision = Some(Box::new(unwatchable(generation)));
            return false;
        }
        let known = self.of_generation(verdict.generation);
        let Some((policy, judge)) = known else { return false };
        let Some(rule) = policy.rules.get(usize::from(verdict.rule)) else { return false };
        let done = done(event, verdict, level);
        event.verdict = None;
        if !matches!(done.mechanism, Mechanism::None | Mechanism::Pause) {
            event.result = event.result.or(Some(-EPERM));
        }
        event.decision = Some(Box::new(Decision {
            verdict: Verdict {
                raw_action: verdict.raw_action,
                severity: Some(rule.severity),
                rule_ids: vec![rule.id.clone()],
                // Nobody asks why something was allowed, and that is what most rows say.
                reason: if done.action == PolicyAction::Allow { String::new() } else { rule.reason.clone() },
            },
            action: done.action,
            would_block: done.would_block,
            mechanism: done.mechanism,
            enforced: done.enforced,
            generation: policy.generation,
        }));
        done.mechanism == Mechanism::Cgroup && judge.as_ref().is_some_and(|judge| judge.kills(verdict.rule))
    }

    /// Judges what no program judged. Whether the process is to be ended, because the rule says so and nothing held it.
    fn detect(&self, event: &mut Event, tree: &ProcessTree, held: Held) -> bool {
        let in_force = |(policy, _): &&(PolicyLoaded, _)| policy.boot <= event.time;
        let in_force = self.policies.iter().find(in_force).or(self.policies.back());
        let Some((policy, Some(judge))) = in_force else { return false };
        let judged = held.in_kernel.said(event);
        let harmless = |decision: &Decision| decision.verdict.raw_action <= PolicyAction::Alert;
        let known = event.decision.as_deref();
        // Of what it judged, only patterns that it cannot look up are left to say.
        if judged && !(judge.has_wild() && event.verdict.is_none() && known.is_none_or(harmless)) {
            return false;
        }
        let Some(entry) = unjudged::judge(judge, tree, &self.names, held.in_kernel, event) else {
            return false;
        };
        if judged && !judge.is_wild(entry.rule) {
            return false;
        }
        let wanted = entry.action >= PolicyAction::Confirm;
        if wanted && held.in_kernel.let_pass(&event.action) {
            return false;
        }
        if entry.action == PolicyAction::Allow && !judged {
            return false;
        }
        let refused = wanted
            && held.landlock
            && event.result == Some(-EACCES)
            && matches!(event.action, Action::NetConnect { .. } | Action::NetBind { .. });
        let kill = wanted && entry.kill && !refused;
        let (action, mechanism, enforced) = match (wanted, refused, kill) {
            (true, true, _) => (PolicyAction::Block, Mechanism::Landlock, Some(Enforced::Applied)),
            (true, false, true) => (PolicyAction::Alert, Mechanism::Signal, Some(Enforced::TooLate)),
            (true, false, false) => (PolicyAction::Alert, Mechanism::None, Some(Enforced::Unsupported)),
            (false, ..) => (entry.action, Mechanism::None, None),
        };
        let mut verdict = judge.verdict(&entry);
        if action == PolicyAction::Allow {
            verdict.reason = String::new();
        }
        event.decision = Some(Box::new(Decision {
            verdict,
            action,
            would_block: entry.would_block || wanted && !refused,
            mechanism,
            enforced,
            generation: policy.generation,
        }));
        kill
    }
}

/// A fork that was refused: the child could not have been watched.
fn unwatchable(generation: u64) -> Decision {
    Decision {
        verdict: Verdict {
            raw_action: PolicyAction::Block,
            severity: Some(Severity::High),
            rule_ids: vec!["unwatchable".to_owned()],
            reason:
                "too many processes are watched already, and what is not watched could do anything; end some"
                    .to_owned(),
        },
        action: PolicyAction::Block,
        would_block: false,
        mechanism: Mechanism::Lsm,
        enforced: Some(Enforced::Applied),
        generation,
    }
}

struct Done {
    action: PolicyAction,
    would_block: bool,
    mechanism: Mechanism,
    enforced: Option<Enforced>,
}

/// What became of a verdict where it was given. Only the kernel's own checks can refuse: when a system call has
/// returned, its deed is done.
fn done(event: &Event, verdict: KernelVerdict, level: Option<Level>) -> Done {
    let KernelVerdict { action, would_block, .. } = verdict;
    if action == PolicyAction::Confirm && event.vantage == Vantage::Kernel {
        return Done { action, would_block, mechanism: Mechanism::Pause, enforced: None };
    }
    // Nobody can be asked about what has happened, or about what is handed over before anything runs.
    let action = if action == PolicyAction::Confirm { PolicyAction::Block } else { action };
    if action != PolicyAction::Block {
        return Done { action, would_block, mechanism: Mechanism::None, enforced: None };
    }
    let held = |mechanism| Done { action, would_block, mechanism, enforced: Some(Enforced::Applied) };
    match (event.vantage, event.kind()) {
        (Vantage::SyscallExit, _) if event.result != Some(-EPERM) => Done {
            action: PolicyAction::Alert,
            would_block: true,
            mechanism: Mechanism::None,
            enforced: Some(Enforced::Unsupported),
        },
        (Vantage::Handed, _) => held(Mechanism::Launcher),
        // At level `lsm` the hook comes first.
        (_, EventKind::NetConnect | EventKind::NetBind | EventKind::NetSend) if level != Some(Level::Lsm) => {
            held(Mechanism::Cgroup)
        }
        _ => held(Mechanism::Lsm),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        model::{BootTime, LoadedRule, Mode},
        pipeline::{tests::event, unjudged::tests::session},
    };

    const SESSION: SessionId = SessionId(1);

    fn policy(generation: u64) -> PolicyLoaded {
        let rule = |id: &str, severity| LoadedRule {
            id: format!("{id}-{generation}"),
            severity,
            reason: format!("because {id}"),
        };
        PolicyLoaded {
            session: SESSION,
            boot: BootTime(generation),
            profile: 0,
            name: "default".to_owned(),
            mode: Mode::Action,
            generation,
            digest: String::new(),
            rules: vec![rule("keys", Severity::High), rule("net", Severity::Medium)],
        }
    }

    fn judged(rule: u16, action: PolicyAction, generation: u64) -> Event {
        let mut event = *event(ProcessKey { tgid: 5, start_ns: 5 }, 9, Action::Bpf { command: 1 });
        event.session = SESSION;
        event.verdict = Some(KernelVerdict {
            action,
            raw_action: PolicyAction::Block,
            would_block: action == PolicyAction::Alert,
            rule,
            generation: u8::try_from(generation & 0xff).unwrap(),
            asks: false,
        });
        event
    }

    fn loaded(generations: impl IntoIterator<Item = u64>) -> Policies {
        let mut policies = Policies::default();
        generations.into_iter().for_each(|generation| {
            policies.load(policy(generation), Some(session("settings: {unresolved: allow}", Mode::Action)));
        });
        policies
    }

    fn explain(mut policies: Policies, event: &mut Event) -> bool {
        let held = Held { level: Level::Lsm, in_kernel: InKernel::default(), landlock: false };
        policies.explain(event, &ProcessTree::new(), Some(held)).kill.is_some()
    }

    #[test]
    fn a_blocked_operation_names_its_rule_and_its_errno() {
        let mut event = judged(0, PolicyAction::Block, 3);
        explain(loaded([3]), &mut event);
        let decision = event.decision.unwrap();
        assert_eq!(decision.verdict.rule_ids, ["keys-3"]);
        assert_eq!(decision.verdict.severity, Some(Severity::High));
        assert_eq!(decision.verdict.reason, "because keys");
        assert_eq!((decision.action, decision.mechanism), (PolicyAction::Block, Mechanism::Lsm));
        assert_eq!(decision.enforced, Some(Enforced::Applied));
        assert_eq!((decision.generation, event.result, event.verdict), (3, Some(-EPERM), None));
    }

    #[test]
    fn what_has_returned_was_not_blocked() {
        for (result, action, mechanism) in [
            (Some(3), PolicyAction::Alert, Mechanism::None),
            (Some(-2), PolicyAction::Alert, Mechanism::None),
            (Some(-EPERM), PolicyAction::Block, Mechanism::Lsm),
        ] {
            let mut event = judged(0, PolicyAction::Block, 1);
            (event.vantage, event.result) = (Vantage::SyscallExit, result);
            explain(loaded([1]), &mut event);
            let decision = event.decision.unwrap();
            assert_eq!((decision.action, decision.mechanism, event.result), (action, mechanism, result));
            assert_eq!(decision.would_block, action == PolicyAction::Alert);
        }
    }

    #[test]
    fn an_unknown_policy_leaves_the_numbers() {
        for (rule, generation, session) in [(0, 4, 1), (2, 3, 1), (0, 3, 2)] {
            let mut event = judged(rule, PolicyAction::Block, generation);
            event.session = SessionId(session);
            let before = event.clone();
            explain(loaded([3]), &mut event);
            assert_eq!(event, before);
        }
    }

    #[test]
    fn a_fork_that_could_not_be_watched_is_a_refusal_without_a_rule() {
        let mut event = judged(NO_RULE, PolicyAction::Block, 0);
        let child = ProcessKey { tgid: 0, start_ns: 0 };
        event.action = Action::ProcessFork { child, namespaces: crate::model::Namespaces::empty() };
        explain(loaded([1, 2]), &mut event);
        let decision = event.decision.unwrap();
        assert_eq!((decision.generation, event.result, event.verdict), (2, Some(-EAGAIN), None));
        assert_eq!((decision.action, decision.enforced), (PolicyAction::Block, Some(Enforced::Applied)));
    }

    proptest! {
        #[test]
        fn a_record_that_comes_late_is_read_by_its_own_policy(last in 1u64..2000, back in 0u64..16) {
            let policies = loaded(last.saturating_sub(20).max(1)..=last);
            let generation = last.saturating_sub(back).max(1);
            let mut event = judged(1, PolicyAction::Alert, generation);
            explain(policies, &mut event);
            if last - generation < KEEP as u64 {
                let decision = event.decision.unwrap();
                prop_assert_eq!(decision.generation, generation);
                prop_assert_eq!(&decision.verdict.rule_ids, &[format!("net-{generation}")]);
            } else {
                prop_assert!(event.verdict.is_some());
            }
        }
    }
}
