//! The process tree as lines: glyphs, commands, how each process ended and how long it lived.

use super::{
    RenderOptions,
    command::Commands,
    fold::{Row, rows},
    line::{Line, Role, cut, shorten, width},
    words,
};
use crate::{
    model::ExitStatus,
    report::{ProcessNode, Report},
};

const PID_WIDTH: usize = 7;
const TIME_WIDTH: usize = 7;
/// Below this there is no room for pids.
const PIDS_FROM: usize = 60;
/// Columns of one level of depth.
const LEVEL: usize = 3;

/// Lines of the tree, without a heading.
pub(super) fn lines(report: &Report, commands: &Commands, options: &RenderOptions) -> Vec<Line> {
    let nodes = &report.processes.nodes;
    if nodes.is_empty() {
        return vec![Line::new().dim("  no process was seen")];
    }
    let statuses: Vec<String> = nodes.iter().map(|node| status(report, node)).collect();
    let rows = rows(nodes, &commands.lines, options.full);
    let shown =
        rows.iter().filter_map(|row| if let Row::Process { node, .. } = row { Some(*node) } else { None });
    let status_width =
        shown.filter_map(|node| statuses.get(node)).map(|status| width(status)).max().unwrap_or(0);

    let mut lines = Vec::with_capacity(rows.len());
    // For each level: whether more siblings follow, so that a bar is drawn.
    let mut bars: Vec<bool> = Vec::new();
    let mut uids: Vec<Option<u32>> = Vec::new();
    for row in &rows {
        let (depth, last) = row.place();
        bars.truncate(depth);
        uids.truncate(depth);
        let glyphs = glyphs(&bars, last, options.width / 2);
        bars.push(!last);
        let line = match row {
            Row::Process { node, times, total_ns, .. } => {
                let (Some(process), Some(status), Some(command)) =
                    (nodes.get(*node), statuses.get(*node), commands.lines.get(*node))
                else {
                    continue;
                };
                let time = total_ns.map(words::duration).unwrap_or_default();
                let right = Line::new()
                    .with(status_role(process), format!("{status:>status_width$}"))
                    .dim(format!(" {time:>TIME_WIDTH$}"));
                let pid = process.process.tgid;
                let suffix = suffix(process, uids.last().copied().flatten(), *times);
                uids.push(process.uid);
                process_line(options, pid, &glyphs, command, &suffix, right)
            }
            Row::More { processes, .. } => {
                let pid = if options.width >= PIDS_FROM { " ".repeat(PID_WIDTH + 2) } else { String::new() };
                let more = format!("… {}", words::count(*processes, "more process"));
                Line::new().plain(pid).dim(glyphs).dim(more)
            }
        };
        lines.push(line.fit(options.width));
    }
    if report.processes.truncated {
        lines.push(
            Line::new()
                .with(Role::Warning, "there were more processes than a report lists")
                .fit(options.width),
        );
    }
    lines
}

fn process_line(
    options: &RenderOptions,
    pid: u32,
    glyphs: &str,
    command: &str,
    suffix: &str,
    right: Line,
) -> Line {
    let line = if options.width >= PIDS_FROM {
        Line::new().dim(format!("{pid:>PID_WIDTH$}  "))
    } else {
        Line::new()
    };
    let line = line.dim(glyphs);
    let room = options.width.saturating_sub(line.width() + right.width() + 2);
    // What is said about the command must not push the command away.
    let suffix = cut(suffix, room / 2);
    let command = shorten(command, room.saturating_sub(width(&suffix)));
    line.plain(command).with(Role::Warning, suffix).flush_right(right, options.width)
}

/// Guides of the levels above and the branch. A deep tree shows its nearest levels and says how deep it is.
fn glyphs(bars: &[bool], last: bool, room: usize) -> String {
    let Some((_, between)) = bars.split_first() else { return String::new() };
    let branch = if last { "└─ " } else { "├─ " };
    let guides =
        |bars: &[bool]| bars.iter().map(|more| if *more { "│  " } else { "   " }).collect::<String>();
    if (between.len() + 1) * LEVEL <= room {
        return guides(between) + branch;
    }
    let depth = format!("[{}] ", bars.len());
    let fits = room.saturating_sub(depth.len() + LEVEL) / LEVEL;
    let nearest = between.get(between.len().saturating_sub(fits)..).unwrap_or_default();
    depth + &guides(nearest) + branch
}

/// What is unusual about a process.
fn suffix(node: &ProcessNode, parent_uid: Option<u32>, times: u64) -> String {
    let mut suffix = String::new();
    if times > 1 {
        suffix.extend(["  ", &words::times(times)]);
    }
    if let (Some(uid), Some(above)) = (node.uid, parent_uid)
        && uid != above
    {
        suffix.extend(["  [uid ", &uid.to_string(), "]"]);
    }
    if node.reconstructed {
        suffix.push_str("  [start lost]");
    } else if node.fork_lost {
        suffix.push_str("  [fork lost]");
    }
    suffix
}

fn status(report: &Report, node: &ProcessNode) -> String {
    match node.exit {
        Some(exit) => exit_words(exit),
        None if report.end.as_ref().is_none_or(|end| end.left_running > 0) => "running".to_owned(),
        None => "end lost".to_owned(),
    }
}

fn status_role(node: &ProcessNode) -> Role {
    match node.exit {
        Some(ExitStatus::Code(0)) => Role::Good,
        Some(_) => Role::Bad,
        None => Role::Warning,
    }
}

/// How many processes there were, and how many of them ended badly.
pub(super) fn summary(report: &Report) -> String {
    let nodes = &report.processes.nodes;
    let failed =
        nodes.iter().filter(|node| node.exit.is_some_and(|exit| exit != ExitStatus::Code(0))).count();
    let all = words::count(u64::try_from(nodes.len()).unwrap_or(u64::MAX), "process");
    if failed == 0 { all } else { format!("{all}, {failed} failed") }
}

/// Nothing for success, which is the rule.
fn exit_words(exit: ExitStatus) -> String {
    match exit {
        ExitStatus::Code(0) => String::new(),
        ExitStatus::Code(code) => format!("exit {code}"),
        ExitStatus::Signal(signal) => words::signal(signal.into()),
    }
}
