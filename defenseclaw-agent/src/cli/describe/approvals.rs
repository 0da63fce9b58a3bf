//! Questions to a person and what became of them, in one line each.

use std::fmt::Write;

use super::super::output::escape;
use crate::model::{Answerer, Approval, ApprovalSettled, Grant, GrantEnded, Outcome, Subject, Waiter};

pub(super) fn asked(approval: &Approval) -> String {
    let waits = match approval.waiter {
        Waiter::Paused { process, .. } => format!("process {} is paused", process.tgid),
        Waiter::Held { process } => format!("process {} is held before its first instruction", process.tgid),
        Waiter::Hook { process, .. } => format!("the hook of process {} is held", process.tgid),
        Waiter::Agent { .. } => "the agent asks in its own dialogue".to_owned(),
        Waiter::Retry { process, .. } => format!("process {} was refused, a retry may pass", process.tgid),
    };
    format!("{} {} [{}]", approval.id, subject(&approval.subject), waits)
}

pub(super) fn settled(settled: &ApprovalSettled) -> String {
    let allowed = if settled.allowed { "allowed" } else { "blocked" };
    let how = match &settled.outcome {
        Outcome::Ruled { ruling, by, message } => {
            let mut text = format!("{ruling}, by {}", answerer(by));
            if let Some(message) = message {
                // Writing to a String cannot fail.
                write!(text, ": {}", escape(message.as_bytes())).ok();
            }
            text
        }
        Outcome::Expired => "nobody answered in time".to_owned(),
        Outcome::NotAsked { why } => format!("not asked: {}", escape(why.as_bytes())),
        Outcome::Withdrawn { why } => format!("withdrawn: {}", escape(why.as_bytes())),
        Outcome::Orphaned => "who kept the question was gone".to_owned(),
    };
    format!("{} {allowed}: {how}", settled.id)
}

pub(super) fn granted(grant: &Grant) -> String {
    format!("{} {} by {}", grant.id, subject(&grant.subject), answerer(&grant.by))
}

pub(super) fn grant_ended(ended: &GrantEnded) -> String {
    match &ended.by {
        Some(by) => format!("{} revoked by {}", ended.id, answerer(by)),
        None => format!("{} has expired", ended.id),
    }
}

fn subject(subject: &Subject) -> String {
    let object = escape(&subject.object.0);
    format!("{} {object} (rule {})", subject.effect, escape(subject.rule.as_bytes()))
}

fn answerer(by: &Answerer) -> String {
    format!("uid {} ({})", by.uid, by.via)
}
