//! The bypass suite: every known technique to get around a policy, performed for real inside an enrolled tree, on an
//! object that policy protects, on its allowed twin, and once more by a process tree that is not enrolled.
//!
//! `suite-bypass [--level lsm|tracepoint] [--unconfined] [libtest arguments]` runs the suite; the other commands are the
//! processes it consists of. `catalogue.json` says what is expected of each technique; cases never look at it.
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

mod arena;
mod cases;
mod catalogue;
mod driver;
mod elf;
mod proof;
mod sys;

use std::{
    env,
    ffi::{OsStr, OsString},
    path::Path,
    process::ExitCode,
};

fn main() -> ExitCode {
    let all: Vec<OsString> = env::args_os().collect();
    let arguments: Vec<&OsStr> = all.iter().skip(1).map(OsString::as_os_str).collect();
    match arguments[..] {
        // One attempt of one technique, in a process of its own.
        [command, target] if command == "case" => cases::main(target),
        // All attempts of one tree, one after the other.
        [command, arena, tree] if command == "drive" => driver::main(Path::new(arena), tree),
        // A process that is attacked.
        [command, directory] if command == "victim" => arena::victim::main(Path::new(directory)),
        // What an executable with a good reason to read a file does.
        [command, path] if command == "read" => cases::print(Path::new(path)),
        // An executable with a good reason that starts another one.
        [command, program, path] if command == "start" => cases::start(program, path),
        _ => proof::main(&all),
    }
}
