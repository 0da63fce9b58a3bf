//! GitHub Copilot CLI. From its public reference, not seen on a running one; docs/hooks/copilot-cli.md says what is
//! claimed. Its payloads do not name their event: the fields tell.

use serde_json::json;

use super::{
    agent::{Agent, Row, as_stated, json, silence, unsaid},
    asking, fields,
    intents::{self, Takes},
    payload::{Payload, PayloadError, texts},
};
use crate::model::{Connector, FailMode, Hold, HookEvent, HookOutput, Phase, ToolCall, Way};

pub(super) const AGENT: Agent = Agent {
    programs: &["copilot"],
    events: &[
        // Whether `ask` is honoured depends on the version: it was ignored first.
        Row::held("preToolUse", Phase::ToolPre, Hold::Prevents),
        // Its payload is not documented, and could not be told from that of `preToolUse`.
        Row { registered: false, ..Row::held("permissionRequest", Phase::Permission, Hold::Prevents) },
        Row::seen("postToolUse", Phase::ToolPost),
        Row::seen("postToolUseFailure", Phase::ToolPost),
        Row::seen("userPromptSubmitted", Phase::PromptSubmit),
        // A block makes it go on, and nothing in the payload says that it already does.
        Row::seen("agentStop", Phase::Stop),
        Row::seen("subagentStart", Phase::SubagentStart),
        Row::seen("subagentStop", Phase::SubagentStop),
        Row::seen("sessionStart", Phase::SessionStart),
        Row::seen("sessionEnd", Phase::SessionEnd),
        Row::seen("errorOccurred", Phase::Other),
        Row::left("preCompact", Phase::Other),
        Row::left("notification", Phase::Other),
    ],
    fails: FailMode::Open,
    way: Way::Fallback,
    talks: asking::never,
    event,
    hold: as_stated,
    allow: silence,
    note: unsaid,
    ask: unsaid,
    block,
    // Other exit codes than 0 are logged and skipped.
    blind: |reason| json(&json!({"permissionDecision": "deny", "permissionDecisionReason": reason})),
};

const TOOLS: &[(&str, Takes)] = &[
    ("bash", Takes::Shell("command")),
    ("view", Takes::Read("path")),
    ("create", Takes::Write("path")),
    ("edit", Takes::Edit("path")),
    ("glob", Takes::List("path")),
    ("grep", Takes::List("path")),
    ("web_fetch", Takes::Url("url")),
];

fn event(payload: &Payload) -> Result<HookEvent, PayloadError> {
    let name = name(payload).ok_or(PayloadError::NoEvent)?;
    let mut event = HookEvent::new(Connector::CopilotCli, AGENT.phase(&name), name);
    event.session = payload.text("sessionId");
    event.cwd = payload.text("cwd");
    event.transcript = payload.text("transcriptPath");
    event.agent_type = payload.text("agentName");
    event.text = payload.text("prompt").or_else(|| payload.text("initialPrompt"));
    event.cause = ["source", "reason", "stopReason", "trigger"].iter().find_map(|key| payload.text(key));
    event.repaired = payload.repaired;
    event.tools.extend(tool(payload));
    Ok(event)
}

/// The event, named or told by the fields that only it has. Only one form names it, and we do not register for that.
fn name(payload: &Payload) -> Option<String> {
    let has = |key: &str| payload.has(key);
    let told = match payload.text("hook_event_name") {
        Some(named) => return Some(named),
        None if has("toolName") && has("toolResult") => "postToolUse",
        None if has("toolName") && has("error") => "postToolUseFailure",
        None if has("toolName") => "preToolUse",
        None if has("agentName") && has("stopReason") => "subagentStop",
        None if has("agentName") => "subagentStart",
        None if has("stopReason") => "agentStop",
        None if has("error") => "errorOccurred",
        None if has("trigger") => "preCompact",
        None if has("prompt") => "userPromptSubmitted",
        None if has("source") => "sessionStart",
        None if has("reason") => "sessionEnd",
        None => return None,
    };
    Some(told.to_owned())
}

fn tool(payload: &Payload) -> Option<ToolCall> {
    let mut call = fields::call(&payload.text("toolName")?, payload.unpacked("toolArgs"));
    call.intents = intents::of(TOOLS, &call.tool, &call.input);
    let result = payload.object("toolResult");
    call.failed = payload.has("error") || result.text("resultType").is_some_and(|kind| kind != "success");
    call.output = texts(&result.value("textResultForLlm")).or_else(|| payload.text("error"));
    Some(call)
}

fn block(event: &HookEvent, reason: &str) -> HookOutput {
    if event.phase == Phase::Permission {
        json(&json!({"behavior": "deny", "message": reason}))
    } else {
        json(&json!({"permissionDecision": "deny", "permissionDecisionReason": reason}))
    }
}
