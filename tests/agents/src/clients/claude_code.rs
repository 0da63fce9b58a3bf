//! Claude Code: a single native executable that npm delivers in a package for each platform. It was observed to
//! run a shell of its own session for each command, and to read and write files in its own process.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::json;

use crate::{anthropic, install::Package, script::Call};

use super::{Answer, Client};

pub(crate) const PACKAGE: Package = Package {
    name: "claude-code",
    version: "2.1.330",
    manifest: include_str!("../../clients/claude-code/package.json"),
    lock: include_str!("../../clients/claude-code/package-lock.json"),
    executable,
    interpreter: None,
};

pub(crate) const CLAUDE_CODE: Client = Client {
    package: PACKAGE,
    protocol: anthropic::answer,
    arguments: |prompt| arguments(prompt, "Bash,Write,Read"),
    environment,
    shell: |command| Call { tool: "Bash", input: json!({"command": command, "description": "Test"}) },
    write: |path, content| Call { tool: "Write", input: json!({"file_path": path, "content": content}) },
    read: |path| Call { tool: "Read", input: json!({"file_path": path}) },
    // It hands the command to `eval` in single quotes.
    quoted: |command| format!("eval '{}'", command.replace('\'', r#"'"'"'"#)),
    temporary: |name, agent_pid| format!("{name}.tmp.{agent_pid}."),
    session_variable: "CLAUDE_CODE_SESSION_ID",
    answer,
};

/// npm installs the one package that fits the platform: `claude-code-linux-x64` and the like.
fn executable(installed: &Path) -> Result<PathBuf> {
    let packages = installed.join("node_modules/@anthropic-ai");
    let entries = fs::read_dir(&packages).with_context(|| format!("cannot list {}", packages.display()))?;
    for entry in entries {
        let executable = entry?.path().join("claude");
        if executable.is_file() {
            return Ok(executable);
        }
    }
    anyhow::bail!("no package in {} has an executable for this platform", packages.display())
}

pub(crate) fn arguments(prompt: &str, tools: &str) -> Vec<OsString> {
    // Naming the tools works for every user; skipping permissions is refused to root.
    ["-p", prompt, "--output-format", "json", "--allowedTools", tools].map(OsString::from).to_vec()
}

pub(crate) fn environment(url: &str, scratch: &Path) -> Vec<(&'static str, OsString)> {
    vec![
        ("ANTHROPIC_BASE_URL", url.into()),
        ("ANTHROPIC_API_KEY", "none-it-is-a-test".into()),
        ("CLAUDE_CODE_TMPDIR", scratch.into()),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".into()),
        ("DISABLE_AUTOUPDATER", "1".into()),
        ("DISABLE_ERROR_REPORTING", "1".into()),
        ("DISABLE_TELEMETRY", "1".into()),
    ]
}

fn answer(stdout: &[u8]) -> Result<Answer> {
    #[derive(Deserialize)]
    struct Printed {
        is_error: bool,
        result: String,
        session_id: String,
    }
    let printed: Printed = serde_json::from_slice(stdout).with_context(|| {
        format!("stdout is not the one JSON object of the client: {}", stdout.escape_ascii())
    })?;
    ensure!(!printed.is_error, "the client reports an error: {}", printed.result);
    Ok(Answer { text: printed.result, session: printed.session_id })
}
