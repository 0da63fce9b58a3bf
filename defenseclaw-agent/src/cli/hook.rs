//! `defenseclaw hook`: the command in agents' configuration. Its arguments are read by `hook` itself, before and instead
//! of everything else; what is here is for the help.

use std::{ffi::OsString, process::ExitCode};

use super::output;
use crate::hook;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Whose hook it is, then --socket PATH, --fail open|closed, --timeout-ms N
    #[arg(value_name = "CONNECTOR", trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Answers one hook.
pub fn run(args: &Args) -> ExitCode {
    output::verbatim(&hook::answer(&args.arguments))
}

/// The same, for a command line that plainly asks for it: agents wait for each hook.
pub(super) fn at_once(args: &[OsString]) -> Option<ExitCode> {
    let (command, rest) = args.get(1..)?.split_first()?;
    let plain =
        command == "hook" && rest.first().is_some_and(|word| !word.to_string_lossy().starts_with('-'));
    plain.then(|| output::verbatim(&hook::answer(rest)))
}
