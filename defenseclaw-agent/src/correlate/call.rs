//! One announced call: when it was open, what it may do, and what was seen of it.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    net::IpAddr,
};

use super::{
    paths::{Place, Target},
    text::Announced,
};
use crate::model::{
    Attributed, BootTime, EvidenceRef, HookEvent, Intent, ProcessKey, Seen, ToolCall, ToolCallId,
};

/// Attributions listed per call.
const ATTRIBUTED_MAX: usize = 32;
/// Contradictions listed per call.
const CONTRADICTIONS_MAX: usize = 4;

/// What a call can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Runs a command: everything is possible.
    Command,
    /// Does what it declares, and nothing else.
    Declared,
    /// A tool that is not known.
    Unknown,
    /// A server does it, which was started before.
    Mcp,
}

#[derive(Debug)]
pub(super) struct Call {
    pub(super) id: ToolCallId,
    /// The agent's id.
    pub(super) own_id: Option<String>,
    pub(super) tool: String,
    pub(super) event_name: String,
    /// Tool and input: what pairs a call with its end where the agent has no ids.
    print: u64,
    /// Who announced it.
    pub(super) agent: ProcessKey,
    pub(super) subagent: Option<String>,
    pub(super) opened: BootTime,
    pub(super) closed: Option<BootTime>,
    pub(super) class: Class,
    pub(super) announced: Announced,
    pub(super) reads: Vec<Vec<u8>>,
    pub(super) writes: Vec<Vec<u8>>,
    pub(super) deletes: Vec<Vec<u8>>,
    pub(super) hosts: Vec<String>,
    pub(super) addresses: Vec<IpAddr>,
    /// The agent was told not to do it.
    pub(super) refused: bool,
    /// Only its end was heard of.
    pub(super) late: bool,
    /// A program with its text was seen.
    pub(super) found: bool,
    /// What the agent did itself, and what trees did that are forgotten.
    pub(super) seen: Seen,
    pub(super) first: Option<BootTime>,
    pub(super) last: Option<BootTime>,
    pub(super) attributed: Vec<Attributed>,
    pub(super) unlisted: u64,
    pub(super) contradictions: Vec<EvidenceRef>,
    /// What the audit has been told.
    pub(super) told: Option<Seen>,
}

impl Call {
    pub(super) fn new(id: ToolCallId, report: &Report<'_>, at: Place<'_>, now: BootTime) -> Self {
        let Report { event, tool, agent, print } = *report;
        let mut call = Self {
            id,
            own_id: tool.id.clone(),
            tool: tool.tool.clone(),
            event_name: event.name.clone(),
            print,
            agent,
            subagent: event.agent.clone(),
            opened: now,
            closed: None,
            class: class(tool),
            announced: Announced::new(tool),
            reads: Vec::new(),
            writes: Vec::new(),
            deletes: Vec::new(),
            hosts: Vec::new(),
            addresses: Vec::new(),
            refused: false,
            late: false,
            found: false,
            seen: Seen::default(),
            first: None,
            last: None,
            attributed: Vec::new(),
            unlisted: 0,
            contradictions: Vec::new(),
            told: None,
        };
        for intent in &tool.intents {
            let (list, target) = match intent {
                Intent::Read(target) => (&mut call.reads, target),
                Intent::Write(target) => (&mut call.writes, target),
                Intent::Delete(target) => (&mut call.deletes, target),
                Intent::Connect(target) => {
                    match target.value().and_then(Target::parse) {
                        Some(Target::Address(address)) => call.addresses.push(address),
                        Some(Target::Name(name)) => call.hosts.push(name),
                        None => {}
                    }
                    continue;
                }
                Intent::Exec(_) | Intent::Unparsed(_) => continue,
            };
            list.extend(target.value().and_then(|path| at.resolve(path)));
        }
        call
    }

    /// It was open then.
    pub(super) fn covers(&self, time: BootTime) -> bool {
        self.opened <= time && self.closed.is_none_or(|closed| time <= closed)
    }

    pub(super) fn is_open(&self) -> bool {
        self.closed.is_none() && !self.refused
    }

    /// The agent may start processes for it of which nobody knows what they will do.
    pub(super) fn starts_processes(&self) -> bool {
        matches!(self.class, Class::Command | Class::Unknown) && !self.refused
    }

    /// Whether a report of the agent is about this call: by id, or where there is none by what it says.
    pub(super) fn is(&self, report: &Report<'_>) -> bool {
        let Report { event, tool, agent, print } = report;
        if self.agent != *agent {
            return false;
        }
        match (&self.own_id, &tool.id) {
            (Some(own), Some(theirs)) => own == theirs,
            _ => self.subagent == event.agent && self.print == *print,
        }
    }

    /// Announced by one event, and again by another one, as some agents do.
    pub(super) fn is_again(&self, report: &Report<'_>) -> bool {
        let same_id = self.own_id.is_some() && self.own_id == report.tool.id;
        self.is(report) && self.closed.is_none() && (same_id || self.event_name != report.event.name)
    }

    pub(super) fn note(&mut self, attributed: Attributed) {
        if self.attributed.len() < ATTRIBUTED_MAX {
            self.attributed.push(attributed);
        } else {
            self.unlisted += 1;
        }
    }

    pub(super) fn contradicted(&mut self, by: EvidenceRef) {
        if self.contradictions.len() < CONTRADICTIONS_MAX {
            self.contradictions.push(by);
        }
    }

    pub(super) fn at(&mut self, time: BootTime) {
        self.first = Some(self.first.map_or(time, |first| first.min(time)));
        self.last = Some(self.last.map_or(time, |last| last.max(time)));
    }
}

/// What an agent says of one call, before or after it.
pub(super) struct Report<'a> {
    pub(super) event: &'a HookEvent,
    pub(super) tool: &'a ToolCall,
    pub(super) agent: ProcessKey,
    print: u64,
}

impl<'a> Report<'a> {
    pub(super) fn new(event: &'a HookEvent, tool: &'a ToolCall, agent: ProcessKey) -> Self {
        Self { event, tool, agent, print: print(tool) }
    }
}

fn class(tool: &ToolCall) -> Class {
    let runs = |intent: &Intent| matches!(intent, Intent::Exec(_) | Intent::Unparsed(_));
    if tool.mcp.is_some() {
        Class::Mcp
    } else if tool.intents.iter().any(runs) || tool.input.get("command").is_some() && tool.intents.is_empty()
    {
        Class::Command
    } else if tool.intents.is_empty() {
        Class::Unknown
    } else {
        Class::Declared
    }
}

fn print(tool: &ToolCall) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&tool.tool, tool.input.to_string()).hash(&mut hasher);
    hasher.finish()
}
