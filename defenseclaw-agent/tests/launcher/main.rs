//! The launcher room, with real processes and real terminals. This binary is also the programs under test: see
//! `programs`. Each test starts it as a watcher and looks at what the command, or the shell around it, can see.
#![expect(clippy::disallowed_methods, reason = "these tests start processes")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the whole binary is a test, which clippy cannot see without `#[test]`"
)]

mod attempts;
mod cgroups;
mod confined;
mod harness;
mod jobs;
mod passthrough;
mod programs;
mod rootless;
mod signals;
mod terminal;

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    if let Some((program, rest)) = args.split_first()
        && let Some(code) = programs::run(program, rest)
    {
        return code;
    }
    let suites = [
        passthrough::trials(),
        signals::trials(),
        jobs::trials(),
        cgroups::trials(),
        confined::trials(),
        rootless::trials(),
    ];
    libtest_mimic::run(&Arguments::from_args(), suites.into_iter().flatten().collect()).exit_code()
}
