//! One hook that was answered, as the audit keeps it: who asked, what it said, what was decided, and the bytes of the
//! reply. Texts of agents are cut to lengths that a database can hold; who decides sees them whole.

use serde::{Deserialize, Serialize};

use super::{
    BootTime, Connector, Decision, FailMode, HookEvent, HookOutput, Intent, Mode, PolicyAction, SessionId,
    Target, Text, ToolCall, ToolCallId, WallTime,
};

/// Bytes kept of a prompt, a message, a result and of each stream of a reply.
const TEXT_MAX: usize = 4 << 10;
/// Bytes kept of what was passed to a tool, as JSON.
const INPUT_MAX: usize = 16 << 10;
/// Bytes kept of names, paths and ids.
const NAME_MAX: usize = 4 << 10;
/// Intents kept of one tool call.
const INTENTS_MAX: usize = 256;
/// Tool calls kept of one event.
const TOOLS_MAX: usize = 64;

/// A process that asked, as the kernel names it at the socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Its pid. The hook process, not the agent: that is one of its ancestors.
    pub pid: u32,
    /// Its start, in clock ticks since boot, so that the pid means one process; 0 if it had ended already.
    pub start_ticks: u64,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

/// The policy that judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgedBy {
    /// What it calls itself.
    pub name: String,
    /// Mode it judged in.
    pub mode: Mode,
    /// SHA-256 of its text, hexadecimal.
    pub digest: String,
}

/// What went back to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// What it means.
    pub action: PolicyAction,
    /// Nobody judged: the fail mode answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailMode>,
    /// For the agent.
    #[serde(default, skip_serializing_if = "Text::is_empty")]
    pub stdout: Text,
    /// Likewise.
    #[serde(default, skip_serializing_if = "Text::is_empty")]
    pub stderr: Text,
    /// Likewise.
    pub exit_code: u8,
}

impl Answer {
    /// As it is kept.
    pub fn new(action: PolicyAction, failed: Option<FailMode>, output: &HookOutput) -> Self {
        let kept = |bytes: &[u8]| Text(bytes.get(..TEXT_MAX).unwrap_or(bytes).to_vec());
        Self {
            action,
            failed,
            stdout: kept(&output.stdout),
            stderr: kept(&output.stderr),
            exit_code: output.exit_code,
        }
    }
}

/// One answered hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookCall {
    /// The watched session it belongs to, where one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<SessionId>,
    /// Wall clock when it came.
    pub wall: WallTime,
    /// Boot clock when it came.
    pub boot: BootTime,
    /// Who asked.
    pub caller: Caller,
    /// In whose words.
    pub connector: Connector,
    /// What it said; none if that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<HookEvent>,
    /// The labels of the event's tool calls, in their order; empty where no session is known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<ToolCallId>,
    /// The event is kept in part.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
    /// Why it was not judged, where it should have been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// What judged it, if anything did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<JudgedBy>,
    /// What was decided about the announced action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// What went back.
    pub answer: Answer,
    /// From the last byte of the payload to the reply.
    pub latency_ns: u64,
}

impl HookEvent {
    /// Cuts what is too long for the audit; whether anything was.
    pub fn cut(&mut self) -> bool {
        let mut cut = text(&mut self.name, NAME_MAX);
        for (name, max) in [
            (&mut self.session, NAME_MAX),
            (&mut self.cwd, NAME_MAX),
            (&mut self.transcript, NAME_MAX),
            (&mut self.model, NAME_MAX),
            (&mut self.permission_mode, NAME_MAX),
            (&mut self.agent, NAME_MAX),
            (&mut self.agent_type, NAME_MAX),
            (&mut self.prompt_id, NAME_MAX),
            (&mut self.turn_id, NAME_MAX),
            (&mut self.text, TEXT_MAX),
            (&mut self.cause, TEXT_MAX),
        ] {
            cut |= name.as_mut().is_some_and(|name| text(name, max));
        }
        cut |= self.tools.len() > TOOLS_MAX;
        self.tools.truncate(TOOLS_MAX);
        // Never `any`: it would stop at the first.
        for call in &mut self.tools {
            cut |= tool(call);
        }
        cut
    }
}

fn tool(call: &mut ToolCall) -> bool {
    let mut cut = text(&mut call.tool, NAME_MAX);
    for (part, max) in [(&mut call.id, NAME_MAX), (&mut call.output, TEXT_MAX)] {
        cut |= part.as_mut().is_some_and(|part| text(part, max));
    }
    if let Some(mcp) = &mut call.mcp {
        cut |= text(&mut mcp.tool, NAME_MAX);
        for part in [&mut mcp.server, &mut mcp.command, &mut mcp.url].into_iter().flatten() {
            cut |= text(part, NAME_MAX);
        }
    }
    let mut input = call.input.to_string();
    if text(&mut input, INPUT_MAX) {
        call.input = serde_json::Value::String(input);
        cut = true;
    }
    cut |= call.intents.len() > INTENTS_MAX;
    call.intents.truncate(INTENTS_MAX);
    for intent in &mut call.intents {
        cut |= announced(intent);
    }
    cut
}

fn announced(intent: &mut Intent) -> bool {
    let target = |target: &mut Target| text(&mut target.text, NAME_MAX);
    match intent {
        Intent::Exec(words) => {
            let mut cut = words.len() > INTENTS_MAX;
            words.truncate(INTENTS_MAX);
            for word in words {
                cut |= target(word);
            }
            cut
        }
        Intent::Read(path) | Intent::Write(path) | Intent::Delete(path) | Intent::Connect(path) => {
            target(path)
        }
        Intent::Unparsed(why) => text(why, NAME_MAX),
    }
}

fn text(text: &mut String, max: usize) -> bool {
    let long = text.len() > max;
    text.truncate(text.floor_char_boundary(max));
    long
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Phase;

    #[test]
    fn what_is_short_is_kept_and_what_is_long_is_cut_everywhere() {
        let call = |length: usize| ToolCall {
            id: Some("é".repeat(length)),
            tool: "Bash".to_owned(),
            input: serde_json::json!({"command": "x".repeat(length * 8)}),
            intents: vec![Intent::Exec(vec![Target::known("y".repeat(length)); 2]); length],
            output: Some("z".repeat(length)),
            failed: false,
            background: false,
            process_group: None,
            mcp: None,
        };
        let mut event = HookEvent::new(Connector::Codex, Phase::ToolPre, "PreToolUse");
        event.tools = vec![call(10)];
        let whole = event.clone();
        assert!(!event.cut());
        assert_eq!(event, whole);
        event.tools = vec![call(5000); 70];
        event.text = Some("ü".repeat(5000));
        assert!(event.cut());
        assert!(
            event.tools.len() == TOOLS_MAX
                && event.tools.iter().all(|call| call.intents.len() == INTENTS_MAX)
        );
        assert!(
            event.tools.iter().all(|call| call.input.as_str().is_some_and(|input| input.len() <= INPUT_MAX))
        );
        assert!(event.text.as_ref().is_some_and(|text| text.len() <= TEXT_MAX));
    }
}
