//! `cargo xtask bench`: builds the benchmark and runs it where its numbers mean something.
//!
//! What is measured and judged is in the package `suite-bench`; here is only where it runs.

mod icount;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;

use crate::setup::{self, Purpose};
use crate::{build_ebpf, process, vm, workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What to measure; the default is everything
    #[arg(value_enum)]
    what: Vec<What>,
    /// Fail where a budget is missed or a cost has grown
    #[arg(long)]
    check: bool,
    /// Write the instruction counts to the committed table
    #[arg(long, conflicts_with = "check")]
    update: bool,
    /// Kernels of `icount`; the default is all of them
    #[arg(long, value_name = "KERNEL")]
    kernel: Vec<vm::Kernel>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Instructions per operation, in virtual machines; repeats to the digit
    Icount,
    /// Wall time of real work on this host, as root
    Host,
    /// Events per second through decoding, tree and store
    Replay,
    /// Answers to hooks, on this host
    Hook,
}

pub(crate) fn perform(arguments: &Arguments) -> Result<ExitCode> {
    let wanted = |what| arguments.what.is_empty() || arguments.what.contains(&what);
    setup::ensure(&[Purpose::Build])?;
    build_ebpf::build(None)?;
    process::execute(&mut process::cargo(&[
        "build",
        "--quiet",
        "--release",
        "--package=suite-bench",
        "--package=defenseclaw",
    ]))?;

    let mut missed = false;
    if wanted(What::Icount) {
        setup::ensure(&[Purpose::Vm])?;
        missed |= !icount::perform(arguments)?;
    }
    for (what, name) in [(What::Host, "host"), (What::Replay, "replay"), (What::Hook, "hook")] {
        if wanted(what) {
            missed |= !here(name, arguments.check)?;
        }
    }
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn binary() -> PathBuf {
    workspace::release_binary("suite-bench")
}

/// Runs one part on this host, as root.
fn here(name: &str, check: bool) -> Result<bool> {
    let mut command = process::as_root(binary(), &[])?;
    command.arg(name);
    if check {
        command.arg("--check");
    }
    Ok(command.status()?.success())
}
