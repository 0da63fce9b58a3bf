//! What an agent runs at each event: hands its input to the daemon and says what comes back. Holds no policy, reads no
//! configuration and starts no runtime; socket, fail mode and deadline are in its arguments, where `connector install`
//! has put them. Whatever goes wrong is answered by the fail mode, in time and in the agent's words, and told to the daemon
//! when there is one again.

mod arguments;
mod exchange;
mod spool;

use std::{
    ffi::OsString,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use nix::unistd::geteuid;

use crate::{connectors, model::HookOutput};
pub use arguments::{Arguments, EXIT_USAGE, TIMEOUT};
pub use exchange::{Failure, ask, read_input};

/// Left of the deadline for saying what the fail mode says.
const MARGIN: Duration = Duration::from_millis(5);

/// Answers one hook. The arguments are those behind `hook`.
pub fn answer(arguments: &[OsString]) -> HookOutput {
    let started = Instant::now();
    let arguments = match Arguments::read(arguments, |name| std::env::var_os(name), geteuid().is_root()) {
        Ok(arguments) => arguments,
        // Nobody knows in whose words to answer. This code lets tools run and is shown as a failure by every agent.
        Err(why) => {
            let stderr = format!("defenseclaw hook: {why}\n").into_bytes();
            return HookOutput { stderr, exit_code: EXIT_USAGE, ..HookOutput::default() };
        }
    };
    let deadline = started + arguments.timeout.saturating_sub(MARGIN);
    let held_until = deadline.max(started + arguments.hold.saturating_sub(MARGIN));
    let mut input = Vec::new();
    let asked = catch_unwind(AssertUnwindSafe(|| {
        read_input(&mut input, deadline)?;
        match &arguments.wrong {
            Some(wrong) => Err(Failure::Arguments { wrong: wrong.clone() }),
            None => ask(&arguments.socket, arguments.connector, &input, deadline, held_until),
        }
    }));
    match asked.unwrap_or(Err(Failure::Panicked)) {
        Ok(output) => {
            // The answer is there: nothing about what was missed may spoil it.
            drop(catch_unwind(AssertUnwindSafe(|| spool::tell(&arguments.socket, held_until))));
            output
        }
        Err(failure) => {
            drop(catch_unwind(AssertUnwindSafe(|| spool::keep(&arguments, failure.word(), &input))));
            let why = format!("DefenseClaw gave no answer: {failure}");
            connectors::fail(arguments.connector, arguments.fail, &input, &why)
        }
    }
}
