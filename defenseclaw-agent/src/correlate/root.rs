//! A process that the agent started, with everything below it: what it is for, and how much it did.

use super::deeds;
use crate::{
    model::{BootTime, Event, Evidence, EvidenceRef, Exec, ProcessKey, Seen, Text, ToolCallId},
    tree::Image,
};

/// What a tree is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Not known yet: it may still run the program that tells.
    Waiting,
    /// For a call.
    Call(ToolCallId, Evidence),
    /// It is a hook.
    Hook,
    /// The agent's own program.
    Own,
    /// Started before the first call, as servers are.
    Startup,
    /// Looks at the project's history, as agents do of themselves.
    Routine,
    /// No call explains it.
    Unexplained,
}

#[derive(Debug)]
pub(super) struct Root {
    pub(super) kind: Kind,
    pub(super) agent: ProcessKey,
    pub(super) start: BootTime,
    /// What it runs; nothing if it never started a program.
    pub(super) program: Text,
    pub(super) command: Text,
    pub(super) is_shell: bool,
    /// Its arguments tell which command it is.
    pub(super) tells: bool,
    pub(super) tally: Tally,
    /// The start of its program, its first connection, and the first thing it read that a rule speaks of.
    pub(super) exec: Option<EvidenceRef>,
    pub(super) connect: Option<EvidenceRef>,
    pub(super) secret: Option<EvidenceRef>,
}

/// How much was seen, and when.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) seen: Seen,
    pub(super) first: Option<BootTime>,
    pub(super) last: Option<BootTime>,
}

impl Tally {
    pub(super) fn count(&mut self, event: &Event) {
        self.seen.events += 1;
        self.seen.files += u64::from(deeds::is_file(event.kind()));
        self.seen.connects += u64::from(deeds::endpoint(&event.action).is_some());
        self.first = Some(self.first.map_or(event.time, |first| first.min(event.time)));
        self.last = Some(self.last.map_or(event.time, |last| last.max(event.time)));
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.seen.processes += other.seen.processes;
        self.seen.files += other.seen.files;
        self.seen.connects += other.seen.connects;
        self.seen.events += other.seen.events;
        self.first = match (self.first, other.first) {
            (Some(own), Some(theirs)) => Some(own.min(theirs)),
            (own, theirs) => own.or(theirs),
        };
        self.last = self.last.max(other.last);
    }
}

impl Root {
    pub(super) fn new(process: ProcessKey, agent: ProcessKey) -> Self {
        let mut tally = Tally::default();
        tally.seen.processes = 1;
        Self {
            kind: Kind::Waiting,
            agent,
            start: BootTime(process.start_ns),
            program: Text::default(),
            command: Text::default(),
            is_shell: false,
            tells: false,
            tally,
            exec: None,
            connect: None,
            secret: None,
        }
    }

    /// What it is known to have started before it was looked at.
    pub(super) fn ran(&mut self, image: &Image) {
        let argv: Vec<Text> = image.argv.split(|byte| *byte == 0).map(Text::from).collect();
        let argv = argv.strip_suffix(&[Text::default()]).unwrap_or(&argv);
        self.program = deeds::cut(&image.exe);
        self.command = deeds::command(argv);
        self.is_shell = super::text::is_shell(&image.exe);
        self.tells = !self.is_shell || super::text::shell_text(argv).is_some();
    }

    pub(super) fn call(&self) -> Option<ToolCallId> {
        if let Kind::Call(call, _) = self.kind { Some(call) } else { None }
    }

    pub(super) fn runs(&mut self, event: &Event, exec: &Exec) {
        self.program = deeds::cut(&exec.exe.path.text.0);
        self.command = deeds::command(&exec.argv);
        self.is_shell = super::text::is_shell(&exec.exe.path.text.0);
        self.tells = super::text::tells(exec);
        self.exec.get_or_insert_with(|| deeds::reference(event));
    }
}
