//! What hooks say: who announces, and which calls open and close.

use super::{
    Said,
    call::{Call, Report},
    paths::{self, Place},
    root::Kind,
    session::{Agent, Session},
    text,
};
use crate::{
    model::{
        Caller, Connector, Enforced, Evidence, Exec, HookCall, HookEvent, Phase, PolicyAction, ProcessKey,
        ToolCallId,
    },
    tree::{Process, ProcessTree},
};

/// Length of a clock tick, in which `/proc` counts starts of processes.
const TICK_NS: u64 = 10_000_000;
/// Calls of a session that are remembered; open ones beyond that are given up, the oldest first.
pub(super) const CALLS_MAX: usize = 1024;
/// Calls that are open at once.
const OPEN_MAX: usize = 256;
/// Directories that agents call their own.
const OWN_MAX: usize = 32;
/// Our program.
const PROGRAM: &[u8] = b"defenseclaw";

impl Session {
    pub(super) fn hook(
        &mut self,
        hook: &mut HookCall,
        tree: &ProcessTree,
        said: &mut Vec<Said>,
        mut next: impl FnMut() -> ToolCallId,
    ) {
        let now = hook.boot;
        self.first_hook.get_or_insert(now);
        let agent = self.announcer(&hook.caller, tree);
        self.announces(agent, tree, now);
        self.is_hook_of(&hook.caller, agent, tree);
        let Some(event) = hook.event.take() else { return };
        self.learn_own(hook.connector, &event);
        let refused = hook.answer.action == PolicyAction::Block
            && hook.decision.as_ref().is_none_or(|decision| decision.enforced != Some(Enforced::Unsupported));
        hook.calls = match event.phase {
            Phase::ToolPre => {
                self.first_tool.get_or_insert(now);
                let opened = event.tools.iter().map(|tool| {
                    let id = self.open(hook, &Report::new(&event, tool, agent), &mut next);
                    if let Some(call) = self.calls.get_mut(&id).filter(|_| refused) {
                        (call.refused, call.closed) = (true, None);
                    }
                    id
                });
                opened.collect()
            }
            Phase::ToolPost => event
                .tools
                .iter()
                .map(|tool| self.close(hook, &Report::new(&event, tool, agent), tree, &mut next))
                .collect(),
            Phase::Permission => {
                let known = event.tools.iter().map(|tool| self.known(&Report::new(&event, tool, agent)));
                known.collect::<Option<_>>().unwrap_or_default()
            }
            Phase::Stop | Phase::SessionEnd | Phase::SubagentStop => {
                self.close_rest(hook, &event, agent);
                Vec::new()
            }
            Phase::SessionStart | Phase::PromptSubmit | Phase::SubagentStart | Phase::Other => Vec::new(),
        };
        hook.event = Some(event);
        self.relabel(agent, said);
    }

    /// Who announces: the first ancestor of who asked that is no hook. Where that is not known, who announced before, or
    /// the main process.
    fn announcer(&self, caller: &Caller, tree: &ProcessTree) -> ProcessKey {
        let of_caller = caller_key(caller, tree).and_then(|key| {
            let own = tree.get(key).map(|process| (key, process));
            let mut all = own.into_iter().chain(tree.ancestors(key));
            all.find(|(key, process)| {
                let announced = self.agents.iter().any(|agent| agent.process == *key);
                process.session() == self.id && (announced || !is_hook_process(process))
            })
        });
        let before = if let [Agent { process, .. }] = self.agents.as_slice() { Some(*process) } else { None };
        of_caller.map(|(key, _)| key).or(before).unwrap_or(self.root)
    }

    /// Whatever the process that asked runs below the agent is a hook, whatever it looks like.
    fn is_hook_of(&mut self, caller: &Caller, agent: ProcessKey, tree: &ProcessTree) {
        let Some(key) = caller_key(caller, tree).filter(|key| *key != agent) else { return };
        let chain = std::iter::once(key).chain(tree.ancestors(key).map(|(key, _)| key));
        let chain: Vec<_> = chain.take_while(|key| *key != agent).collect();
        let Some(top) = chain.last().copied() else { return };
        self.place(key, tree);
        // What it was born with says less than what it did.
        let by_text = |kind| matches!(kind, Kind::Call(_, by) if by < Evidence::Label);
        let Some(root) = self.roots.get_mut(&top).filter(|root| !by_text(root.kind)) else { return };
        let before = root.call();
        root.kind = Kind::Hook;
        if let Some(call) = before.and_then(|call| self.calls.get_mut(&call)) {
            call.attributed.retain(|one| one.process != top);
        }
    }

    fn open(
        &mut self,
        hook: &HookCall,
        report: &Report<'_>,
        next: &mut impl FnMut() -> ToolCallId,
    ) -> ToolCallId {
        let calls = || self.active.iter().filter_map(|id| self.calls.get(id));
        if let Some(call) = calls().find(|call| call.is_again(report)) {
            return call.id;
        }
        let open: Vec<_> = calls().filter(|call| call.is_open()).map(|call| call.id).collect();
        if let Some(oldest) = open.first().filter(|_| open.len() >= OPEN_MAX)
            && let Some(call) = self.calls.get_mut(oldest)
        {
            call.closed = Some(hook.boot);
            self.forgotten += 1;
        }
        let id = next();
        self.labels_from.get_or_insert(id);
        let cwd = report.event.cwd.as_deref().filter(|cwd| cwd.starts_with('/'));
        let at = Place { cwd: cwd.map_or(&self.project, str::as_bytes), home: &self.home };
        self.calls.insert(id, Call::new(id, report, at, hook.boot));
        self.active.push(id);
        id
    }

    fn close(
        &mut self,
        hook: &HookCall,
        report: &Report<'_>,
        tree: &ProcessTree,
        next: &mut impl FnMut() -> ToolCallId,
    ) -> ToolCallId {
        let tool = report.tool;
        let found = self.known(report);
        let id = found.unwrap_or_else(|| self.open(hook, report, next));
        if let Some(call) = self.calls.get_mut(&id) {
            // Of one that was never announced nobody knows when it began.
            call.late |= found.is_none();
            call.closed.get_or_insert(hook.boot);
            if let (None, Some(theirs)) = (&call.own_id, &tool.id) {
                call.own_id = Some(theirs.clone());
            }
        }
        if let Some(group) = tool.process_group {
            self.named(id, group, tree, hook.boot);
        }
        id
    }

    /// The call that a report is about: an open one first, of those the oldest.
    fn known(&self, report: &Report<'_>) -> Option<ToolCallId> {
        let tool = report.tool;
        let mut fitting: Vec<&Call> = self.calls.values().filter(|call| call.is(report)).collect();
        if fitting.is_empty() {
            // The input may have been rewritten: then it is the only open call of this tool.
            fitting = self.calls.values().collect();
            fitting.retain(|call| {
                call.agent == report.agent
                    && call.closed.is_none()
                    && call.tool == tool.tool
                    && (call.own_id.is_none() || tool.id.is_none())
            });
            if fitting.len() > 1 {
                return None;
            }
        }
        let without_id = tool.id.is_none();
        // Without ids a call that has ended is another one.
        fitting.retain(|call| call.closed.is_none() || !without_id && call.own_id == tool.id);
        fitting.sort_by_key(|call| (call.refused, call.closed.is_some(), call.id));
        fitting.first().map(|call| call.id)
    }

    /// The turn is over: calls whose end was not told have ended.
    fn close_rest(&mut self, hook: &HookCall, event: &HookEvent, agent: ProcessKey) {
        for call in &self.active {
            if let Some(call) = self.calls.get_mut(call)
                && call.agent == agent
                && (event.phase == Phase::SessionEnd || call.subagent == event.agent)
            {
                call.closed.get_or_insert(hook.boot);
            }
        }
    }

    /// Tells the kernel what children of an agent are for: the only call that may start some, or the call that the agent
    /// itself works for.
    fn relabel(&mut self, agent: ProcessKey, said: &mut Vec<Said>) {
        let around = self.call_around(agent);
        let calls = self.active.iter().filter_map(|id| self.calls.get(id));
        let mut open = calls.filter(|call| call.agent == agent && call.is_open() && call.starts_processes());
        let label = match (open.next(), open.next()) {
            (Some(call), None) => Some(call.id),
            (None, _) => around,
            (Some(_), Some(_)) => None,
        };
        if let Some(agent) = self.agents.iter_mut().find(|one| one.process == agent)
            && agent.label != label
        {
            agent.label = label;
            said.push(Said::Label { process: agent.process, call: label });
        }
    }

    /// Learns where an agent keeps its own things: by its name, and from where it writes its log.
    fn learn_own(&mut self, connector: Connector, event: &HookEvent) {
        let name = connector.as_str().split('-').next().unwrap_or_default();
        let home = String::from_utf8_lossy(&self.home).into_owned();
        let mut own: Vec<Vec<u8>> = ["/.", "/.config/", "/.local/share/", "/.cache/", "/.local/state/"]
            .iter()
            .map(|place| format!("{home}{place}{name}").into_bytes())
            .collect();
        // One file beside the directory.
        own.push(format!("{home}/.{name}.json").into_bytes());
        let log = event.transcript.as_deref().and_then(|log| {
            let below = log.strip_prefix(home.as_str())?.strip_prefix("/.")?;
            let directory = below.split_once('/')?.0;
            (!["config", "local", "cache", "ssh"].contains(&directory))
                .then(|| format!("{home}/.{directory}"))
        });
        own.extend(log.map(String::into_bytes));
        for directory in own {
            if self.own.len() < OWN_MAX && !self.own.iter().any(|known| paths::within(&directory, known)) {
                self.own.push(directory);
            }
        }
    }
}

/// The process at the socket, if its records were read.
fn caller_key(caller: &Caller, tree: &ProcessTree) -> Option<ProcessKey> {
    let same = |key: &ProcessKey| caller.start_ticks == 0 || key.start_ns / TICK_NS == caller.start_ticks;
    tree.with_pid(caller.pid).rev().find(same)
}

/// Whether a program start is that of a hook of ours, by its words. Shell text is one only if it is nothing else.
pub(super) fn is_hook(exec: &Exec) -> bool {
    let words: Vec<&[u8]> = exec.argv.iter().map(|word| word.0.as_slice()).collect();
    is_ours(&words)
        || text::is_shell(&exec.exe.path.text.0) && text::shell_text(&exec.argv).is_some_and(only_runs_ours)
}

fn is_hook_process(process: &Process) -> bool {
    // A process without a program of its own is one that was just made to run it.
    let Some(image) = process.image() else { return true };
    let words: Vec<&[u8]> = image.argv.split(|byte| *byte == 0).collect();
    if is_ours(&words) {
        return true;
    }
    let texts: Vec<crate::model::Text> = words.iter().map(|word| (*word).into()).collect();
    text::is_shell(&image.exe) && text::shell_text(&texts).is_some_and(only_runs_ours)
}

fn is_ours(words: &[&[u8]]) -> bool {
    words.windows(2).any(|pair| matches!(pair, [program, b"hook"] if text::base(program) == PROGRAM))
}

fn only_runs_ours(text: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b" '\"/._-=".contains(byte);
    if !text.iter().all(plain) {
        return false;
    }
    let unquoted: Vec<u8> = text.iter().copied().filter(|byte| !b"'\"".contains(byte)).collect();
    let words: Vec<&[u8]> = unquoted.split(|byte| *byte == b' ').filter(|word| !word.is_empty()).collect();
    matches!(words.as_slice(), [program, b"hook", ..] if text::base(program) == PROGRAM)
        || matches!(words.as_slice(), [b"exec", program, b"hook", ..] if text::base(program) == PROGRAM)
}
