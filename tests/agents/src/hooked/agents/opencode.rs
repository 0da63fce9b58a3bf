//! opencode: one native program; hooks are callbacks of a plugin in its own process.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
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
             \"tool.execute.before\": async () => writeFileSync({:?}, \"x\"),\n}});\n",
            stage.foreign()
        );
        stage.write(&format!("{FOLDER}/plugin/other.js"), &foreign)?;
        // Without it in place the agent waits for a registry.
        let modules = stage.home().join(FOLDER).join("node_modules");
        fs::create_dir(&modules)?;
        let scope = "@opencode-ai";
        symlink(stage.installed.join("node_modules").join(scope), modules.join(scope))
            .context("cannot link the plugins' library")
    },
    arguments: |_| ["run", "--format", "json", PROMPT].map(Into::into).to_vec(),
    environment: |_| {
        ["OPENCODE_DISABLE_AUTOUPDATE", "OPENCODE_DISABLE_MODELS_FETCH", "OPENCODE_DISABLE_LSP_DOWNLOAD"]
            .map(|name| (name, "1".into()))
            .to_vec()
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
    remove: |_| format!("rm ~/{FOLDER}/plugin/defenseclaw.js"),
    removed_at_once: false,
    managed: Some(Managed { switch_off: |_| format!("rm -r ~/{FOLDER}/plugin"), hole: None }),
};

/// npm installs the packages that fit the platform; the one for old processors runs everywhere.
fn executable(installed: &Path) -> Result<PathBuf> {
    let modules = installed.join("node_modules");
    let entries = fs::read_dir(&modules).with_context(|| format!("cannot list {}", modules.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let executable = entry.path().join("bin/opencode");
        if entry.file_name().to_string_lossy().starts_with("opencode-linux-") && executable.is_file() {
            found.push(executable);
        }
    }
    // The longest name is that of the baseline.
    found.sort_by_key(|path| path.as_os_str().len());
    found.pop().with_context(|| format!("no package in {} is for this platform", modules.display()))
}

fn session(stdout: &[u8]) -> Result<String> {
    let first = std::str::from_utf8(stdout)?.lines().next().context("the agent printed nothing")?;
    text_at(&json(first)?, "/sessionID")
}
