//! `defenseclaw daemon`: answers hooks until it is told to stop.

use std::{path::PathBuf, process::ExitCode};

use crate::runtime;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its configuration [default: /etc/defenseclaw/config.yaml for root, otherwise ~/.defenseclaw/config.yaml]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
}

/// Runs it.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    runtime::daemon(args.config.as_deref())?;
    Ok(ExitCode::SUCCESS)
}
