//! What is worth a person's time: said once, with the events it rests on.

use std::{
    collections::{HashSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
};

use super::{
    Said,
    call::Class,
    deeds,
    root::{Kind, Root},
    session::Session,
};
use crate::model::{BootTime, Event, EvidenceRef, Finding, ProcessKey, Severity, ToolCallId};

/// Findings of one session; more are counted.
const FINDINGS_MAX: u64 = 256;
/// Things that are remembered, so that they are not said twice.
const SAID_MAX: usize = 1024;
/// After so long without a hook an agent that still starts programs is asked about.
const SILENCE_NS: u64 = 60 * 1_000_000_000;
/// Programs that it has to start meanwhile.
const SILENCE_STARTS: u32 = 3;

/// A rule of this room.
#[derive(Debug)]
pub(super) struct Rule {
    id: &'static str,
    severity: Severity,
}

impl Rule {
    pub(super) const SECRET_THEN_EGRESS: Self =
        Self { id: "chain.secret_read_then_egress", severity: Severity::High };
    const CONFLICT: Self = Self { id: "correlate.conflict", severity: Severity::High };
    const BLOCKED_RAN: Self = Self { id: "correlate.blocked_call_ran", severity: Severity::Critical };
    const EXEC: Self = Self { id: "correlate.unannounced_exec", severity: Severity::Low };
    const SHELL: Self = Self { id: "correlate.unannounced_exec", severity: Severity::Medium };
    const CONNECT: Self = Self { id: "correlate.unannounced_connect", severity: Severity::Medium };
    const SECRET: Self = Self { id: "correlate.unannounced_secret_read", severity: Severity::High };
    const SILENT: Self = Self { id: "correlate.hooks_silent", severity: Severity::Medium };
    const MORE: Self = Self { id: "correlate.more_findings", severity: Severity::Info };
}

#[derive(Debug, Default)]
pub(super) struct Findings {
    said: HashSet<u64>,
    count: u64,
}

impl Findings {
    /// Whether this is new.
    fn is_new(&mut self, what: impl Hash) -> bool {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        (self.said.len() < SAID_MAX || self.said.contains(&hasher.finish()))
            && self.said.insert(hasher.finish())
    }
}

impl Session {
    #[expect(clippy::too_many_arguments, reason = "the fields of a finding")]
    pub(super) fn find(
        &mut self,
        rule: &Rule,
        summary: String,
        tool_call: Option<ToolCallId>,
        process: Option<ProcessKey>,
        evidence: Vec<EvidenceRef>,
        now: BootTime,
        said: &mut Vec<Said>,
    ) {
        self.findings.count += 1;
        if self.findings.count > FINDINGS_MAX {
            return;
        }
        said.push(Said::Finding(Box::new(Finding {
            session: self.id,
            boot: now,
            rule: rule.id.to_owned(),
            severity: rule.severity,
            summary,
            tool_call,
            process,
            evidence,
        })));
    }

    /// How many were not said.
    pub(super) fn count_rest(&mut self, now: BootTime, said: &mut Vec<Said>) {
        let rest = self.findings.count.saturating_sub(FINDINGS_MAX);
        if rest > 0 {
            self.findings.count = 0;
            let summary = format!("{rest} more findings of this session were only counted");
            self.find(&Rule::MORE, summary, None, None, Vec::new(), now, said);
        }
    }

    /// The agent itself read what a rule speaks of, and no call declares it.
    pub(super) fn secret_by_itself(&mut self, event: &Event, said: &mut Vec<Said>) {
        let evidence = deeds::reference(event);
        if self.findings.is_new(("secret", event.process, &evidence.what.0)) {
            let summary =
                format!("the agent itself read {}, and no tool call says so", evidence.what.lossy());
            self.find(&Rule::SECRET, summary, None, Some(event.process), vec![evidence], event.time, said);
        }
    }

    /// A tree that is known to be for no call.
    pub(super) fn judge(&mut self, process: ProcessKey, now: BootTime, said: &mut Vec<Said>) {
        let Some(root) = self.roots.get_mut(&process) else { return };
        if matches!(root.kind, Kind::Call(..) | Kind::Waiting) {
            return;
        }
        let Root { kind, start, agent, is_shell, .. } = *root;
        let (program, command) = (root.program.clone(), root.command.clone());
        let (exec, connect, secret) = (root.exec.clone(), root.connect.clone(), root.secret.clone());
        if kind == Kind::Unexplained
            && let Some(exec) = exec
        {
            if let Some(agent) =
                self.agents.iter_mut().find(|one| one.process == agent && one.last_hook < start)
            {
                agent.unheard += 1;
            }
            if self.findings.is_new(("exec", &program.0, is_shell)) {
                let rule = if is_shell { &Rule::SHELL } else { &Rule::EXEC };
                let summary = format!("the agent started {}, and no tool call says so", command.lossy());
                self.find(rule, summary, None, Some(process), vec![exec], now, said);
            }
        }
        let what = if command.is_empty() {
            "a process of the agent".to_owned()
        } else {
            command.lossy().into_owned()
        };
        // A server is busy for its calls, as long as one is open.
        let busy = |at: &EvidenceRef| {
            self.calls.values().any(|call| call.class == Class::Mcp && call.covers(at.time))
        };
        if let Some(connect) = connect.filter(|connect| !busy(connect))
            && self.findings.is_new(("connect", process))
        {
            let summary =
                format!("{what} connected to {}, and no tool call explains it", connect.what.lossy());
            self.find(&Rule::CONNECT, summary, None, Some(process), vec![connect], now, said);
        }
        if let Some(secret) = secret
            && self.findings.is_new(("secret", process, &secret.what.0))
        {
            let summary = format!("{what} read {}, and no tool call explains it", secret.what.lossy());
            self.find(&Rule::SECRET, summary, None, Some(process), vec![secret], now, said);
        }
    }

    /// A call and its tree contradict each other.
    pub(super) fn judge_call(&mut self, id: ToolCallId, now: BootTime, said: &mut Vec<Said>) {
        let Some(call) = self.calls.get(&id) else { return };
        let evidence = call.contradictions.clone();
        let Some(first) = evidence.first() else { return };
        let (rule, summary) = if call.refused {
            (
                Rule::BLOCKED_RAN,
                format!("a call of {} was blocked, and {} ran", call.tool, first.what.lossy()),
            )
        } else {
            let verb = first.kind.as_str();
            let what = first.what.lossy();
            (Rule::CONFLICT, format!("a call of {} did what it does not declare: {verb} {what}", call.tool))
        };
        let process = first.process;
        if self.findings.is_new(("call", id)) {
            self.find(&rule, summary, Some(id), Some(process), evidence, now, said);
        }
    }

    /// Agents that go on without hooks.
    pub(super) fn judge_silence(&mut self, now: BootTime, said: &mut Vec<Said>) {
        let open = |agent: ProcessKey| {
            let mut calls = self.active.iter().filter_map(|id| self.calls.get(id));
            calls.any(|call| call.agent == agent && call.is_open())
        };
        let silent = self.agents.iter().position(|agent| {
            !agent.silence_told
                && agent.unheard >= SILENCE_STARTS
                && now.0.saturating_sub(agent.last_hook.0) >= SILENCE_NS
                && !open(agent.process)
        });
        let Some(agent) = silent.and_then(|at| self.agents.get_mut(at)) else { return };
        agent.silence_told = true;
        let (process, starts) = (agent.process, agent.unheard);
        let seconds = now.0.saturating_sub(agent.last_hook.0) / 1_000_000_000;
        let summary = format!("no hook came for {seconds} s, while the agent started {starts} programs");
        self.find(&Rule::SILENT, summary, None, Some(process), Vec::new(), now, said);
    }
}
