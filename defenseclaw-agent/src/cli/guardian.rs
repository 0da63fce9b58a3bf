//! `defenseclaw guardian`: started by `run` where the kernel pauses processes, and by nobody else.

use std::process::ExitCode;

use crate::{model::SessionId, runtime};

/// Arguments of `guardian`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose pauses
    session: SessionId,
    /// Take the programs off afterwards
    #[arg(long)]
    release: bool,
}

/// Runs it.
pub fn run(args: &Args) -> ExitCode {
    runtime::guard(args.session, args.release, std::io::stdin());
    ExitCode::SUCCESS
}
