//! The process section: the tree as a flat list, each parent before its children.
//!
//! Flat, because a hostile tree may be deeper than any recursion survives; `depth` and `parent` say the shape.

use std::collections::HashMap;

use serde::Serialize;

use super::Section;
use crate::{
    model::{Action, BootTime, Event, ExitStatus, KernelPath, MainExit, ProcessKey, Text},
    tree::ProcessTree,
};

/// Processes that are listed.
const PROCESSES_MAX: usize = 100_000;
/// Program starts that are listed, of all processes together.
const EXECS_MAX: usize = 200_000;

/// The process tree.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Processes {
    /// Forks, execs and exits.
    pub events: u64,
    /// Depth first, siblings by start.
    pub nodes: Vec<ProcessNode>,
    /// Events of whom the kernel could not tell, or of processes beyond the bound of the list.
    pub unattributed: ProcessCounts,
    /// Some processes are not listed: there were too many.
    pub truncated: bool,
}

/// One process.
#[derive(Clone, Debug, Serialize)]
pub struct ProcessNode {
    /// Pid and start.
    pub process: ProcessKey,
    /// Who made it; a root's parent is outside of the tree.
    pub parent: Option<ProcessKey>,
    /// 0: a root.
    pub depth: u32,
    /// When it was made.
    pub started_ns: u64,
    /// How long it lived; none if its end was not seen.
    pub duration_ns: Option<u64>,
    /// How it ended; none if that was not seen.
    pub exit: Option<ExitStatus>,
    /// It is the process that the session was started with.
    pub main: bool,
    /// It should have a fork in the audit and has none: its parent is that of its first exec, or unknown.
    pub fork_lost: bool,
    /// Only its deeds are known: neither fork nor exec was seen.
    pub reconstructed: bool,
    /// Real user id of its last event; none if it has no event.
    pub uid: Option<u32>,
    /// Programs it ran, oldest first; none if it went on with that of its parent.
    pub execs: Vec<ExecNode>,
    /// Program starts beyond the bound of the list.
    pub execs_left_out: u64,
    /// Its events.
    pub counts: ProcessCounts,
}

/// A program start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExecNode {
    /// When.
    pub at_ns: u64,
    /// File that runs.
    pub exe: KernelPath,
    /// What execve was asked to run.
    pub filename: Text,
    /// Interpreter, as the first line of a script names it.
    pub interpreter: Option<Text>,
    /// Arguments.
    pub argv: Vec<Text>,
    /// There were more arguments.
    pub argv_truncated: bool,
    /// Working directory.
    pub cwd: KernelPath,
    /// Real user id.
    pub uid: u32,
    /// Effective user id.
    pub euid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective group id.
    pub egid: u32,
}

/// Events of one process, by section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ProcessCounts {
    /// Forks, execs, its exit.
    pub process: u64,
    /// File events.
    pub files: u64,
    /// Network events.
    pub network: u64,
    /// Privileged operations.
    pub privileged: u64,
}

impl ProcessCounts {
    /// All of them.
    pub fn total(&self) -> u64 {
        self.process + self.files + self.network + self.privileged
    }

    fn add(&mut self, section: Section) {
        match section {
            Section::Processes => self.process += 1,
            Section::Files => self.files += 1,
            Section::Network => self.network += 1,
            Section::Privileged => self.privileged += 1,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Builder {
    events: u64,
    tree: ProcessTree,
    main: Option<ProcessKey>,
    details: HashMap<ProcessKey, Details>,
    n_execs: usize,
    unattributed: ProcessCounts,
    truncated: bool,
}

#[derive(Debug, Default)]
struct Details {
    uid: Option<u32>,
    execs: Vec<ExecNode>,
    execs_left_out: u64,
    counts: ProcessCounts,
}

impl Builder {
    pub(super) fn root(&mut self, root: ProcessKey) {
        self.main.get_or_insert(root);
    }

    pub(super) fn event(&mut self, event: &Event, at_ns: u64, section: Section) {
        self.events += u64::from(section == Section::Processes);
        let known = self.tree.get(event.process).is_some();
        if event.process.tgid == 0 || (!known && self.tree.len() >= PROCESSES_MAX) {
            self.truncated |= event.process.tgid != 0;
            self.unattributed.add(section);
            return;
        }
        // A fork beyond the bound is counted; the child is not listed.
        let full = self.tree.len() >= PROCESSES_MAX;
        if full && matches!(event.action, Action::ProcessFork { .. }) {
            self.truncated = true;
        } else {
            self.tree.apply(event);
        }
        let details = self.details.entry(event.process).or_default();
        details.counts.add(section);
        details.uid = Some(event.uid);
        if let Action::ProcessExec(exec) = &event.action {
            if self.n_execs >= EXECS_MAX {
                details.execs_left_out += 1;
                return;
            }
            self.n_execs += 1;
            let node = ExecNode {
                at_ns,
                exe: exec.exe.path.clone(),
                filename: exec.filename.clone(),
                interpreter: exec.interpreter.clone(),
                argv: exec.argv.clone(),
                argv_truncated: exec.argv_truncated,
                cwd: exec.cwd.clone(),
                uid: event.uid,
                euid: exec.euid,
                gid: exec.gid,
                egid: exec.egid,
            };
            let at = details.execs.partition_point(|known| known.at_ns <= at_ns);
            details.execs.insert(at, node);
        }
    }

    pub(super) fn finish(mut self, start: BootTime, main: Option<MainExit>) -> Processes {
        let mut nodes: Vec<ProcessNode> = Vec::with_capacity(self.tree.len());
        let mut open: Vec<(ProcessKey, u32)> =
            self.tree.roots().into_iter().rev().map(|root| (root, 0)).collect();
        while let Some((key, depth)) = open.pop() {
            let details = self.details.remove(&key).unwrap_or_default();
            nodes.extend(self.node(key, depth, details, start));
            // Whoever waited for the main process knows its status, even if the record of its exit was lost.
            if let (Some(node), Some(MainExit::Ended(status))) = (nodes.last_mut(), main)
                && node.main
            {
                node.exit.get_or_insert(status);
            }
            open.extend(self.tree.children(key).rev().map(|child| (child, depth + 1)));
        }
        Processes { events: self.events, nodes, unattributed: self.unattributed, truncated: self.truncated }
    }

    fn node(&self, key: ProcessKey, depth: u32, details: Details, start: BootTime) -> Option<ProcessNode> {
        let process = self.tree.get(key)?;
        // An end without a status is only known to be before some time.
        let ended = process.ended().filter(|ended| ended.status.is_some());
        let main = self.main == Some(key);
        Some(ProcessNode {
            process: key,
            parent: process.parent(),
            depth,
            started_ns: key.start_ns.saturating_sub(start.0),
            // The root was made some time before it was let go.
            duration_ns: ended.map(|ended| ended.time.0.saturating_sub(key.start_ns.max(start.0))),
            exit: ended.and_then(|ended| ended.status),
            main,
            fork_lost: !main && !process.fork_seen(),
            reconstructed: !main && !process.fork_seen() && process.execs().is_empty(),
            uid: details.uid,
            execs: details.execs,
            execs_left_out: details.execs_left_out,
            counts: details.counts,
        })
    }
}
