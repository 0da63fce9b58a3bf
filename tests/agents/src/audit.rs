//! The audit of one session as `events --json` prints it, and the process tree that its forks make.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{
    Action, AuditRecord, Event, Exec, KernelPath, Loss, ProcessKey, SessionEnd, SessionStart,
};
use serde::Deserialize;

/// Every record of a session.
#[derive(Debug)]
pub(crate) struct Audit {
    pub(crate) start: SessionStart,
    pub(crate) events: Vec<Event>,
    pub(crate) losses: Vec<Loss>,
    pub(crate) end: SessionEnd,
    parents: HashMap<ProcessKey, ProcessKey>,
}

#[derive(Deserialize)]
struct Line {
    seq: u64,
    #[serde(flatten)]
    record: AuditRecord,
}

impl Audit {
    /// Reads one record a line; they must be numbered upwards, begin and end once, and be of one session.
    pub(crate) fn parse(lines: &[u8]) -> Result<Self> {
        let (mut start, mut end, mut last) = (None, None, None);
        let (mut events, mut losses, mut parents) = (Vec::new(), Vec::new(), HashMap::new());
        for line in std::str::from_utf8(lines).context("the audit is not UTF-8")?.lines() {
            let Line { seq, record } =
                serde_json::from_str(line).with_context(|| format!("not an audit record: {line}"))?;
            ensure!(last.is_none_or(|last| last < seq), "record {seq} comes after {last:?}");
            last = Some(seq);
            match record {
                AuditRecord::SessionStart(record) => {
                    ensure!(start.replace(*record).is_none(), "a second session_start: {line}");
                }
                AuditRecord::SessionEnd(record) => {
                    ensure!(end.replace(record).is_none(), "a second session_end: {line}");
                }
                AuditRecord::Loss(loss) => losses.push(loss),
                AuditRecord::PolicyLoaded(_)
                | AuditRecord::PolicyRefused(_)
                | AuditRecord::Posture(_)
                | AuditRecord::Handover(_)
                | AuditRecord::Asked(_)
                | AuditRecord::Settled(_)
                | AuditRecord::Granted(_)
                | AuditRecord::GrantEnded(_)
                | AuditRecord::Hook(_)
                | AuditRecord::Correlated(_)
                | AuditRecord::Finding(_)
                | AuditRecord::Asked(_)
                | AuditRecord::Settled(_)
                | AuditRecord::Granted(_)
                | AuditRecord::GrantEnded(_) => {}
                AuditRecord::Event(event) => {
                    if let Action::ProcessFork { child, .. } = &event.action {
                        parents.insert(*child, event.process);
                    }
                    events.push(*event);
                }
            }
        }
        let start = start.context("there is no session_start")?;
        let end = end.context("there is no session_end")?;
        ensure!(start.session == end.session, "session {} ends as {}", start.session, end.session);
        let strangers = events.iter().filter(|event| event.session != start.session).count();
        ensure!(strangers == 0, "{strangers} events belong to another session");
        Ok(Self { start, events, losses, end, parents })
    }

    /// Program starts, oldest first.
    pub(crate) fn execs(&self) -> impl Iterator<Item = (&Event, &Exec)> {
        self.events.iter().filter_map(|event| match &event.action {
            Action::ProcessExec(exec) => Some((event, &**exec)),
            _ => None,
        })
    }

    /// Whether forks lead from `ancestor` to `process`.
    pub(crate) fn descends(&self, process: ProcessKey, ancestor: ProcessKey) -> bool {
        let mut at = process;
        // A tree is not deeper than it has members; a circle would be a mistake in the audit.
        for _ in 0..=self.parents.len() {
            match self.parents.get(&at) {
                Some(parent) if *parent == ancestor => return true,
                Some(parent) => at = *parent,
                None => return false,
            }
        }
        false
    }
}

/// Whether the kernel's path is this one. Where it could only keep the text the process passed, the name has to do.
pub(crate) fn names(kernel: &KernelPath, path: &Path) -> bool {
    let text = kernel.text.lossy();
    let text = Path::new(&*text);
    if kernel.as_given { text.file_name() == path.file_name() } else { text == path }
}
