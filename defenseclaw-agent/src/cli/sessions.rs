//! `defenseclaw sessions`: what was recorded, at a glance.

use std::process::ExitCode;

use jiff::{Timestamp, tz::TimeZone};

use super::{
    describe,
    output::{self, Out},
    source::Source,
};
use crate::{
    config::Settings,
    model::{MainExit, Origin, WallTime},
    runtime::clock,
    store::{SessionState, SessionSummary},
};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, settings: &Settings, out: &mut Out) -> anyhow::Result<ExitCode> {
    let sessions = Source::open(settings)?.sessions()?;
    if args.json {
        for session in &sessions {
            out.json(session)?;
        }
    } else if sessions.is_empty() {
        output::note("no session was recorded yet");
    } else {
        let zone = TimeZone::system();
        let rows: Vec<_> = sessions.iter().map(|session| row(session, &zone)).collect();
        table(&rows, out)?;
    }
    Ok(ExitCode::SUCCESS)
}

const TITLES: [&str; 6] = ["SESSION", "STARTED", "TOOK", "END", "EVENTS", "COMMAND"];

fn row(summary: &SessionSummary, zone: &TimeZone) -> [String; 6] {
    let start = &summary.start;
    let took = match (&summary.end, summary.state) {
        (Some(end), _) => output::duration(end.boot.0.saturating_sub(start.boot.0)),
        (None, SessionState::Running) => output::duration(clock::boot_now().0.saturating_sub(start.boot.0)),
        (None, SessionState::Ended | SessionState::Left | SessionState::Interrupted) => "-".to_owned(),
    };
    let end = match (&summary.end, summary.state) {
        (Some(end), _) => main_exit(end.main),
        (None, SessionState::Running) => "running".to_owned(),
        (None, SessionState::Left) => "left".to_owned(),
        (None, SessionState::Ended | SessionState::Interrupted) => "interrupted".to_owned(),
    };
    [
        summary.session.to_string(),
        minute(start.wall, zone),
        took,
        end,
        summary.events.to_string(),
        match &start.origin {
            Origin::Launched => describe::command(&start.command),
            Origin::Adopted { connector, .. } => {
                format!("{} (adopted from {connector})", describe::command(&start.command))
            }
        },
    ]
}

fn main_exit(main: MainExit) -> String {
    match main {
        MainExit::Ended(status) => describe::exit_status(status),
        MainExit::StillRunning => "detached".to_owned(),
        MainExit::NotStarted(errno) => format!("not started ({})", describe::errno(errno)),
        MainExit::Unknown => "ended unseen".to_owned(),
    }
}

fn minute(wall: WallTime, zone: &TimeZone) -> String {
    Timestamp::from_nanosecond(i128::from(wall.0)).map_or_else(
        |_| "-".to_owned(),
        |time| time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M").to_string(),
    )
}

/// The last column takes what is left of the line.
fn table(rows: &[[String; 6]], out: &mut Out) -> std::io::Result<()> {
    let widths: Vec<usize> = TITLES
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| output::columns(cell));
            cells.max().unwrap_or(0).max(title.len())
        })
        .collect();
    let room = out.width().map(|width| {
        let before: usize = widths.iter().rev().skip(1).map(|width| width + 2).sum();
        width.saturating_sub(before)
    });
    let line = |cells: [&str; 6]| {
        let mut text = String::new();
        for (index, (cell, width)) in cells.into_iter().zip(&widths).enumerate() {
            let pad = " ".repeat(width.saturating_sub(output::columns(cell)));
            match (index, room) {
                (5, Some(room)) => text.push_str(&output::shorten(cell, room)),
                (5, None) => text.push_str(cell),
                // Numbers to the right.
                (2 | 4, _) => text.extend([pad.as_str(), cell, "  "]),
                _ => text.extend([cell, pad.as_str(), "  "]),
            }
        }
        text
    };
    out.line(&output::dim(&line(TITLES)))?;
    rows.iter().try_for_each(|row| out.line(&line(row.each_ref().map(String::as_str))))
}
