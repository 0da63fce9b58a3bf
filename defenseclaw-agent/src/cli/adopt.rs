//! `defenseclaw adopt` and `defenseclaw release`: sessions of `run --persist` whose watcher is gone. The audit is the one that
//! the session began in, whatever `--db` says.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;

use super::{
    ERROR, NEGATIVE, error,
    output::{self, Out, escape},
    report::Form,
    run,
};
use crate::{
    model::SessionId,
    runtime::{self, Adopted, PersistentSession, RunError},
};

/// Arguments of `adopt`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Nothing is taken off meanwhile. Records that waited are read, what is missing is written down, and the \
                  policy is read again. Exit codes: 0 the session has ended or was left in force again, 1 there is \
                  nothing to adopt, 2 error."
)]
pub struct Args {
    /// Its id, or the beginning of it [default: the only one]
    session: Option<String>,
    /// Only list the persistent sessions of this machine
    #[arg(long, conflicts_with = "session")]
    list: bool,
    /// With --list: one JSON array
    #[arg(long, requires = "list")]
    json: bool,
    /// What to print on stderr when the tree has ended
    #[arg(long, value_enum, default_value_t)]
    report: Form,
    /// Fold nothing in the report
    #[arg(long)]
    full: bool,
    /// Write the counters of every stage to this file, as JSON
    #[arg(long, value_name = "PATH")]
    stats_json: Option<PathBuf>,
}

/// Arguments of `release`.
#[derive(Debug, clap::Args)]
pub struct ReleaseArgs {
    /// Its id, or the beginning of it
    session: String,
}

/// Runs `adopt`.
pub fn adopt(args: &Args, out: &mut Out) -> anyhow::Result<ExitCode> {
    let all = match runtime::persistent_sessions() {
        Ok(all) => all,
        Err(error) => return Ok(failed(error.into())),
    };
    if args.list {
        list(&all, args.json, out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let session = if let Some(name) = &args.session {
        resolve(&all, name)?
    } else {
        let mut adoptable = all.iter().filter(|one| one.adoptable);
        match (adoptable.next(), adoptable.next()) {
            (Some(only), None) => only.session,
            (None, _) => {
                output::note("there is no session to adopt");
                list(&all, false, out)?;
                return Ok(ExitCode::from(NEGATIVE));
            }
            (Some(_), Some(_)) => {
                output::note("there are several; name the one to adopt");
                list(&all, false, out)?;
                return Ok(ExitCode::from(ERROR));
            }
        }
    };
    let stats_file = args.stats_json.as_deref().map(run::create).transpose()?;
    let adopted = match runtime::adopt(session) {
        Ok(adopted) => adopted,
        Err(error) => return Ok(failed(error)),
    };
    match adopted {
        Adopted::Cleared(why) => {
            output::note(&format!(
                "session {session} had nothing to go on with ({why}); what was left was removed"
            ));
        }
        Adopted::Watched(outcome, database) => {
            for warning in &outcome.warnings {
                output::note(warning);
            }
            if let Some(file) = stats_file {
                serde_json::to_writer(file, &outcome.stats).context("cannot write the counters")?;
            }
            run::print_report(&database, session, args.report, args.full, &mut Out::stderr());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `release`.
pub fn release(args: &ReleaseArgs) -> anyhow::Result<ExitCode> {
    let all = match runtime::persistent_sessions() {
        Ok(all) => all,
        Err(error) => return Ok(failed(error.into())),
    };
    let session = resolve(&all, &args.session)?;
    let released = match runtime::release(session) {
        Ok(released) => released,
        Err(error) => return Ok(failed(error)),
    };
    match released {
        Adopted::Cleared(why) => output::note(&format!(
            "what session {session} had left in the kernel was removed; its audit does not say so: {why}"
        )),
        Adopted::Watched(outcome, _) => {
            for warning in &outcome.warnings {
                output::note(warning);
            }
            output::note(&format!(
                "session {session} is released: nothing of it is watched or held any more"
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// No command was to be started, so the exit codes of `run` do not fit.
fn failed(error: RunError) -> ExitCode {
    let error = anyhow::Error::from(error).context("cannot take a session over");
    output::error(&error, error::hint(&error));
    ExitCode::from(ERROR)
}

fn resolve(all: &[PersistentSession], name: &str) -> anyhow::Result<SessionId> {
    let name = name.to_ascii_lowercase();
    let mut matches = all.iter().filter(|one| one.session.to_string().starts_with(&name));
    match (matches.next(), matches.next()) {
        (Some(one), None) if !name.is_empty() => Ok(one.session),
        (Some(_), Some(_)) => anyhow::bail!("several persistent sessions begin with `{name}`"),
        _ => anyhow::bail!("there is no persistent session `{name}`; `defenseclaw adopt --list` lists them"),
    }
}

fn list(all: &[PersistentSession], json: bool, out: &mut Out) -> std::io::Result<()> {
    if json {
        return out.json(&all);
    }
    for one in all {
        let state = match (one.watched, one.adoptable) {
            (true, _) => "watched  ",
            (false, true) => "adoptable",
            (false, false) => "left over",
        };
        out.line(&format!("{}  {state}  {}", one.session, escape(one.detail.as_bytes())))?;
    }
    Ok(())
}
