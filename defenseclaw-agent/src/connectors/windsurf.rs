//! Windsurf's Cascade. From its public reference, not seen on a running one; docs/hooks/windsurf.md says what is
//! claimed. An exit code is all it understands.

use serde_json::json;

use super::{
    agent::{Agent, Row, as_stated, exit_2, silence, unsaid},
    asking, fields,
    intents::{self, Takes},
    payload::{Payload, PayloadError, texts},
};
use crate::model::{Connector, FailMode, Hold, HookEvent, McpTool, Phase, ToolCall, Way};

pub(super) const AGENT: Agent = Agent {
    programs: &["windsurf"],
    events: &[
        Row::held("pre_run_command", Phase::ToolPre, Hold::Prevents),
        Row::held("pre_read_code", Phase::ToolPre, Hold::Prevents),
        Row::held("pre_write_code", Phase::ToolPre, Hold::Prevents),
        Row::held("pre_mcp_tool_use", Phase::ToolPre, Hold::Prevents),
        Row::held("pre_user_prompt", Phase::PromptSubmit, Hold::Prevents),
        Row::seen("post_run_command", Phase::ToolPost),
        Row::seen("post_read_code", Phase::ToolPost),
        Row::seen("post_write_code", Phase::ToolPost),
        Row::seen("post_mcp_tool_use", Phase::ToolPost),
        Row::seen("post_cascade_response", Phase::Stop),
        Row::left("post_setup_worktree", Phase::Other),
    ],
    fails: FailMode::Open,
    way: Way::Fallback,
    talks: asking::never,
    event,
    hold: as_stated,
    allow: silence,
    note: unsaid,
    ask: unsaid,
    block: |_, reason| exit_2(reason),
    blind: exit_2,
};

const TOOLS: &[(&str, Takes)] = &[
    ("run_command", Takes::Shell("command_line")),
    ("read_code", Takes::Read("file_path")),
    ("write_code", Takes::Write("file_path")),
];

fn event(payload: &Payload) -> Result<HookEvent, PayloadError> {
    let name = payload.text("agent_action_name").ok_or(PayloadError::NoEvent)?;
    let said = payload.object("tool_info");
    let mut event = HookEvent::new(Connector::Windsurf, AGENT.phase(&name), name);
    event.session = payload.text("trajectory_id");
    event.turn_id = payload.text("execution_id");
    event.model = payload.text("model_name");
    event.cwd = said.text("cwd");
    event.text = ["user_prompt", "response"].iter().find_map(|key| said.text(key));
    event.repaired = payload.repaired;
    if matches!(event.phase, Phase::ToolPre | Phase::ToolPost) {
        event.tools.extend(tool(&event.name, &said));
    }
    Ok(event)
}

/// The action is the tool; an MCP tool has its own name.
fn tool(event: &str, said: &Payload) -> Option<ToolCall> {
    let action = event.strip_prefix("pre_").or_else(|| event.strip_prefix("post_"))?;
    let mut call = fields::call(action, json!(said.fields));
    call.mcp = said.text("mcp_tool_name").map(|tool| McpTool {
        server: said.text("mcp_server_name"),
        tool,
        ..McpTool::default()
    });
    call.intents = match call.mcp {
        Some(_) => intents::mcp(&said.value("mcp_tool_arguments")),
        None => intents::of(TOOLS, action, &call.input),
    };
    call.output = ["output", "content", "mcp_result"].iter().find_map(|key| texts(&said.value(key)));
    Some(call)
}
