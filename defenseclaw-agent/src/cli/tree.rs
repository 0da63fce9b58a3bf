//! `defenseclaw tree`: what a session announced and did, in one view; of a session without hooks its process tree.

use std::{ops::ControlFlow, process::ExitCode};

use serde::Serialize;

use super::{
    output::Out,
    render,
    report::{lines, options},
};
use crate::{
    config::Settings,
    model::{SessionId, SessionStart},
    report::{Calls, CallsBuilder, Processes, ReportBuilder},
    store::{Filter, Reader, StoreError},
};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Session id, a beginning of it that is unique, or `last`
    #[arg(default_value = "last")]
    session: String,
    /// Print the process tree, without what was announced
    #[arg(long)]
    processes: bool,
    /// Fold nothing
    #[arg(long)]
    full: bool,
    /// Print one JSON object: everything, nothing folded
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Tree<'a> {
    session: Option<&'a SessionStart>,
    #[serde(flatten)]
    calls: &'a Calls,
    processes: &'a Processes,
}

/// Runs it.
pub fn run(args: &Args, settings: &Settings, out: &mut Out) -> anyhow::Result<ExitCode> {
    let reader = Reader::open(&settings.database)?;
    let session = reader.resolve_session(&args.session)?;
    let (report, calls) = build(&reader, session)?;
    let announced = calls.is_empty();
    let calls = calls.finish(&report);
    if args.json {
        out.json(&Tree { session: report.session.as_ref(), calls: &calls, processes: &report.processes })?;
    } else if args.processes || announced {
        lines(&render::render_tree(&report, &options(args.full, out)), out)?;
    } else {
        lines(&render::render_calls(&report, &calls, &options(args.full, out)), out)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn build(reader: &Reader, session: SessionId) -> Result<(crate::report::Report, CallsBuilder), StoreError> {
    let (mut report, mut calls) = (ReportBuilder::new(), CallsBuilder::new());
    let filter = Filter { session: Some(session), ..Filter::default() };
    reader.records::<StoreError>(&filter, 0, None, |stored| {
        report.push(stored.seq, &stored.record);
        calls.push(stored.seq, &stored.record);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok((report.finish(), calls))
}
