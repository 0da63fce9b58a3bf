//! Claude Code: settings in `~/.claude`, hooks read again while a session runs.

use defenseclaw::model::{Connector, Phase};
use serde_json::json;

use crate::{anthropic, clients, script::Call};

use super::{Agent, Managed, Tool, json, text_at};

const SETTINGS: &str = ".claude/settings.json";

pub(super) const CLAUDE_CODE: Agent = Agent {
    connector: Connector::ClaudeCode,
    package: clients::CLAUDE_CODE_PACKAGE,
    protocol: anthropic::answer,
    settle: |stage| {
        let settings = json!({
            "cleanupPeriodDays": 30,
            "hooks": {
                "PreToolUse": [{"matcher": "Bash", "hooks": [
                    {"type": "command", "command": format!("echo x > {}", stage.foreign().display())},
                ]}],
                "ConfigChange": [{"hooks": [
                    {"type": "command", "command": format!("echo x > {}", stage.noticed().display())},
                ]}],
            },
        });
        stage.write(SETTINGS, &format!("{settings:#}\n"))?;
        let server = json!({"mcpServers": {"lab": {"command": stage.node, "args": [stage.server()]}}});
        stage.write("mcp.json", &server.to_string())
    },
    arguments: |stage| {
        let servers = stage.home().join("mcp.json").into_os_string();
        // Naming the tools works for every user; skipping permissions is refused to root.
        let mut line =
            clients::claude_code_arguments(super::super::stage::PROMPT, "Bash,Write,Read,mcp__lab__lookup");
        line.extend(["--mcp-config".into(), servers]);
        line
    },
    environment: |stage| {
        let mut variables = clients::claude_code_environment(&stage.url(), &stage.scratch());
        // All tools are offered by name, also those of MCP servers.
        variables.push(("ENABLE_TOOL_SEARCH", "false".into()));
        variables
    },
    session: |stdout| text_at(&json(std::str::from_utf8(stdout)?)?, "/session_id"),
    shell: Tool {
        call: |command| Call { tool: "Bash", input: json!({"command": command, "description": "Test"}) },
        name: "Bash",
    },
    write: Tool {
        call: |path, content| Call { tool: "Write", input: json!({"file_path": path, "content": content}) },
        name: "Write",
    },
    lookup: Tool {
        call: |text| Call { tool: "mcp__lab__lookup", input: json!({"text": text}) },
        name: "mcp__lab__lookup",
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
    crowd: 8,
    removed_at_once: true,
    managed: Some(Managed {
        switch_off: |_| format!("echo '{{\"disableAllHooks\":true}}' > ~/{SETTINGS}"),
        hole: None,
    }),
};
