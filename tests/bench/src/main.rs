//! `suite-bench`: what watching costs. `cargo xtask bench` builds it and runs it in the right places.
//!
//! `icount` runs inside a virtual machine whose clock counts instructions, `judge` compares its results with the
//! committed table, `host` measures wall time on this machine, `hook` what an agent waits for an answer, `replay` feeds captured records to the agent's own
//! stages. Each prints JSON on standard output and words on standard error. Nothing here is a test: tests never time.
#![expect(clippy::print_stdout, reason = "results are what this program is for")]
#![expect(clippy::print_stderr, reason = "and a person reads along")]
#![expect(clippy::disallowed_methods, reason = "workloads are processes")]

mod hook;
mod host;
mod icount;
mod replay;
mod statistics;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "suite-bench", about = "What watching costs")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Count instructions per operation; to be run in a guest started with `-icount`
    Icount,
    /// The operations themselves, in a process of their own
    #[command(hide = true)]
    IcountWorker,
    /// Compare results of `icount` with the committed table
    Judge(icount::Judge),
    /// Compare work on this host with and without watching
    Host(host::Arguments),
    /// Replay captured records through the agent's stages
    Replay(replay::Arguments),
    /// Ask the daemon as agents do, one after the other and many at once
    Hook(hook::Arguments),
    /// The work of `host`
    #[command(hide = true)]
    Work(host::Work),
    /// The watcher of `host`
    #[command(hide = true)]
    Watched(host::Watched),
    /// One replay
    #[command(hide = true)]
    Stages(replay::Stages),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Icount => icount::measure().map(|()| ExitCode::SUCCESS),
        Task::IcountWorker => icount::work().map(|()| ExitCode::SUCCESS),
        Task::Judge(arguments) => icount::judge(&arguments),
        Task::Host(arguments) => host::measure(&arguments),
        Task::Replay(arguments) => replay::measure(&arguments),
        Task::Hook(arguments) => hook::measure(&arguments),
        Task::Work(arguments) => host::work(&arguments),
        Task::Watched(arguments) => host::watch(&arguments),
        Task::Stages(arguments) => replay::stages(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}
