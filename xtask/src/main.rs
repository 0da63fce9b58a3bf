//! `cargo xtask`: every task of this workspace that is more than a plain cargo command.
//!
//! This file lists the subcommands and turns errors into an exit code; the work is in one module per subcommand.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a task runner talks to a person")]
#![expect(clippy::disallowed_methods, reason = "a task runner starts processes")]

mod bench;
mod bpf_toolchain;
mod build_ebpf;
mod process;
mod progress;
mod run;
mod setup;
mod suites;
mod tidy;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Tasks of the DefenseClaw workspace")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Find what this machine lacks and install it
    Setup(setup::Arguments),
    /// Build the kernel side to target/bpf/defenseclaw.bpf.o
    BuildEbpf(build_ebpf::Arguments),
    /// Build everything and run a command under watch
    Run(run::Arguments),
    /// Run a command in a virtual machine
    Vm(vm::Arguments),
    /// Measure what watching costs
    Bench(bench::Arguments),
    /// Run the test suites
    Test(suites::Arguments),
    /// Check the rules of the source tree
    Tidy,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Codes of the watched command or of the guest pass through; our own failure keeps out of their way.
    let failure = match arguments.task {
        Task::Run(_) | Task::Vm(_) => 125,
        Task::Setup(_) | Task::BuildEbpf(_) | Task::Bench(_) | Task::Test(_) | Task::Tidy => 2,
    };
    perform(arguments.task).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(failure)
    })
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Setup(arguments) => setup::perform(&arguments),
        Task::BuildEbpf(arguments) => build_ebpf::perform(arguments),
        Task::Run(arguments) => run::perform(&arguments),
        Task::Vm(arguments) => vm::perform(&arguments),
        Task::Bench(arguments) => bench::perform(&arguments),
        Task::Test(arguments) => Ok(suites::perform(&arguments)),
        Task::Tidy => tidy::perform(),
    }
}
