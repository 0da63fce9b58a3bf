//! Codex: settings in `~/.codex`, hooks only with an entry of trust beside them.

use anyhow::{Context, Result};
use defenseclaw::model::{Connector, Phase};
use serde_json::json;

use crate::{clients, openai_responses, sandboxes, script::Call};

use super::{super::stage::PROMPT, Agent, Managed, Tool, json, text_at};

pub(super) const CODEX: Agent = Agent {
    connector: Connector::Codex,
    package: sandboxes::CODEX,
    protocol: openai_responses::answer,
    settle: |stage| {
        let (url, node, server) = (stage.url(), stage.node.display(), stage.server());
        let server =
            format!("\n[mcp_servers.lab]\ncommand = \"{node}\"\nargs = [\"{}\"]\n", server.display());
        stage.write(".codex/config.toml", &(clients::codex::settings(&url) + &server))?;
        let hooks = json!({"hooks": {"PreToolUse": [{"matcher": "Bash", "hooks": [
            {"type": "command", "command": format!("echo x > {}", stage.foreign().display())},
        ]}]}});
        stage.write(".codex/hooks.json", &format!("{hooks:#}\n"))
    },
    arguments: |_| clients::codex::arguments(PROMPT).map(Into::into).to_vec(),
    environment: |_| vec![(clients::codex::KEY.0, clients::codex::KEY.1.into())],
    session,
    shell: Tool {
        call: |command| Call { tool: "exec_command", input: json!({"cmd": command}) },
        name: "Bash",
    },
    write: Tool {
        call: |path, content| {
            let lines = content.lines().flat_map(|line| ["+", line, "\n"]).collect::<String>();
            let patch = format!("*** Begin Patch\n*** Add File: {}\n{lines}*** End Patch\n", path.display());
            Call { tool: "apply_patch", input: json!(patch) }
        },
        name: "apply_patch",
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
    // Nobody has trusted it.
    runs_foreign: false,
    tells_of_held: false,
    leaves_jobs: true,
    remove: |_| "mv ~/.codex/hooks.json.before-defenseclaw ~/.codex/hooks.json".into(),
    relay: None,
    crowd: 2,
    removed_at_once: false,
    managed: Some(Managed {
        switch_off: |_| r"sed -i 's/^\[features\]$/[features]\nhooks = false/' ~/.codex/config.toml".into(),
        hole: None,
    }),
};

fn session(stdout: &[u8]) -> Result<String> {
    let first = std::str::from_utf8(stdout)?.lines().next().context("the agent printed nothing")?;
    text_at(&json(first)?, "/thread_id")
}
