//! `defenseclaw grants`: what answers permit from then on, and taking it back.

use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;

use super::{
    NEGATIVE,
    approvals::{From, Watchers, refused},
    output::{self, Out, duration, escape},
};
use crate::{
    model::{Grant, GrantId, Via},
    runtime::{Client, clock},
};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 done; 1 there is no such grant, it may not be taken back, or nobody answers; 2 error."
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    from: From,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// What to do with them.
#[derive(Debug, Subcommand)]
enum Command {
    /// List them
    List {
        #[command(flatten)]
        from: From,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Take one back: the next such operation is asked about again
    Revoke {
        /// Grant, or SESSION/GRANT
        id: String,
        #[command(flatten)]
        from: From,
    },
}

/// Runs it.
pub fn run(args: &Args, out: &mut Out) -> anyhow::Result<ExitCode> {
    let (from, json, id) = match &args.command {
        None => (&args.from, args.json, None),
        Some(Command::List { from, json }) => (from, *json || args.json, None),
        Some(Command::Revoke { id, from }) => (from, args.json, Some(id)),
    };
    let socket = from.socket.as_deref().or(args.from.socket.as_deref());
    let watchers = Watchers::find(socket);
    if watchers.is_empty() {
        output::note("no daemon answers, and no run asks");
        return Ok(ExitCode::from(NEGATIVE));
    }
    let mut all: Vec<(Client, Grant)> = Vec::new();
    for watcher in watchers.all() {
        let granted = watcher.0.grants()?;
        all.extend(granted.grants.into_iter().map(|grant| (watcher.0.clone(), grant)));
    }
    if let Some(id) = id {
        return revoke(id, all, out);
    }
    if json {
        all.iter().try_for_each(|(_, grant)| out.json(grant))?;
    } else if all.is_empty() {
        output::note("nothing is granted");
    } else {
        all.iter().try_for_each(|(_, grant)| out.line(&line(grant)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn revoke(name: &str, mut all: Vec<(Client, Grant)>, out: &mut Out) -> anyhow::Result<ExitCode> {
    let (session, id) = name.rsplit_once('/').map_or((None, name), |(session, id)| (Some(session), id));
    let id: GrantId = id.parse()?;
    all.retain(|(_, grant)| {
        let own = grant.session.map(|session| session.to_string()).unwrap_or_default();
        grant.id == id && session.is_none_or(|session| own.starts_with(&session.to_ascii_lowercase()))
    });
    let (client, grant) = match all.as_slice() {
        [one] => one,
        [] => {
            output::note(&format!("there is no grant {name}, or none that this user may see"));
            return Ok(ExitCode::from(NEGATIVE));
        }
        _ => bail!("several watchers have a grant {id}; write SESSION/{id}, or name its --socket"),
    };
    match client.revoke(id, Via::Command) {
        Ok(()) => {
            out.line(&format!("{id} revoked: {}", subject(grant)))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => refused(error),
    }
}

fn subject(grant: &Grant) -> String {
    let subject = &grant.subject;
    let effect = escape(subject.effect.as_bytes());
    format!("{effect} {} (rule {})", escape(&subject.object.0), escape(subject.rule.as_bytes()))
}

fn line(grant: &Grant) -> String {
    let session = grant.session.map(|session| format!("{session}/")).unwrap_or_default();
    let left = match grant.expires {
        Some(at) => format!("{} left", duration(at.0.saturating_sub(clock::boot_now().0))),
        None => "until its session ends".to_owned(),
    };
    let by = &grant.by;
    format!("{session}{}  {}  {left}  by uid {} ({})", grant.id, subject(grant), by.uid, by.via)
}
