//! The command line: arguments in, one command run, one exit code out. One file per command; each turns its
//! arguments into calls of other rooms and words for `output`, the only file that prints.

pub mod adopt;
pub mod approvals;
pub mod audit;
pub mod config;
pub mod connector;
pub mod daemon;
pub mod describe;
pub mod doctor;
mod error;
pub mod events;
pub mod explain;
pub mod findings;
pub mod grants;
pub mod guardian;
pub mod hook;
pub mod output;
pub mod policy;
pub mod render;
pub mod report;
pub mod run;
pub mod sessions;
mod source;
pub mod status;
pub mod top;
pub mod tree;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{config::Settings, telemetry};
use output::Out;

/// The answer is no: a broken audit, a failed test.
pub const NEGATIVE: u8 = 1;
/// The command could not do its work.
pub const ERROR: u8 = 2;

/// Watches what AI coding agents really do, and keeps a record that shows whether it was changed.
#[derive(Debug, Parser)]
#[command(name = "defenseclaw", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 success, 1 the answer is no, 2 error.")]
struct Cli {
    /// Audit database [default: $DEFENSECLAW_DB, or this user's own]
    #[arg(long, global = true, value_name = "PATH")]
    db: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

/// One variant per command, in the order of the help.
#[derive(Debug, Subcommand)]
enum Command {
    /// Run a command under watch, then report what it did
    Run(run::Args),
    /// Go on with a session whose watcher is gone, or list those there are
    Adopt(adopt::Args),
    /// Take the programs of such a session off, whoever still runs under them
    Release(adopt::ReleaseArgs),
    /// Report what a recorded session did
    Report(report::Args),
    /// Say how the daemon is: what it watches, what it answers, what is missing
    Status(status::Args),
    /// Watch sessions, questions and findings on the whole screen, and answer the questions
    Top(top::Args),
    /// Print what a session announced and did: prompts, tool calls, processes, files and network
    Tree(tree::Args),
    /// Say why an event was given to a tool call, or to none, and what a tool call rests on
    Explain(explain::Args),
    /// List what is worth a look: what agents did without saying so, and other than they said
    Findings(findings::Args),
    /// See what agents wait for, and answer it
    #[command(subcommand)]
    Approvals(approvals::Command),
    /// See what answers permit from then on, and take it back
    Grants(grants::Args),
    /// List the recorded sessions, oldest first
    Sessions(sessions::Args),
    /// Print recorded events
    Events(events::Args),
    /// Look after the audit itself
    #[command(subcommand)]
    Audit(audit::Command),
    /// Check, explain, test and compare policies
    #[command(subcommand)]
    Policy(policy::Command),
    /// Check and show the daemon's configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Install our hook into agents, and look after it
    #[command(subcommand)]
    Connector(connector::Command),
    /// Watch agents and answer their hooks, until told to stop
    Daemon(daemon::Args),
    /// Ask the daemon about one event of an agent: what agents run
    Hook(hook::Args),
    /// Settle what a killed `run` has paused
    #[command(hide = true)]
    Guardian(guardian::Args),
    /// Say what this machine lets us see, and what to do about the rest
    Doctor(doctor::Args),
}

impl Command {
    fn run(self, settings: &Settings, out: &mut Out) -> anyhow::Result<ExitCode> {
        match self {
            Self::Run(args) => run::run(&args, settings, out),
            Self::Adopt(args) => adopt::adopt(&args, out),
            Self::Release(args) => adopt::release(&args),
            Self::Report(args) => report::run(&args, settings, out),
            Self::Tree(args) => tree::run(&args, settings, out),
            Self::Explain(args) => explain::run(&args, settings, out),
            Self::Findings(args) => findings::run(&args, settings, out),
            Self::Approvals(command) => approvals::run(&command, out),
            Self::Guardian(args) => Ok(guardian::run(&args)),
            Self::Grants(args) => grants::run(&args, out),
            Self::Doctor(args) => doctor::run(&args, settings, out),
            Self::Status(args) => status::run(&args, out),
            Self::Top(args) => top::run(&args),
            Self::Sessions(args) => sessions::run(&args, settings, out),
            Self::Events(args) => events::run(&args, settings, out),
            Self::Policy(command) => policy::run(&command, None, out),
            Self::Daemon(args) => daemon::run(&args),
            Self::Hook(args) => Ok(hook::run(&args)),
            Self::Config(command) => config::run(&command, out),
            Self::Connector(command) => connector::run(&command, out),
            Self::Audit(command) => audit::run(&command, settings, out),
        }
    }
}

/// Runs the command that `args` (with the program's name first) asks for.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(code) = hook::at_once(&args) {
        return code;
    }
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(err) => return output::usage(&err),
    };
    telemetry::log_to_stderr();
    let mut out = Out::stdout();
    let done = Settings::new(cli.db)
        .map_err(anyhow::Error::from)
        .and_then(|settings| cli.command.run(&settings, &mut out))
        .and_then(|code| Ok(out.flush().map(|()| code)?));
    match done {
        Ok(code) => code,
        // Whoever read our output has seen enough.
        Err(err) if error::is_broken_pipe(&err) => ExitCode::SUCCESS,
        Err(err) => {
            output::error(&err, error::hint(&err));
            ExitCode::from(error::exit_code(&err))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_well_formed() {
        super::Cli::command().debug_assert();
    }
}
