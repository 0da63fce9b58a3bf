//! OpenClaw, through our plugin, which passes `{hook, event, ctx, directory}` and returns what we print. Seen on 2026.9.6;
//! docs/hooks/openclaw.md has the facts and their limits.

use serde_json::{Value, json};

use super::{
    agent::{Agent, Row, as_stated, json, silence, unsaid},
    asking, fields,
    intents::{self, Takes},
    payload::{Payload, PayloadError, texts},
};
use crate::model::{Ask, Connector, FailMode, Hold, HookEvent, HookOutput, McpTool, Phase, ToolCall, Way};

pub(super) const AGENT: Agent = Agent {
    programs: &["openclaw"],
    events: &[
        Row::held("before_tool_call", Phase::ToolPre, Hold::Prevents).asks(Ask::Attended),
        Row::seen("after_tool_call", Phase::ToolPost),
        // These two are called only for plugins that may see the conversation.
        Row::held("before_agent_run", Phase::PromptSubmit, Hold::Prevents),
        Row::seen("agent_end", Phase::Stop),
        Row::seen("session_start", Phase::SessionStart),
        Row::seen("session_end", Phase::SessionEnd),
        Row::left("before_agent_reply", Phase::Other),
        Row::left("before_model_resolve", Phase::Other),
        Row::left("tool_result_persist", Phase::Other),
        Row::left("resolve_exec_env", Phase::Other),
    ],
    fails: FailMode::Closed,
    way: Way::Hold,
    talks: asking::never,
    event,
    hold: as_stated,
    allow: silence,
    note: unsaid,
    ask: |_, reason| {
        json(&json!({"requireApproval": {
            "title": "DefenseClaw asks",
            "description": reason,
            "timeoutMs": 90_000,
        }}))
    },
    block,
    blind: |reason| json(&json!({"block": true, "blockReason": reason})),
};

const TOOLS: &[(&str, Takes)] = &[
    ("exec", Takes::ShellIn("command", "workdir")),
    ("read", Takes::Read("path")),
    ("write", Takes::Write("path")),
    ("edit", Takes::Edit("path")),
    ("ls", Takes::List("path")),
    ("apply_patch", Takes::Patch("input")),
    ("web_fetch", Takes::Url("url")),
];

fn event(payload: &Payload) -> Result<HookEvent, PayloadError> {
    let name = payload.text("hook").ok_or(PayloadError::NoEvent)?;
    let (said, context) = (payload.object("event"), payload.object("ctx"));
    let either = |key: &str| context.text(key).or_else(|| said.text(key));
    let mut event = HookEvent::new(Connector::OpenClaw, AGENT.phase(&name), name);
    event.session = either("sessionId").or_else(|| either("sessionKey"));
    // Hooks about tools name no directory: the plugin knows the one of the run.
    event.cwd = either("workspaceDir").or_else(|| either("cwd")).or_else(|| payload.text("directory"));
    event.transcript = said.text("transcriptPath");
    event.model = either("modelId").or_else(|| said.text("model"));
    event.agent = either("agentId");
    event.turn_id = either("runId");
    if event.phase == Phase::PromptSubmit {
        event.text = said.text("prompt").or_else(|| said.text("cleanedBody"));
    } else if event.phase == Phase::Stop {
        event.text = last_answer(&said);
    }
    event.cause = said.text("reason");
    event.stop_repeated = said.flag("stopHookActive");
    event.repaired = payload.repaired;
    event.tools.extend(tool(&said));
    Ok(event)
}

fn tool(said: &Payload) -> Option<ToolCall> {
    let mut call = fields::call(&said.text("toolName")?, said.value("params"));
    call.id = said.text("toolCallId");
    // A tool behind the search for tools is announced twice, first in this form.
    call.mcp = call.tool.split_once("__").map(|(server, tool)| McpTool {
        server: Some(server.to_owned()),
        tool: tool.to_owned(),
        ..McpTool::default()
    });
    call.intents = match (call.tool.as_str(), call.input.get("id").and_then(Value::as_str)) {
        ("tool_call", Some(inner)) => {
            intents::of(TOOLS, inner, call.input.get("args").unwrap_or(&Value::Null))
        }
        _ if call.mcp.is_some() => intents::mcp(&call.input),
        (name, _) => intents::of(TOOLS, name, &call.input),
    };
    call.output = texts(&said.object("result").value("content"));
    call.failed = said.has("error");
    Some(call)
}

/// The text of the last message, if it is the agent's.
fn last_answer(said: &Payload) -> Option<String> {
    let messages = said.fields.get("messages")?.as_array()?;
    let last =
        messages.last().filter(|message| message.get("role").is_some_and(|role| role == "assistant"))?;
    texts(last.get("content")?)
}

fn block(event: &HookEvent, reason: &str) -> HookOutput {
    if event.phase == Phase::PromptSubmit {
        json(&json!({"outcome": "block", "reason": reason}))
    } else {
        json(&json!({"block": true, "blockReason": reason}))
    }
}
