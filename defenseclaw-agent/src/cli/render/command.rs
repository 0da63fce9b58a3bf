//! Command lines of processes, as one reads them: name of the program, then its arguments, quoted where needed.

use std::collections::HashMap;

use super::{escape, line::shorten};
use crate::{
    model::{KernelPath, ProcessKey, Text},
    report::{ExecNode, Processes},
};

/// Columns of one argument; the whole line is shortened to its place later.
const ARGUMENT_WIDTH: usize = 200;
/// Columns of all arguments.
const COMMAND_WIDTH: usize = 1000;
/// Programs named before the last one of a process that ran several.
const EARLIER_MAX: usize = 3;

/// What to call each process.
#[derive(Debug, Default)]
pub(super) struct Commands {
    /// In the order of the nodes.
    pub(super) lines: Vec<String>,
    names: HashMap<ProcessKey, String>,
}

impl Commands {
    pub(super) fn new(processes: &Processes) -> Self {
        let mut commands = Self::default();
        // For each node above: the programs it ran, and the one it was made with.
        let mut above: Vec<(&[ExecNode], Option<&ExecNode>)> = Vec::new();
        for node in &processes.nodes {
            let depth = usize::try_from(node.depth).unwrap_or(usize::MAX);
            above.truncate(depth);
            let inherited = above.last().and_then(|(execs, before)| {
                execs.iter().rfind(|exec| exec.at_ns <= node.started_ns).or(*before).or(execs.first())
            });
            let (line, name) = match (node.execs.last(), inherited) {
                (Some(last), _) => (with_earlier(&node.execs, &command_line(last)), program(last)),
                (None, Some(inherited)) => {
                    let name = program(inherited);
                    (format!("{name} (fork)"), name)
                }
                (None, None) if node.main => ("(no program was started)".to_owned(), "?".to_owned()),
                (None, None) => ("(unknown program)".to_owned(), "?".to_owned()),
            };
            commands.lines.push(line);
            commands.names.insert(node.process, name);
            above.push((&node.execs, inherited));
        }
        commands
    }

    /// Name of the program a process ran last.
    pub(super) fn name(&self, process: ProcessKey) -> &str {
        self.names.get(&process).map_or("", String::as_str)
    }
}

/// A command line as it was given, without a file.
pub(super) fn given(command: &[Text]) -> String {
    command.iter().map(argument).collect::<Vec<_>>().join(" ")
}

pub(super) fn command_line(exec: &ExecNode) -> String {
    let mut line = program(exec);
    for text in exec.argv.iter().skip(1) {
        line.push(' ');
        line.push_str(&argument(text));
        if line.len() > COMMAND_WIDTH {
            line.push_str(" …");
            return line;
        }
    }
    if exec.argv_truncated {
        line.push_str(" …");
    }
    line
}

/// `sh → env → node index.js` for a process that became one program after the other.
fn with_earlier(execs: &[ExecNode], last: &str) -> String {
    let n_earlier = execs.len() - 1;
    let mut line = String::new();
    for exec in execs.iter().take(n_earlier.min(EARLIER_MAX)) {
        line.push_str(&program(exec));
        line.push_str(" → ");
    }
    if n_earlier > EARLIER_MAX {
        line.push_str("… → ");
    }
    line + last
}

fn program(exec: &ExecNode) -> String {
    let path = if exec.exe.text.is_empty() { &exec.filename } else { &exec.exe.text };
    let name = path.0.rsplit(|byte| *byte == b'/').find(|part| !part.is_empty()).unwrap_or(b"?");
    let mut name = quote(&shorten(&escape(name), ARGUMENT_WIDTH));
    if exec.exe.deleted {
        name.push_str(" (deleted)");
    }
    name
}

fn argument(text: &Text) -> String {
    quote(&shorten(&escape(&text.0), ARGUMENT_WIDTH))
}

/// Quotes as a shell would want it. For reading, not for pasting: escapes are those of `escape`.
fn quote(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_-+=./:,@%^…~\\".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// A path, with what the kernel could not tell. `places` are directories and what stands for them.
pub(super) fn path(path: &KernelPath, places: &[(&Text, &str)]) -> String {
    let mut bytes = path.text.0.as_slice();
    let mut out = String::new();
    for (directory, sign) in places {
        let directory = directory.0.strip_suffix(b"/").unwrap_or(&directory.0);
        let rest = if directory.is_empty() { None } else { bytes.strip_prefix(directory) };
        if let Some(below) = rest.and_then(|rest| rest.strip_prefix(b"/")).filter(|below| !below.is_empty()) {
            (out, bytes) = ((*sign).to_owned(), below);
            break;
        }
    }
    if path.truncated {
        out.push('…');
    }
    out.push_str(&escape(bytes));
    for (flag, word) in [(path.deleted, " (deleted)"), (path.as_given, " (as given)")] {
        if flag {
            out.push_str(word);
        }
    }
    out
}
