//! A report as text: what a person reads when an agent has finished. The content is that of `crate::report`; what
//! is said and what is left out at a given width is decided here.
//!
//! Lines have spans with roles and no colour. No line is wider than asked, and no byte of a process reaches the
//! terminal unescaped.

mod calls;
mod command;
mod explain;
mod files;
mod fold;
mod judged;
mod line;
mod network;
mod privileged;
mod protection;
#[cfg(test)]
mod tests;
mod tree;
mod words;

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};
pub use line::{Line, Role, Span};

use self::{
    command::Commands,
    line::{shorten, wrap},
};
use crate::{
    cli::{describe, output::escape},
    model::{CapabilityState, EventKind, ExitStatus, Finding, Level, LossReason, MainExit},
    report::{Calls, Explanation, PathClass, Report},
};

/// Narrowest width that is honoured.
pub const WIDTH_MIN: usize = 40;

/// How to write a report.
#[derive(Clone, Debug)]
pub struct RenderOptions {
    /// Columns; at least [`WIDTH_MIN`].
    pub width: usize,
    /// Fold nothing.
    pub full: bool,
    /// For the start time.
    pub timezone: TimeZone,
}

impl Default for RenderOptions {
    fn default() -> Self {
        Self { width: 80, full: false, timezone: TimeZone::UTC }
    }
}

impl RenderOptions {
    fn checked(&self) -> Self {
        Self { width: self.width.max(WIDTH_MIN), ..self.clone() }
    }
}

/// The whole report.
pub fn render(report: &Report, options: &RenderOptions) -> Vec<Line> {
    let options = &options.checked();
    let commands = Commands::new(&report.processes);
    let signs = files::Signs::new(report);
    let mut lines = header(report, options);

    let level = report.session.as_ref().map(|session| session.protection.level);
    let judged_lines = judged::lines(&report.policy, level, &commands, options);
    section(&mut lines, options, "Policy", &judged::summary(&report.policy), judged_lines);

    let found = words::count(len(&report.findings), "finding");
    let findings = report.findings.iter().flat_map(|finding| calls::finding(finding, 2, options));
    section(&mut lines, options, "Findings", &found, findings.collect());

    let processes = tree::summary(report);
    section(&mut lines, options, "Processes", &processes, tree::lines(report, &commands, options));

    let n_outside: usize = report
        .files
        .groups
        .iter()
        .filter(|group| group.class != PathClass::Project)
        .map(|group| group.files.len())
        .sum();
    let files = format!(
        "{} outside the project, {}",
        words::number(u64::try_from(n_outside).unwrap_or(u64::MAX)),
        words::count(report.files.events, "event")
    );
    section(&mut lines, options, "Files", &files, files::lines(&report.files, &signs, &commands, options));

    let network = words::count(report.network.events, "event");
    let network_lines = network::lines(&report.network, &signs.home, &commands, options);
    section(&mut lines, options, "Network", &network, network_lines);

    let privileged = words::count(report.privileged.events, "event");
    let privileged_lines = privileged::lines(&report.privileged, &commands, options);
    section(&mut lines, options, "Privileged operations", &privileged, privileged_lines);

    section(&mut lines, options, "Losses", "", losses(report, options));
    section(&mut lines, options, "Coverage", "", coverage(report, options));
    lines.into_iter().map(|line| line.fit(options.width)).collect()
}

/// What agents announced, and what was done.
pub fn render_calls(report: &Report, calls: &Calls, options: &RenderOptions) -> Vec<Line> {
    let options = &options.checked();
    let mut lines = header(report, options);
    lines.extend(calls::lines(report, calls, options));
    lines.into_iter().map(|line| line.fit(options.width)).collect()
}

/// Why something was given to a call.
pub fn render_explanation(explanation: &Explanation, options: &RenderOptions) -> Vec<Line> {
    let options = &options.checked();
    explain::lines(explanation, options).into_iter().map(|line| line.fit(options.width)).collect()
}

/// Findings, each with what it rests on.
pub fn render_findings(findings: &[Finding], options: &RenderOptions) -> Vec<Line> {
    let options = &options.checked();
    let lines = findings.iter().flat_map(|finding| calls::finding(finding, 0, options));
    lines.map(|line| line.fit(options.width)).collect()
}

/// The process tree alone.
pub fn render_tree(report: &Report, options: &RenderOptions) -> Vec<Line> {
    let options = &options.checked();
    let mut lines = header(report, options);
    lines.push(Line::new());
    lines.extend(tree::lines(report, &Commands::new(&report.processes), options));
    lines.into_iter().map(|line| line.fit(options.width)).collect()
}

fn section(lines: &mut Vec<Line>, options: &RenderOptions, title: &str, count: &str, content: Vec<Line>) {
    // A section without content has nothing to say.
    if content.is_empty() {
        return;
    }
    lines.push(Line::new());
    let right = Line::new().dim(count);
    lines.push(Line::new().with(Role::Heading, title).flush_right(right, options.width));
    lines.extend(content);
}

fn header(report: &Report, options: &RenderOptions) -> Vec<Line> {
    let (exit, role) = exit(report);
    let mut right = Line::new().with(role, exit).plain(format!(" · {}", words::duration(report.duration_ns)));
    if let Some(session) = &report.session {
        right = right.plain(format!(" · {}", session.protection.level.as_str()));
    }
    let command = report.session.as_ref().map_or_else(
        || "(the start of this session is missing)".to_owned(),
        |session| command::given(&session.command),
    );
    let room = options.width.saturating_sub(right.width() + 2);
    let first = Line::new().with(Role::Heading, shorten(&command, room)).flush_right(right, options.width);

    let mut facts = vec![
        words::count(len(&report.processes.nodes), "process"),
        words::count(report.events, "event"),
        verdict(report),
    ];
    if let Some(session) = &report.session {
        let start = Timestamp::from_nanosecond(session.wall.0.into()).unwrap_or_default();
        let start = start.to_zoned(options.timezone.clone());
        facts.push(start.strftime("%Y-%m-%d %H:%M:%S %Z").to_string());
        facts.push(escape(&session.project.0));
        facts.push(format!(
            "{}, Linux {}",
            escape(session.host.as_bytes()),
            escape(session.kernel.as_bytes())
        ));
        facts.push(format!("session {}", session.session));
    }
    let facts = joined(&facts, options.width).into_iter().map(|text| Line::new().dim(text));
    let mut lines: Vec<_> = std::iter::once(first).chain(facts).collect();
    if let Some(MainExit::NotStarted(errno)) = report.end.as_ref().map(|end| end.main) {
        let words = format!("The command could not be started: {}.", words::errno(errno.into()));
        lines.extend(paragraph(&words, Role::Bad, options));
    }
    if let Some(how) = report.session.as_ref().and_then(|session| describe::adopted(&session.origin)) {
        let words = format!(
            "This session was {how}: it ran already; what it did before is not seen, and its first processes are reconstructed."
        );
        lines.extend(paragraph(&words, Role::Warning, options));
    }
    for change in &report.handovers {
        let words = describe::handover(&change.step, Duration::from_nanos(change.unwatched_ns));
        let words = format!("{}: {words}.", words::offset(change.at_ns).trim_start());
        lines.extend(paragraph(&words, Role::Warning, options));
    }
    if let Some(end) = report.end.as_ref().filter(|end| end.left_running > 0) {
        let n = words::count(end.left_running, "process");
        let words = format!("{n} of the tree went on when watching ended; what they do now is not seen.");
        lines.extend(paragraph(&words, Role::Warning, options));
    }
    lines
}

fn exit(report: &Report) -> (String, Role) {
    match report.end.as_ref().map(|end| end.main) {
        Some(MainExit::Ended(ExitStatus::Code(0))) => ("exit 0".to_owned(), Role::Good),
        Some(MainExit::Ended(ExitStatus::Code(code))) => (format!("exit {code}"), Role::Bad),
        Some(MainExit::Ended(ExitStatus::Signal(signal))) => (words::signal(signal.into()), Role::Bad),
        Some(MainExit::StillRunning) => ("still running".to_owned(), Role::Warning),
        Some(MainExit::NotStarted(_)) => ("not started".to_owned(), Role::Bad),
        Some(MainExit::Unknown) => ("end unseen".to_owned(), Role::Warning),
        None => ("no end".to_owned(), Role::Warning),
    }
}

fn verdict(report: &Report) -> String {
    match (report.exact, report.losses.nothing_lost()) {
        (true, _) => "nothing was lost",
        (false, false) => "something was lost",
        (false, true) => "not complete",
    }
    .to_owned()
}

fn losses(report: &Report, options: &RenderOptions) -> Vec<Line> {
    let mut lines = Vec::new();
    if report.exact {
        let words = "Nothing was lost: every observation of the kernel is in the audit.";
        lines.extend(paragraph(words, Role::Good, options));
    }
    let missing = match (&report.session, &report.end) {
        (Some(_), None) => {
            Some("The session has no end: it still runs, or watching ended without notice. Then what was on its way \
                  is missing, and nobody knows how much."
                .to_owned())
        }
        (None, _) => Some("The start of the session is missing from these rows.".to_owned()),
        (Some(_), Some(end)) if end.events != report.events => Some(format!(
            "The end of the session speaks of {}, but {} here.",
            words::count(end.events, "event"),
            if report.events == 1 { "1 is".to_owned() } else { format!("{} are", words::number(report.events)) },
        )),
        (Some(_), Some(_)) => None,
    };
    lines.extend(missing.into_iter().flat_map(|words| paragraph(&words, Role::Bad, options)));
    let start = report.session.as_ref().map(|session| session.boot.0).unwrap_or_default();
    for loss in &report.losses.rows {
        let (reason, role) = match loss.reason {
            LossReason::RingFull => ("lost, the ring was full", Role::Bad),
            LossReason::Folded => ("the same as one just before, counted instead of recorded", Role::Plain),
            LossReason::Oversized => ("lost, the record was too large", Role::Bad),
            LossReason::Unreadable => ("lost, memory could not be read", Role::Bad),
            LossReason::MapFull if loss.kind == EventKind::ProcessFork.as_str() => {
                ("processes are not watched at all, a map was full", Role::Bad)
            }
            LossReason::MapFull => ("lost, a map was full", Role::Bad),
            LossReason::DecodeError => ("lost, the record could not be decoded", Role::Bad),
            LossReason::QueueFull => ("lost, a queue was full", Role::Bad),
            LossReason::StoreError => ("lost, the record could not be stored", Role::Bad),
            LossReason::Unclean => ("lost, watching ended without notice", Role::Bad),
        };
        let kind = shorten(&escape(loss.kind.as_bytes()), 24);
        let count = if loss.count == 0 { "an unknown number".to_owned() } else { words::number(loss.count) };
        let (from, to) = (loss.first.0.saturating_sub(start), loss.last.0.saturating_sub(start));
        let words =
            format!("{kind}: {count} {reason}, between {} and {}", words::offset(from), words::offset(to));
        lines.extend(paragraph(&words, role, options));
    }
    lines
}

fn coverage(report: &Report, options: &RenderOptions) -> Vec<Line> {
    let Some(session) = &report.session else { return Vec::new() };
    let protection = &session.protection;
    let level = match protection.level {
        Level::Lsm => "Level lsm: seen inside the kernel's own checks, before anything happens.",
        Level::Fentry => "Level fentry: seen at the kernel's own checks.",
        Level::Tracepoint => "Level tracepoint: seen when system calls return.",
        Level::None => "Not watched: what the command did is not in this report.",
    };
    let mut text = level.to_owned();
    if !protection.level_reason.is_empty() {
        text.extend([
            " No better level is possible here: ",
            &escape(protection.level_reason.as_bytes()),
            ".",
        ]);
    }
    if protection.level == Level::None {
        let mut lines = paragraph(&text, Role::Warning, options);
        lines.extend(protection::lines(protection, options));
        return lines;
    }
    let (blind, limits): (Vec<_>, Vec<_>) = protection
        .capabilities
        .iter()
        .filter(|capability| capability.state != CapabilityState::Available)
        .partition(|capability| capability.name.starts_with("blind/"));
    if limits.is_empty() {
        text.push_str(" No hook is missing.");
    }
    let mut lines = paragraph(&text, Role::Plain, options);
    for capability in limits {
        let state = match capability.state {
            CapabilityState::Missing => "not seen",
            CapabilityState::Degraded | CapabilityState::Available => "limited",
        };
        let mut words = format!("{state}: {}", escape(capability.name.as_bytes()));
        if !capability.reason.is_empty() {
            words.extend([" (", &escape(capability.reason.as_bytes()), ")"]);
        }
        lines.extend(paragraph(&words, Role::Warning, options));
    }
    if !blind.is_empty() {
        let spots: Vec<_> = blind
            .iter()
            .filter_map(|capability| capability.name.strip_prefix("blind/"))
            .map(|name| escape(name.replace('_', " ").as_bytes()))
            .collect();
        let words = format!("Not seen at this level (`defenseclaw doctor` explains): {}.", spots.join(", "));
        lines.extend(paragraph(&words, Role::Dim, options));
    }
    lines.extend(protection::lines(protection, options));
    lines
}

fn paragraph(words: &str, role: Role, options: &RenderOptions) -> Vec<Line> {
    let wrapped = wrap(words, options.width - 2, 2);
    wrapped.into_iter().map(|text| Line::new().with(role, format!("  {text}"))).collect()
}

/// Facts with dots between them, broken between facts.
fn joined(facts: &[String], width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for fact in facts {
        let fact = shorten(fact, width);
        match lines.last_mut() {
            Some(line) if line::width(line) + 3 + line::width(&fact) <= width => {
                line.extend([" · ", &fact]);
            }
            _ => lines.push(fact),
        }
    }
    lines
}

fn len<T>(list: &[T]) -> u64 {
    u64::try_from(list.len()).unwrap_or(u64::MAX)
}
