//! What policy had to say: blocked and alerted operations by rule. Each of these events is counted in one of the other
//! sections, too.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::{
    PathClass,
    classes::{Place, Places},
};
use crate::model::{
    Action, Enforced, Event, LoadedRule, Mode, PolicyAction, PolicyLoaded, PolicyRefused, Posture,
    ProcessKey, Severity,
};

/// Operations that are listed.
const OPERATIONS_MAX: usize = 20_000;

/// What policy had to say.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Judged {
    /// Policies that came into force, in their order; none: nothing was judged.
    pub policies: Vec<PolicyInForce>,
    /// Policies that were not taken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedPolicy>,
    /// Whether blocking was proven to work, in the order of the changes.
    pub postures: Vec<PostureAt>,
    /// Operations that were refused.
    pub blocked: u64,
    /// Operations that went through, and should be looked at.
    pub alerted: u64,
    /// Those of them that another mode would have blocked.
    pub would_block: u64,
    /// Those of them that this mode would have blocked, had anything here been able to.
    pub not_prevented: u64,
    /// By rule: blocked ones first, then the most severe, then those that reach outside of the project.
    pub groups: Vec<JudgedGroup>,
    /// Events beyond the bound of the lists.
    pub unlisted: u64,
}

/// A policy that came into force.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyInForce {
    /// When.
    pub at_ns: u64,
    /// Preset or file.
    pub name: String,
    /// What follows from severity.
    pub mode: Mode,
    /// Which one.
    pub generation: u64,
    /// SHA-256 of its text.
    pub digest: String,
    /// Its rules.
    pub rules: Vec<LoadedRule>,
}

/// A policy that was not taken.
#[derive(Clone, Debug, Serialize)]
pub struct RefusedPolicy {
    /// When.
    pub at_ns: u64,
    /// Preset or file.
    pub name: String,
    /// What is wrong with it.
    pub problems: Vec<String>,
}

/// Whether blocking was proven to work.
#[derive(Clone, Debug, Serialize)]
pub struct PostureAt {
    /// When this was found.
    pub at_ns: u64,
    /// What was found.
    #[serde(flatten)]
    pub posture: Posture,
}

/// What one rule led to.
#[derive(Clone, Debug, Serialize)]
pub struct JudgedGroup {
    /// What was done.
    pub action: PolicyAction,
    /// Another mode would have blocked it.
    pub would_block: bool,
    /// What became of it, if it was to be blocked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforced: Option<Enforced>,
    /// How bad it is; none if the policy is not known.
    pub severity: Option<Severity>,
    /// Rule ids, the decisive one first.
    pub rules: Vec<String>,
    /// Why, and what to do instead.
    pub reason: String,
    /// How many.
    pub events: u64,
    /// Those that reach outside of the project first.
    pub operations: Vec<JudgedOperation>,
}

/// One operation on one object.
#[derive(Clone, Debug, Serialize)]
pub struct JudgedOperation {
    /// By whom first.
    pub process: ProcessKey,
    /// When first.
    pub first_ns: u64,
    /// When last.
    pub last_ns: u64,
    /// How often.
    pub count: u64,
    /// Not a file of the project.
    pub outside: bool,
    /// What.
    #[serde(flatten)]
    pub what: Action,
}

/// The most important first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct GroupKey {
    action: std::cmp::Reverse<PolicyAction>,
    would_block: std::cmp::Reverse<bool>,
    enforced: std::cmp::Reverse<Option<Enforced>>,
    severity: std::cmp::Reverse<Option<Severity>>,
    rules: Vec<String>,
}

#[derive(Debug, Default)]
struct Group {
    reason: String,
    events: u64,
    operations: Vec<JudgedOperation>,
    /// Position of an operation. Actions have no hash of their own, their debug form has.
    known: HashMap<String, usize>,
}

#[derive(Debug, Default)]
pub(super) struct Builder {
    done: Judged,
    groups: BTreeMap<GroupKey, Group>,
    listed: usize,
}

impl Builder {
    pub(super) fn loaded(&mut self, policy: &PolicyLoaded, at_ns: u64) {
        self.done.policies.push(PolicyInForce {
            at_ns,
            name: policy.name.clone(),
            mode: policy.mode,
            generation: policy.generation,
            digest: policy.digest.clone(),
            rules: policy.rules.clone(),
        });
    }

    pub(super) fn refused(&mut self, policy: &PolicyRefused, at_ns: u64) {
        let (name, problems) = (policy.name.clone(), policy.problems.clone());
        self.done.refused.push(RefusedPolicy { at_ns, name, problems });
    }

    pub(super) fn posture(&mut self, posture: &Posture, at_ns: u64) {
        self.done.postures.push(PostureAt { at_ns, posture: posture.clone() });
    }

    pub(super) fn push(&mut self, event: &Event, at_ns: u64) {
        let Some(action) = event.policy_action().filter(|action| *action != PolicyAction::Allow) else {
            return;
        };
        let (key, reason) = group(event, action);
        if action == PolicyAction::Block {
            self.done.blocked += 1;
        } else {
            self.done.alerted += 1;
            let unheld = key.enforced.0.is_some();
            self.done.not_prevented += u64::from(unheld);
            self.done.would_block += u64::from(key.would_block.0 && !unheld);
        }
        let group = self.groups.entry(key).or_default();
        if group.events == 0 {
            reason.clone_into(&mut group.reason);
        }
        group.events += 1;
        let name = format!("{:?}", event.action);
        let position = match group.known.get(&name) {
            Some(position) => *position,
            None if self.listed >= OPERATIONS_MAX => {
                self.done.unlisted += 1;
                return;
            }
            None => {
                self.listed += 1;
                group.operations.push(JudgedOperation {
                    process: event.process,
                    first_ns: at_ns,
                    last_ns: at_ns,
                    count: 0,
                    outside: true,
                    what: event.action.clone(),
                });
                group.known.insert(name, group.operations.len() - 1);
                group.operations.len() - 1
            }
        };
        if let Some(operation) = group.operations.get_mut(position) {
            operation.count += 1;
            operation.last_ns = operation.last_ns.max(at_ns);
        }
    }

    pub(super) fn finish(self, places: &Places) -> Judged {
        let Self { mut done, groups, .. } = self;
        done.groups = groups
            .into_iter()
            .map(|(key, mut group)| {
                for operation in &mut group.operations {
                    operation.outside = is_outside(&operation.what, places);
                }
                group.operations.sort_by_key(|operation| (!operation.outside, operation.first_ns));
                JudgedGroup {
                    action: key.action.0,
                    would_block: key.would_block.0,
                    enforced: key.enforced.0,
                    severity: key.severity.0,
                    rules: key.rules,
                    reason: group.reason,
                    events: group.events,
                    operations: group.operations,
                }
            })
            .collect();
        // Stable: rules that are equal in this keep the order of their ids.
        done.groups.sort_by_key(|group| {
            let inside = !group.operations.iter().any(|operation| operation.outside);
            (std::cmp::Reverse((group.action, group.would_block, group.enforced, group.severity)), inside)
        });
        done
    }
}

/// What an event is grouped by, and the reason of its rule.
fn group(event: &Event, action: PolicyAction) -> (GroupKey, &str) {
    use std::cmp::Reverse;
    let enforced = event.decision.as_ref().and_then(|decision| decision.enforced);
    let (would_block, severity, rules, reason) = match (&event.decision, event.verdict) {
        (Some(decision), _) => {
            let verdict = &decision.verdict;
            (decision.would_block, verdict.severity, verdict.rule_ids.clone(), verdict.reason.as_str())
        }
        (None, Some(verdict)) => {
            let name = format!("number {} of unknown policy {}", verdict.rule, verdict.generation);
            (verdict.would_block, None, vec![name], "")
        }
        (None, None) => (false, None, Vec::new(), ""),
    };
    let key = GroupKey {
        action: Reverse(action),
        would_block: Reverse(would_block),
        enforced: Reverse(enforced),
        severity: Reverse(severity),
        rules,
    };
    (key, reason)
}

fn is_outside(action: &Action, places: &Places) -> bool {
    let in_project = |path| places.place(path, true) == Place::Class(PathClass::Project);
    let mut paths = [action.path(), action.other_path()].into_iter().flatten().peekable();
    paths.peek().is_none() || !paths.all(in_project)
}
