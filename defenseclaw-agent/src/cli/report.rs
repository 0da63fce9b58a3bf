//! `defenseclaw report`: what a recorded session did.

use std::{ops::ControlFlow, path::Path, process::ExitCode};

use clap::ValueEnum;
use jiff::tz::TimeZone;

use super::{
    output::{self, Out},
    render::{self, Line, RenderOptions},
};
use crate::{
    config::Settings,
    model::{AuditRecord, SessionId},
    report::{Report, ReportBuilder},
    store::{Filter, Reader, StoreError},
};

/// Columns where the output is no terminal.
const WIDTH: usize = 80;

/// Form of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people.
    #[default]
    Text,
    /// Complete, for programs.
    Json,
    /// None.
    None,
}

/// Arguments of `report`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Session id, a beginning of it that is unique, or `last`
    #[arg(default_value = "last")]
    session: String,
    /// Print one JSON object: everything, nothing folded
    #[arg(long)]
    json: bool,
    /// Fold nothing
    #[arg(long)]
    full: bool,
}

/// Runs `report`.
pub fn run(args: &Args, settings: &Settings, out: &mut Out) -> anyhow::Result<ExitCode> {
    let report = stored(&settings.database, &args.session)?;
    let form = if args.json { Form::Json } else { Form::Text };
    write(&report, form, args.full, out)?;
    Ok(ExitCode::SUCCESS)
}

/// The report of a session by name.
fn stored(database: &Path, name: &str) -> Result<Report, StoreError> {
    let reader = Reader::open(database)?;
    let session = reader.resolve_session(name)?;
    build(&reader, session)
}

/// The report of a session, from what the audit holds.
pub(super) fn build(reader: &Reader, session: SessionId) -> Result<Report, StoreError> {
    let mut builder = ReportBuilder::new();
    let filter = Filter { session: Some(session), ..Filter::default() };
    // Between its first row and its end, of a session that was watched beside others.
    let mut shared = None;
    reader.records::<StoreError>(&filter, 0, None, |stored| {
        if let AuditRecord::SessionStart(start) = &stored.record
            && !start.origin.is_launched()
        {
            shared.get_or_insert((stored.seq, u64::MAX));
        } else if let (AuditRecord::SessionEnd(_), Some((_, end))) = (&stored.record, &mut shared) {
            *end = stored.seq;
        }
        builder.push(stored.seq, &stored.record);
        Ok(ControlFlow::Continue(()))
    })?;
    if let Some((begin, end)) = shared {
        lost_by_any(reader, begin, end, &mut builder)?;
    }
    Ok(builder.finish())
}

/// The kernel does not say whose observations it had no room for. What any of the sessions may have lost, this one may.
fn lost_by_any(reader: &Reader, begin: u64, end: u64, builder: &mut ReportBuilder) -> Result<(), StoreError> {
    let losses = Filter { records: vec!["loss"], ..Filter::default() };
    reader.records::<StoreError>(&losses, begin, None, |stored| {
        if stored.seq > end {
            return Ok(ControlFlow::Break(()));
        }
        if let AuditRecord::Loss(loss) = &stored.record
            && loss.session.is_none()
            && loss.kind != "hook"
        {
            builder.push_shared(loss);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(())
}

/// Writes it in one form.
pub(super) fn write(report: &Report, form: Form, full: bool, out: &mut Out) -> std::io::Result<()> {
    match form {
        Form::Text => lines(&render::render(report, &options(full, out)), out),
        Form::Json => out.json(report),
        Form::None => Ok(()),
    }
}

pub(super) fn options(full: bool, out: &Out) -> RenderOptions {
    RenderOptions { width: out.width().unwrap_or(WIDTH), full, timezone: TimeZone::system() }
}

pub(super) fn lines(lines: &[Line], out: &mut Out) -> std::io::Result<()> {
    lines.iter().try_for_each(|line| out.line(&output::styled(line)))
}
