//! The field names that Claude Code began with and others took over: `session_id`, `tool_input`, …

use serde_json::Value;

use super::{
    agent::Agent,
    payload::{Payload, PayloadError, texts},
};
use crate::model::{Connector, HookEvent, ToolCall};

/// The event with everything but its tools.
pub(super) fn event(
    connector: Connector,
    agent: &Agent,
    payload: &Payload,
) -> Result<HookEvent, PayloadError> {
    let name = payload.text("hook_event_name").ok_or(PayloadError::NoEvent)?;
    let mut event = HookEvent::new(connector, agent.phase(&name), name);
    event.session = payload.text("session_id");
    event.cwd = payload.text("cwd");
    event.transcript = payload.text("transcript_path");
    event.model = payload.text("model");
    event.permission_mode = payload.text("permission_mode");
    event.agent = payload.text("agent_id");
    event.agent_type = payload.text("agent_type");
    event.prompt_id = payload.text("prompt_id");
    event.turn_id = payload.text("turn_id");
    event.text = ["prompt", "last_assistant_message"].iter().find_map(|key| payload.text(key));
    event.cause =
        ["source", "reason", "trigger", "notification_type"].iter().find_map(|key| payload.text(key));
    event.stop_repeated = payload.flag("stop_hook_active");
    event.repaired = payload.repaired;
    Ok(event)
}

/// The tool call of an event or of an entry in a summary, without its intents.
pub(super) fn tool(payload: &Payload) -> Option<ToolCall> {
    let tool = payload.text("tool_name")?;
    let failure = payload.text("error");
    Some(ToolCall {
        id: payload.text("tool_use_id"),
        tool,
        input: payload.value("tool_input"),
        intents: Vec::new(),
        output: texts(&payload.value("tool_response")).or_else(|| failure.clone()),
        failed: failure.is_some(),
        background: false,
        process_group: None,
        mcp: None,
    })
}

/// A tool call that the payload spells differently.
pub(super) fn call(tool: &str, input: Value) -> ToolCall {
    ToolCall {
        id: None,
        tool: tool.to_owned(),
        input,
        intents: Vec::new(),
        output: None,
        failed: false,
        background: false,
        process_group: None,
        mcp: None,
    }
}
