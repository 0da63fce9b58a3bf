//! When a row of the audit was written, and whose it is, for the list of findings.

use crate::model::{AuditRecord, BootTime, PolicyAction};

/// Boot clock, of rows that are listed.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other rows are not listed")]
pub(super) fn time(record: &AuditRecord) -> Option<BootTime> {
    match record {
        AuditRecord::Event(event) => Some(event.time),
        AuditRecord::Hook(call) => Some(call.boot),
        AuditRecord::Finding(finding) => Some(finding.boot),
        AuditRecord::Settled(settled) => Some(settled.boot),
        _ => None,
    }
}

/// What it is, in one word.
#[expect(clippy::wildcard_enum_match_arm, reason = "the other rows are not listed")]
pub(super) fn word(record: &AuditRecord) -> &'static str {
    let action = match record {
        AuditRecord::Event(event) => event.policy_action(),
        AuditRecord::Hook(call) => call.decision.as_ref().map(|decision| decision.action),
        AuditRecord::Finding(_) => return "found",
        AuditRecord::Settled(settled) => return if settled.allowed { "allowed" } else { "denied" },
        _ => return "",
    };
    match action {
        Some(PolicyAction::Block) => "block",
        Some(PolicyAction::Confirm) => "confirm",
        Some(PolicyAction::Alert) => "alert",
        Some(PolicyAction::Allow) | None => "",
    }
}
