//! What we write for each event: the command, and the agent's own way to say how long and what if it fails.

use serde_json::{Value, json};

use super::Request;
use crate::{
    connectors,
    model::{Connector, FailMode},
};

/// How a file of hooks is built below `hooks` and an event's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A list of groups, each with a list of hooks: Claude Code, Codex.
    Groups,
    /// The same, with names and milliseconds: Gemini CLI.
    Named,
    /// A list of hooks in a file with a version: Cursor.
    Flat,
    /// A list of hooks: Windsurf.
    Plain,
    /// A list of shell hooks in a file with a version: Copilot CLI.
    Bash,
}

impl Shape {
    /// Hooks lie in groups.
    pub(super) fn is_grouped(self) -> bool {
        matches!(self, Self::Groups | Self::Named)
    }

    /// The file begins with a version.
    pub(super) fn has_version(self) -> bool {
        matches!(self, Self::Flat | Self::Bash)
    }
}

/// The shell command that runs our hook.
pub(super) fn command(request: &Request) -> String {
    let mut command = format!("{} hook {}", word(&request.program.to_string_lossy()), request.connector);
    for argument in &request.arguments {
        command.push(' ');
        command.push_str(&word(argument));
    }
    command
}

/// One word of a shell command.
fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The hook of one event.
pub(super) fn hook(request: &Request, shape: Shape, event: &str) -> Value {
    let command = command(request);
    let seconds = connectors::timeout(request.connector, event, request.holds).as_secs();
    let closed = request.fail == FailMode::Closed;
    match shape {
        Shape::Groups if request.connector == Connector::ClaudeCode && closed => {
            json!({"type": "command", "command": command, "timeout": seconds, "onFailure": "block"})
        }
        Shape::Groups => json!({"type": "command", "command": command, "timeout": seconds}),
        Shape::Named => {
            json!({"type": "command", "command": command, "name": "defenseclaw", "timeout": seconds * 1000})
        }
        Shape::Flat if closed => json!({"command": command, "timeout": seconds, "failClosed": true}),
        Shape::Flat => json!({"command": command, "timeout": seconds}),
        Shape::Plain => json!({"command": command, "show_output": false}),
        Shape::Bash => json!({"type": "command", "bash": command, "timeoutSec": seconds}),
    }
}

/// Whether a hook is one of ours, of whatever version and place: it runs a `defenseclaw` for this connector.
pub(super) fn is_ours(hook: &Value, connector: Connector) -> bool {
    let commands = ["command", "bash"].iter().filter_map(|key| hook.get(key)?.as_str());
    let middle = format!(" hook {connector}");
    commands.into_iter().any(|command| {
        command.split_once(&middle).is_some_and(|(program, arguments)| {
            let ours = program.trim_matches('\'').rsplit('/').next() == Some("defenseclaw");
            ours && (arguments.is_empty() || arguments.starts_with(' '))
        })
    })
}
