//! What policy says of one hook, and what its agent can be told: announced actions before a tool, and texts wherever an
//! agent shows us some. Takes what is secret out of the event on the way; who keeps it keeps nothing else.

use std::{
    fmt::Write as _,
    panic::{AssertUnwindSafe, catch_unwind},
};

use sha2::{Digest, Sha256};

use crate::{
    config::ConnectorConfig,
    connectors,
    model::{
        Content, Decision, Effect, Enforced, Hold, HookEvent, Mechanism, Phase, PolicyAction, Reply,
        Severity, Subject, Text, Verdict,
    },
    policy::{self, Whereabouts, image::Entry},
};

/// Bytes shown of what is passed to a tool.
const PASSED_MAX: usize = 1024;

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

/// What came of judging one hook.
pub(super) struct Judged {
    pub(super) reply: Reply,
    pub(super) decision: Decision,
    /// What a person is to be asked; nothing unless the reply is to be a question.
    pub(super) questions: Vec<Question>,
    /// For the agent, whoever says no.
    pub(super) reason: String,
}

/// One thing to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) subject: Subject,
    pub(super) severity: Severity,
    /// Of the rule.
    pub(super) reason: String,
    /// What becomes of it if nobody answers.
    pub(super) fallback: PolicyAction,
}

/// What policy says of what was announced and of what was written, and what the agent hears of it. `asks` says whether
/// somebody can be asked about this event.
pub(super) fn decide(
    session: &policy::Session,
    home: &str,
    generation: u64,
    config: &ConnectorConfig,
    event: &mut HookEvent,
    asks: impl FnOnce(&HookEvent) -> bool,
) -> Judged {
    // With what each is about, where it is something that was announced.
    let mut said: Vec<(Entry, Option<(Effect, String)>)> = Vec::new();
    if event.phase == Phase::ToolPre {
        let at = Whereabouts { cwd: event.cwd.as_deref(), home };
        let announced = event.tools.iter().flat_map(|call| policy::announced(session, at, call));
        said.extend(announced.map(|said| (said.entry, Some((said.effect, said.object)))));
    }
    // After the announcement was judged: its words may be what is taken out.
    said.extend(policy::inspect(Some(session), event).into_iter().map(|entry| (entry, None)));
    said.sort_by_key(|(entry, _)| std::cmp::Reverse((entry.action, entry.raw_action)));
    let Some((first, _)) = said.first() else {
        let verdict = Verdict {
            raw_action: PolicyAction::Allow,
            severity: None,
            rule_ids: Vec::new(),
            reason: String::new(),
        };
        let decision = decision(verdict, PolicyAction::Allow, generation);
        return Judged { reply: Reply::Allow, decision, questions: Vec::new(), reason: String::new() };
    };
    let mut verdict = session.verdict(first);
    for (entry, _) in &said {
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
    let mut decided = decision(verdict, first.action, generation);
    decided.would_block = first.would_block;
    let mut questions = Vec::new();
    let reply = match first.action {
        PolicyAction::Allow => Reply::Allow,
        PolicyAction::Alert => Reply::Alert { note: format!("DefenseClaw: {reason}") },
        PolicyAction::Confirm if asks(event) => {
            questions = asked(session, event, &said);
            if questions.is_empty() {
                // All of it was allowed for good.
                decided.action = PolicyAction::Allow;
                Reply::Allow
            } else {
                Reply::Confirm { reason: reason.clone() }
            }
        }
        // Of a question that nobody is asked policy says what becomes of it.
        PolicyAction::Confirm => fall_back(session, event, &reason, &mut decided),
        PolicyAction::Block => held(event, reason.clone(), &mut decided),
    };
    Judged { reply, decision: decided, questions, reason }
}

/// What a question comes to that nobody has answered.
pub(super) fn fall_back(
    session: &policy::Session,
    event: &HookEvent,
    reason: &str,
    decided: &mut Decision,
) -> Reply {
    decided.action = session.asks().unwrap_or(PolicyAction::Block);
    if decided.action == PolicyAction::Allow { Reply::Allow } else { held(event, reason.to_owned(), decided) }
}

/// Everything that is to be asked about one event, each thing once, but for what was allowed for good.
fn asked(
    session: &policy::Session,
    event: &HookEvent,
    said: &[(Entry, Option<(Effect, String)>)],
) -> Vec<Question> {
    let mut questions: Vec<Question> = Vec::new();
    for (entry, about) in said.iter().filter(|(entry, _)| entry.action == PolicyAction::Confirm) {
        let (effect, object) = match about {
            Some((effect, object)) => (effect.as_str(), clean(session, event, object)),
            None => (Content::ToolInput.as_str(), passed(event)),
        };
        let verdict = session.verdict(entry);
        let subject = Subject {
            rule: verdict.rule_ids.into_iter().next().unwrap_or_default(),
            effect: effect.to_owned(),
            object: Text(object.into_bytes()),
        };
        if session.local().is_some_and(|local| local.answers(&subject)) {
            continue;
        }
        if questions.iter().all(|known| known.subject != subject) {
            let severity = verdict.severity.unwrap_or(Severity::High);
            let fallback = session.asks().unwrap_or(PolicyAction::Block);
            questions.push(Question { subject, severity, reason: verdict.reason, fallback });
        }
    }
    questions
}

/// A text without what is secret in it.
fn clean(session: &policy::Session, event: &HookEvent, text: &str) -> String {
    let mut one = HookEvent::new(event.connector, Phase::Other, String::new());
    one.text = Some(text.to_owned());
    policy::inspect(Some(session), &mut one);
    one.text.unwrap_or_default()
}

/// What is passed to the tools, as it is kept. What is too long to be shown is told apart by its hash.
fn passed(event: &HookEvent) -> String {
    let calls: Vec<_> = event.tools.iter().map(|call| format!("{} {}", call.tool, call.input)).collect();
    let whole = calls.join(" ");
    if whole.len() <= PASSED_MAX {
        return whole;
    }
    let shown = whole.get(..whole.floor_char_boundary(PASSED_MAX)).unwrap_or_default();
    Sha256::digest(&whole).iter().fold(format!("{shown}... (SHA-256) "), |mut text, byte| {
        // Into a string nothing fails.
        write!(text, "{byte:02x}").ok();
        text
    })
}

/// A block, as far as the agent can be stopped at this event.
pub(super) fn held(event: &HookEvent, reason: String, decided: &mut Decision) -> Reply {
    decided.action = PolicyAction::Block;
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
