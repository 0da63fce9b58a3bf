//! Claude Code. Seen on 2.1.330 and 2.1.197; docs/hooks/claude-code.md has the facts and their limits.

use serde_json::{Value, json};

use super::{
    agent::{Agent, Row, exit_2, json, silence},
    fields,
    intents::{self, Takes},
    payload::{Payload, PayloadError},
};
use crate::model::{Ask, Connector, FailMode, Hold, HookEvent, HookOutput, McpTool, Phase, ToolCall, Way};

pub(super) const AGENT: Agent = Agent {
    programs: &["claude", "claude-code"],
    events: &[
        Row::held("PreToolUse", Phase::ToolPre, Hold::Prevents).asks(Ask::Safe).notes(),
        Row::held("PermissionRequest", Phase::Permission, Hold::Prevents).asks(Ask::Safe),
        Row::held("PostToolUse", Phase::ToolPost, Hold::Tells),
        Row::seen("PostToolUseFailure", Phase::ToolPost),
        Row::held("UserPromptSubmit", Phase::PromptSubmit, Hold::Prevents),
        Row::held("Stop", Phase::Stop, Hold::Tells),
        // Exit code 2 does not keep a subagent from starting; its tool call has to be held.
        Row::seen("SubagentStart", Phase::SubagentStart),
        Row::seen("SubagentStop", Phase::SubagentStop),
        Row::seen("SessionStart", Phase::SessionStart),
        Row::seen("SessionEnd", Phase::SessionEnd),
        Row::seen("PostToolBatch", Phase::Other),
        Row::seen("PermissionDenied", Phase::Other),
        // A change of the user's or a project's settings then counts for nothing until the session ends: our hook stays.
        Row::held("ConfigChange", Phase::Other, Hold::Prevents),
        Row::seen("Notification", Phase::Other),
        Row::seen("PreCompact", Phase::Other),
        Row::left("PostCompact", Phase::Other),
        Row::left("UserPromptExpansion", Phase::Other),
        Row::left("MessageDisplay", Phase::Other),
        Row::left("InstructionsLoaded", Phase::Other),
        Row::left("CwdChanged", Phase::Other),
        // A registered hook replaces git's own way to make a worktree.
        Row::left("WorktreeCreate", Phase::Other),
    ],
    fails: FailMode::Open,
    way: Way::Native,
    talks,
    event,
    hold,
    allow: silence,
    note: |_, note| json(&json!({"systemMessage": note})),
    ask,
    block,
    blind: exit_2,
};

const TOOLS: &[(&str, Takes)] = &[
    ("Bash", Takes::Shell("command")),
    ("Read", Takes::Read("file_path")),
    ("Write", Takes::Write("file_path")),
    ("Edit", Takes::Edit("file_path")),
    ("MultiEdit", Takes::Edit("file_path")),
    ("NotebookRead", Takes::Read("notebook_path")),
    ("NotebookEdit", Takes::Edit("notebook_path")),
    ("Glob", Takes::List("path")),
    ("Grep", Takes::List("path")),
    ("LS", Takes::Read("path")),
    ("WebFetch", Takes::Url("url")),
];

fn event(payload: &Payload) -> Result<HookEvent, PayloadError> {
    let mut event = fields::event(Connector::ClaudeCode, &AGENT, payload)?;
    event.tools.extend(tool(payload));
    if let Some(Value::Array(calls)) = payload.fields.get("tool_calls") {
        let calls = calls.iter().filter_map(Value::as_object);
        event.tools.extend(
            calls.filter_map(|call| tool(&Payload { fields: call.clone(), repaired: payload.repaired })),
        );
    }
    Ok(event)
}

fn tool(payload: &Payload) -> Option<ToolCall> {
    let mut call = fields::tool(payload)?;
    call.background = call.input.get("run_in_background") == Some(&Value::Bool(true));
    call.mcp = mcp(payload, &call.tool);
    call.intents = match call.mcp {
        Some(_) => intents::mcp(&call.input),
        None => intents::of(TOOLS, &call.tool, &call.input),
    };
    Some(call)
}

/// `mcp__SERVER__TOOL`. A server's name may hold two underscores itself; the payload tells after the call.
pub(super) fn mcp(payload: &Payload, tool: &str) -> Option<McpTool> {
    let rest = tool.strip_prefix("mcp__")?;
    let told = payload.object("mcp_server").text("name");
    let named = told
        .as_deref()
        .and_then(|server| rest.strip_prefix(server)?.strip_prefix("__").map(|tool| (server, tool)));
    let (server, tool) = named.or_else(|| rest.split_once("__"))?;
    Some(McpTool { server: Some(server.to_owned()), tool: tool.to_owned(), ..McpTool::default() })
}

/// After a tool, the result can be replaced where its shape is known to be taken.
fn hold(event: &HookEvent, stated: Hold) -> Hold {
    let replaceable = event.name == "PostToolUse"
        && event.tools.first().is_some_and(|call| call.tool == "Bash" || call.mcp.is_some());
    if replaceable { Hold::Withholds } else { stated }
}

/// Printing its answer is what it is called for by scripts. Letters of short options may stand together.
fn talks(own: &[&str]) -> bool {
    let prints = |word: &&str| {
        let letters = word.strip_prefix('-').filter(|rest| !rest.starts_with('-'));
        letters.is_some_and(|letters| letters.contains('p'))
            || ["--print", "--output-format", "--input-format", "--sdk-url"]
                .iter()
                .any(|long| word.starts_with(long))
    };
    !own.iter().any(prints)
}

/// Before a permission prompt, silence leaves the prompt where it is.
fn ask(event: &HookEvent, reason: &str) -> HookOutput {
    if event.phase == Phase::Permission { silence() } else { before_tool(event, "ask", reason) }
}

/// A decision whose event's name is missing or another one's is ignored: the tool runs.
fn before_tool(event: &HookEvent, decision: &str, reason: &str) -> HookOutput {
    json(&json!({"hookSpecificOutput": {
        "hookEventName": event.name,
        "permissionDecision": decision,
        "permissionDecisionReason": reason,
    }}))
}

fn block(event: &HookEvent, reason: &str) -> HookOutput {
    match (event.phase, event.tools.first()) {
        (Phase::ToolPre, _) => before_tool(event, "deny", reason),
        (Phase::Permission, _) => permission_denied(event, reason),
        (Phase::ToolPost, Some(call)) if call.mcp.is_some() => json(&json!({"hookSpecificOutput": {
            "hookEventName": event.name,
            "updatedMCPToolOutput": [{"type": "text", "text": reason}],
        }})),
        (Phase::ToolPost, Some(call)) if call.tool == "Bash" => json(&json!({"hookSpecificOutput": {
            "hookEventName": event.name,
            "updatedToolOutput": {"stdout": reason, "stderr": "", "interrupted": false, "isImage": false},
        }})),
        _ => json(&json!({"decision": "block", "reason": reason})),
    }
}

/// Shared with Codex, which took the form over.
pub(super) fn permission_denied(event: &HookEvent, reason: &str) -> HookOutput {
    json(&json!({"hookSpecificOutput": {
        "hookEventName": event.name,
        "decision": {"behavior": "deny", "message": reason},
    }}))
}
