//! Codex. Seen on 0.169.0; docs/hooks/codex.md has the facts and their limits. Its parser is strict: a key too much,
//! an empty reason or an `allow` makes a reply invalid, and then the tool runs.

use serde_json::json;

use super::{
    agent::{Agent, Row, as_stated, exit_2, json, silence},
    asking, claude_code, fields,
    intents::{self, Takes},
    payload::{Payload, PayloadError},
};
use crate::model::{Ask, Connector, FailMode, Hold, HookEvent, HookOutput, Phase, Way};

pub(super) const AGENT: Agent = Agent {
    programs: &["codex"],
    events: &[
        // Its own `ask` is an invalid reply.
        Row::held("PreToolUse", Phase::ToolPre, Hold::Prevents).notes(),
        Row::held("PermissionRequest", Phase::Permission, Hold::Prevents).asks(Ask::Safe),
        Row::held("PostToolUse", Phase::ToolPost, Hold::Withholds),
        Row::held("UserPromptSubmit", Phase::PromptSubmit, Hold::Prevents),
        Row::held("Stop", Phase::Stop, Hold::Tells),
        Row::held("SessionStart", Phase::SessionStart, Hold::Prevents),
        Row::seen("SubagentStart", Phase::SubagentStart),
        Row::seen("SubagentStop", Phase::SubagentStop),
        Row::seen("SessionEnd", Phase::SessionEnd),
        Row::seen("Interrupt", Phase::Other),
        Row::seen("PreCompact", Phase::Other),
        Row::left("PostCompact", Phase::Other),
        Row::left("PreModelRequest", Phase::Other),
        Row::left("PostModelRequest", Phase::Other),
    ],
    fails: FailMode::Open,
    way: Way::Hold,
    talks: asking::never,
    event,
    hold: as_stated,
    allow: silence,
    note: |_, note| json(&json!({"systemMessage": note})),
    // Only before a permission prompt, which silence leaves where it is.
    ask: |_, _| silence(),
    block,
    blind: exit_2,
};

const TOOLS: &[(&str, Takes)] = &[
    ("Bash", Takes::Shell("command")),
    ("apply_patch", Takes::Patch("command")),
    ("view_image", Takes::Read("path")),
];

fn event(payload: &Payload) -> Result<HookEvent, PayloadError> {
    let mut event = fields::event(Connector::Codex, &AGENT, payload)?;
    if let Some(mut call) = fields::tool(payload) {
        call.mcp = claude_code::mcp(payload, &call.tool);
        call.intents = match call.mcp {
            Some(_) => intents::mcp(&call.input),
            None => intents::of(TOOLS, &call.tool, &call.input),
        };
        event.tools.push(call);
    }
    Ok(event)
}

fn block(event: &HookEvent, reason: &str) -> HookOutput {
    if event.phase == Phase::ToolPre {
        json(&json!({"hookSpecificOutput": {
            "hookEventName": event.name,
            "permissionDecision": "deny",
            "permissionDecisionReason": reason,
        }}))
    } else if event.phase == Phase::Permission {
        claude_code::permission_denied(event, reason)
    } else if event.phase == Phase::SessionStart {
        // Exit code 2 is ignored here, a stop is not.
        json(&json!({"continue": false, "stopReason": reason}))
    } else {
        json(&json!({"decision": "block", "reason": reason}))
    }
}
