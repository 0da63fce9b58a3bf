//! Entries of a policy in the ABI's words.

use defenseclaw_ebpf::image::{self as abi, action, entry_flags, reach};

use super::{EnforceError, owners::Numbers};
use crate::{
    model::PolicyAction,
    policy::image::{Entry, Image, Reach, Unless},
};

/// One of [`action`].
pub(super) fn action_number(action: PolicyAction) -> u8 {
    match action {
        PolicyAction::Allow => action::ALLOW,
        PolicyAction::Alert => action::ALERT,
        PolicyAction::Confirm => action::CONFIRM,
        PolicyAction::Block => action::BLOCK,
    }
}

/// One of [`reach`].
pub(super) fn reach_bit(reach: Reach) -> u8 {
    match reach {
        Reach::Exact => reach::EXACT,
        Reach::Children => reach::CHILDREN,
        Reach::Subtree => reach::SUBTREE,
        Reach::Ancestor => reach::ANCESTOR,
    }
}

/// An entry as the kernel reads it.
pub(super) fn entry(
    image: &Image,
    entry: &Entry,
    reach: Reach,
    owners: &Numbers,
) -> Result<abi::Entry, EnforceError> {
    let unless = match entry.unless {
        None => 0,
        Some(Unless::Executable(set)) => owners.number(image, entry, set)? + 1,
        Some(Unless::Parent(set)) => (owners.number(image, entry, set)? + 1) | abi::UNLESS_PARENT,
    };
    let mut flags = 0;
    if entry.kill {
        flags |= entry_flags::KILL;
    }
    if entry.would_block {
        flags |= entry_flags::WOULD_BLOCK;
    }
    if image.asks == Some(PolicyAction::Allow) && entry.action == PolicyAction::Confirm {
        flags |= entry_flags::FALLBACK_ALLOW;
    }
    Ok(abi::Entry {
        effects: entry.effects.bits(),
        rule: entry.rule,
        action: action_number(entry.action),
        raw_and_reach: action_number(entry.raw_action) | reach_bit(reach) << 4,
        unless,
        flags,
    })
}

/// The id of a rule, for errors.
pub(super) fn rule_id(image: &Image, rule: u16) -> String {
    image.rules.get(usize::from(rule)).map_or_else(|| format!("number {rule}"), |rule| rule.id.clone())
}

/// The error of an entry that does not fit.
pub(super) fn refuse(image: &Image, entry: &Entry, reason: impl Into<String>) -> EnforceError {
    EnforceError::Rule { rule: rule_id(image, entry.rule), reason: reason.into() }
}
