//! Prompts, tool calls, and what was done for them, as lines.

use super::{
    RenderOptions,
    line::{Line, Role, shorten, wrap},
    words,
};
use crate::{
    cli::{describe, output::escape},
    model::{Correlation, ExitStatus, Finding, PolicyAction, Severity},
    report::{CallNode, CallProcess, Calls, Report, TouchedFile, Unexplained},
};

/// Files, endpoints and processes of one call that are shown.
const SHOWN: usize = 8;

pub(super) fn lines(report: &Report, calls: &Calls, options: &RenderOptions) -> Vec<Line> {
    let mut lines = Vec::new();
    for prompt in &calls.prompts {
        lines.push(Line::new());
        let at = Line::new().dim(words::offset(prompt.at_ns));
        let text = prompt.text.as_deref().map(|text| escape(first_line(text).as_bytes()));
        let text = text.map_or_else(|| "before any prompt".to_owned(), |text| format!("prompt: {text}"));
        let room = options.width.saturating_sub(at.width() + 2);
        lines.push(Line::new().with(Role::Heading, shorten(&text, room)).flush_right(at, options.width));
        for call in &prompt.calls {
            lines.extend(self::call(report, call, options));
        }
        if prompt.calls.is_empty() {
            lines.push(Line::new().dim("  no tool call"));
        }
    }
    if calls.unlisted > 0 {
        lines
            .push(Line::new().with(Role::Warning, format!("  {} more calls are not listed", calls.unlisted)));
    }
    if !calls.unexplained.is_empty() {
        lines.push(Line::new());
        lines.push(Line::new().with(Role::Heading, "No tool call"));
        lines.extend(calls.unexplained.iter().flat_map(|row| unexplained(report, row, options)));
    }
    if !calls.findings.is_empty() {
        lines.push(Line::new());
        lines.push(Line::new().with(Role::Heading, "Findings"));
        lines.extend(calls.findings.iter().flat_map(|found| finding(found, 2, options)));
    }
    lines
}

fn call(report: &Report, call: &CallNode, options: &RenderOptions) -> Vec<Line> {
    let (word, role) = match call.correlation {
        Some(Correlation::Matched) => ("matched", Role::Good),
        Some(Correlation::HookOnly) => ("hook only", Role::Dim),
        Some(Correlation::Conflict) => ("CONFLICT", Role::Bad),
        Some(Correlation::KernelOnly) => ("kernel only", Role::Warning),
        None => ("open", Role::Dim),
    };
    let mut right = Line::new();
    if call.answer == PolicyAction::Block {
        right = right.with(Role::Bad, "blocked ");
    }
    right = right.with(role, word);
    let took = call.took_ns.map(|took| words::duration(took)).unwrap_or_default();
    right = right.dim(format!(" {took:>7}"));
    let left = Line::new().dim(format!("  {} ", call.tool_call)).plain(escape(call.tool.as_bytes()));
    let room = options.width.saturating_sub(left.width() + right.width() + 3);
    let what = shorten(&escape(first_line(&call.what).as_bytes()), room);
    let mut lines = vec![left.dim(format!(" {what}")).flush_right(right, options.width)];
    if let (Some(reason), Some(Correlation::Conflict)) = (&call.reason, call.correlation) {
        lines.extend(wrapped(&escape(reason.as_bytes()), 6, Role::Bad, options));
    }
    let shown = |length: usize| if options.full { length } else { length.min(SHOWN) };
    for process in call.processes.iter().take(shown(call.processes.len())) {
        lines.push(self::process(process, options));
    }
    lines.extend(more(call.processes.len(), shown(call.processes.len()), "process"));
    lines.extend(touched(report, &call.files, options));
    for endpoint in call.endpoints.iter().take(shown(call.endpoints.len())) {
        lines.push(Line::new().plain(format!("      connect {}", describe::endpoint(endpoint))));
    }
    lines.extend(more(call.endpoints.len(), shown(call.endpoints.len()), "endpoint"));
    lines.extend(call.findings.iter().flat_map(|found| finding(found, 6, options)));
    lines
}

fn process(process: &CallProcess, options: &RenderOptions) -> Line {
    let indent = " ".repeat(usize::try_from(process.depth).unwrap_or(0).min(options.width / 6) * 2);
    let exit = match process.exit {
        None => Line::new().dim("running"),
        Some(ExitStatus::Code(0)) => Line::new(),
        Some(exit) => Line::new().with(Role::Bad, describe::exit_status(exit)),
    };
    let command = match process.command.as_slice() {
        [] => "(fork)".to_owned(),
        words => describe::command(words),
    };
    let left = Line::new().plain(format!("      {indent}")).dim(format!("{} ", process.process.tgid));
    let room = options.width.saturating_sub(left.width() + exit.width() + 2);
    left.plain(shorten(&command, room)).flush_right(exit, options.width)
}

/// Changed files by name; of read ones those outside of the places that every program reads.
fn touched(report: &Report, files: &[TouchedFile], options: &RenderOptions) -> Vec<Line> {
    let home = report.session.as_ref().map(|session| session.home.0.clone()).unwrap_or_default();
    let project = report.session.as_ref().map(|session| session.project.0.clone()).unwrap_or_default();
    let is_near = |file: &&TouchedFile| {
        let path = file.path.text.0.as_slice();
        let below = |directory: &[u8]| directory.len() > 1 && path.starts_with(directory);
        options.full || file.written || file.removed || below(&home) || below(&project)
    };
    let is_device = |file: &&TouchedFile| file.path.text.0.starts_with(b"/dev/");
    let mut near: Vec<_> =
        files.iter().filter(is_near).filter(|file| options.full || !is_device(file)).collect();
    near.sort_by_key(|file| (!file.removed && !file.written, &file.path.text));
    let shown = if options.full { near.len() } else { near.len().min(SHOWN) };
    let mut lines: Vec<Line> = Vec::new();
    for file in near.iter().take(shown) {
        let (verb, role) = match (file.removed, file.written) {
            (true, _) => ("remove", Role::Warning),
            (false, true) => ("write", Role::Plain),
            (false, false) => ("read", Role::Dim),
        };
        let path = describe::path(&file.path);
        let room = options.width.saturating_sub(6 + verb.len() + 1);
        lines.push(Line::new().plain("      ").with(role, format!("{verb} {}", shorten(&path, room))));
    }
    let rest = files.len() - shown;
    if rest > 0 {
        let rest = words::count(u64::try_from(rest).unwrap_or(u64::MAX), "more file");
        lines.push(Line::new().dim(format!("      … {rest}")));
    }
    lines
}

fn more(all: usize, shown: usize, what: &str) -> Option<Line> {
    let rest = u64::try_from(all.saturating_sub(shown)).unwrap_or(u64::MAX);
    (rest > 0).then(|| Line::new().dim(format!("      … {}", words::count(rest, &format!("more {what}")))))
}

fn unexplained(report: &Report, row: &Unexplained, options: &RenderOptions) -> Vec<Line> {
    let seen = &row.row.seen;
    let what = if row.row.program.is_empty() {
        escape(row.row.reason.as_bytes())
    } else {
        escape(&row.row.program.0)
    };
    let right = Line::new().dim(format!(
        "{}, {}, {}",
        words::count(seen.processes, "process"),
        words::count(seen.files, "file event"),
        words::count(seen.connects, "connection")
    ));
    let pid = row.row.process.map(|process| format!("{} ", process.tgid)).unwrap_or_default();
    let left = Line::new().plain("  ").dim(pid);
    let room = options.width.saturating_sub(left.width() + right.width() + 2);
    let mut lines = vec![left.plain(shorten(&what, room)).flush_right(right, options.width)];
    if !row.row.program.is_empty() {
        lines.extend(wrapped(&escape(row.row.reason.as_bytes()), 6, Role::Dim, options));
    }
    lines.extend(touched(report, &row.files, options));
    for endpoint in row.endpoints.iter().take(SHOWN) {
        lines.push(Line::new().plain(format!("      connect {}", describe::endpoint(endpoint))));
    }
    lines
}

/// A finding, and what it rests on.
pub(super) fn finding(finding: &Finding, indent: usize, options: &RenderOptions) -> Vec<Line> {
    let role = if finding.severity >= Severity::High { Role::Bad } else { Role::Warning };
    let call = finding.tool_call.map(|call| format!(" ({call})")).unwrap_or_default();
    let words = format!(
        "{} {}: {}{call}",
        finding.severity,
        escape(finding.rule.as_bytes()),
        escape(finding.summary.as_bytes())
    );
    let mut lines = wrapped(&words, indent, role, options);
    for one in &finding.evidence {
        let text = format!("{} {} {}", one.kind.as_str(), one.process.tgid, escape(&one.what.0));
        let room = options.width.saturating_sub(indent + 4);
        lines.push(Line::new().dim(format!("{}{}", " ".repeat(indent + 4), shorten(&text, room))));
    }
    lines
}

pub(super) fn wrapped(words: &str, indent: usize, role: Role, options: &RenderOptions) -> Vec<Line> {
    let lines = wrap(words, options.width.saturating_sub(indent), 2);
    lines.into_iter().map(|text| Line::new().plain(" ".repeat(indent)).with(role, text)).collect()
}

pub(super) fn first_line(text: &str) -> &str {
    text.trim().lines().next().unwrap_or_default()
}
