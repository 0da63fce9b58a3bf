//! Gemini CLI: settings in `~/.gemini`, which it writes anew when a key in them has got another name.

use std::path::Path;

use anyhow::{Result, ensure};
use defenseclaw::model::{Connector, Phase};
use serde_json::json;

use crate::{gemini, install::Package, script::Call};

use super::{super::stage::PROMPT, Agent, Managed, Tool, json, text_at};

const SETTINGS: &str = ".gemini/settings.json";

pub(super) const GEMINI_CLI: Agent = Agent {
    connector: Connector::GeminiCli,
    package: Package {
        name: "gemini-cli",
        version: "0.61.0",
        manifest: include_str!("../../../clients/gemini-cli/package.json"),
        lock: include_str!("../../../clients/gemini-cli/package-lock.json"),
        executable,
        interpreter: None,
    },
    protocol: gemini::answer,
    settle: |stage| {
        let settings = json!({
            "security": {"auth": {"selectedType": "gemini-api-key"}, "folderTrust": {"enabled": false}},
            // A name of earlier versions: at the first start the agent writes the file anew.
            "general": {"disableAutoUpdate": true},
            "privacy": {"usageStatisticsEnabled": false},
            "telemetry": {"enabled": false},
            "mcpServers": {"lab": {"command": stage.node, "args": [stage.server()], "trust": true}},
            "hooks": {"BeforeTool": [{"matcher": "run_shell_command", "hooks": [
                {"type": "command", "command": format!("echo x > {}", stage.foreign().display())},
            ]}]},
        });
        stage.write(SETTINGS, &format!("{settings:#}\n"))
    },
    arguments: |_| {
        ["-m", "gemini-2.5-pro", "-p", PROMPT, "--yolo", "--output-format", "json"].map(Into::into).to_vec()
    },
    environment: |stage| {
        vec![("GOOGLE_GEMINI_BASE_URL", stage.url().into()), ("GEMINI_API_KEY", "none-it-is-a-test".into())]
    },
    session: |stdout| text_at(&json(std::str::from_utf8(stdout)?)?, "/session_id"),
    shell: Tool {
        call: |command| Call {
            tool: "run_shell_command",
            input: json!({"command": command, "description": "Test"}),
        },
        name: "run_shell_command",
    },
    write: Tool {
        call: |path, content| Call {
            tool: "write_file",
            input: json!({"file_path": path, "content": content}),
        },
        name: "write_file",
    },
    lookup: Tool {
        call: |text| Call { tool: "mcp_lab_lookup", input: json!({"text": text}) },
        name: "mcp_lab_lookup",
    },
    names_server: true,
    phases: &[
        Phase::SessionStart,
        Phase::PromptSubmit,
        Phase::ToolPre,
        Phase::ToolPost,
        Phase::Stop,
        Phase::SessionEnd,
    ],
    runs_foreign: true,
    tells_of_held: false,
    leaves_jobs: true,
    remove: |_| format!("mv ~/{SETTINGS}.before-defenseclaw ~/{SETTINGS}"),
    relay: None,
    crowd: 2,
    removed_at_once: false,
    managed: Some(Managed {
        switch_off: |_| hooks_config(r#"{"enabled":false}"#),
        hole: Some(|_| hooks_config(r#"{"disabled":["defenseclaw"]}"#)),
    }),
};

/// Puts this into the user's settings.
fn hooks_config(value: &str) -> String {
    format!(
        "node -e 'const fs = require(\"fs\"), file = process.env.HOME + \"/{SETTINGS}\"; const read = \
         JSON.parse(fs.readFileSync(file)); read.hooksConfig = {value}; fs.writeFileSync(file, \
         JSON.stringify(read))'"
    )
}

fn executable(installed: &Path) -> Result<std::path::PathBuf> {
    let path = installed.join("node_modules/.bin/gemini");
    ensure!(path.exists(), "{} is missing", path.display());
    Ok(path)
}
