//! Ways around an installed hook: what each agent lets its user do, and what the configuration at hand does already.

use std::path::Path;

use serde::Serialize;

use super::{Scope, json};
use crate::model::Connector;

/// One way around the hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// It is so now, in this configuration; otherwise it is only possible.
    pub active: bool,
    /// What switches the hook off.
    pub way: String,
}

/// A switch that a configuration file may hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum Switch {
    DisableAllHooks,
    HooksConfig,
    CodexFeature,
}

/// What is possible with this agent, as docs/hooks says it.
pub(super) fn known(connector: Connector, scope: Scope) -> Vec<Finding> {
    let managed = scope == Scope::Managed;
    let ways: &[&str] = match (connector, managed) {
        (Connector::ClaudeCode, false) => &[
            "disableAllHooks in any settings file, also of a project",
            "--bare, CLAUDE_CODE_SIMPLE=1, --setting-sources, CLAUDE_CONFIG_DIR",
            "an edit of the file while the session runs",
        ],
        (Connector::ClaudeCode, true) => &["--bare and CLAUDE_CODE_SIMPLE=1 on versions before 2.1.330"],
        (Connector::Codex, false) => &[
            "--disable hooks, -c features.hooks=false, CODEX_HOME",
            "write_stdin into a running shell fires no hook",
        ],
        (Connector::Codex, true) => &["write_stdin into a running shell fires no hook"],
        (Connector::GeminiCli, false) => &[
            "hooksConfig.enabled or hooksConfig.disabled in a user's or project's settings",
            "an edit of the file, from the next session on",
        ],
        (Connector::GeminiCli, true) => &[
            "hooksConfig.disabled with the hook's name in a user's or project's settings",
            "GEMINI_CLI_SYSTEM_SETTINGS_PATH in the environment",
        ],
        (Connector::Cursor, true) => &["not known (not verified on a real agent)"],
        (Connector::OpenClaw, _) => &["openclaw agent exec calls no hooks", "an edit of openclaw.json"],
        (Connector::OpenCode, _) => &[
            "--pure, OPENCODE_PURE=1: all plugins, also those of the machine",
            "a plugin that does not load is skipped",
            "XDG_CONFIG_HOME, for a user's plugin",
        ],
        (Connector::CopilotCli, _) => &[
            "a folder that is not trusted, in prompt mode",
            "an edit of the file (not verified on a real agent)",
        ],
        (Connector::Cursor, false) | (Connector::Windsurf, _) => {
            &["an edit of the file (not verified on a real agent)"]
        }
    };
    ways.iter().map(|way| Finding { active: false, way: (*way).to_owned() }).collect()
}

/// What this file switches off.
pub(super) fn seen(connector: Connector, path: &Path, text: &str, switch: Switch) -> Vec<Finding> {
    let read = json::parse(text).ok().and_then(|root| root.to_serde_value()).unwrap_or_default();
    let off = match switch {
        Switch::DisableAllHooks => read.pointer("/disableAllHooks").is_some_and(|value| value == true),
        Switch::HooksConfig => {
            let disabled = read.pointer("/hooksConfig/disabled").and_then(serde_json::Value::as_array);
            let names_us =
                |name: &serde_json::Value| name.as_str().is_some_and(|name| name.contains("defenseclaw"));
            read.pointer("/hooksConfig/enabled").is_some_and(|value| value == false)
                || disabled.is_some_and(|names| names.iter().any(names_us))
        }
        Switch::CodexFeature => {
            let document: Option<toml_edit::DocumentMut> = text.parse().ok();
            let feature = document.and_then(|document| document.get("features")?.get("hooks")?.as_bool());
            feature == Some(false)
        }
    };
    let way = format!("{} switches hooks of {connector} off", path.display());
    if off { vec![Finding { active: true, way }] } else { Vec::new() }
}
