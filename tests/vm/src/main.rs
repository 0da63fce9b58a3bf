//! The privileged suite: real programs do things in front of a real kernel, and what `defenseclaw` recorded is compared
//! with what those programs know themselves. Needs root and x86_64; it holds no product code.
//!
//! `suite-vm [--level lsm|tracepoint] [libtest arguments]` runs the suite. The other commands are the programs it watches.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::cast_lossless,
    clippy::let_underscore_must_use,
    reason = "a suite: a broken assumption ends the trial with its place, and system calls mix integer types"
)]

mod check;
mod network;
mod oracle;
mod pause;
mod policy;
mod programs;
mod provoke;
mod runs;
mod sys;
mod truth;

use std::{
    env,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::Path,
    process::ExitCode,
};

fn main() -> ExitCode {
    let all: Vec<OsString> = env::args_os().collect();
    // A provocation starts this program without any argument, for which the kernel puts in an empty one.
    if all.first().is_none_or(|name| name.is_empty()) {
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<&OsStr> = all.iter().skip(1).map(OsString::as_os_str).collect();
    match arguments.split_first() {
        Some((command, rest)) if *command == "provoke" && !rest.is_empty() => {
            let cases: Vec<String> =
                rest[1..].iter().map(|name| name.to_string_lossy().into_owned()).collect();
            provoke::main(Path::new(rest[0]), &cases)
        }
        Some((command, rest)) if programs::is_program(command.as_bytes()) => {
            let rest: Vec<&[u8]> = rest.iter().map(|argument| argument.as_bytes()).collect();
            programs::main(command.as_bytes(), &rest)
        }
        _ => check::main(&all),
    }
}
