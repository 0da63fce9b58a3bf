//! Questions, as a person reads them. Everything that came from a process or an agent is escaped.

use super::command_line;
use crate::{
    cli::output::{duration, escape},
    model::{Approval, ApprovalSettled, Outcome, PolicyAction, Ruling, Waiter},
    runtime::{Lasting, Pending, Question},
};

/// What a question is called: with its session where the id alone means several.
pub(super) fn name(approval: &Approval, clash: bool) -> String {
    match approval.session.filter(|_| clash) {
        Some(session) => format!("{session}/{}", approval.id),
        None => approval.id.to_string(),
    }
}

/// In one line.
pub(super) fn line(pending: &Pending, clash: bool) -> String {
    let approval = &pending.approval;
    format!(
        "{}  {}  {} {}  rule {} ({})  {}",
        name(approval, clash),
        left(pending),
        escape(approval.subject.effect.as_bytes()),
        escape(&approval.subject.object.0),
        escape(approval.subject.rule.as_bytes()),
        approval.severity,
        command_line(&approval.command),
    )
}

fn left(pending: &Pending) -> String {
    format!("{} left", duration(pending.remaining_ms.saturating_mul(1_000_000)))
}

/// Everything that is known of it.
pub(super) fn whole(question: &Question) -> Vec<String> {
    let pending = &question.pending;
    let approval = &pending.approval;
    let subject = &approval.subject;
    let mut lines = vec![format!("question  {}", name(approval, approval.session.is_some()))];
    lines.push(format!("what      {}", escape(subject.effect.as_bytes())));
    lines.push(format!("object    {}", escape(&subject.object.0)));
    let severity = approval.severity;
    lines.push(format!("rule      {} ({severity})", escape(subject.rule.as_bytes())));
    if !approval.reason.is_empty() {
        lines.push(format!("reason    {}", escape(approval.reason.as_bytes())));
    }
    lines.push(format!("command   {}", command_line(&approval.command)));
    lines.push(format!("user      uid {}", approval.uid));
    for ancestor in &approval.ancestry {
        lines.push(format!("below     {} (pid {})", escape(&ancestor.exe.0), ancestor.process.tgid));
    }
    let session = approval.agent_session.as_deref().map(|session| escape(session.as_bytes()));
    match (approval.connector, session) {
        (Some(connector), Some(session)) => {
            lines.push(format!("agent     {connector}, its session {session}"));
        }
        (Some(connector), None) => lines.push(format!("agent     {connector}")),
        (None, _) => {}
    }
    if let Some(call) = approval.tool_call {
        lines.push(format!("tool call {call}"));
    }
    let others = match pending.waiters {
        0 | 1 => String::new(),
        n => format!(", and {} more", n - 1),
    };
    lines.push(format!("waits     {}{others}", waits(&approval.waiter)));
    match &question.settled {
        None => {
            let fallback = if approval.fallback == PolicyAction::Allow { "allowed" } else { "blocked" };
            lines.push(format!("time      {}, then it is {fallback}", left(pending)));
        }
        Some(end) => lines.push(format!("settled   {}", settled(end))),
    }
    lines
}

fn waits(waiter: &Waiter) -> String {
    match waiter {
        Waiter::Paused { process, tid } => {
            format!("thread {tid} of process {}, paused before it happens", process.tgid)
        }
        Waiter::Held { process } => format!("process {}, held before its first instruction", process.tgid),
        Waiter::Hook { process, .. } => format!("the agent, whose hook is process {}", process.tgid),
        Waiter::Agent { .. } => "the agent, which asks in its own dialogue".to_owned(),
        Waiter::Retry { process, .. } => {
            format!("nobody: process {} was refused, and may try again after a yes", process.tgid)
        }
    }
}

/// How it ended.
pub(super) fn settled(end: &ApprovalSettled) -> String {
    let became = if end.allowed { "allowed" } else { "blocked" };
    match &end.outcome {
        Outcome::Ruled { ruling, by, message } => {
            let message = message.as_deref().map(|text| format!(": {}", escape(text.as_bytes())));
            format!("{became}, {ruling} by uid {} ({}){}", by.uid, by.via, message.unwrap_or_default())
        }
        Outcome::Expired => format!("{became}, nobody had answered in time"),
        Outcome::NotAsked { why } | Outcome::Withdrawn { why } => {
            format!("{became}, {}", escape(why.as_bytes()))
        }
        Outcome::Orphaned => format!("{became}, nobody kept the question"),
    }
}

/// What "always" would write.
pub(super) fn lasting(lasting: &Lasting) -> Vec<String> {
    let mut lines = vec![format!("in {}:", escape(lasting.path.as_bytes()))];
    lines.extend(lasting.diff.lines().map(|line| escape(line.as_bytes())));
    lines
}

/// That an answer was taken.
pub(super) fn done(approval: &Approval, ruling: Ruling) -> String {
    let said = match ruling {
        Ruling::Once => "allowed once",
        Ruling::Session => "allowed for its session",
        Ruling::Always => "allowed from now on",
        Ruling::Deny => "denied",
    };
    let subject = &approval.subject;
    let effect = escape(subject.effect.as_bytes());
    format!("{} {said}: {effect} {}", approval.id, escape(&subject.object.0))
}
