//! What we see and `strace` does not: the closed list of explanations, by kind. There is none for the other way round.

use std::collections::BTreeSet;

use defenseclaw::model::{Access, Action, Event};

use super::Seen;

/// What the explanations look at.
#[derive(Debug)]
pub(crate) struct Context {
    /// Opens that the kernel made for execve, and mappings of code, which are no system calls that open.
    by_kernel: BTreeSet<Seen>,
    /// `strace` itself, and the children it forks to try what this kernel can do.
    tracer: BTreeSet<u32>,
}

impl Context {
    pub(crate) fn new(events: &[Event]) -> Self {
        let mut by_kernel = BTreeSet::new();
        let mut tracer = BTreeSet::new();
        for event in events {
            match &event.action {
                // Only the first program of the run is strace; what it traces is another.
                Action::ProcessExec(exec) if tracer.is_empty() || tracer.contains(&event.process.tgid) => {
                    if exec.filename.0.ends_with(b"strace") {
                        tracer.insert(event.process.tgid);
                    } else {
                        tracer.remove(&event.process.tgid);
                    }
                }
                Action::ProcessFork { child, .. } if tracer.contains(&event.process.tgid) => {
                    tracer.insert(child.tgid);
                }
                _ => {}
            }
            if let Action::FileOpen { file, access } = &event.action
                && access.intersects(Access::EXECUTE | Access::MAP_EXECUTE)
            {
                by_kernel.insert(Seen::Open { pid: event.tid, path: file.path.text.0.clone() });
            }
        }
        Self { by_kernel, tracer }
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

/// Why we alone have seen it.
pub(crate) fn only_ours(context: &Context, seen: &Seen) -> Option<&'static str> {
    let (Seen::Exec { pid, .. } | Seen::Open { pid, .. } | Seen::Connect { pid, .. }) = seen;
    if context.tracer.contains(pid) {
        return Some("strace itself");
    }
    context.by_kernel.contains(seen).then_some("opened by the kernel for execve")
}

pub(crate) fn shown(seen: &Seen) -> String {
    match seen {
        Seen::Exec { pid, filename } => format!("{pid}: exec {}", filename.escape_ascii()),
        Seen::Open { pid, path } => format!("{pid}: open {}", path.escape_ascii()),
        Seen::Connect { pid, to } => format!("{pid}: connect {to}"),
    }
}
