//! Why two observers of one execution may differ: the closed list of explanations, by kind.

use std::collections::{BTreeMap, BTreeSet};

use defenseclaw::model::{Access, Action, Event};

use super::{Seen, strace::Traced};

/// What the explanations look at.
#[derive(Debug)]
pub(crate) struct Context {
    /// Opens that the kernel made for execve, and mappings of code, which are no system calls that open.
    by_kernel: BTreeSet<Seen>,
    /// Process of each thread.
    process_of: BTreeMap<u32, u32>,
    traced: BTreeSet<u32>,
    references: BTreeSet<Seen>,
}

impl Context {
    pub(crate) fn new(events: &[Event], traced: &Traced) -> Self {
        let mut by_kernel = BTreeSet::new();
        let mut process_of = BTreeMap::new();
        for event in events {
            process_of.insert(event.tid, event.process.tgid);
            if let Action::FileOpen { file, access } = &event.action
                && access.intersects(Access::EXECUTE | Access::MAP_EXECUTE)
            {
                by_kernel.insert(Seen::Open { pid: event.tid, path: file.path.text.0.clone() });
            }
        }
        Self { by_kernel, process_of, traced: traced.tids.clone(), references: traced.references.clone() }
    }
}

/// What strace would call this event, if it is of a kind that is compared.
pub(crate) fn seen(event: &Event) -> Option<Seen> {
    let pid = event.tid;
    match &event.action {
        Action::ProcessExec(exec) => Some(Seen::Exec { pid, filename: exec.filename.0.clone() }),
        Action::FileOpen { file, access } if !access.contains(Access::MAP_EXECUTE) => {
            Some(Seen::Open { pid, path: named(file) })
        }
        Action::FileCreate { file, access } if !access.is_empty() => {
            Some(Seen::Open { pid, path: named(file) })
        }
        Action::NetConnect { endpoint } => {
            Some(Seen::Connect { pid, to: format!("{} {}", endpoint.address?, endpoint.port) })
        }
        _ => None,
    }
}

/// The path as `/proc/PID/fd` has it, which is what strace reads.
fn named(file: &defenseclaw::model::FileRef) -> Vec<u8> {
    let mut path = file.path.text.0.clone();
    if file.path.deleted {
        path.extend_from_slice(b" (deleted)");
    }
    path
}

/// Why strace alone has seen it.
pub(crate) fn only_strace(context: &Context, seen: &Seen) -> Option<&'static str> {
    match seen {
        // An exec from a thread: strace names the thread, the kernel its process.
        Seen::Exec { pid, .. } if context.process_of.get(pid).is_some_and(|process| process != pid) => {
            Some("exec from a thread")
        }
        // Deleted between the open and strace's look at the descriptor.
        Seen::Open { path, .. } if path.ends_with(b" (deleted)") => Some("deleted before strace looked"),
        Seen::Open { .. } if context.references.contains(seen) => Some("O_PATH opens nothing"),
        Seen::Open { path, .. } if !path.starts_with(b"/") => Some("no path: pipe, socket or anonymous file"),
        _ => None,
    }
}

/// Why we alone have seen it.
pub(crate) fn only_ours(context: &Context, seen: &Seen) -> Option<&'static str> {
    let (Seen::Exec { pid, .. } | Seen::Open { pid, .. } | Seen::Connect { pid, .. }) = seen;
    if !context.traced.contains(pid) {
        return Some("strace itself, or a process that made no traced call");
    }
    match seen {
        Seen::Open { .. } if context.by_kernel.contains(seen) => Some("opened by the kernel for execve"),
        Seen::Open { path, .. } if path.ends_with(b" (deleted)") => Some("deleted when it was opened"),
        Seen::Exec { .. } if !context.process_of.contains_key(pid) => Some("exec from a thread"),
        _ => None,
    }
}

pub(crate) fn shown(seen: &Seen) -> String {
    match seen {
        Seen::Exec { pid, filename } => format!("{pid}: exec {}", filename.escape_ascii()),
        Seen::Open { pid, path } => format!("{pid}: open {}", path.escape_ascii()),
        Seen::Connect { pid, to } => format!("{pid}: connect {to}"),
    }
}
