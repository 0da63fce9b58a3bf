//! Histories for tests: processes and hooks at times, delivered as late as a test says, and what came of it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Correlator, Said};
use crate::{
    model::{
        Access, Action, Answer, BootTime, Caller, Connector, Correlated, Correlation, Decision, Event, Exec,
        ExitStatus, FileRef, Finding, HookCall, HookEvent, HookOutput, Intent, KernelPath, Level, Mechanism,
        Namespaces, NetEndpoint, Phase, PolicyAction, ProcessKey, Protection, SessionId, SessionStart,
        Severity, Target, Text, ToolCall, ToolCallId, Transport, Vantage, Verdict, WallTime,
    },
    tree::ProcessTree,
};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const SESSION: SessionId = SessionId(7);

pub(crate) fn exec(exe: &str, argv: &[&str]) -> Exec {
    Exec {
        exe: FileRef { path: exe.into(), dev: 1, ino: 2 },
        filename: exe.into(),
        interpreter: None,
        cwd: "/p".into(),
        argv: argv.iter().map(|word| Text::from(*word)).collect(),
        argv_truncated: false,
        session_env: Vec::new(),
        euid: 1000,
        gid: 1000,
        egid: 1000,
        parent: ProcessKey { tgid: 0, start_ns: 0 },
    }
}

pub(crate) fn tool(name: &str, input: Value) -> ToolCall {
    ToolCall {
        id: None,
        tool: name.to_owned(),
        input,
        intents: Vec::new(),
        output: None,
        failed: false,
        background: false,
        process_group: None,
        mcp: None,
    }
}

/// A shell command, as an agent announces it.
pub(crate) fn bash(id: &str, command: &str) -> ToolCall {
    let mut call = tool("Bash", json!({"command": command}));
    call.id = (!id.is_empty()).then(|| id.to_owned());
    call.intents = vec![Intent::Unparsed("not parsed in this test".to_owned())];
    call
}

pub(crate) fn declares(name: &str, id: &str, path: &str, intents: Vec<Intent>) -> ToolCall {
    let mut call = tool(name, json!({"file_path": path}));
    call.id = Some(id.to_owned());
    call.intents = intents;
    call
}

pub(crate) fn reads(path: &str) -> Intent {
    Intent::Read(Target::known(path))
}

pub(crate) fn writes(path: &str) -> Intent {
    Intent::Write(Target::known(path))
}

#[derive(Clone, Debug)]
enum Input {
    Event(Box<Event>),
    Hook(Box<HookCall>),
}

/// What is about to happen.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) now: u64,
    pub(crate) session: SessionId,
    /// Delay of events that are added from now on.
    pub(crate) late: u64,
    pid: u32,
    starts: Vec<SessionStart>,
    parents: BTreeMap<ProcessKey, ProcessKey>,
    inputs: Vec<(u64, Input)>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) events: Vec<Event>,
    pub(crate) hooks: Vec<HookCall>,
    pub(crate) labels: Vec<(ProcessKey, Option<ToolCallId>)>,
    pub(crate) rows: Vec<Correlated>,
    pub(crate) findings: Vec<Finding>,
}

impl Script {
    /// A session whose main process is the agent.
    pub(crate) fn new() -> (Self, ProcessKey) {
        let mut script = Self {
            now: 1000 * MS,
            session: SESSION,
            late: 0,
            pid: 100,
            starts: Vec::new(),
            parents: BTreeMap::new(),
            inputs: Vec::new(),
        };
        let root = script.session(SESSION);
        (script, root)
    }

    pub(crate) fn session(&mut self, session: SessionId) -> ProcessKey {
        self.session = session;
        let root = self.key();
        self.starts.push(start(session, root));
        self.exec(root, "/usr/bin/claude", &["claude"]);
        root
    }

    pub(crate) fn pass(&mut self, milliseconds: u64) -> &mut Self {
        self.now += milliseconds * MS;
        self
    }

    fn key(&mut self) -> ProcessKey {
        self.pid += 1;
        self.now += MS / 10;
        ProcessKey { tgid: self.pid, start_ns: self.now }
    }

    pub(crate) fn act(&mut self, process: ProcessKey, action: Action) -> &mut Self {
        self.act_judged(process, action, None)
    }

    pub(crate) fn act_judged(
        &mut self,
        process: ProcessKey,
        action: Action,
        decision: Option<Decision>,
    ) -> &mut Self {
        let mut action = action;
        if let Action::ProcessFork { child, .. } = &action {
            self.parents.insert(*child, process);
        }
        if let Action::ProcessExec(exec) = &mut action {
            exec.parent = self.parents.get(&process).copied().unwrap_or(ProcessKey { tgid: 1, start_ns: 1 });
        }
        self.now += MS / 100;
        let event = Event {
            time: BootTime(self.now),
            session: self.session,
            process,
            tid: process.tgid,
            uid: 1000,
            cgroup: 1,
            tool_call: None,
            result: None,
            vantage: Vantage::Kernel,
            verdict: None,
            decision: decision.map(Box::new),
            action,
        };
        self.inputs.push((self.now + self.late, Input::Event(Box::new(event))));
        self
    }

    pub(crate) fn fork(&mut self, parent: ProcessKey) -> ProcessKey {
        let child = self.key();
        self.act(parent, Action::ProcessFork { child, namespaces: Namespaces::empty() });
        child
    }

    pub(crate) fn exec(&mut self, process: ProcessKey, exe: &str, argv: &[&str]) -> &mut Self {
        self.act(process, Action::ProcessExec(Box::new(exec(exe, argv))))
    }

    pub(crate) fn spawn(&mut self, parent: ProcessKey, exe: &str, argv: &[&str]) -> ProcessKey {
        let child = self.fork(parent);
        self.exec(child, exe, argv);
        child
    }

    /// As Claude Code runs a command.
    pub(crate) fn shell(&mut self, agent: ProcessKey, command: &str) -> ProcessKey {
        let quoted = command.replace('\'', r#"'"'"'"#);
        let text = format!("source /s.sh && eval '{quoted}' < /dev/null && pwd -P >| /tmp/cwd");
        self.spawn(agent, "/usr/bin/bash", &["/bin/bash", "-c", &text])
    }

    pub(crate) fn exit(&mut self, process: ProcessKey) -> &mut Self {
        self.act(process, Action::ProcessExit { status: ExitStatus::Code(0) })
    }

    pub(crate) fn read(&mut self, process: ProcessKey, path: &str) -> &mut Self {
        self.act(process, open(path, Access::READ))
    }

    pub(crate) fn write(&mut self, process: ProcessKey, path: &str) -> &mut Self {
        self.act(process, open(path, Access::WRITE | Access::TRUNCATE))
    }

    /// Reads what a rule speaks of.
    pub(crate) fn read_secret(&mut self, process: ProcessKey, path: &str) -> &mut Self {
        let decision = Decision {
            verdict: Verdict {
                raw_action: PolicyAction::Block,
                severity: Some(Severity::High),
                rule_ids: vec!["PATH-ENV-FILE".to_owned()],
                reason: String::new(),
            },
            action: PolicyAction::Alert,
            would_block: true,
            mechanism: Mechanism::None,
            enforced: None,
            generation: 1,
        };
        self.act_judged(process, open(path, Access::READ), Some(decision))
    }

    pub(crate) fn connect(&mut self, process: ProcessKey, address: &str) -> &mut Self {
        let address = address.parse().unwrap();
        let endpoint =
            NetEndpoint { transport: Transport::Tcp, address: Some(address), port: 443, family: 2 };
        self.act(process, Action::NetConnect { endpoint })
    }

    /// A hook, with its own processes.
    pub(crate) fn hook(&mut self, agent: ProcessKey, phase: Phase, tools: Vec<ToolCall>) -> &mut Self {
        self.hook_answered(agent, phase, tools, PolicyAction::Allow)
    }

    pub(crate) fn hook_answered(
        &mut self,
        agent: ProcessKey,
        phase: Phase,
        tools: Vec<ToolCall>,
        action: PolicyAction,
    ) -> &mut Self {
        let late = std::mem::take(&mut self.late);
        let command = "'/usr/bin/defenseclaw' hook claude-code";
        let shell = self.spawn(agent, "/bin/sh", &["/bin/sh", "-c", command]);
        let hook =
            self.spawn(shell, "/usr/bin/defenseclaw", &["/usr/bin/defenseclaw", "hook", "claude-code"]);
        let mut event = HookEvent::new(Connector::ClaudeCode, phase, phase.as_str());
        event.cwd = Some("/p".to_owned());
        event.session = Some("5d1a".to_owned());
        event.tools = tools;
        self.now += MS;
        let call = HookCall {
            session: Some(self.session),
            wall: WallTime(0),
            boot: BootTime(self.now),
            caller: Caller { pid: hook.tgid, start_ticks: hook.start_ns / 10_000_000, uid: 1000, gid: 1000 },
            connector: Connector::ClaudeCode,
            event: Some(event),
            calls: Vec::new(),
            cut: false,
            problem: None,
            policy: None,
            decision: None,
            answer: Answer::new(action, None, &HookOutput::default()),
            latency_ns: 1,
        };
        self.inputs.push((self.now, Input::Hook(Box::new(call))));
        self.exit(hook).exit(shell);
        self.late = late;
        self
    }

    pub(crate) fn pre(&mut self, agent: ProcessKey, tool: &ToolCall) -> &mut Self {
        self.hook(agent, Phase::ToolPre, vec![tool.clone()])
    }

    pub(crate) fn post(&mut self, agent: ProcessKey, tool: &ToolCall) -> &mut Self {
        self.hook(agent, Phase::ToolPost, vec![tool.clone()])
    }

    /// Everything happens, time passes every 500 ms, and all sessions end.
    pub(crate) fn run(&mut self) -> Outcome {
        self.run_with(false)
    }

    /// Likewise; with `kernel`, labels reach the processes that are born after them, as the kernel does it.
    pub(crate) fn run_with(&mut self, kernel: bool) -> Outcome {
        let mut outcome = Outcome::default();
        let (mut tree, mut correlator) = (ProcessTree::new(), Correlator::new());
        for start in &self.starts {
            correlator.begin(start);
        }
        self.inputs.sort_by_key(|(arrival, _)| *arrival);
        let mut said = Vec::new();
        let mut next_tick = self.inputs.first().map_or(0, |(arrival, _)| *arrival);
        let mut given = Labels::default();
        for (arrival, input) in &self.inputs {
            while next_tick <= *arrival {
                tick(&mut tree, &mut correlator, next_tick, &mut said);
                outcome.take(&mut said);
                next_tick += 500 * MS;
            }
            match input.clone() {
                Input::Event(mut event) => {
                    if kernel {
                        event.tool_call = given.of(event.process, event.time.0, &self.parents);
                    }
                    tree.apply(&event);
                    correlator.event(&mut event, &tree, &mut said);
                    outcome.events.push(*event);
                }
                Input::Hook(mut call) => {
                    correlator.hook(&mut call, &tree, &mut said);
                    outcome.hooks.push(*call);
                }
            }
            for one in &said {
                if let Said::Label { process, call } = one {
                    given.0.entry(*process).or_default().push((*arrival, *call));
                }
            }
            outcome.take(&mut said);
        }
        let end = next_tick + 20_000 * MS;
        while next_tick <= end {
            tick(&mut tree, &mut correlator, next_tick, &mut said);
            next_tick += 500 * MS;
        }
        for start in &self.starts {
            correlator.end(start.session, &tree, BootTime(end), &mut said);
        }
        outcome.take(&mut said);
        outcome
    }
}

/// Labels as the kernel gives them: a child is born with that of its parent.
#[derive(Default)]
struct Labels(BTreeMap<ProcessKey, Vec<(u64, Option<ToolCallId>)>>);

impl Labels {
    fn of(
        &self,
        process: ProcessKey,
        time: u64,
        parents: &BTreeMap<ProcessKey, ProcessKey>,
    ) -> Option<ToolCallId> {
        let (mut process, mut time) = (process, time);
        loop {
            let own = self.0.get(&process).and_then(|own| own.iter().rev().find(|(at, _)| *at <= time));
            if let Some((_, call)) = own {
                return *call;
            }
            time = process.start_ns;
            process = *parents.get(&process)?;
        }
    }
}

fn tick(tree: &mut ProcessTree, correlator: &mut Correlator, now: u64, said: &mut Vec<Said>) {
    tree.expire(BootTime(now), std::time::Duration::from_secs(10));
    correlator.tick(tree, BootTime(now), said);
}

impl Outcome {
    fn take(&mut self, said: &mut Vec<Said>) {
        for one in said.drain(..) {
            match one {
                Said::Label { process, call } => self.labels.push((process, call)),
                Said::Correlated(row) => self.rows.push(*row),
                Said::Finding(finding) => self.findings.push(*finding),
            }
        }
    }

    /// Labels of calls, in the order in which they were announced.
    pub(crate) fn calls(&self) -> Vec<ToolCallId> {
        let announced =
            |hook: &&HookCall| hook.event.as_ref().is_some_and(|event| event.phase == Phase::ToolPre);
        self.hooks.iter().filter(announced).flat_map(|hook| hook.calls.clone()).collect()
    }

    /// The last row about a call.
    pub(crate) fn row(&self, call: ToolCallId) -> &Correlated {
        self.rows.iter().rev().find(|row| row.tool_call == Some(call)).unwrap()
    }

    pub(crate) fn answer(&self, call: ToolCallId) -> Correlation {
        self.row(call).correlation
    }

    /// The call of a process by the last rows: of the nearest process above it that has one.
    pub(crate) fn call_of(&self, process: ProcessKey) -> Option<ToolCallId> {
        let mut tree = ProcessTree::new();
        self.events.iter().for_each(|event| tree.apply(event));
        let mut last: BTreeMap<ToolCallId, &Correlated> = BTreeMap::new();
        last.extend(self.rows.iter().filter_map(|row| row.tool_call.map(|call| (call, row))));
        let tops: BTreeMap<ProcessKey, ToolCallId> = last
            .iter()
            .flat_map(|(call, row)| row.attributed.iter().map(|one| (one.process, *call)))
            .collect();
        let all = std::iter::once(process).chain(tree.ancestors(process).map(|(key, _)| key));
        all.into_iter().find_map(|key| tops.get(&key).copied())
    }

    /// Calls that events of a process were given.
    pub(crate) fn stamps(&self, process: ProcessKey) -> Vec<Option<ToolCallId>> {
        let mut stamps: Vec<_> = self
            .events
            .iter()
            .filter(|event| event.process == process)
            .map(|event| event.tool_call)
            .collect();
        stamps.dedup();
        stamps
    }

    pub(crate) fn rules(&self) -> Vec<&str> {
        self.findings.iter().map(|finding| finding.rule.as_str()).collect()
    }
}

pub(crate) fn open(path: &str, access: Access) -> Action {
    Action::FileOpen { file: file(path), access }
}

pub(crate) fn file(path: &str) -> FileRef {
    FileRef { path: KernelPath::from(path), ..FileRef::default() }
}

pub(crate) fn start(session: SessionId, root: ProcessKey) -> SessionStart {
    SessionStart {
        session,
        wall: WallTime(0),
        boot: BootTime(root.start_ns),
        origin: crate::model::Origin::Launched,
        boot_id: String::new(),
        root,
        command: vec!["claude".into()],
        project: "/p".into(),
        home: "/home/u".into(),
        host: String::new(),
        kernel: String::new(),
        version: String::new(),
        protection: Protection {
            level: Level::Lsm,
            level_reason: String::new(),
            capabilities: Vec::new(),
            table: Vec::new(),
            rules: Vec::new(),
        },
    }
}
