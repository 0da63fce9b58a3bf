//! Questions that agents ask in their own dialogues. Nobody tells us the answer; what the agent does next shows it.

use super::{
    Approvals, End, Said,
    open::{Open, Whose},
};
use crate::model::{
    Answerer, Approval, AskingHook, BootTime, HookCall, HookEvent, Outcome, Phase, PolicyAction, ProcessKey,
    Ruling, Severity, Text, ToolCall, ToolCallId, Via, Waiter,
};

/// Words kept of what was passed to the tool.
const COMMAND_MAX: usize = 64;
/// The event by which an agent says that its user said no.
const DENIED: &str = "PermissionDenied";

/// A tool call, as its agent names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    id: Option<String>,
    tool: String,
}

impl Call {
    fn new(call: &ToolCall) -> Self {
        Self { id: call.id.clone(), tool: call.tool.clone() }
    }

    /// By its id if both have one, else by the tool: then of several calls at once the first question is meant.
    fn is(&self, other: &Self) -> bool {
        match (&self.id, &other.id) {
            (Some(one), Some(other)) => one == other,
            _ => self.tool == other.tool,
        }
    }
}

/// What became of it.
#[derive(Clone, Copy)]
enum Shown {
    Allowed,
    Denied,
    Unknown,
}

impl Approvals {
    /// A hook asks: its agent does, or its reply is held. `process` is who ran it.
    pub fn hook_asks(&mut self, hook: AskingHook, process: ProcessKey, now: BootTime, said: &mut Vec<Said>) {
        let AskingHook { call, subject, fallback, deadline, ticket, native } = hook;
        let tools = call.event.as_ref().map(|event| event.tools.as_slice()).unwrap_or_default();
        let calls: Vec<_> = tools.iter().map(Call::new).collect();
        let verdict = call.decision.as_ref().map(|decision| &decision.verdict);
        let approval = Approval {
            id: crate::model::ApprovalId(0),
            session: call.session,
            connector: Some(call.connector),
            agent_session: call.event.as_ref().and_then(|event| event.session.clone()),
            uid: call.caller.uid,
            subject,
            severity: verdict.and_then(|verdict| verdict.severity).unwrap_or(Severity::High),
            reason: verdict.map(|verdict| verdict.reason.clone()).unwrap_or_default(),
            waiter: if native { Waiter::Agent { process } } else { Waiter::Hook { process, ticket } },
            command: command(tools),
            ancestry: Vec::new(),
            tool_call: call.calls.first().copied().filter(|_: &ToolCallId| native),
            since: now,
            wall: call.wall,
            deadline: deadline.unwrap_or(BootTime(u64::MAX)),
            fallback: if fallback < PolicyAction::Confirm { fallback } else { PolicyAction::Block },
        };
        self.asked(approval, true, None, &calls, now, said);
    }

    /// A hook was answered: it may show what was said in a dialogue before.
    pub fn heard(&mut self, hook: &HookCall, now: BootTime, said: &mut Vec<Said>) {
        let Some(event) = &hook.event else { return };
        let whose = match hook.session {
            Some(session) => Whose::Session(session),
            None => Whose::Unwatched(hook.caller.uid, Some(hook.connector), event.session.clone()),
        };
        let Some(bucket) = self.buckets.get(&whose) else { return };
        let own = |open: &&Open| {
            let asked = &open.approval;
            open.native && asked.connector == Some(hook.connector) && asked.agent_session == event.session
        };
        let mut settled = Vec::new();
        let mut heard: Vec<Call> = event.tools.iter().map(Call::new).collect();
        for open in bucket.open.values().filter(own) {
            if let Some(shown) = shown(open, event, &mut heard) {
                settled.push((open.approval.id, shown));
            }
        }
        for (id, shown) in settled {
            let Some(open) = self.take(&whose, id) else { continue };
            let by = Answerer { uid: hook.caller.uid, pid: 0, via: Via::Agent };
            let ruled = |ruling| Outcome::Ruled { ruling, by, message: None };
            let (allowed, outcome) = match shown {
                Shown::Allowed => (true, ruled(Ruling::Once)),
                Shown::Denied => (false, ruled(Ruling::Deny)),
                Shown::Unknown => {
                    let why = "the agent's session ended, and its dialogue with it".to_owned();
                    (false, Outcome::Withdrawn { why })
                }
            };
            self.finish(open, End::by_itself(allowed, outcome), now, said);
        }
    }
}

/// What an event shows of a question; a tool call that answers one question is taken from those that were heard.
fn shown(open: &Open, event: &HookEvent, heard: &mut Vec<Call>) -> Option<Shown> {
    let meant = heard.iter().position(|call| open.calls.iter().any(|asked| asked.is(call)));
    match event.phase {
        Phase::ToolPost => meant.map(|at| {
            heard.remove(at);
            Shown::Allowed
        }),
        Phase::Other if event.name == DENIED => meant.map(|at| {
            heard.remove(at);
            Shown::Denied
        }),
        // It went on without the tool having run.
        Phase::PromptSubmit | Phase::Stop => Some(Shown::Denied),
        Phase::SessionStart | Phase::SessionEnd => Some(Shown::Unknown),
        Phase::ToolPre | Phase::Permission | Phase::SubagentStart | Phase::SubagentStop | Phase::Other => {
            None
        }
    }
}

/// What the tool was told, as far as it is words.
fn command(tools: &[ToolCall]) -> Vec<Text> {
    let Some(call) = tools.first() else { return Vec::new() };
    let words = call.input.as_object().into_iter().flat_map(|input| input.values());
    let words = words.filter_map(serde_json::Value::as_str).map(Text::from);
    std::iter::once(call.tool.as_str().into()).chain(words).take(COMMAND_MAX).collect()
}
