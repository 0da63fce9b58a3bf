//! What policy says of one hook, and what its agent can be told: announced actions before a tool, and texts wherever an
//! agent shows us some. Takes what is secret out of the event on the way; who keeps it keeps nothing else.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    config::ConnectorConfig,
    connectors,
    model::{Decision, Enforced, Hold, HookEvent, Mechanism, Phase, PolicyAction, Reply, Verdict},
    policy::{self, Whereabouts, image::Entry},
};

/// Moments at which there is something to judge.
pub(super) fn is_judged(phase: Phase) -> bool {
    match phase {
        Phase::ToolPre | Phase::ToolPost | Phase::PromptSubmit | Phase::Stop | Phase::SubagentStop => true,
        Phase::SessionStart | Phase::Permission | Phase::SubagentStart | Phase::SessionEnd | Phase::Other => {
            false
        }
    }
}

/// An event that nobody could judge, as it may be kept; none if not even that can be told.
pub(super) fn without_secrets(mut event: HookEvent) -> Option<HookEvent> {
    let inspected = catch_unwind(AssertUnwindSafe(|| policy::inspect(None, &mut event)));
    inspected.is_ok().then_some(event)
}

/// What policy says of what was announced and of what was written, and what the agent hears of it.
pub(super) fn decide(
    session: &policy::Session,
    home: &str,
    generation: u64,
    config: &ConnectorConfig,
    event: &mut HookEvent,
) -> (Reply, Decision) {
    let mut said: Vec<Entry> = Vec::new();
    if event.phase == Phase::ToolPre {
        let at = Whereabouts { cwd: event.cwd.as_deref(), home };
        said.extend(event.tools.iter().flat_map(|call| policy::announced(session, at, call)));
    }
    // After the announcement was judged: its words may be what is taken out.
    said.extend(policy::inspect(Some(session), event));
    said.sort_by_key(|entry| std::cmp::Reverse((entry.action, entry.raw_action)));
    let Some(first) = said.first() else {
        let verdict = Verdict {
            raw_action: PolicyAction::Allow,
            severity: None,
            rule_ids: Vec::new(),
            reason: String::new(),
        };
        return (Reply::Allow, decision(verdict, PolicyAction::Allow, generation));
    };
    let mut verdict = session.verdict(first);
    for entry in &said {
        for id in session.verdict(entry).rule_ids {
            if !verdict.rule_ids.contains(&id) {
                verdict.rule_ids.push(id);
            }
        }
    }
    let rule = verdict.rule_ids.first().cloned().unwrap_or_default();
    let own = if verdict.reason.is_empty() { "this is not allowed here" } else { &verdict.reason };
    let reason = match &config.block_message {
        Some(message) => message.replace("{rule}", &rule).replace("{reason}", own),
        None => format!("{own} (DefenseClaw rule {rule})"),
    };
    let would_block = first.would_block;
    let mut decided = decision(verdict, first.action, generation);
    decided.would_block = would_block;
    let reply = match first.action {
        PolicyAction::Allow => Reply::Allow,
        PolicyAction::Alert => Reply::Alert { note: format!("DefenseClaw: {reason}") },
        // Applied already: policy says what becomes of a question that nobody is asked.
        PolicyAction::Confirm | PolicyAction::Block => held(event, reason, &mut decided),
    };
    (reply, decided)
}

/// A block, as far as the agent can be stopped at this event.
fn held(event: &HookEvent, reason: String, decided: &mut Decision) -> Reply {
    match (event.phase, connectors::control(event).hold) {
        // Of a result, withholding it is what was meant.
        (_, Hold::Prevents) | (Phase::ToolPost, Hold::Withholds) => {
            decided.mechanism = Mechanism::HookReply;
            decided.enforced = Some(Enforced::Applied);
            Reply::Block { reason }
        }
        // The model has the result, and learns what it is worth.
        (Phase::ToolPost, Hold::Tells) => {
            decided.action = PolicyAction::Alert;
            decided.enforced = Some(Enforced::TooLate);
            Reply::Block { reason }
        }
        (Phase::ToolPre, _) => {
            decided.action = PolicyAction::Alert;
            decided.enforced = Some(Enforced::Unsupported);
            Reply::Block { reason }
        }
        // Everybody has read it. A block would only make the agent go on.
        _ => {
            decided.action = PolicyAction::Alert;
            decided.enforced = Some(Enforced::Unsupported);
            Reply::Alert { note: format!("DefenseClaw: {reason}") }
        }
    }
}

fn decision(verdict: Verdict, action: PolicyAction, generation: u64) -> Decision {
    Decision { verdict, action, would_block: false, mechanism: Mechanism::None, enforced: None, generation }
}
