//! What the suite knows of each agent: one file a client, all of it data and pure functions.

mod claude_code;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::Result;

use crate::{endpoint::Protocol, scene::Scene, script::Call};

/// Every client that is tested.
pub(crate) const ALL: &[&Client] = &[&claude_code::CLAUDE_CODE];

/// A coding agent that npm installs and that a scripted model can drive.
#[derive(Debug)]
pub(crate) struct Client {
    /// In test names and folders.
    pub(crate) name: &'static str,
    /// Pinned: what is asserted was observed on this one.
    pub(crate) version: &'static str,
    /// `package.json` that asks for it.
    pub(crate) manifest: &'static str,
    /// `package-lock.json` with the hashes of what npm may install.
    pub(crate) lock: &'static str,
    /// Its executable below the folder it was installed to.
    pub(crate) executable: fn(&Path) -> Result<PathBuf>,
    /// How it speaks to its model.
    pub(crate) protocol: Protocol,
    /// Arguments for one run without a terminal.
    pub(crate) arguments: fn(prompt: &str) -> Vec<OsString>,
    /// What it needs in its otherwise empty environment, beside `HOME`, `PATH` and `TMPDIR`.
    pub(crate) environment: fn(url: &str, scene: &Scene) -> Vec<(&'static str, OsString)>,
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
