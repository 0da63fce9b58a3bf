//! Codex: one native executable, which npm's script only starts. Settings are in `~/.codex`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

/// `config.toml` of a Codex that asks this endpoint and nobody else, and runs commands without asking or a sandbox.
pub(crate) fn settings(url: &str) -> String {
    // Plugins and metrics ask the internet, and wait for it.
    format!(
        r#"# of the user
model = "gpt-5.5"
model_provider = "scripted"
approval_policy = "never"
sandbox_mode = "danger-full-access"

[model_providers.scripted]
name = "scripted" # kept
base_url = "{url}/v1"
wire_api = "responses"
env_key = "OPENAI_API_KEY"
request_max_retries = 0
stream_max_retries = 0

[features]
plugins = false

[analytics]
enabled = false

[otel]
metrics_exporter = "none"
"#
    )
}

pub(crate) fn arguments(prompt: &str) -> [&str; 4] {
    ["exec", "--skip-git-repo-check", "--json", prompt]
}

pub(crate) const KEY: (&str, &str) = ("OPENAI_API_KEY", "none-it-is-a-test");

/// Without the script, which needs Node.js.
pub(crate) fn native(installed: &Path) -> Result<PathBuf> {
    let packages = installed.join("node_modules/@openai");
    for package in fs::read_dir(&packages).with_context(|| format!("cannot list {}", packages.display()))? {
        let Ok(platforms) = fs::read_dir(package?.path().join("vendor")) else { continue };
        for platform in platforms {
            let executable = platform?.path().join("bin/codex");
            if executable.is_file() {
                return Ok(executable);
            }
        }
    }
    anyhow::bail!("no package in {} has an executable for this platform", packages.display())
}
