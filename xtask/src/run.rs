//! `cargo xtask run -- CMD`: from a fresh checkout to a watched command and its report.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};

use crate::setup::{self, Purpose};
use crate::{build_ebpf, process, workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Report at the end: text, json or none
    #[arg(long)]
    report: Option<OsString>,
    /// Database of the audit
    #[arg(long)]
    db: Option<PathBuf>,
    /// Command to watch, with its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(crate) fn perform(arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure(&[Purpose::Build, Purpose::Run])?;
    build_binary()?;
    // The watched command is looked up in the caller's PATH and works in the caller's home.
    let environment = ["PATH", "HOME"].map(|name| (name, std::env::var_os(name).unwrap_or_default()));
    let mut command = process::as_root(workspace::release_binary("defenseclaw"), &environment)?;
    command.arg("run");
    if let Some(report) = &arguments.report {
        command.arg("--report").arg(report);
    }
    if let Some(database) = &arguments.db {
        command.arg("--db").arg(database);
    }
    command.arg("--").args(&arguments.command);
    // Taking our place leaves terminal, signals and exit code to the command itself.
    let error = command.exec();
    Err(error).with_context(|| format!("cannot start {}", process::describe(&command)))
}

/// Builds the object and the `defenseclaw` that carries it.
pub(crate) fn build_binary() -> Result<()> {
    build_ebpf::build(None)?;
    process::execute(&mut process::cargo(&["build", "--quiet", "--release", "--package=defenseclaw"]))
}
