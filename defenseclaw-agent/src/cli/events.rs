//! `defenseclaw events`: the rows of the audit, as lines for a person or as JSON, once or as they come.

use std::{collections::HashMap, ops::ControlFlow, process::ExitCode};

use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::{
    describe,
    output::{self, Out},
    source::Source,
};
use crate::{
    config::Settings,
    model::{AuditRecord, BootTime, Correlation, EventKind, PolicyAction, SessionId},
    store::{Filter, Stored},
};

/// Arguments.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Args {
    /// Only of this session: its id, the beginning of it, or `last`
    #[arg(long, value_name = "SESSION")]
    session: Option<String>,
    /// Only of this kind; may be given several times
    #[arg(long = "kind", value_name = "KIND", value_parser = kind_parser(), hide_possible_values = true)]
    kinds: Vec<EventKind>,
    /// Only about paths that match; `*` stays within a directory, `**` does not
    #[arg(long, value_name = "GLOB")]
    path: Option<String>,
    /// Only what policy blocked
    #[arg(long)]
    blocked: bool,
    /// Only what went through although policy has something to say of it; with --blocked, both
    #[arg(long)]
    alerts: bool,
    /// Go on with what is recorded from now on, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    /// Stop after this many
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

fn kind_parser() -> impl TypedValueParser<Value = EventKind> {
    // The parser lets names of kinds through only, so the first kind is never taken for another one.
    PossibleValuesParser::new(EventKind::ALL.iter().map(|kind| kind.as_str()))
        .map(|name| EventKind::from_name(&name).unwrap_or(EventKind::ProcessFork))
}

/// Runs it.
pub fn run(args: &Args, settings: &Settings, out: &mut Out) -> anyhow::Result<ExitCode> {
    let source = Source::open(settings)?;
    let session = args.session.as_deref().map(|name| source.resolve_session(name)).transpose()?;
    let mut filter = Filter {
        session,
        kinds: args.kinds.clone(),
        blocked: args.blocked,
        alerts: args.alerts,
        ..Filter::default()
    };
    if let Some(pattern) = &args.path {
        filter = filter.with_path(pattern)?;
    }
    let pause = if args.follow { Some(follow::Pause::new()?) } else { None };
    let mut lines = Lines { json: args.json, one_session: session.is_some(), begins: HashMap::new() };
    let mut after = 0;
    let mut left = args.limit.unwrap_or(u64::MAX);
    loop {
        after = source.records(&filter, after, left, |stored| {
            lines.print(&source, &stored, out)?;
            left -= 1;
            // Between two rows there is always time to be told to stop.
            let stop = pause.as_ref().map(follow::Pause::is_over).transpose()?;
            Ok::<_, anyhow::Error>(if stop == Some(true) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        out.flush()?;
        match &pause {
            Some(pause) if left > 0 && !pause.wait()? => {}
            _ => return Ok(ExitCode::SUCCESS),
        }
    }
}

struct Lines {
    json: bool,
    /// Then lines need not name it.
    one_session: bool,
    /// When each session began, as far as the audit knows.
    begins: HashMap<SessionId, Option<BootTime>>,
}

impl Lines {
    fn print(&mut self, source: &Source, stored: &Stored, out: &mut Out) -> anyhow::Result<()> {
        if self.json {
            return Ok(out.json(stored)?);
        }
        let (session, time, pid, kind) = match &stored.record {
            AuditRecord::SessionStart(start) => {
                self.begins.insert(start.session, Some(start.boot));
                (Some(start.session), start.boot, start.root.tgid, "session_start")
            }
            AuditRecord::Event(event) => {
                (Some(event.session), event.time, event.process.tgid, event.kind().as_str())
            }
            AuditRecord::PolicyLoaded(policy) => (Some(policy.session), policy.boot, 0, "policy_loaded"),
            AuditRecord::PolicyRefused(policy) => (Some(policy.session), policy.boot, 0, "policy_refused"),
            AuditRecord::Posture(change) => (Some(change.session), change.boot, 0, "posture"),
            AuditRecord::Handover(change) => (Some(change.session), change.boot, 0, "handover"),
            AuditRecord::Hook(call) => (call.session, call.boot, call.caller.pid, "hook"),
            AuditRecord::Correlated(row) => {
                (Some(row.session), row.boot, row.process.map_or(0, |process| process.tgid), "correlated")
            }
            AuditRecord::Finding(row) => {
                (Some(row.session), row.boot, row.process.map_or(0, |process| process.tgid), "finding")
            }
            AuditRecord::Asked(approval) => (approval.session, approval.since, 0, "asked"),
            AuditRecord::Settled(settled) => (settled.session, settled.boot, 0, "settled"),
            AuditRecord::Granted(grant) => (grant.session, grant.since, 0, "granted"),
            AuditRecord::GrantEnded(ended) => (ended.session, ended.boot, 0, "grant_ended"),
            AuditRecord::Loss(loss) => (loss.session, loss.last, 0, "loss"),
            AuditRecord::SessionEnd(end) => (Some(end.session), end.boot, 0, "session_end"),
        };
        let begin = match session {
            Some(session) => self.begin(source, session)?,
            None => None,
        };
        let offset = begin.map_or_else(|| "-".to_owned(), |begin| offset(begin, time));
        let pid = if pid == 0 { "-".to_owned() } else { pid.to_string() };
        let mut line = format!("{offset:>9} {pid:>7} {kind:<14} ");
        if !self.one_session {
            let session = session.map_or_else(|| "-".to_owned(), |session| session.to_string());
            line.insert_str(0, &format!("{session:<16} "));
        }
        let what = describe::record(&stored.record);
        match out.width().map(|width| width.saturating_sub(output::columns(&line))) {
            // Too narrow for a sensible line: let the terminal wrap it.
            Some(room) if room >= 20 => line.push_str(&output::shorten(&what, room)),
            _ => line.push_str(&what),
        }
        match &stored.record {
            AuditRecord::Loss(_) | AuditRecord::PolicyRefused(_) | AuditRecord::Finding(_) => {
                line = output::bad(&line);
            }
            AuditRecord::Correlated(row) => {
                if row.correlation == Correlation::Conflict {
                    line = output::bad(&line);
                }
            }
            AuditRecord::SessionStart(_)
            | AuditRecord::PolicyLoaded(_)
            | AuditRecord::Posture(_)
            | AuditRecord::Handover(_)
            | AuditRecord::Asked(_)
            | AuditRecord::Settled(_)
            | AuditRecord::Granted(_)
            | AuditRecord::GrantEnded(_)
            | AuditRecord::SessionEnd(_) => line = output::strong(&line),
            AuditRecord::Event(event) => {
                if event.policy_action() == Some(PolicyAction::Block) {
                    line = output::bad(&line);
                }
            }
            AuditRecord::Hook(call) => {
                if call.answer.action == PolicyAction::Block {
                    line = output::bad(&line);
                }
            }
        }
        Ok(out.line(&line)?)
    }

    fn begin(&mut self, source: &Source, session: SessionId) -> anyhow::Result<Option<BootTime>> {
        if let Some(begin) = self.begins.get(&session) {
            return Ok(*begin);
        }
        let begin = source.session_start(session)?.map(|start| start.boot);
        self.begins.insert(session, begin);
        Ok(begin)
    }
}

/// Seconds and milliseconds since the session began. What was under way when it began can be a little earlier.
fn offset(begin: BootTime, time: BootTime) -> String {
    let (sign, nanos) = match time.0.checked_sub(begin.0) {
        Some(nanos) => ("", nanos),
        None => ("-", begin.0 - time.0),
    };
    let millis = nanos / 1_000_000;
    format!("{sign}{}.{:03}", millis / 1000, millis % 1000)
}

mod follow {
    //! Waiting for more: until SIGINT or SIGTERM, or until nobody reads our output any more.

    use std::{io, os::fd::AsFd};

    use nix::{
        errno::Errno,
        poll::{PollFd, PollFlags, poll},
        sys::{
            signal::{SigSet, Signal},
            signalfd::{SfdFlags, SignalFd},
        },
    };

    /// How often the audit is asked for new rows, in milliseconds.
    const INTERVAL: u8 = 100;

    pub(super) struct Pause(SignalFd);

    impl Pause {
        /// From now on the two signals no longer end the process by themselves.
        pub(super) fn new() -> io::Result<Self> {
            let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
            signals.thread_block()?;
            Ok(Self(SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?))
        }

        /// Waits a moment; true if it is time to end.
        pub(super) fn wait(&self) -> io::Result<bool> {
            self.poll(INTERVAL)
        }

        /// The same without waiting.
        pub(super) fn is_over(&self) -> io::Result<bool> {
            self.poll(0)
        }

        fn poll(&self, timeout: u8) -> io::Result<bool> {
            let stdout = io::stdout();
            // No event is asked of stdout: that its reader is gone is reported anyhow.
            let mut fds = [
                PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
                PollFd::new(stdout.as_fd(), PollFlags::empty()),
            ];
            match poll(&mut fds, timeout) {
                Ok(_) => {}
                Err(Errno::EINTR) => return Ok(false),
                Err(err) => return Err(err.into()),
            }
            let gone = PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL;
            let [signal, reader] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
            Ok(signal.contains(PollFlags::POLLIN) || reader.intersects(gone))
        }
    }
}
