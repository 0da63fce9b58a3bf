//! A run without root: Landlock alone confines the command, and nothing of what it does is seen. The audit gets the
//! session, what held it back, and how it ended.

use std::os::fd::AsFd;

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    begin::{self, Beginning},
    clock,
    confine::Confinement,
    handed,
    policy::Compiled,
    run::{RunError, RunOptions, RunOutcome, RunStats, not_stored},
};
use crate::{
    launcher::{self, LaunchOptions, Running, Signals, Step},
    model::{ExitStatus, Level, Protection},
    pipeline::{self, Effect, Input, State},
    store::Writer,
};

/// Runs and confines. Ends with the command: what its children do after it is not known.
pub(super) fn run(
    options: &RunOptions,
    confinement: &Confinement,
    compiled: &Compiled,
) -> Result<RunOutcome, RunError> {
    let beginning = Beginning::new()?;
    let session = beginning.session;
    let writer = beginning.writer(options)?;
    let launch = LaunchOptions { command: options.command.clone(), session, user: None };
    let prepared = launcher::prepare_in(&launch, confinement.domain())?;
    let mut protection = Protection {
        level: Level::None,
        level_reason: "not root".to_owned(),
        capabilities: Vec::new(),
        table: Vec::new(),
        rules: Vec::new(),
    };
    confinement.describe(&prepared, &mut protection);
    confinement.check(&protection.rules)?;
    let handed = handed::withhold(&prepared, compiled)?;
    let root = begin::root(&prepared);
    let start = beginning.start(options, &prepared, protection);
    let mut record = Record { writer, state: State::new() };
    record.step(Input::Started(Box::new(start)))?;
    // If we are killed, the audit at least says what was being run.
    record.writer.flush()?;

    let ended = prepared.release().map_err(RunError::from).and_then(|mut running| {
        let status = until_the_end(&mut running, &beginning.signals, &record.writer)?;
        running.finish();
        Ok(status)
    });
    match &ended {
        Ok(status) => {
            record.step(Input::MainExited { session, status: *status })?;
            record.step(Input::Gone(root))?;
        }
        Err(error) => record.step(Input::NotStarted { session, errno: errno(error) })?,
    }
    record.step(Input::Stop)?;
    let written = record.writer.close()?;
    let status = ended?;
    let mut warnings = confinement.warnings();
    warnings.extend(handed.iter().filter_map(|handed| handed.warning(compiled)));
    warnings.extend(not_stored(written.lost, written.last_error.as_ref()));
    let stats = RunStats { stored: written.rows, store_error: written.lost, ..RunStats::default() };
    Ok(RunOutcome { session, status: Some(status), stats, warnings })
}

fn errno(error: &RunError) -> i32 {
    if let RunError::Launch(error) = error { error.errno() } else { 0 }
}

struct Record {
    writer: Writer,
    state: State,
}

impl Record {
    fn step(&mut self, input: Input) -> Result<(), RunError> {
        let mut effects = Vec::new();
        pipeline::step(&mut self.state, input, clock::boot_now(), &mut effects);
        let rows = effects.into_iter().filter_map(|effect| match effect {
            Effect::Store(record) => Some(record),
            Effect::TreeEnded { .. }
            | Effect::Kill(_)
            | Effect::Settle { .. }
            | Effect::Ungrant(_)
            | Effect::Notify(..)
            | Effect::Answered { .. }
            | Effect::Label { .. } => None,
        });
        let rows: Vec<_> = rows.collect();
        if rows.is_empty() { Ok(()) } else { Ok(self.writer.append(rows)?) }
    }
}

fn until_the_end(running: &mut Running, signals: &Signals, writer: &Writer) -> Result<ExitStatus, RunError> {
    loop {
        match running.step(signals)? {
            Step::Ended(status) => return Ok(status),
            Step::Stop => {
                writer.flush()?;
                running.stop_along();
            }
            Step::Idle => {
                let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
                match poll(&mut fds, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(RunError::system("wait for signals")(errno.into())),
                }
            }
            // It comes only after the end.
            Step::Asked(_) | Step::Hangup => {}
        }
    }
}
