//! What can only be said of the whole policy: severity, action and settings together, and what the kernel can hold.

use super::super::{
    pattern,
    problem::Problems,
    rule::{Policy, Rule},
};
use crate::model::{Mode, PolicyAction, Severity};

/// Numbers that entries can carry, without those of defaults and of unresolved objects.
const RULES_MAX: usize = 65_535 - 64;

pub(super) fn policy(policy: &Policy, problems: &mut Problems) {
    if let Some(rule) = policy.rules.get(RULES_MAX) {
        problems.at(&rule.at, format!("there are more than {RULES_MAX} rules"), "");
    }
    for rule in &policy.rules {
        severe(rule, policy, problems);
        held(rule, policy, problems);
    }
    for profile in &policy.profiles {
        for glob in profile.include.iter().chain(&profile.exclude) {
            let known =
                policy.rules.iter().any(|rule| pattern::glob(glob.value.as_bytes(), rule.id.as_bytes()));
            if !known {
                let message = format!("profile {:?}: no rule has an id like {:?}", profile.name, glob.value);
                problems.at(&glob.at, message, "check the spelling; * stands for anything");
            }
        }
    }
}

/// Critical is never lowered to allow where anything is blocked, and who is blocked learns why.
fn severe(rule: &Rule, policy: &Policy, problems: &mut Problems) {
    let settings = &policy.settings;
    let can_block = rule.can_block(settings.thresholds);
    if rule.severity == Severity::Critical {
        for mode in [Mode::Action, Mode::Hitl] {
            let raw = rule.raw_action(settings.thresholds, mode);
            if settings.applied(raw, mode, false).0 != PolicyAction::Allow {
                continue;
            }
            let (message, hint) = if raw == PolicyAction::Allow {
                ("a critical rule cannot allow", "lower its severity if you mean that")
            } else {
                ("confirm_fallback would allow what this critical rule asks to confirm", "block it")
            };
            problems.at(&rule.at, format!("rule {:?}: {message}", rule.id), hint);
            break;
        }
    }
    if can_block && rule.reason.is_empty() {
        let message = format!("rule {:?} can block and gives no reason", rule.id);
        problems.at(&rule.at, message, "add reason: the agent reads it and should learn what to do instead");
    }
    if rule.kill && !can_block {
        problems.at(&rule.at, format!("rule {:?} kills, but never blocks", rule.id), "remove kill");
    }
}

/// What may block is held by the kernel.
fn held(rule: &Rule, policy: &Policy, problems: &mut Problems) {
    if !rule.can_block(policy.settings.thresholds) {
        return;
    }
    for (_, pattern) in rule.matches.path_patterns(rule.effects) {
        if let Some(why) = pattern.value.wild() {
            let text = pattern.value.as_str();
            problems.at(
                &pattern.at,
                format!("rule {:?} can block, but the kernel cannot hold {text:?}: {why}", rule.id),
                "write /a/b, /a/b/*, /a/b/**, **/name, **/dir/name or **/*.ext; or set action: alert",
            );
        }
    }
}
