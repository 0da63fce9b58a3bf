//! What the suite knows of each agent with hooks: one file an agent, all of it data and pure functions.

mod claude_code;
mod codex;
mod gemini_cli;
mod openclaw;
mod opencode;

use std::{ffi::OsString, path::Path};

use anyhow::{Context, Result};
use defenseclaw::model::{Connector, Phase};
use serde_json::Value;

use crate::{endpoint::Protocol, install::Package, script::Call};

use super::stage::Stage;

/// Every agent that is tested.
pub(super) const ALL: &[&Agent] = &[
    &claude_code::CLAUDE_CODE,
    &codex::CODEX,
    &gemini_cli::GEMINI_CLI,
    &opencode::OPENCODE,
    &openclaw::OPENCLAW,
];

/// An agent that npm installs, that a scripted model can drive, and that has hooks.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the agent")]
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) connector: Connector,
    pub(super) package: Package,
    pub(super) protocol: Protocol,
    /// Writes the agent's settings: its model, an MCP server, a hook of somebody else's where it has such.
    pub(super) settle: fn(&Stage) -> Result<()>,
    /// Arguments for one run without a terminal.
    pub(super) arguments: fn(&Stage) -> Vec<OsString>,
    /// What it needs in its otherwise empty environment, beside `HOME`, `PATH` and `TMPDIR`.
    pub(super) environment: fn(&Stage) -> Vec<(&'static str, OsString)>,
    /// The agent's name for its session, from what it printed.
    pub(super) session: fn(&[u8]) -> Result<String>,
    pub(super) shell: Tool<fn(&str) -> Call>,
    pub(super) write: Tool<fn(&Path, &str) -> Call>,
    /// A tool of the MCP server.
    pub(super) lookup: Tool<fn(&str) -> Call>,
    /// Hooks tell which MCP server is behind a tool.
    pub(super) names_server: bool,
    /// What kinds of moment a run of several calls comes through.
    pub(super) phases: &'static [Phase],
    /// Somebody else's hook of the settings is run.
    pub(super) runs_foreign: bool,
    /// A call that was held is still followed by the event after a tool.
    pub(super) tells_of_held: bool,
    /// A job in the background outlives the agent. Otherwise the agent ends it with the command that began it, which it
    /// then calls a failure.
    pub(super) leaves_jobs: bool,
    /// What a user types to take our hook out of the user's own configuration.
    pub(super) remove: fn(&Stage) -> String,
    /// A program of the agent's own that its servers run below.
    pub(super) relay: Option<&'static str>,
    /// How many run at once in the trial of what they declare, at most eight; some are large.
    pub(super) crowd: usize,
    /// Hooks are read again while a session runs, and [`Stage::noticed`] is made then.
    pub(super) removed_at_once: bool,
    pub(super) managed: Option<Managed>,
}

/// A tool: the call of the model, and the tool's name in the payloads of hooks.
#[derive(Debug)]
pub(super) struct Tool<C> {
    pub(super) call: C,
    pub(super) name: &'static str,
}

/// The machine's configuration, where an agent has one.
#[derive(Debug)]
pub(super) struct Managed {
    /// What a user types to switch hooks off in the user's own configuration.
    pub(super) switch_off: fn(&Stage) -> String,
    /// What is known to switch managed hooks off all the same.
    pub(super) hole: Option<fn(&Stage) -> String>,
}

impl Agent {
    pub(super) fn name(&self) -> &'static str {
        self.connector.as_str()
    }

    /// Why it cannot be run on this machine.
    pub(super) fn elsewhere(&self) -> Option<String> {
        let native = matches!(self.connector, Connector::OpenCode | Connector::OpenClaw);
        (native && !cfg!(target_arch = "x86_64"))
            .then(|| format!("the lock file of {} is for x86-64", self.package.name))
    }
}

fn json(text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("the agent printed no JSON: {text:?}"))
}

/// The text at a place of a JSON value.
fn text_at(value: &Value, pointer: &str) -> Result<String> {
    let text = value.pointer(pointer).and_then(Value::as_str);
    Ok(text.with_context(|| format!("no text at {pointer} of {value}"))?.to_owned())
}
