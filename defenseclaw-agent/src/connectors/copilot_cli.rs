//! GitHub Copilot CLI. From its public reference, not seen on a running one; docs/hooks/copilot-cli.md says what is
//! claimed. Its payloads do not name their event: the fields tell.

use serde_json::json;

use super::{
    agent::{Agent, Row, as_stated, json, silence, unsaid},
    fields,
    intents::{self, Takes},
    payload::{Payload, PayloadError, texts},
};
use crate::model::{Connector, FailMode, Hold, HookEvent, HookOutput, Phase, ToolCall};

pub(super) const AGENT: Agent = Agent {
    events: &[
        // Whether `ask` is honoured depends on the version: it was ignored first.
        Row::held("preToolUse", Phase::ToolPre, Hold::Prevents),
        Row::held("permissionRequest", Phase::Permission, Hold::Prevents),
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

/// The event, named or told by the fields that only it has.
fn name(payload: &Payload) -> Option<String> {
    if let Some(named) = payload.text("hook_event_name") {
        let mut rest = named.chars();
        let first = rest.next()?;
        return Some(first.to_lowercase().chain(rest).collect());
    }
    let has = |key: &str| payload.has(key);
    let told = match () {
        () if has("toolName") && has("toolResult") => "postToolUse",
        () if has("toolName") && has("error") => "postToolUseFailure",
        () if has("toolName") && (has("permissionSuggestions") || has("permissionKind")) => "permissionRequest",
        () if has("toolName") => "preToolUse",
        () if has("agentName") && has("stopReason") => "subagentStop",
        () if has("agentName") => "subagentStart",
        () if has("stopReason") => "agentStop",
        () if has("errorContext") || has("error") => "errorOccurred",
        () if has("trigger") => "preCompact",
        () if has("prompt") => "userPromptSubmitted",
        () if has("source") => "sessionStart",
        () if has("reason") => "sessionEnd",
        () => return None,
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
    json(&match event.phase {
        Phase::Permission => json!({"behavior": "deny", "message": reason}),
        _ => json!({"permissionDecision": "deny", "permissionDecisionReason": reason}),
    })
}
