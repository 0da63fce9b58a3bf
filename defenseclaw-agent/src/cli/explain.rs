//! `defenseclaw explain`: why an event was given to a tool call, or to none.

use std::{ops::ControlFlow, process::ExitCode};

use anyhow::{Context as _, bail};

use super::{
    output::Out,
    render,
    report::{lines, options},
};
use crate::{
    config::Settings,
    model::{AuditRecord, SessionId},
    report::{ExplanationBuilder, Subject},
    store::{CallName, Filter, Reader, StoreError},
};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Number of an event in the audit (`events --json` shows it), a tool call as `tree` shows it, or the agent's id of one
    #[arg(value_name = "EVENT|TOOL-CALL")]
    subject: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, settings: &Settings, out: &mut Out) -> anyhow::Result<ExitCode> {
    let reader = Reader::open(&settings.database)?;
    let (session, subject) = find(&reader, &args.subject)?;
    let mut builder = ExplanationBuilder::new(subject);
    let filter = Filter { session: Some(session), ..Filter::default() };
    reader.records::<StoreError>(&filter, 0, None, |stored| {
        builder.push(stored.seq, &stored.record);
        Ok(ControlFlow::Continue(()))
    })?;
    let explanation = builder.finish().context("its session does not have it any more")?;
    if args.json {
        out.json(&explanation)?;
    } else {
        lines(&render::render_explanation(&explanation, &options(false, out)), out)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn find(reader: &Reader, name: &str) -> anyhow::Result<(SessionId, Subject)> {
    if let Ok(seq) = name.parse::<u64>() {
        let Some(stored) = reader.record(seq)? else {
            bail!("the audit has no row {seq}; `defenseclaw events --json` shows the numbers as `seq`");
        };
        return match &stored.record {
            AuditRecord::Event(event) => Ok((event.session, Subject::Event(seq))),
            AuditRecord::Hook(hook) => match (hook.session, hook.calls.first()) {
                (Some(session), Some(call)) => Ok((session, Subject::Call(*call))),
                _ => bail!("row {seq} is a hook that speaks of no tool call of a watched session"),
            },
            AuditRecord::Correlated(row) => match row.tool_call {
                Some(call) => Ok((row.session, Subject::Call(call))),
                None => bail!("row {seq} is about what no tool call explains; it says why itself"),
            },
            AuditRecord::SessionStart(_)
            | AuditRecord::PolicyLoaded(_)
            | AuditRecord::PolicyRefused(_)
            | AuditRecord::Posture(_)
            | AuditRecord::Handover(_)
            | AuditRecord::Finding(_)
            | AuditRecord::Asked(_)
            | AuditRecord::Settled(_)
            | AuditRecord::Granted(_)
            | AuditRecord::GrantEnded(_)
            | AuditRecord::Loss(_)
            | AuditRecord::SessionEnd(_) => bail!("row {seq} is neither an event nor about a tool call"),
        };
    }
    let call = name.parse().map_or_else(|_| CallName::Own(name.to_owned()), CallName::Label);
    let found = reader.announced(&call)?;
    let session = found.as_ref().and_then(|(stored, label)| {
        let AuditRecord::Hook(hook) = &stored.record else { return None };
        hook.session.map(|session| (session, Subject::Call(*label)))
    });
    session.with_context(|| {
        format!("no tool call `{name}` in the audit; `defenseclaw tree SESSION` shows those of a session")
    })
}
