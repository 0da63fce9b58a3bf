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
    model::{Enforced, Level, PolicyAction, Posture},
    report::{Judged, JudgedGroup, JudgedOperation},
};

/// Operations shown of one rule.
const LINES_MAX: usize = 10;
const TIME_WIDTH: usize = 9;

/// The numbers beside the heading.
pub(super) fn summary(judged: &Judged) -> String {
    let mut words =
        format!("{} blocked, {} alerted", words::number(judged.blocked), words::number(judged.alerted));
    if judged.not_prevented > 0 {
        words.extend([" (", &words::number(judged.not_prevented), " not prevented)"]);
    }
    words
}

/// Lines of the section, without its heading; none if there was no policy.
pub(super) fn lines(
    judged: &Judged,
    level: Option<Level>,
    commands: &Commands,
    options: &RenderOptions,
) -> Vec<Line> {
    let mut lines = Vec::new();
    for group in &judged.groups {
        lines.extend(self::group(group, commands, options));
    }
    if judged.unlisted > 0 {
        let words = format!("{} beyond what a report lists", words::count(judged.unlisted, "event"));
        lines.extend(paragraph(&words, Role::Warning, options));
    }
    let policy = !judged.policies.is_empty();
    let unseen = policy && level == Some(Level::None);
    if unseen {
        let words = "Nothing is observed at this level: what policy would have said is not known.";
        lines.extend(paragraph(words, Role::Warning, options));
    } else if judged.groups.is_empty() && policy {
        lines.extend(paragraph("Nothing was blocked, and nothing is to be looked at.", Role::Good, options));
    }
    if policy && !unseen && level.is_some_and(|level| level != Level::Lsm) {
        let words = "Files, programs and privileged operations are judged after they have happened at this level, by what is \
                     known then: they are detected, not prevented.";
        lines.extend(paragraph(words, Role::Warning, options));
    }
    lines.extend(in_force(judged, options));
    lines
}

fn group(group: &JudgedGroup, commands: &Commands, options: &RenderOptions) -> Vec<Line> {
    let (verb, role) = match (group.action, group.enforced, group.would_block) {
        (PolicyAction::Block, ..) => ("blocked", Role::Bad),
        (_, Some(Enforced::TooLate), _) => ("not prevented, process ended", Role::Bad),
        (_, Some(Enforced::Applied | Enforced::Unsupported), _) => ("detected, not prevented", Role::Bad),
        (_, None, true) => ("went through, would be blocked in another mode", Role::Warning),
        (PolicyAction::Confirm, None, false) => ("to be confirmed", Role::Warning),
        (PolicyAction::Alert | PolicyAction::Allow, None, false) => ("alert", Role::Warning),
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
