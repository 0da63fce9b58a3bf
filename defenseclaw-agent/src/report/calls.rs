//! What an agent said and what was done, side by side: prompt, tool call, processes, files and network; and what no tool
//! call explains. It shows what was joined when it happened (`correlate`) and joins nothing itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde::Serialize;

use super::Report;
use crate::model::{
    Access, Action, AuditRecord, BootTime, Correlated, Correlation, Event, Evidence, ExitStatus, Finding,
    HookCall, HookEvent, Intent, KernelPath, NetEndpoint, Phase, PolicyAction, ProcessKey, Text, ToolCall,
    ToolCallId,
};

/// Calls that are listed.
const CALLS_MAX: usize = 20_000;
/// Files and endpoints that are listed of one call or process.
const OBJECTS_MAX: usize = 1000;
/// Processes whose files and endpoints are remembered.
const PROCESSES_MAX: usize = 100_000;

/// A session as its agents told it, with what was seen. Times named `…_ns` count from its start.
#[derive(Clone, Debug, Serialize)]
pub struct Calls {
    /// Prompts in their order, each with its calls. The first has no text if calls came before any prompt.
    pub prompts: Vec<Prompt>,
    /// What no call explains.
    pub unexplained: Vec<Unexplained>,
    /// Findings that are about no call.
    pub findings: Vec<Finding>,
    /// Calls beyond the bound of the list.
    pub unlisted: u64,
}

/// A prompt.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Prompt {
    /// When.
    pub at_ns: u64,
    /// Its text; none for calls before the first one.
    pub text: Option<String>,
    /// What the agent announced until the next one.
    pub calls: Vec<CallNode>,
}

/// A tool call.
#[derive(Clone, Debug, Serialize)]
pub struct CallNode {
    /// Its label.
    pub tool_call: ToolCallId,
    /// Row that announced it.
    pub seq: u64,
    /// When it was announced.
    pub at_ns: u64,
    /// Until its end was told; none if it was not.
    pub took_ns: Option<u64>,
    /// The vendor's name of the tool.
    pub tool: String,
    /// The command, path or address.
    pub what: String,
    /// The agent's id.
    pub own_id: Option<String>,
    /// The subagent that did it.
    pub agent: Option<String>,
    /// What the agent was told.
    pub answer: PolicyAction,
    /// What came of it; none while it runs.
    pub correlation: Option<Correlation>,
    /// Why.
    pub reason: Option<String>,
    /// Its processes, each parent before its children.
    pub processes: Vec<CallProcess>,
    /// Files that were touched.
    pub files: Vec<TouchedFile>,
    /// Endpoints that were connected or sent to.
    pub endpoints: Vec<NetEndpoint>,
    /// Files and endpoints beyond the bound of the lists.
    pub unlisted: u64,
    /// Findings about it.
    pub findings: Vec<Finding>,
}

/// A process of a call.
#[derive(Clone, Debug, Serialize)]
pub struct CallProcess {
    /// Pid and start.
    pub process: ProcessKey,
    /// 0: nobody above it belongs to the call.
    pub depth: u32,
    /// What it ran last; nothing if it went on with the program of its parent.
    pub command: Vec<Text>,
    /// How it ended.
    pub exit: Option<ExitStatus>,
}

/// A file that was touched.
#[derive(Clone, Debug, Serialize)]
pub struct TouchedFile {
    /// Its path.
    pub path: KernelPath,
    /// It was read.
    pub read: bool,
    /// It was made or changed.
    pub written: bool,
    /// It was removed, or renamed away.
    pub removed: bool,
}

/// Something that no call explains.
#[derive(Clone, Debug, Serialize)]
pub struct Unexplained {
    /// The row.
    #[serde(flatten)]
    pub row: Correlated,
    /// Files that were touched.
    pub files: Vec<TouchedFile>,
    /// Endpoints.
    pub endpoints: Vec<NetEndpoint>,
}

/// Makes [`Calls`] of the rows of one session.
#[derive(Debug, Default)]
pub struct CallsBuilder {
    prompts: Vec<Prompt>,
    /// Where each call is: prompt and place in it.
    places: HashMap<ToolCallId, (usize, usize)>,
    opened: HashMap<ToolCallId, BootTime>,
    start: Option<BootTime>,
    unlisted: u64,
    /// The last row of each call.
    rows: BTreeMap<ToolCallId, Correlated>,
    unexplained: Vec<Correlated>,
    findings: Vec<Finding>,
    /// What was done for a call, and by processes of whom no call was known yet.
    of_calls: HashMap<ToolCallId, Deeds>,
    of_processes: HashMap<ProcessKey, Deeds>,
    calls_of: HashMap<ProcessKey, ToolCallId>,
}

#[derive(Clone, Debug, Default)]
struct Deeds {
    /// Read, written, removed.
    files: BTreeMap<KernelPath, [bool; 3]>,
    endpoints: BTreeSet<NetEndpoint>,
    unlisted: u64,
}

impl CallsBuilder {
    /// No rows yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Nothing was announced.
    pub fn is_empty(&self) -> bool {
        self.prompts.is_empty()
    }

    /// Adds a row of the session, in the order of the audit.
    pub fn push(&mut self, seq: u64, record: &AuditRecord) {
        match record {
            AuditRecord::SessionStart(start) => _ = self.start.get_or_insert(start.boot),
            AuditRecord::Hook(hook) => self.hook(seq, hook),
            AuditRecord::Event(event) => self.event(event),
            AuditRecord::Correlated(row) => match row.tool_call {
                Some(call) => _ = self.rows.insert(call, (**row).clone()),
                None => self.unexplained.push((**row).clone()),
            },
            AuditRecord::Finding(finding) => self.findings.push((**finding).clone()),
            AuditRecord::PolicyLoaded(_)
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

    fn hook(&mut self, seq: u64, hook: &HookCall) {
        let Some(event) = &hook.event else { return };
        let at_ns = hook.boot.0.saturating_sub(self.start.get_or_insert(hook.boot).0);
        match event.phase {
            Phase::PromptSubmit => {
                self.prompts.push(Prompt {
                    at_ns,
                    text: Some(event.text.clone().unwrap_or_default()),
                    calls: Vec::new(),
                });
            }
            Phase::ToolPre | Phase::ToolPost => {
                for (tool, call) in event.tools.iter().zip(&hook.calls) {
                    if let Some((prompt, place)) = self.places.get(call).copied() {
                        let opened = self.opened.get(call).copied().unwrap_or(hook.boot);
                        let node =
                            self.prompts.get_mut(prompt).and_then(|prompt| prompt.calls.get_mut(place));
                        if let (Phase::ToolPost, Some(node)) = (event.phase, node) {
                            node.took_ns.get_or_insert(hook.boot.0.saturating_sub(opened.0));
                        }
                        continue;
                    }
                    self.call(seq, at_ns, hook, event, tool, *call);
                }
            }
            Phase::SessionStart
            | Phase::Permission
            | Phase::Stop
            | Phase::SubagentStart
            | Phase::SubagentStop
            | Phase::SessionEnd
            | Phase::Other => {}
        }
    }

    fn call(
        &mut self,
        seq: u64,
        at_ns: u64,
        hook: &HookCall,
        event: &HookEvent,
        tool: &ToolCall,
        id: ToolCallId,
    ) {
        if self.places.len() >= CALLS_MAX {
            self.unlisted += 1;
            return;
        }
        if self.prompts.is_empty() {
            self.prompts.push(Prompt { at_ns, ..Prompt::default() });
        }
        let last = self.prompts.len() - 1;
        let Some(prompt) = self.prompts.get_mut(last) else { return };
        self.places.insert(id, (last, prompt.calls.len()));
        self.opened.insert(id, hook.boot);
        prompt.calls.push(CallNode {
            tool_call: id,
            seq,
            at_ns,
            took_ns: None,
            tool: tool.tool.clone(),
            what: what(tool),
            own_id: tool.id.clone(),
            agent: event.agent.clone(),
            answer: hook.answer.action,
            correlation: None,
            reason: None,
            processes: Vec::new(),
            files: Vec::new(),
            endpoints: Vec::new(),
            unlisted: 0,
            findings: Vec::new(),
        });
    }

    fn event(&mut self, event: &Event) {
        let is_process = matches!(event.action, Action::ProcessExec(_) | Action::ProcessExit { .. });
        if let (true, Some(call)) = (is_process, event.tool_call)
            && self.calls_of.len() < PROCESSES_MAX
        {
            self.calls_of.insert(event.process, call);
        }
        let touched = touched(&event.action);
        let endpoint = endpoint(&event.action);
        if touched.is_empty() && endpoint.is_none() {
            return;
        }
        let deeds = match event.tool_call {
            Some(call) => self.of_calls.entry(call).or_default(),
            None if self.of_processes.len() < PROCESSES_MAX => {
                self.of_processes.entry(event.process).or_default()
            }
            None => return,
        };
        for (path, [read, written, removed]) in touched {
            if deeds.files.len() < OBJECTS_MAX || deeds.files.contains_key(path) {
                let known = deeds.files.entry(path.clone()).or_default();
                *known = [known[0] || read, known[1] || written, known[2] || removed];
            } else {
                deeds.unlisted += 1;
            }
        }
        if let Some(endpoint) = endpoint {
            if deeds.endpoints.len() < OBJECTS_MAX {
                deeds.endpoints.insert(endpoint.clone());
            } else {
                deeds.unlisted += 1;
            }
        }
    }

    /// All rows have been pushed; `report` is made of the same rows.
    pub fn finish(mut self, report: &Report) -> Calls {
        let agents: BTreeSet<ProcessKey> = self
            .rows
            .values()
            .flat_map(|row| &row.attributed)
            .filter(|one| one.by == Evidence::Target)
            .map(|one| one.process)
            .collect();
        for (call, row) in &self.rows {
            let tops = row.attributed.iter().filter(|one| one.by != Evidence::Target);
            self.calls_of.extend(tops.map(|one| (one.process, *call)));
        }
        self.processes(report, &agents);
        for (call, row) in std::mem::take(&mut self.rows) {
            if let Some(node) = self.node(call) {
                (node.correlation, node.reason) = (Some(row.correlation), Some(row.reason));
            }
        }
        let mut findings = Vec::new();
        for finding in std::mem::take(&mut self.findings) {
            match finding.tool_call.and_then(|call| self.node(call)) {
                Some(node) => node.findings.push(finding),
                None => findings.push(finding),
            }
        }
        for (call, deeds) in std::mem::take(&mut self.of_calls) {
            if let Some(node) = self.node(call) {
                let (files, endpoints) = deeds.listed();
                (node.files, node.endpoints, node.unlisted) = (files, endpoints, deeds.unlisted);
            }
        }
        let unexplained = std::mem::take(&mut self.unexplained).into_iter();
        let unexplained = unexplained
            .map(|row| {
                let deeds = row.process.and_then(|process| self.of_processes.get(&process));
                let (files, endpoints) = deeds.map(Deeds::listed).unwrap_or_default();
                Unexplained { row, files, endpoints }
            })
            .collect();
        Calls { prompts: self.prompts, unexplained, findings, unlisted: self.unlisted }
    }

    /// Gives each process to its call, and to who is above it what nobody else explains.
    fn processes(&mut self, report: &Report, agents: &BTreeSet<ProcessKey>) {
        let mut known: HashMap<ProcessKey, (ToolCallId, u32)> = HashMap::new();
        let tops: BTreeSet<ProcessKey> = self.unexplained.iter().filter_map(|row| row.process).collect();
        let mut above: HashMap<ProcessKey, ProcessKey> = HashMap::new();
        for node in &report.processes.nodes {
            let parent = node.parent.and_then(|parent| known.get(&parent).copied());
            let own = self.calls_of.get(&node.process).copied();
            let top = if tops.contains(&node.process) {
                Some(node.process)
            } else {
                node.parent.and_then(|parent| above.get(&parent).copied())
            };
            if let Some(top) = top.filter(|top| !agents.contains(top)) {
                above.insert(node.process, top);
            }
            let Some(call) = own.or(parent.map(|(call, _)| call)) else {
                if let (Some(top), Some(deeds)) = (top, self.of_processes.get(&node.process).cloned())
                    && top != node.process
                    && !agents.contains(&top)
                {
                    self.of_processes.entry(top).or_default().add(deeds);
                }
                continue;
            };
            let depth = parent.filter(|(of, _)| *of == call).map_or(0, |(_, depth)| depth + 1);
            known.insert(node.process, (call, depth));
            if let Some(deeds) = self.of_processes.remove(&node.process) {
                self.of_calls.entry(call).or_default().add(deeds);
            }
            let process = CallProcess {
                process: node.process,
                depth,
                command: node.execs.last().map(|exec| exec.argv.clone()).unwrap_or_default(),
                exit: node.exit,
            };
            if let Some(node) = self.node(call) {
                node.processes.push(process);
            }
        }
    }

    fn node(&mut self, call: ToolCallId) -> Option<&mut CallNode> {
        let (prompt, place) = *self.places.get(&call)?;
        self.prompts.get_mut(prompt)?.calls.get_mut(place)
    }
}

impl Deeds {
    fn add(&mut self, other: Self) {
        for (path, [read, written, removed]) in other.files {
            if self.files.len() < OBJECTS_MAX || self.files.contains_key(&path) {
                let known = self.files.entry(path).or_default();
                *known = [known[0] || read, known[1] || written, known[2] || removed];
            } else {
                self.unlisted += 1;
            }
        }
        self.endpoints.extend(other.endpoints);
        self.unlisted += other.unlisted;
    }

    fn listed(&self) -> (Vec<TouchedFile>, Vec<NetEndpoint>) {
        let files = self.files.iter().map(|(path, [read, written, removed])| TouchedFile {
            path: path.clone(),
            read: *read,
            written: *written,
            removed: *removed,
        });
        (files.collect(), self.endpoints.iter().cloned().collect())
    }
}

/// Paths with what is done to them: read, written, removed.
fn touched(action: &Action) -> Vec<(&KernelPath, [bool; 3])> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "nothing else is done to a file's name or content")]
    match action {
        Action::FileOpen { file, access } => {
            let writes = Access::WRITE | Access::CREATE | Access::TRUNCATE | Access::APPEND;
            let (read, written) = (access.contains(Access::READ), access.intersects(writes));
            let program = access.intersects(Access::EXECUTE | Access::MAP_EXECUTE | Access::REFERENCE);
            if program && !written { Vec::new() } else { vec![(&file.path, [read, written, false])] }
        }
        Action::FileCreate { file, .. } | Action::FileTruncate { file, .. } => {
            vec![(&file.path, [false, true, false])]
        }
        Action::FileUnlink { file } | Action::DirRemove { file } => vec![(&file.path, [false, false, true])],
        Action::FileRename { file, to, .. } => {
            vec![(&file.path, [false, false, true]), (to, [false, true, false])]
        }
        Action::FileLink { file, to } => vec![(&file.path, [true, false, false]), (to, [false, true, false])],
        Action::FileSymlink { path, .. } | Action::DirMake { path, .. } => vec![(path, [false, true, false])],
        _ => Vec::new(),
    }
}

fn endpoint(action: &Action) -> Option<&NetEndpoint> {
    let (Action::NetConnect { endpoint } | Action::NetSend { endpoint, .. }) = action else { return None };
    endpoint.address.is_some().then_some(endpoint)
}

/// What a call is about, in a few words of the agent.
pub(super) fn what(tool: &ToolCall) -> String {
    let text = |key: &str| tool.input.get(key).and_then(serde_json::Value::as_str);
    let named = ["command", "cmd", "file_path", "filePath", "path", "url", "query", "pattern", "prompt"];
    if let Some(text) = named.iter().find_map(|key| text(key)) {
        return text.to_owned();
    }
    let target = tool.intents.iter().find_map(|intent| match intent {
        Intent::Exec(words) => words.first(),
        Intent::Read(target) | Intent::Write(target) | Intent::Delete(target) | Intent::Connect(target) => {
            Some(target)
        }
        Intent::Unparsed(_) => None,
    });
    match target {
        Some(target) => target.text.clone(),
        None if tool.input.is_null() => String::new(),
        None => tool.input.to_string(),
    }
}
