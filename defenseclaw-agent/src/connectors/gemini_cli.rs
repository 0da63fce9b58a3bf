//! Gemini CLI. Seen on 0.61.0; docs/hooks/gemini-cli.md has the facts and their limits. It ignores Claude Code's
//! form of a denial, and its own question hangs for ever where nobody can answer.

use serde_json::json;

use super::{
    agent::{Agent, Row, as_stated, exit_2, json, silence},
    fields,
    intents::{self, Takes},
    payload::{Payload, PayloadError},
};
use crate::model::{Ask, Connector, FailMode, Hold, HookEvent, McpTool, Phase, Way};

pub(super) const AGENT: Agent = Agent {
    programs: &["gemini", "gemini-cli"],
    events: &[
        Row::held("BeforeTool", Phase::ToolPre, Hold::Prevents).asks(Ask::Attended).notes(),
        Row::held("AfterTool", Phase::ToolPost, Hold::Withholds),
        Row::held("BeforeAgent", Phase::PromptSubmit, Hold::Prevents),
        Row::held("AfterAgent", Phase::Stop, Hold::Tells),
        Row::seen("SessionStart", Phase::SessionStart),
        Row::seen("SessionEnd", Phase::SessionEnd),
        Row::seen("Notification", Phase::Other),
        Row::seen("PreCompress", Phase::Other),
        // These carry the whole conversation, at every request.
        Row { registered: false, ..Row::held("BeforeModel", Phase::Other, Hold::Prevents) },
        Row::left("AfterModel", Phase::Other),
        Row::left("BeforeToolSelection", Phase::Other),
    ],
    fails: FailMode::Open,
    way: Way::Hold,
    talks,
    event,
    hold: as_stated,
    allow: silence,
    note: |_, note| json(&json!({"systemMessage": note})),
    // The prompt shows the message, not the reason.
    ask: |_, reason| json(&json!({"decision": "ask", "reason": reason, "systemMessage": reason})),
    block: |_, reason| json(&json!({"decision": "deny", "reason": reason})),
    blind: exit_2,
};

const TOOLS: &[(&str, Takes)] = &[
    ("run_shell_command", Takes::ShellIn("command", "dir_path")),
    ("read_file", Takes::Read("file_path")),
    ("write_file", Takes::Write("file_path")),
    ("replace", Takes::Edit("file_path")),
    ("list_directory", Takes::Read("dir_path")),
    ("glob", Takes::List("dir_path")),
    ("grep_search", Takes::List("dir_path")),
    ("web_fetch", Takes::Urls("prompt")),
];

/// A question among its arguments is answered without a prompt: `-p`, and in some versions any word of its own. Its own
/// question would then wait for ever.
fn talks(own: &[&str]) -> bool {
    own.iter()
        .all(|word| matches!(*word, "-y" | "--yolo" | "-d" | "--debug" | "-s" | "--sandbox" | "--skip-trust"))
}

fn event(payload: &Payload) -> Result<HookEvent, PayloadError> {
    let mut event = fields::event(Connector::GeminiCli, &AGENT, payload)?;
    if event.phase == Phase::Stop {
        event.text = payload.text("prompt_response");
    }
    event.model = payload.object("llm_request").text("model");
    if let Some(mut call) = fields::tool(payload) {
        let server = payload.object("mcp_context");
        call.mcp = server.text("tool_name").map(|tool| McpTool {
            server: server.text("server_name"),
            tool,
            command: server.text("command"),
            url: server.text("url"),
        });
        call.intents = match call.mcp {
            Some(_) => intents::mcp(&call.input),
            None => intents::of(TOOLS, &call.tool, &call.input),
        };
        call.failed = payload.object("tool_response").has("error");
        call.background = call.input.get("is_background").is_some_and(|value| value == true);
        let told = payload.object("tool_response").text("llmContent");
        call.process_group =
            told.as_deref().filter(|_| call.tool == "run_shell_command").and_then(process_group);
        event.tools.push(call);
    }
    Ok(event)
}

/// The last line that names it, because output comes before it. A background command names its pid instead.
fn process_group(told: &str) -> Option<u32> {
    let after = |mark: &str| {
        let digits = told.rsplit_once(mark)?.1;
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        digits.get(..end)?.parse().ok()
    };
    after("\nProcess Group PGID: ").or_else(|| after("Command moved to background (PID: "))
}
