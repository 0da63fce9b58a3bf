//! A run without root: Landlock alone confines the command, and nothing of what it does is seen. The audit gets the
//! session, what held it back, and how it ended.

use std::os::fd::AsFd;

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    clock,
    confine::Confinement,
    handed::{self, Handed},
    host,
    policy::Compiled,
    run::{RunError, RunOptions, RunOutcome, RunStats, home, random},
};
use crate::{
    launcher::{self, LaunchError, LaunchOptions, Running, Signals, Step},
    model::{ExitStatus, Level, ProcessKey, Protection, SessionId, SessionStart},
    pipeline::{self, Effect, Input, State},
    store::{Writer, WriterOptions},
};

/// Runs and confines. Ends with the command: what its children do after it is not known.
pub(super) fn run(
    options: &RunOptions,
    confinement: &Confinement,
    compiled: &Compiled,
) -> Result<RunOutcome, RunError> {
    let signals = Signals::block()?;
    let boot_id = clock::boot_id().map_err(RunError::system("read the boot id"))?;
    let (wall, boot) = (clock::wall_now(), clock::boot_now());
    let session = SessionId::new(wall, random());
    let writer = Writer::open(
        &options.database,
        &WriterOptions {
            create_parent: options.default_database,
            ..WriterOptions::new(boot, wall, boot_id.clone())
        },
    )?;
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
    let handed = handed::find(prepared.pid(), compiled);
    for descriptor in Handed::withheld(&handed, compiled)? {
        prepared.withhold(descriptor)?;
    }
    let host = host::host();
    let root = ProcessKey {
        tgid: u32::try_from(prepared.pid()).unwrap_or(0),
        start_ns: prepared.start_ticks() * 10_000_000,
    };
    let start = SessionStart {
        session,
        wall: clock::wall_now(),
        boot: clock::boot_now(),
        boot_id,
        root,
        command: options.command.iter().cloned().map(host::text).collect(),
        project: host::project(),
        home: home(options),
        host: host.name,
        kernel: host.kernel,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protection,
    };
    let mut record = Record { writer, state: State::new() };
    record.step(Input::Started(Box::new(start)))?;
    // If we are killed, the audit at least says what was being run.
    record.writer.flush()?;

    let ended = prepared.release().map_err(RunError::from).and_then(|mut running| {
        let status = until_the_end(&mut running, &signals, &record.writer)?;
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
    if let (1.., Some(error)) = (written.lost, &written.last_error) {
        warnings.push(format!("{} rows could not be stored: {error}", written.lost));
    }
    let stats = RunStats { stored: written.rows, store_error: written.lost, ..RunStats::default() };
    Ok(RunOutcome { session, status: Some(status), stats, warnings })
}

fn errno(error: &RunError) -> i32 {
    if let RunError::Launch(LaunchError::Exec { errno, .. } | LaunchError::BecomeUser { errno, .. }) = error {
        *errno as i32
    } else {
        0
    }
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
            Effect::TreeEnded { .. } => None,
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
