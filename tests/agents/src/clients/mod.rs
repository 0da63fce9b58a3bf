//! What the suite knows of each agent: one file a client, all of it data and pure functions.

mod claude_code;
pub(crate) mod codex;

use std::{ffi::OsString, path::Path};

use anyhow::Result;

use crate::{endpoint::Protocol, install::Package, script::Call};
pub(crate) use claude_code::{
    PACKAGE as CLAUDE_CODE_PACKAGE, arguments as claude_code_arguments,
    environment as claude_code_environment,
};

/// Every client that is tested.
pub(crate) const ALL: &[&Client] = &[&claude_code::CLAUDE_CODE];

/// A coding agent that npm installs and that a scripted model can drive.
#[derive(Debug)]
pub(crate) struct Client {
    /// What npm installs.
    pub(crate) package: Package,
    /// How it speaks to its model.
    pub(crate) protocol: Protocol,
    /// Arguments for one run without a terminal.
    pub(crate) arguments: fn(prompt: &str) -> Vec<OsString>,
    /// What it needs in its otherwise empty environment, beside `HOME`, `PATH` and `TMPDIR`.
    pub(crate) environment: fn(url: &str, scratch: &Path) -> Vec<(&'static str, OsString)>,
    /// The call that runs a shell command.
    pub(crate) shell: fn(command: &str) -> Call,
    /// The call that makes a file.
    pub(crate) write: fn(path: &Path, content: &str) -> Call,
    /// The call that reads a file.
    pub(crate) read: fn(path: &Path) -> Call,
    /// The part of the shell's arguments that carries a command, as this client quotes it.
    pub(crate) quoted: fn(command: &str) -> String,
    /// Start of the name of the file that `write` makes first and then renames to the name it was given.
    pub(crate) temporary: fn(name: &str, agent_pid: u32) -> String,
    /// The variable by which its tools know the session.
    pub(crate) session_variable: &'static str,
    /// Reads what it printed.
    pub(crate) answer: fn(stdout: &[u8]) -> Result<Answer>,
}

/// What a client printed at the end of a run.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The model's last words.
    pub(crate) text: String,
    /// The client's own name for the session.
    pub(crate) session: String,
}
