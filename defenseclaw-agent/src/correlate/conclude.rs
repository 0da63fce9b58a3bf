//! From what was seen to rows: of a call when late records of it have come, of a tree that no call explains when it has
//! ended, and of the rest at the end of the session.

use super::{
    LATENESS, Said,
    call::{Call, Class},
    hooks::CALLS_MAX,
    root::{Kind, Root, Tally},
    session::Session,
};
use crate::{
    model::{BootTime, Correlated, Correlation, Evidence, ProcessKey, Seen, Text, ToolCallId},
    tree::ProcessTree,
};

/// Rows about trees that no call explains; the rest is one row.
const ROWS_MAX: usize = 1000;
/// Calls that are kept after they were concluded.
const KEPT: usize = 256;
/// What is started so long after the first hook is no server of the start any more.
const STARTUP_NS: u64 = 30 * 1_000_000_000;

pub(super) fn past(time: BootTime, now: BootTime) -> bool {
    u128::from(now.0.saturating_sub(time.0)) >= LATENESS.as_nanos()
}

impl Session {
    pub(super) fn tick(&mut self, tree: &ProcessTree, now: BootTime, said: &mut Vec<Said>) {
        self.judge_waiting(tree, now, false, said);
        self.judge_silence(now, said);
        self.forget_roots(tree, now, said);
        let done =
            |call: &Call| call.closed.or(call.refused.then_some(call.opened)).is_some_and(|at| past(at, now));
        let concluded: Vec<_> =
            self.active.iter().copied().filter(|id| self.calls.get(id).is_none_or(done)).collect();
        self.active.retain(|id| !concluded.contains(id));
        for id in concluded {
            self.conclude(id, now, said);
        }
        self.forget_calls(now, said);
        self.forget_unplaced(now);
        self.prune_if_many(tree);
    }

    pub(super) fn end(&mut self, tree: &ProcessTree, now: BootTime, said: &mut Vec<Said>) {
        self.judge_waiting(tree, now, true, said);
        for id in self.calls.keys().copied().collect::<Vec<_>>() {
            self.conclude(id, now, said);
        }
        let mut roots: Vec<_> = self.roots.drain().collect();
        roots.sort_unstable_by_key(|(process, _)| (process.start_ns, process.tgid));
        for (process, root) in roots {
            self.say_root(process, root, now, said);
        }
        for (tally, reason) in [
            (self.hooks, "hooks of the agent"),
            (self.routine, "looks at the project's history, as agents do of themselves"),
            (self.others, "more trees that no tool call explains"),
        ] {
            if tally.seen.processes > 0 {
                said.push(self.unexplained(None, Text::default(), tally, reason, now));
            }
        }
        if self.itself.seen.events > 0 {
            let process = self.agents.last().map(|agent| agent.process);
            let reason = "the agent itself, outside of any tool call";
            said.push(self.unexplained(process, Text::default(), self.itself, reason, now));
        }
        self.count_rest(now, said);
    }

    /// Decides about trees that could still have turned out to be for a call.
    fn judge_waiting(&mut self, tree: &ProcessTree, now: BootTime, all: bool, said: &mut Vec<Said>) {
        let waiting = std::mem::take(&mut self.waiting);
        for process in waiting {
            let Some(root) = self.roots.get(&process) else { continue };
            let decided = root.kind != Kind::Waiting;
            let due = all || past(root.start, now) || decided && root.kind != Kind::Hook;
            if !due {
                self.waiting.push(process);
                continue;
            }
            if !decided {
                let kind = self.kind_of(process, root, tree);
                self.settle(process, kind, now);
            }
            self.judge(process, now, said);
        }
    }

    fn settle(&mut self, process: ProcessKey, kind: Kind, now: BootTime) {
        self.set(process, kind);
        if let Kind::Call(id, by) = kind
            && let (Some(call), Some(root)) = (self.calls.get_mut(&id), self.roots.get(&process))
        {
            let time = root.tally.first.unwrap_or(now);
            let what = root.command.clone();
            call.note(crate::model::Attributed { process, time, by, what, alternatives: Vec::new() });
        }
    }

    /// What a tree is for that did not tell.
    fn kind_of(&self, process: ProcessKey, root: &Root, tree: &ProcessTree) -> Kind {
        // It never started a program: nothing speaks against the only call there was.
        if root.program.is_empty()
            && let Some(id) = self.only_open(process)
        {
            return Kind::Call(id, Evidence::OnlyOpen);
        }
        let runs = |key: ProcessKey| tree.executable_at(key, BootTime(u64::MAX));
        let before_tools = self.first_tool.is_none_or(|first| root.start < first);
        let at_start = self.first_hook.is_none_or(|first| root.start.0 < first.0.saturating_add(STARTUP_NS));
        if before_tools && at_start {
            Kind::Startup
        } else if root.program.is_empty() || runs(root.agent).is_some_and(|agent| agent == root.program.0) {
            Kind::Own
        } else {
            Kind::Unexplained
        }
    }

    /// Trees that have ended for good.
    fn forget_roots(&mut self, tree: &ProcessTree, now: BootTime, said: &mut Vec<Said>) {
        let gone = |process: &ProcessKey| tree.get(*process).is_none();
        let mut gone: Vec<_> = self.roots.keys().copied().filter(gone).collect();
        gone.retain(|process| !self.waiting.contains(process));
        gone.sort_unstable_by_key(|process| (process.start_ns, process.tgid));
        for process in gone {
            if let Some(root) = self.roots.remove(&process) {
                self.say_root(process, root, now, said);
            }
        }
    }

    fn say_root(&mut self, process: ProcessKey, root: Root, now: BootTime, said: &mut Vec<Said>) {
        let reason = match root.kind {
            Kind::Call(id, _) => {
                if let Some(call) = self.calls.get_mut(&id) {
                    let mut sum = Tally { seen: call.seen, first: call.first, last: call.last };
                    sum.add(&root.tally);
                    (call.seen, call.first, call.last) = (sum.seen, sum.first, sum.last);
                }
                return;
            }
            Kind::Hook => return self.hooks.add(&root.tally),
            Kind::Routine => return self.routine.add(&root.tally),
            Kind::Own => "the agent's own program",
            Kind::Startup => "started before the first tool call, as servers of the agent are",
            Kind::Waiting | Kind::Unexplained => "no tool call explains it",
        };
        if self.n_rows >= ROWS_MAX {
            return self.others.add(&root.tally);
        }
        self.n_rows += 1;
        said.push(self.unexplained(Some(process), root.command, root.tally, reason, now));
    }

    fn unexplained(
        &self,
        process: Option<ProcessKey>,
        program: Text,
        tally: Tally,
        reason: &str,
        now: BootTime,
    ) -> Said {
        Said::Correlated(Box::new(Correlated {
            session: self.id,
            boot: now,
            tool_call: None,
            tool: None,
            correlation: Correlation::KernelOnly,
            reason: reason.to_owned(),
            process,
            program,
            seen: tally.seen,
            first: tally.first,
            last: tally.last,
            attributed: Vec::new(),
            unlisted: 0,
        }))
    }

    /// The row of a call, unless the audit has it.
    fn conclude(&mut self, id: ToolCallId, now: BootTime, said: &mut Vec<Said>) {
        let Some(call) = self.calls.get(&id) else { return };
        let mut sum = Tally { seen: call.seen, first: call.first, last: call.last };
        for root in self.roots.values().filter(|root| root.call() == Some(id)) {
            sum.add(&root.tally);
        }
        if call.told == Some(sum.seen) {
            return;
        }
        let (correlation, reason) = answer(call, sum.seen);
        said.push(Said::Correlated(Box::new(Correlated {
            session: self.id,
            boot: now,
            tool_call: Some(id),
            tool: Some(call.tool.clone()),
            correlation,
            reason,
            process: None,
            program: Text::default(),
            seen: sum.seen,
            first: sum.first,
            last: sum.last,
            attributed: call.attributed.clone(),
            unlisted: call.unlisted,
        })));
        if let Some(call) = self.calls.get_mut(&id) {
            call.told = Some(sum.seen);
        }
        self.judge_call(id, now, said);
    }

    /// Calls that nothing is expected of any more.
    fn forget_calls(&mut self, now: BootTime, said: &mut Vec<Said>) {
        if self.calls.len() <= KEPT {
            return;
        }
        let busy: std::collections::HashSet<_> = self.roots.values().filter_map(Root::call).collect();
        let idle = |id: &&ToolCallId| !self.active.contains(id) && !busy.contains(id);
        let mut over: Vec<_> =
            self.calls.keys().filter(idle).take(self.calls.len() - KEPT).copied().collect();
        if self.calls.len() - over.len() > CALLS_MAX {
            let more = self.calls.len() - over.len() - CALLS_MAX;
            over.extend(self.calls.keys().filter(|id| !self.active.contains(id)).take(more));
        }
        for id in over {
            self.conclude(id, now, said);
            self.calls.remove(&id);
        }
    }
}

/// What a call comes to, and why.
fn answer(call: &Call, seen: Seen) -> (Correlation, String) {
    let seen_at_all = seen.events > 0 || !call.attributed.is_empty();
    if !call.contradictions.is_empty() {
        let reason = if call.refused {
            "it was blocked, and its command ran all the same"
        } else {
            "it did what it does not declare"
        };
        return (Correlation::Conflict, reason.to_owned());
    }
    if !seen_at_all {
        let reason = match call.class {
            _ if call.refused => "it was blocked, and nothing of it was seen",
            _ if call.late => "it was heard of only when it had ended",
            Class::Mcp => "a server does it, in processes of its own",
            Class::Command => "no program with its text was seen",
            Class::Declared => "none of the files or addresses it names was touched",
            Class::Unknown => "what this tool does is not known, and nothing was seen",
        };
        return (Correlation::HookOnly, reason.to_owned());
    }
    let best = call.attributed.iter().map(|one| one.by).min();
    let mut reason = match best {
        Some(Evidence::CallId) => "the program's environment names the call",
        Some(Evidence::Text) => "the program's arguments hold the announced text",
        Some(Evidence::Words) => "the program's arguments are the announced command",
        Some(Evidence::Argument) => "the program's arguments hold a value that was passed to the tool",
        Some(Evidence::Target) => "the agent touched what the call names, while it was open",
        Some(Evidence::ProcessGroup) => "the result names the process group",
        Some(Evidence::Label) => "the kernel saw the process born for it",
        Some(Evidence::Agent) => "an agent that works for it started it",
        Some(Evidence::OnlyOpen) => "no other call was open that can have started it",
        None => "seen",
    }
    .to_owned();
    if call.attributed.iter().any(|one| !one.alternatives.is_empty()) {
        reason.push_str(
            "; calls with the same text were open at once, so which of them is a guess: the oldest first",
        );
    }
    (Correlation::Matched, reason)
}
