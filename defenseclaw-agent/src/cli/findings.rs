//! `defenseclaw findings`: what agents did without saying so, and other than they said.

use std::{ops::ControlFlow, process::ExitCode};

use super::{
    output::{self, Out},
    render,
    report::{lines, options},
};
use crate::{
    config::Settings,
    model::AuditRecord,
    store::{Filter, Reader},
};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only of this session: its id, the beginning of it, or `last`
    #[arg(long, value_name = "SESSION")]
    session: Option<String>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, settings: &Settings, out: &mut Out) -> anyhow::Result<ExitCode> {
    let reader = Reader::open(&settings.database)?;
    let session = args.session.as_deref().map(|name| reader.resolve_session(name)).transpose()?;
    let filter = Filter { session, records: vec!["finding"], ..Filter::default() };
    let mut last = None;
    let mut found = false;
    reader.records::<anyhow::Error>(&filter, 0, None, |stored| {
        let AuditRecord::Finding(finding) = &stored.record else {
            return Ok::<_, anyhow::Error>(ControlFlow::Continue(()));
        };
        found = true;
        if args.json {
            out.json(&stored)?;
        } else {
            if session.is_none() && last.replace(finding.session) != Some(finding.session) {
                out.line(&output::strong(&format!("session {}", finding.session)))?;
            }
            lines(&render::render_findings(std::slice::from_ref(finding), &options(false, out)), out)?;
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if !found && !args.json {
        output::note("nothing was found");
    }
    Ok(ExitCode::SUCCESS)
}
