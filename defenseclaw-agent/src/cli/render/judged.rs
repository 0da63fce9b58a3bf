//! What policy had to say, as lines: first what was blocked, by rule and with its reason.

use super::{
    RenderOptions,
    command::Commands,
    escape, len,
    line::{Line, Role, cut, shorten},
    paragraph, words,
};
use crate::{
    cli::describe,
    model::{PolicyAction, Posture},
    report::{Judged, JudgedGroup, JudgedOperation},
};

/// Operations shown of one rule.
const LINES_MAX: usize = 10;
const TIME_WIDTH: usize = 9;

/// The numbers beside the heading.
pub(super) fn summary(judged: &Judged) -> String {
    format!("{} blocked, {} alerted", words::number(judged.blocked), words::number(judged.alerted))
}

/// Lines of the section, without its heading; none if there was no policy.
pub(super) fn lines(judged: &Judged, commands: &Commands, options: &RenderOptions) -> Vec<Line> {
    let mut lines = Vec::new();
    for group in &judged.groups {
        lines.extend(self::group(group, commands, options));
    }
    if judged.unlisted > 0 {
        let words = format!("{} beyond what a report lists", words::count(judged.unlisted, "event"));
        lines.extend(paragraph(&words, Role::Warning, options));
    }
    if judged.groups.is_empty() && !judged.policies.is_empty() {
        lines.extend(paragraph("Nothing was blocked, and nothing is to be looked at.", Role::Good, options));
    }
    lines.extend(in_force(judged, options));
    lines
}

fn group(group: &JudgedGroup, commands: &Commands, options: &RenderOptions) -> Vec<Line> {
    let (verb, role) = match (group.action, group.would_block) {
        (PolicyAction::Block, _) => ("blocked", Role::Bad),
        (_, true) => ("would be blocked in another mode", Role::Warning),
        (PolicyAction::Confirm, false) => ("to be confirmed", Role::Warning),
        (PolicyAction::Alert | PolicyAction::Allow, false) => ("alert", Role::Warning),
    };
    let severity = group.severity.map(|severity| format!(" ({severity})")).unwrap_or_default();
    let rules = group.rules.iter().map(|id| escape(id.as_bytes())).collect::<Vec<_>>().join(", ");
    let right = Line::new().dim(words::times(group.events));
    let room = options.width.saturating_sub(right.width() + 1);
    let title = shorten(&format!("  {verb}: {rules}{severity}"), room);
    let mut lines = vec![Line::new().with(role, title).flush_right(right, options.width)];
    if !group.reason.is_empty() {
        let reason = escape(group.reason.as_bytes());
        lines.extend(paragraph(&reason, Role::Plain, options));
    }
    let limit = if options.full { usize::MAX } else { LINES_MAX };
    lines.extend(group.operations.iter().take(limit).map(|one| operation(one, commands, options)));
    if let Some(rest) = group.operations.get(limit..).filter(|rest| !rest.is_empty()) {
        lines.push(Line::new().dim(format!("{:TIME_WIDTH$}  … {} more", "", words::number(len(rest)))));
    }
    lines
}

fn operation(operation: &JudgedOperation, commands: &Commands, options: &RenderOptions) -> Line {
    let who = format!("{} {}", cut(commands.name(operation.process), 12), operation.process.tgid);
    let right = Line::new().dim(format!("{}  {who}", words::times(operation.count)));
    let time = words::offset(operation.first_ns);
    let left = Line::new().dim(format!("{time:>TIME_WIDTH$}  "));
    let room = options.width.saturating_sub(left.width() + right.width() + 1);
    let text = format!("{} {}", operation.what.kind().as_str(), describe::action(&operation.what));
    let role = if operation.outside { Role::Warning } else { Role::Plain };
    left.with(role, shorten(&text, room)).flush_right(right, options.width).fit(options.width)
}

/// Which policy judged, and whether what it blocks was proven to be blocked.
fn in_force(judged: &Judged, options: &RenderOptions) -> Vec<Line> {
    let mut lines = Vec::new();
    if let Some(last) = judged.policies.last() {
        let mut words = format!(
            "Policy {} in mode {}, {}",
            escape(last.name.as_bytes()),
            last.mode,
            words::count(len(&last.rules), "rule")
        );
        if judged.policies.len() > 1 {
            let all = words::number(len(&judged.policies));
            words.extend([", the last of ", &all, " in this session"]);
        }
        words.push('.');
        lines.extend(paragraph(&words, Role::Dim, options));
    }
    for refused in &judged.refused {
        let problems: Vec<_> = refused.problems.iter().map(|problem| escape(problem.as_bytes())).collect();
        let words = format!(
            "{}: {} was not taken: {}",
            words::offset(refused.at_ns),
            escape(refused.name.as_bytes()),
            problems.join("; ")
        );
        lines.extend(paragraph(&words, Role::Bad, options));
    }
    // Where it was never in doubt, one line says so; otherwise every change counts.
    let doubtful = judged.postures.iter().any(|at| at.posture != Posture::Enforced);
    let shown = if doubtful { judged.postures.len() } else { 1 };
    for at in judged.postures.iter().take(shown) {
        let (role, time) = match at.posture {
            Posture::Enforced => (Role::Good, words::offset(at.at_ns)),
            Posture::Degraded { .. } => (Role::Bad, words::offset(at.at_ns)),
            Posture::Off => (Role::Dim, words::offset(at.at_ns)),
        };
        lines.extend(paragraph(&format!("{time}: {}", describe::posture(&at.posture)), role, options));
    }
    lines
}
