//! One process: what is known of it, and which of two contradicting facts wins.
//!
//! Each rule here gives the same result in any order. Ten thousand of these live at once, so they are kept small.

use crate::model::{BootTime, Exec, ExitStatus, KernelPath, ProcessKey, SessionId, Text};

/// Program starts kept per process: the first and the last eight. A process can start programs for ever.
const EXECS_KEPT: usize = 16;
/// Bytes of an argument vector kept; the audit has all of it.
const ARGV_KEPT: usize = 256;

/// What is known of one process.
#[derive(Debug, PartialEq, Eq)]
pub struct Process {
    session: SessionId,
    session_time: BootTime,
    parent: Option<Parent>,
    execs: Vec<Image>,
    execs_left_out: u32,
    ended: Option<Ended>,
    pub(super) learned: Option<Box<Image>>,
    pub(super) fork_seen: bool,
}

/// Order is rank: of two, the greater one is right. A fork knows the parent. Everything else saw the parent of some
/// later moment, and reparenting only ever moves a process to an older ancestor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Parent {
    by_fork: bool,
    start_ns: u64,
    tgid: u32,
}

/// A program that a process ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// When it was started.
    pub time: BootTime,
    /// Its file.
    pub exe: Box<[u8]>,
    /// Its arguments, each followed by a NUL; cut after the first few hundred bytes.
    pub argv: Box<[u8]>,
}

/// End of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// When; without a status no later than this.
    pub time: BootTime,
    /// How; none if the end itself was not seen.
    pub status: Option<ExitStatus>,
}

/// What `/proc` says of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessFacts {
    /// The process and its start.
    pub key: ProcessKey,
    /// Session it is enrolled in.
    pub session: SessionId,
    /// Its parent now.
    pub parent: Option<ProcessKey>,
    /// Its program now.
    pub exe: KernelPath,
    /// Its arguments now.
    pub argv: Vec<Text>,
}

impl Process {
    pub(super) fn new(session: SessionId, time: BootTime) -> Self {
        Self {
            session,
            session_time: time,
            parent: None,
            execs: Vec::new(),
            execs_left_out: 0,
            ended: None,
            learned: None,
            fork_seen: false,
        }
    }

    /// Session it belongs to.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Process that made it; not necessarily in the tree.
    pub fn parent(&self) -> Option<ProcessKey> {
        self.parent.map(|parent| ProcessKey { tgid: parent.tgid, start_ns: parent.start_ns })
    }

    /// Programs it was seen to start, oldest first.
    pub fn execs(&self) -> &[Image] {
        &self.execs
    }

    /// Program starts between the first and the last ones of [`Process::execs`] that were not kept.
    pub fn execs_left_out(&self) -> u32 {
        self.execs_left_out
    }

    /// Its program: the last one it started, or else what `/proc` says.
    pub fn image(&self) -> Option<&Image> {
        self.execs.last().or(self.learned.as_deref())
    }

    /// The last program it had started by then, or else what `/proc` says; none if it has started none.
    pub fn image_at(&self, time: BootTime) -> Option<&Image> {
        let started = self.execs.iter().rev().find(|image| image.time <= time);
        let learned = self.learned.as_deref().filter(|_| self.execs.is_empty());
        started.or(learned)
    }

    /// How and when it ended; none while it lives.
    pub fn ended(&self) -> Option<Ended> {
        self.ended
    }

    /// It has not ended, as far as is known.
    pub fn is_live(&self) -> bool {
        self.ended.is_none()
    }

    /// Its fork was seen. Not so for the root of a session, for adopted processes, and after a loss.
    pub fn fork_seen(&self) -> bool {
        self.fork_seen
    }

    /// Neither its fork nor a program start was seen: what is known comes from `/proc`.
    pub fn reconstructed(&self) -> bool {
        self.learned.is_some() && !self.fork_seen && self.execs.is_empty()
    }

    /// The newest label wins: a process enrolled again belongs to its new session.
    pub(super) fn labelled(&mut self, session: SessionId, time: BootTime) {
        if (time, session) > (self.session_time, self.session) {
            (self.session_time, self.session) = (time, session);
        }
    }

    pub(super) fn suggest_parent(&mut self, parent: ProcessKey, by_fork: bool) {
        let suggested = Parent { by_fork, start_ns: parent.start_ns, tgid: parent.tgid };
        self.parent = self.parent.max(Some(suggested));
    }

    pub(super) fn add_exec(&mut self, image: Image) {
        let at = self.execs.partition_point(|known| known.time <= image.time);
        self.execs.insert(at, image);
        if self.execs.len() > EXECS_KEPT {
            // Has at least eight older and eight newer ones, so it is left out in whatever order they come.
            self.execs.remove(EXECS_KEPT / 2);
            self.execs_left_out = self.execs_left_out.saturating_add(1);
        }
    }

    /// An end with a status is the end itself. Of the others, the earliest is the closest.
    pub(super) fn end(&mut self, ended: Ended) {
        let rank = |ended: &Ended| match ended.status {
            Some(ExitStatus::Code(code)) => (0, ended.time, code),
            Some(ExitStatus::Signal(signal)) => (1, ended.time, signal),
            None => (2, ended.time, 0),
        };
        if self.ended.as_ref().is_none_or(|known| rank(&ended) < rank(known)) {
            self.ended = Some(ended);
        }
    }
}

impl Image {
    pub(super) fn of_exec(time: BootTime, exec: &Exec) -> Self {
        Self::new(time, &exec.exe.path, &exec.argv)
    }

    pub(super) fn of_facts(key: ProcessKey, exe: &KernelPath, argv: &[Text]) -> Self {
        Self::new(BootTime(key.start_ns), exe, argv)
    }

    fn new(time: BootTime, exe: &KernelPath, argv: &[Text]) -> Self {
        let bytes = argv.iter().flat_map(|argument| argument.0.iter().copied().chain([0]));
        Self { time, exe: exe.text.0.as_slice().into(), argv: bytes.take(ARGV_KEPT).collect() }
    }
}
