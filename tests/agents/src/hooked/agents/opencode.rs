//! opencode: one native program; hooks are callbacks of a plugin in its own process.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{Connector, Phase};
use serde_json::json;

use crate::{install::Package, openai_chat, script::Call};

use super::{super::stage::PROMPT, Agent, Managed, Tool, json, text_at};

const FOLDER: &str = ".config/opencode";

pub(super) const OPENCODE: Agent = Agent {
    connector: Connector::OpenCode,
    package: Package {
        name: "opencode",
        version: "1.18.33",
        manifest: include_str!("../../../clients/opencode/package.json"),
        lock: include_str!("../../../clients/opencode/package-lock.json"),
        executable,
        interpreter: None,
    },
    protocol: openai_chat::answer,
    settle: |stage| {
        let settings = json!({
            "model": "scripted/m",
            "small_model": "scripted/m",
            "autoupdate": false,
            "share": "disabled",
            "permission": {"external_directory": "allow"},
            "provider": {"scripted": {
                "npm": "@ai-sdk/openai-compatible",
                "options": {"baseURL": format!("{}/v1", stage.url()), "apiKey": "none-it-is-a-test"},
                "models": {"m": {"name": "m", "tool_call": true}},
            }},
            "mcp": {"lab": {"type": "local", "command": [stage.node, stage.server()]}},
        });
        stage.write(&format!("{FOLDER}/opencode.json"), &format!("{settings:#}\n"))?;
        let foreign = format!(
            "import {{ writeFileSync }} from \"node:fs\";\nexport const Other = async () => ({{\n  \
             \"tool.execute.before\": async () => writeFileSync(\"{}\", \"x\"),\n}});\n",
            stage.foreign().display()
        );
        stage.write(&format!("{FOLDER}/plugin/other.js"), &foreign)
    },
    arguments: |_| ["run", "--format", "json", PROMPT].map(Into::into).to_vec(),
    environment: |_| {
        let off =
            ["OPENCODE_DISABLE_AUTOUPDATE", "OPENCODE_DISABLE_MODELS_FETCH", "OPENCODE_DISABLE_LSP_DOWNLOAD"];
        // Where there are plugins, it asks a registry for their library, and again and again.
        off.map(|name| (name, "1".into()))
            .into_iter()
            .chain([("npm_config_offline", "true".into())])
            .collect()
    },
    session,
    shell: Tool {
        call: |command| Call { tool: "bash", input: json!({"command": command, "description": "Test"}) },
        name: "bash",
    },
    write: Tool {
        call: |path, content| Call { tool: "write", input: json!({"filePath": path, "content": content}) },
        name: "write",
    },
    lookup: Tool {
        call: |text| Call { tool: "lab_lookup", input: json!({"text": text}) },
        name: "lab_lookup",
    },
    names_server: false,
    phases: &[Phase::SessionStart, Phase::PromptSubmit, Phase::ToolPre, Phase::ToolPost, Phase::Stop],
    runs_foreign: true,
    tells_of_held: false,
    leaves_jobs: true,
    remove: |_| format!("rm ~/{FOLDER}/plugin/defenseclaw.js"),
    relay: None,
    crowd: 2,
    removed_at_once: false,
    managed: Some(Managed { switch_off: |_| format!("rm -r ~/{FOLDER}/plugin"), hole: None }),
};

/// The one for old processors runs everywhere.
fn executable(installed: &Path) -> Result<PathBuf> {
    let path = installed.join("node_modules/opencode-linux-x64-baseline/bin/opencode");
    ensure!(path.is_file(), "{} is missing", path.display());
    Ok(path)
}

fn session(stdout: &[u8]) -> Result<String> {
    let first = std::str::from_utf8(stdout)?.lines().next().context("the agent printed nothing")?;
    text_at(&json(first)?, "/sessionID")
}
