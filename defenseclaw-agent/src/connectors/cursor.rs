//! Cursor. From its public reference for 2.x and the command line of July 2026, not seen on a running one;
//! docs/hooks/cursor.md says what is claimed. Every reply is an object, because with `failClosed` silence is a failure.

use serde_json::json;

use super::{
    agent::{Agent, Row, as_stated, exit_2, json, unsaid},
    asking, fields,
    intents::{self, Takes},
    payload::{Payload, PayloadError, texts},
};
use crate::model::{Connector, FailMode, Hold, HookEvent, HookOutput, McpTool, Phase, ToolCall, Way};

pub(super) const AGENT: Agent = Agent {
    programs: &["cursor-agent", "cursor"],
    events: &[
        // `ask` is accepted by the first and not enforced, and by the next two not in every mode.
        Row::held("preToolUse", Phase::ToolPre, Hold::Prevents),
        Row::held("beforeShellExecution", Phase::ToolPre, Hold::Prevents),
        Row::held("beforeMCPExecution", Phase::ToolPre, Hold::Prevents),
        Row::held("beforeReadFile", Phase::ToolPre, Hold::Prevents),
        Row::held("beforeTabFileRead", Phase::ToolPre, Hold::Prevents),
        Row::held("beforeSubmitPrompt", Phase::PromptSubmit, Hold::Prevents),
        Row::held("subagentStart", Phase::SubagentStart, Hold::Prevents),
        Row::seen("postToolUse", Phase::ToolPost),
        Row::seen("postToolUseFailure", Phase::ToolPost),
        Row::seen("afterShellExecution", Phase::ToolPost),
        Row::seen("afterMCPExecution", Phase::ToolPost),
        Row::seen("afterFileEdit", Phase::ToolPost),
        Row::seen("afterTabFileEdit", Phase::ToolPost),
        Row::seen("subagentStop", Phase::SubagentStop),
        Row::seen("stop", Phase::Stop),
        Row::seen("afterAgentResponse", Phase::Other),
        Row::seen("sessionStart", Phase::SessionStart),
        Row::seen("sessionEnd", Phase::SessionEnd),
        Row::seen("preCompact", Phase::Other),
        Row::left("afterAgentThought", Phase::Other),
        Row::left("workspaceOpen", Phase::Other),
    ],
    fails: FailMode::Open,
    way: Way::Fallback,
    talks: asking::never,
    event,
    hold: as_stated,
    allow: || json(&json!({})),
    note: unsaid,
    ask: unsaid,
    block,
    blind: exit_2,
};

const TOOLS: &[(&str, Takes)] = &[
    ("Shell", Takes::Shell("command")),
    ("Read", Takes::Read("file_path")),
    ("Write", Takes::Write("file_path")),
    ("Delete", Takes::Delete("file_path")),
    ("Grep", Takes::List("path")),
];

fn event(payload: &Payload) -> Result<HookEvent, PayloadError> {
    let mut event = fields::event(Connector::Cursor, &AGENT, payload)?;
    event.session = payload.text("conversation_id").or(event.session);
    event.turn_id = payload.text("generation_id");
    event.agent = payload.text("subagent_id");
    event.agent_type = payload.text("subagent_type");
    event.cwd =
        event.cwd.or_else(|| payload.fields.get("workspace_roots")?.get(0)?.as_str().map(str::to_owned));
    if event.name == "afterAgentResponse" {
        event.text = payload.text("text");
    } else if event.phase == Phase::SubagentStop {
        event.text = payload.text("summary");
    }
    event.tools.extend(tool(&event.name, payload));
    Ok(event)
}

/// Each event has its own form of the call.
fn tool(event: &str, payload: &Payload) -> Option<ToolCall> {
    let path = || json!({"file_path": payload.value("file_path")});
    let mut call = match event {
        "beforeShellExecution" | "afterShellExecution" => {
            fields::call("Shell", json!({"command": payload.value("command")}))
        }
        "beforeReadFile" | "beforeTabFileRead" => fields::call("Read", path()),
        "afterFileEdit" | "afterTabFileEdit" => fields::call(
            "Write",
            json!({"file_path": payload.value("file_path"), "edits": payload.value("edits")}),
        ),
        _ => fields::call(&payload.text("tool_name")?, payload.unpacked("tool_input")),
    };
    call.id = payload.text("tool_use_id");
    let mcp = call.tool.strip_prefix("MCP:").map(str::to_owned);
    let mcp = mcp.or_else(|| event.contains("MCP").then(|| call.tool.clone()));
    call.mcp = mcp.map(|tool| McpTool {
        server: payload.text("mcp_server_name"),
        tool,
        command: payload.text("command"),
        url: payload.text("url"),
    });
    call.intents = match call.mcp {
        Some(_) => intents::mcp(&call.input),
        None => intents::of(TOOLS, &call.tool, &call.input),
    };
    let output = ["tool_output", "output", "result_json", "error_message"];
    call.output = output.iter().find_map(|key| texts(&payload.unpacked(key)));
    call.failed = payload.has("error_message");
    Some(call)
}

fn block(event: &HookEvent, reason: &str) -> HookOutput {
    if event.phase == Phase::PromptSubmit {
        json(&json!({"continue": false, "user_message": reason}))
    } else {
        json(&json!({"permission": "deny", "user_message": reason, "agent_message": reason}))
    }
}
