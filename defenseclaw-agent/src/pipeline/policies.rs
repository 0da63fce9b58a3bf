//! What the numbers of a kernel verdict mean: the rules of the last policies of each session.

use std::collections::{BTreeMap, VecDeque};

use crate::model::{
    Decision, Event, EventKind, KernelVerdict, Level, Mechanism, PolicyAction, PolicyLoaded, SessionId,
    Vantage, Verdict,
};

/// Policies of a session that are remembered: records of the one before are still on their way when the next is in
/// force, and a verdict carries only the low byte of its generation.
const KEEP: usize = 8;
/// What a refused operation returns.
const EPERM: i64 = 1;

#[derive(Debug, Default)]
pub(super) struct Policies(BTreeMap<SessionId, VecDeque<PolicyLoaded>>);

impl Policies {
    pub(super) fn load(&mut self, policy: PolicyLoaded) {
        let Self(sessions) = self;
        let known = sessions.entry(policy.session).or_default();
        known.push_front(policy);
        known.truncate(KEEP);
    }

    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// Turns the verdict of an event into a decision. Without the policy the event keeps its numbers.
    pub(super) fn explain(&self, event: &mut Event, level: Option<Level>) {
        let Some(verdict) = event.verdict else { return };
        let Some(decision) = self.decision(event, verdict, level) else { return };
        event.verdict = None;
        if decision.mechanism != Mechanism::None {
            event.result = event.result.or(Some(-EPERM));
        }
        event.decision = Some(Box::new(decision));
    }

    fn decision(&self, event: &Event, verdict: KernelVerdict, level: Option<Level>) -> Option<Decision> {
        let Self(sessions) = self;
        let known = sessions.get(&event.session)?;
        let policy = known.iter().find(|policy| policy.generation & 0xff == u64::from(verdict.generation))?;
        let rule = policy.rules.get(usize::from(verdict.rule))?;
        let done = done(event, verdict, level);
        Some(Decision {
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
            generation: policy.generation,
        })
    }
}

struct Done {
    action: PolicyAction,
    would_block: bool,
    mechanism: Mechanism,
}

/// What became of a verdict where it was given. Only the kernel's own checks can refuse: when a system call has
/// returned, its deed is done.
fn done(event: &Event, verdict: KernelVerdict, level: Option<Level>) -> Done {
    let KernelVerdict { action, would_block, .. } = verdict;
    if action != PolicyAction::Block {
        return Done { action, would_block, mechanism: Mechanism::None };
    }
    match (event.vantage, event.kind()) {
        (Vantage::SyscallExit, _) if event.result != Some(-EPERM) => {
            Done { action: PolicyAction::Alert, would_block: true, mechanism: Mechanism::None }
        }
        (Vantage::Handed, _) => Done { action, would_block, mechanism: Mechanism::Launcher },
        // At level `lsm` the hook comes first.
        (_, EventKind::NetConnect | EventKind::NetBind | EventKind::NetSend) if level != Some(Level::Lsm) => {
            Done { action, would_block, mechanism: Mechanism::Cgroup }
        }
        _ => Done { action, would_block, mechanism: Mechanism::Lsm },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        model::{Action, BootTime, LoadedRule, Mode, ProcessKey, Severity},
        pipeline::tests::event,
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
        });
        event
    }

    fn loaded(generations: impl IntoIterator<Item = u64>) -> Policies {
        let mut policies = Policies::default();
        generations.into_iter().for_each(|generation| policies.load(policy(generation)));
        policies
    }

    #[test]
    fn a_blocked_operation_names_its_rule_and_its_errno() {
        let mut event = judged(0, PolicyAction::Block, 3);
        loaded([3]).explain(&mut event, Some(Level::Lsm));
        let decision = event.decision.unwrap();
        assert_eq!(decision.verdict.rule_ids, ["keys-3"]);
        assert_eq!(decision.verdict.severity, Some(Severity::High));
        assert_eq!(decision.verdict.reason, "because keys");
        assert_eq!((decision.action, decision.mechanism), (PolicyAction::Block, Mechanism::Lsm));
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
            loaded([1]).explain(&mut event, Some(Level::Lsm));
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
            loaded([3]).explain(&mut event, Some(Level::Lsm));
            assert_eq!(event, before);
        }
    }

    proptest! {
        #[test]
        fn a_record_that_comes_late_is_read_by_its_own_policy(last in 1u64..2000, back in 0u64..16) {
            let policies = loaded(last.saturating_sub(20).max(1)..=last);
            let generation = last.saturating_sub(back).max(1);
            let mut event = judged(1, PolicyAction::Alert, generation);
            policies.explain(&mut event, Some(Level::Lsm));
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
