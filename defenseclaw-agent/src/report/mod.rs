//! The report of one session: what a tree of processes did, grouped for a person, complete for a machine.
//!
//! It reads audit rows and judges nothing: there are classes of paths here, but no policy. Text is made of it by
//! `cli::report`, JSON by serde. Each event is counted in exactly one of the four sections. Lists have generous
//! bounds against hostile sessions; what is beyond them is counted as `unlisted`.

mod calls;
mod classes;
mod explain;
mod files;
mod judged;
mod losses;
mod network;
mod outcomes;
mod privileged;
mod processes;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use calls::{CallNode, CallProcess, Calls, CallsBuilder, Prompt, TouchedFile, Unexplained};
pub use classes::PathClass;
pub use explain::{CallFacts, ChainLink, Explanation, ExplanationBuilder, Subject};
pub use files::{FileEntry, FileGroup, FileOperation, Files, NoiseFolder};
pub use judged::{Judged, JudgedGroup, JudgedOperation, PolicyInForce, PostureAt, RefusedPolicy};
pub use losses::Losses;
pub use network::{Endpoint, Lookup, Network, ResolvedName, UnixPeer};
pub use outcomes::Outcomes;
pub use privileged::{Privileged, PrivilegedOperation};
pub use processes::{ExecNode, ProcessCounts, ProcessNode, Processes};

use crate::model::{
    AuditRecord, BootTime, Event, EventKind, Finding, HandoverStep, Level, Loss, SessionEnd, SessionStart,
};

/// Findings that are listed; sessions have fewer.
const FINDINGS_MAX: usize = 1000;

/// What happened in a session. Times named `…_ns` count from its start.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How it began, with level and capabilities; none if that row is missing.
    pub session: Option<SessionStart>,
    /// How it ended; none while it runs, or if watching ended without saying so.
    pub end: Option<SessionEnd>,
    /// Both are there, and as many events as its end says.
    pub complete: bool,
    /// Complete, and no observation was lost.
    pub exact: bool,
    /// From start to end, or to the last thing seen.
    pub duration_ns: u64,
    /// First and last audit row that was read.
    pub rows: Option<(u64, u64)>,
    /// Events; the sum over the four sections below.
    pub events: u64,
    /// Who watched it, where that has changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub handovers: Vec<HandoverAt>,
    /// What policy had to say about some of them.
    pub policy: Judged,
    /// What was found by comparing what agents said with what was done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// The process tree.
    pub processes: Processes,
    /// Files and directories.
    pub files: Files,
    /// Endpoints, names and sockets.
    pub network: Network,
    /// Operations on the system or on other processes.
    pub privileged: Privileged,
    /// What is missing.
    pub losses: Losses,
}

/// The watcher has changed.
#[derive(Clone, Debug, Serialize)]
pub struct HandoverAt {
    /// When.
    pub at_ns: u64,
    /// Time before it that nobody watched.
    pub unwatched_ns: u64,
    /// What has happened.
    #[serde(flatten)]
    pub step: HandoverStep,
}

/// Makes a [`Report`] of the rows of one session.
#[derive(Debug, Default)]
pub struct ReportBuilder {
    start: Option<SessionStart>,
    end: Option<SessionEnd>,
    rows: Option<(u64, u64)>,
    clock: Clock,
    events: u64,
    handovers: Vec<HandoverAt>,
    findings: Vec<Finding>,
    judged: judged::Builder,
    processes: processes::Builder,
    files: files::Builder,
    network: network::Builder,
    privileged: privileged::Builder,
    losses: losses::Builder,
}

/// Turns boot times into times since the start.
#[derive(Debug, Default)]
struct Clock {
    start: Option<BootTime>,
    last: BootTime,
}

impl Clock {
    /// The start row comes first; without it the first event stands for it.
    fn since_start(&mut self, time: BootTime) -> u64 {
        self.last = self.last.max(time);
        let start = *self.start.get_or_insert(time);
        time.0.saturating_sub(start.0)
    }
}

impl ReportBuilder {
    /// No rows yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row of the session, in the order of the audit.
    pub fn push(&mut self, seq: u64, record: &AuditRecord) {
        let (first, last) = self.rows.unwrap_or((seq, seq));
        self.rows = Some((first.min(seq), last.max(seq)));
        match record {
            AuditRecord::SessionStart(start) => {
                self.clock.since_start(start.boot);
                self.processes.root(start.root);
                self.start.get_or_insert_with(|| (**start).clone());
            }
            AuditRecord::Event(event) => self.event(event),
            AuditRecord::PolicyLoaded(policy) => {
                let at_ns = self.clock.since_start(policy.boot);
                self.judged.loaded(policy, at_ns);
            }
            AuditRecord::PolicyRefused(policy) => {
                let at_ns = self.clock.since_start(policy.boot);
                self.judged.refused(policy, at_ns);
            }
            AuditRecord::Posture(change) => {
                let at_ns = self.clock.since_start(change.boot);
                self.judged.posture(&change.posture, at_ns);
            }
            AuditRecord::Handover(change) => {
                let at_ns = self.clock.since_start(change.boot);
                let unwatched_ns = match &change.step {
                    HandoverStep::Adopted { since, .. } => change.boot.0.saturating_sub(since.0),
                    HandoverStep::Left | HandoverStep::Released => 0,
                };
                self.handovers.push(HandoverAt { at_ns, unwatched_ns, step: change.step.clone() });
            }
            // What was announced is in the audit; the report is about what was done.
            AuditRecord::Hook(_)
            | AuditRecord::Correlated(_)
            | AuditRecord::Asked(_)
            | AuditRecord::Settled(_)
            | AuditRecord::Granted(_)
            | AuditRecord::GrantEnded(_) => {}
            AuditRecord::Finding(finding) => {
                if self.findings.len() < FINDINGS_MAX {
                    self.findings.push((**finding).clone());
                }
            }
            AuditRecord::Loss(loss) => self.losses.push(loss),
            AuditRecord::SessionEnd(end) => {
                self.clock.since_start(end.boot);
                self.end = Some(end.clone());
            }
        }
    }

    /// Adds what is missing of any of the sessions that were watched at once, perhaps of this one.
    pub fn push_shared(&mut self, loss: &Loss) {
        self.losses.push(loss);
    }

    fn event(&mut self, event: &Event) {
        self.events += 1;
        let at_ns = self.clock.since_start(event.time);
        let section = Section::of(event.kind());
        self.processes.event(event, at_ns, section);
        self.judged.push(event, at_ns);
        match section {
            Section::Processes => self.privileged.notice(event, at_ns),
            Section::Files => self.files.push(event, at_ns),
            Section::Network => self.network.push(event, at_ns),
            Section::Privileged => self.privileged.push(event, at_ns),
        }
    }

    /// All rows have been pushed.
    pub fn finish(self) -> Report {
        let losses = self.losses.finish();
        let as_many = self.end.as_ref().is_some_and(|end| end.events == self.events);
        let complete = self.start.is_some() && as_many;
        let watched = self.start.as_ref().is_some_and(|start| start.protection.level != Level::None);
        let start = self.clock.start.unwrap_or_default();
        let places = self.start.as_ref().map(|start| (&start.project, &start.home));
        let places = classes::Places::new(places);
        Report {
            complete,
            exact: complete && watched && losses.nothing_lost(),
            duration_ns: self.clock.last.0.saturating_sub(start.0),
            rows: self.rows,
            events: self.events,
            handovers: self.handovers,
            findings: self.findings,
            policy: self.judged.finish(&places),
            processes: self.processes.finish(start, self.end.as_ref().map(|end| end.main)),
            files: self.files.finish(&places),
            network: self.network.finish(),
            privileged: self.privileged.finish(),
            losses,
            session: self.start,
            end: self.end,
        }
    }
}

/// Part of the report that counts an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Processes,
    Files,
    Network,
    Privileged,
}

impl Section {
    fn of(kind: EventKind) -> Self {
        match kind {
            EventKind::ProcessFork | EventKind::ProcessExec | EventKind::ProcessExit => Self::Processes,
            EventKind::FileOpen
            | EventKind::FileCreate
            | EventKind::FileUnlink
            | EventKind::FileRename
            | EventKind::FileLink
            | EventKind::FileSymlink
            | EventKind::FileChmod
            | EventKind::FileChown
            | EventKind::FileTruncate
            | EventKind::DirMake
            | EventKind::DirRemove => Self::Files,
            EventKind::NetConnect
            | EventKind::NetBind
            | EventKind::NetSend
            | EventKind::DnsAnswer
            | EventKind::UnixConnect => Self::Network,
            EventKind::Ptrace
            | EventKind::SocketCreate
            | EventKind::Signal
            | EventKind::Mount
            | EventKind::Namespace
            | EventKind::Bpf
            | EventKind::ModuleLoad
            | EventKind::IoUringSetup
            | EventKind::CredChange
            | EventKind::PerfOpen => Self::Privileged,
        }
    }
}
