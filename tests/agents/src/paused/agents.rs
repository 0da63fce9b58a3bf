//! What is to be known of an agent that runs in a guest, where there is neither Node.js nor a registry: all of it data and
//! pure functions.

use std::{ffi::OsString, fs, path::Path};

use anyhow::Result;
use serde_json::json;

use crate::{
    anthropic, clients, endpoint::Protocol, install::Package, openai_responses, sandboxes, script::Call,
};

const PROMPT: &str = "Do what the test asks for.";

pub(super) static ALL: [Agent; 2] = [
    Agent {
        package: clients::CLAUDE_CODE_PACKAGE,
        protocol: anthropic::answer,
        settle: |_, _| Ok(()),
        arguments: || clients::claude_code_arguments(PROMPT, "Bash"),
        environment: clients::claude_code_environment,
        shell: |command| Call { tool: "Bash", input: json!({"command": command, "description": "Test"}) },
    },
    Agent {
        package: Package { executable: clients::codex::native, ..sandboxes::CODEX },
        protocol: openai_responses::answer,
        settle: |home, url| {
            fs::create_dir(home.join(".codex"))?;
            Ok(fs::write(home.join(".codex/config.toml"), clients::codex::settings(url))?)
        },
        arguments: || clients::codex::arguments(PROMPT).map(Into::into).to_vec(),
        environment: |_, _| vec![(clients::codex::KEY.0, clients::codex::KEY.1.into())],
        shell: |command| Call { tool: "exec_command", input: json!({"cmd": command}) },
    },
];

/// An agent of one native executable.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) package: Package,
    pub(super) protocol: Protocol,
    /// Writes settings to the home, for this endpoint.
    pub(super) settle: fn(&Path, &str) -> Result<()>,
    pub(super) arguments: fn() -> Vec<OsString>,
    /// For this endpoint, and this directory for temporary files.
    pub(super) environment: fn(&str, &Path) -> Vec<(&'static str, OsString)>,
    /// The call that runs a shell command.
    pub(super) shell: fn(&str) -> Call,
}
