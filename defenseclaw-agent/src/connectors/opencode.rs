//! opencode, through our plugin, which passes `{hook, input, output, directory}` and does what we print: throw, or replace the
//! output. Seen on 1.18.33; docs/hooks/opencode.md has the facts and their limits.

use serde_json::json;

use super::{
    agent::{Agent, Row, json, silence, unsaid},
    asking, fields,
    intents::{self, Takes},
    payload::{Payload, PayloadError, texts},
};
use crate::model::{Connector, FailMode, Hold, HookEvent, HookOutput, Phase, ToolCall, Way};

pub(super) const AGENT: Agent = Agent {
    programs: &["opencode"],
    events: &[
        // It has no question of its own: `permission.ask` is never called.
        Row::held("tool.execute.before", Phase::ToolPre, Hold::Prevents),
        Row::held("tool.execute.after", Phase::ToolPost, Hold::Withholds),
        Row::held("chat.message", Phase::PromptSubmit, Hold::Prevents),
        Row::seen("session.created", Phase::SessionStart),
        Row::seen("session.idle", Phase::Stop),
        Row::seen("permission.asked", Phase::Permission),
        Row::left("permission.replied", Phase::Other),
        Row::left("session.status", Phase::Other),
        Row::left("file.edited", Phase::Other),
        Row::left("chat.params", Phase::Other),
        Row::left("shell.env", Phase::Other),
        Row::left("experimental.text.complete", Phase::Other),
    ],
    fails: FailMode::Open,
    way: Way::Hold,
    talks: asking::never,
    event,
    hold,
    allow: silence,
    note: unsaid,
    ask: unsaid,
    block,
    blind: |reason| json(&json!({"throw": reason})),
};

const TOOLS: &[(&str, Takes)] = &[
    ("bash", Takes::ShellIn("command", "workdir")),
    ("read", Takes::Read("filePath")),
    ("write", Takes::Write("filePath")),
    ("edit", Takes::Edit("filePath")),
    ("glob", Takes::List("path")),
    ("grep", Takes::List("path")),
    ("list", Takes::List("path")),
    ("webfetch", Takes::Url("url")),
    ("apply_patch", Takes::Patch("patchText")),
];

/// Bus events come as one hook, `event`; their own name is the one that counts.
fn event(payload: &Payload) -> Result<HookEvent, PayloadError> {
    let (input, output) = (payload.object("input"), payload.object("output"));
    let hook = payload.text("hook").ok_or(PayloadError::NoEvent)?;
    let on_bus = hook == "event";
    let name = if on_bus { input.text("type").ok_or(PayloadError::NoEvent)? } else { hook };
    let said = if on_bus { input.object("properties") } else { input };
    let info = said.object("info");
    let mut event = HookEvent::new(Connector::OpenCode, AGENT.phase(&name), name);
    event.session = said.text("sessionID");
    // What hooks about tools are passed names no directory: the plugin was told one when it was loaded.
    event.cwd = ["cwd", "directory"].iter().find_map(|key| said.text(key));
    event.cwd = event.cwd.or_else(|| info.text("directory")).or_else(|| payload.text("directory"));
    event.agent = info.text("parentID");
    event.repaired = payload.repaired;
    if event.phase == Phase::PromptSubmit {
        let message = output.object("message");
        event.model = message.object("model").text("modelID");
        event.prompt_id = message.text("id");
        event.text = parts(&output);
    } else if event.phase == Phase::Permission {
        event.tools.extend(asked(&said));
    } else if matches!(event.phase, Phase::ToolPre | Phase::ToolPost) {
        event.tools.extend(tool(&said, &output, event.phase == Phase::ToolPre));
    }
    Ok(event)
}

fn tool(said: &Payload, output: &Payload, before: bool) -> Option<ToolCall> {
    let input = if before { output.value("args") } else { said.value("args") };
    let mut call = fields::call(&said.text("tool")?, input);
    call.id = said.text("callID");
    call.intents = intents::of(TOOLS, &call.tool, &call.input);
    if !before {
        call.output = texts(&output.value("output")).or_else(|| texts(&output.value("content")));
        call.failed = output.flag("isError");
    }
    Some(call)
}

/// What the agent's own permission prompt is about.
fn asked(said: &Payload) -> Option<ToolCall> {
    let mut call = fields::call(&said.text("permission")?, said.value("metadata"));
    call.id = said.object("tool").text("callID");
    call.intents = intents::of(TOOLS, &call.tool, &call.input);
    Some(call)
}

/// The text of a prompt, without what the agent adds to it.
fn parts(output: &Payload) -> Option<String> {
    let parts = output.fields.get("parts")?.as_array()?;
    let texts: Vec<&str> = parts.iter().filter_map(|part| part.get("text")?.as_str()).collect();
    (!texts.is_empty()).then(|| texts.join("\n"))
}

/// Results of MCP servers have a shape of their own, in which nothing was seen to be replaced.
fn hold(event: &HookEvent, stated: Hold) -> Hold {
    let own =
        |tool: &str| TOOLS.iter().any(|(name, _)| *name == tool) || ["task", "todowrite"].contains(&tool);
    let foreign = event.phase == Phase::ToolPost && !event.tools.first().is_some_and(|call| own(&call.tool));
    if foreign { Hold::Nothing } else { stated }
}

fn block(event: &HookEvent, reason: &str) -> HookOutput {
    if event.phase == Phase::ToolPost {
        json(&json!({"output": reason}))
    } else {
        json(&json!({"throw": reason}))
    }
}
