//! Why an event was given to a call or to none, and what a call rests on: the processes between, what tied them, and
//! which calls were open at that time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::calls::what;
use crate::{
    model::{
        Attributed, AuditRecord, BootTime, Correlated, Event, Evidence, Finding, Phase, PolicyAction,
        ProcessKey, ToolCallId,
    },
    tree::{Process, ProcessTree},
};

/// What is to be explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The event in this row.
    Event(u64),
    /// A call.
    Call(ToolCallId),
}

/// Why.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Explanation {
    /// The event, if it is about one.
    pub event: Option<Event>,
    /// The call behind it; none if there is none.
    pub call: Option<CallFacts>,
    /// The last row about that call, or about the tree that no call explains.
    pub row: Option<Correlated>,
    /// From the process of the event upwards, to the one that was tied to the call or to the top.
    pub chain: Vec<ChainLink>,
    /// Calls that were open at the time, the one above among them.
    pub open_then: Vec<CallFacts>,
    /// Findings that rest on it.
    pub findings: Vec<Finding>,
}

/// A process on the way.
#[derive(Clone, Debug, Serialize)]
pub struct ChainLink {
    /// Pid and start.
    pub process: ProcessKey,
    /// What it ran at the time, cut; nothing if that is not known.
    pub command: String,
    /// What ties it to the call.
    pub attributed: Option<Attributed>,
}

/// A call, as it was announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CallFacts {
    /// Its label.
    pub tool_call: ToolCallId,
    /// Row that announced it.
    pub seq: u64,
    /// The agent's id.
    pub own_id: Option<String>,
    /// The vendor's name of the tool.
    pub tool: String,
    /// The command, path or address.
    pub what: String,
    /// When.
    pub opened: BootTime,
    /// Until then; none if its end was not told.
    pub closed: Option<BootTime>,
    /// What the agent was told.
    pub answer: PolicyAction,
}

/// Makes an [`Explanation`] of the rows of one session.
#[derive(Debug)]
pub struct ExplanationBuilder {
    subject: Subject,
    event: Option<Event>,
    tree: ProcessTree,
    calls: BTreeMap<ToolCallId, CallFacts>,
    rows: BTreeMap<ToolCallId, Correlated>,
    unexplained: Vec<Correlated>,
    findings: Vec<Finding>,
}

impl ExplanationBuilder {
    /// No rows yet.
    pub fn new(subject: Subject) -> Self {
        Self {
            subject,
            event: None,
            tree: ProcessTree::new(),
            calls: BTreeMap::new(),
            rows: BTreeMap::new(),
            unexplained: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// Adds a row of the session, in the order of the audit.
    pub fn push(&mut self, seq: u64, record: &AuditRecord) {
        match record {
            AuditRecord::Event(event) => {
                self.tree.apply(event);
                if self.subject == Subject::Event(seq) {
                    self.event = Some((**event).clone());
                }
            }
            AuditRecord::Hook(hook) => {
                let Some(event) = &hook.event else { return };
                for (tool, call) in event.tools.iter().zip(&hook.calls) {
                    let facts = self.calls.entry(*call).or_insert_with(|| CallFacts {
                        tool_call: *call,
                        seq,
                        own_id: tool.id.clone(),
                        tool: tool.tool.clone(),
                        what: what(tool),
                        opened: hook.boot,
                        closed: None,
                        answer: hook.answer.action,
                    });
                    if event.phase == Phase::ToolPost {
                        facts.closed.get_or_insert(hook.boot);
                    }
                }
            }
            AuditRecord::Correlated(row) => match row.tool_call {
                Some(call) => _ = self.rows.insert(call, (**row).clone()),
                None => self.unexplained.push((**row).clone()),
            },
            AuditRecord::Finding(finding) => self.findings.push((**finding).clone()),
            AuditRecord::SessionStart(_)
            | AuditRecord::PolicyLoaded(_)
            | AuditRecord::PolicyRefused(_)
            | AuditRecord::Posture(_)
            | AuditRecord::Handover(_)
            | AuditRecord::Asked(_)
            | AuditRecord::Settled(_)
            | AuditRecord::Granted(_)
            | AuditRecord::GrantEnded(_)
            | AuditRecord::Loss(_)
            | AuditRecord::SessionEnd(_) => {}
        }
    }

    /// All rows have been pushed; none if the subject is not among them.
    pub fn finish(self) -> Option<Explanation> {
        match self.subject {
            Subject::Call(id) => {
                let call = self.calls.get(&id).cloned()?;
                Some(Explanation {
                    row: self.rows.get(&id).cloned(),
                    open_then: self.open_at(call.opened),
                    findings: self.findings_of(|finding| finding.tool_call == Some(id)),
                    call: Some(call),
                    ..Explanation::default()
                })
            }
            Subject::Event(_) => self.event.clone().map(|event| self.of_event(event)),
        }
    }

    fn of_event(&self, event: Event) -> Explanation {
        let all =
            || std::iter::once(event.process).chain(self.tree.ancestors(event.process).map(|(key, _)| key));
        let tie = |key: ProcessKey| {
            self.rows.values().find_map(|row| {
                let ties = |one: &&Attributed| one.process == key && one.by != Evidence::Target;
                row.attributed.iter().find(ties).map(|one| (row.tool_call, one.clone()))
            })
        };
        let by_process = all().find_map(tie).and_then(|(call, _)| call);
        let id = event.tool_call.or(by_process);
        let own = id.and_then(|id| {
            let mut ties = self.rows.get(&id)?.attributed.iter();
            ties.find(|one| one.by == Evidence::Target && one.process == event.process).cloned()
        });
        let mut chain = Vec::new();
        for key in all() {
            let attributed = tie(key).filter(|(call, _)| *call == id && id.is_some()).map(|(_, one)| one);
            let attributed = attributed.or_else(|| own.clone().filter(|_| key == event.process));
            let tied = attributed.is_some();
            let image = self.tree.get(key).and_then(|process: &Process| process.image_at(event.time));
            let command = image.map(|image| {
                let words: Vec<_> =
                    image.argv.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
                words.join(" ").trim_end().to_owned()
            });
            chain.push(ChainLink { process: key, command: command.unwrap_or_default(), attributed });
            if tied {
                break;
            }
        }
        let unexplained =
            |row: &&Correlated| row.process.is_some_and(|process| all().any(|key| key == process));
        let row = match id {
            Some(id) => self.rows.get(&id).cloned(),
            None => self.unexplained.iter().rev().find(unexplained).cloned(),
        };
        Explanation {
            call: id.and_then(|id| self.calls.get(&id).cloned()),
            row,
            chain,
            open_then: self.open_at(event.time),
            findings: self.findings_of(|finding| {
                finding
                    .evidence
                    .iter()
                    .any(|one| (one.time, one.process, one.kind) == (event.time, event.process, event.kind()))
            }),
            event: Some(event),
        }
    }

    fn open_at(&self, time: BootTime) -> Vec<CallFacts> {
        let open = |call: &&CallFacts| call.opened <= time && call.closed.is_none_or(|closed| time <= closed);
        self.calls.values().filter(open).cloned().collect()
    }

    fn findings_of(&self, wanted: impl Fn(&Finding) -> bool) -> Vec<Finding> {
        self.findings.iter().filter(|finding| wanted(finding)).cloned().collect()
    }
}
