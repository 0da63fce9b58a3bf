//! `defenseclaw approvals`: what agents wait for, and a person's answers.

mod ask;
mod dialog;
mod watch;
mod words;

use std::{
    io::{self, IsTerminal as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::Subcommand;

use super::{
    NEGATIVE,
    output::{self, Out, escape},
};
use crate::{
    model::{Ruling, Via},
    runtime::{EXPIRES_MAX, MESSAGE_MAX, Said},
};
pub(super) use ask::{Watchers, refused};

/// What to do about them.
#[derive(Debug, Subcommand)]
#[command(
    after_help = "Exit codes: 0 done; 1 the answer was not taken (settled already, refused, no such question), or nobody \
                        asks; 2 error. An ID that several watchers have is written SESSION/ID."
)]
pub enum Command {
    /// List the questions that are open
    List {
        #[command(flatten)]
        from: From,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Show one question: what is asked, who asks, who waits
    Show {
        /// Question
        id: String,
        #[command(flatten)]
        from: From,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Say yes: once, unless told otherwise
    Approve {
        /// Question
        id: String,
        /// Also to every equal question of its session
        #[arg(long, conflicts_with = "always")]
        session: bool,
        /// From now on, by a rule in the local policy, which is shown first
        #[arg(long)]
        always: bool,
        /// For so long only, such as 90s, 10m, 2h or 1d
        #[arg(long = "for", value_name = "DURATION", requires = "session", value_parser = seconds)]
        expires: Option<u64>,
        /// Write the rule without asking
        #[arg(long, requires = "always")]
        yes: bool,
        #[command(flatten)]
        from: From,
    },
    /// Say no
    Deny {
        /// Question
        id: String,
        /// What the agent is told
        #[arg(long, value_name = "TEXT", value_parser = message)]
        message: Option<String>,
        #[command(flatten)]
        from: From,
    },
    /// Follow the questions as they come; at a terminal, answer them one after the other
    Watch {
        #[command(flatten)]
        from: From,
        /// Print one JSON object per line: a question, or its end. Nothing is asked then
        #[arg(long)]
        json: bool,
    },
}

/// Whom to ask.
#[derive(Debug, clap::Args)]
pub struct From {
    /// Only who listens at this socket [default: the daemon, and every run that asks]
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
}

fn message(text: &str) -> Result<String, String> {
    if text.len() > MESSAGE_MAX {
        Err(format!("longer than {MESSAGE_MAX} bytes"))
    } else {
        Ok(text.to_owned())
    }
}

/// A span of time, in seconds.
fn seconds(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..) {
        Some("s") => 1,
        Some("m") => 60,
        Some("h") => 3600,
        Some("d") => 86400,
        _ => 0,
    };
    let found = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    found
        .filter(|seconds| (1..=EXPIRES_MAX).contains(seconds))
        .ok_or_else(|| "write a number and s, m, h or d, from 1s to 30d".to_owned())
}

/// Runs it.
pub fn run(command: &Command, out: &mut Out) -> anyhow::Result<ExitCode> {
    match command {
        Command::List { from, json } => list(from, *json, out),
        Command::Show { id, from, json } => {
            let watchers = Watchers::find(from.socket.as_deref());
            let Some(found) = watchers.question(id)? else { return Ok(unknown(id)) };
            if *json {
                out.json(&found.question)?;
            } else {
                words::whole(&found.question).iter().try_for_each(|line| out.line(line))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Approve { id, session, always, expires, yes, from } => {
            let ruling = match (session, always) {
                (true, _) => Ruling::Session,
                (false, true) => Ruling::Always,
                (false, false) => Ruling::Once,
            };
            let said = Said { ruling, message: None, expires_s: *expires, via: Via::Command };
            answer(id, from, &said, *yes, out)
        }
        Command::Deny { id, message, from } => {
            let said =
                Said { ruling: Ruling::Deny, message: message.clone(), expires_s: None, via: Via::Command };
            answer(id, from, &said, false, out)
        }
        Command::Watch { from, json } => watch::run(from.socket.as_deref(), *json, out),
    }
}

fn unknown(id: &str) -> ExitCode {
    output::note(&format!("there is no question {id}, or none that this user may see"));
    ExitCode::from(NEGATIVE)
}

fn list(from: &From, json: bool, out: &mut Out) -> anyhow::Result<ExitCode> {
    let watchers = Watchers::find(from.socket.as_deref());
    if watchers.is_empty() {
        output::note("no daemon answers, and no run asks");
        return Ok(ExitCode::from(NEGATIVE));
    }
    let mut open = Vec::new();
    for watcher in watchers.all() {
        open.extend(watcher.open()?);
    }
    if json {
        open.iter().try_for_each(|pending| out.json(pending))?;
    } else if open.is_empty() {
        output::note("nothing is asked");
    } else {
        let clash = |pending: &crate::runtime::Pending| {
            open.iter().filter(|other| other.approval.id == pending.approval.id).count() > 1
        };
        for pending in &open {
            out.line(&words::line(pending, clash(pending)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn answer(id: &str, from: &From, said: &Said, yes: bool, out: &mut Out) -> anyhow::Result<ExitCode> {
    let watchers = Watchers::find(from.socket.as_deref());
    let Some(found) = watchers.question(id)? else { return Ok(unknown(id)) };
    let asked = found.question.pending.approval.id;
    if said.ruling == Ruling::Always && found.question.settled.is_none() {
        match found.client.lasting(asked) {
            Ok(lasting) => {
                words::lasting(&lasting).iter().try_for_each(|line| out.line(line))?;
            }
            Err(error) => return refused(error),
        }
        if !yes && !agreed(out)? {
            output::note("nothing was answered");
            return Ok(ExitCode::from(NEGATIVE));
        }
    }
    match found.client.rule(asked, said) {
        Ok(()) => {
            out.line(&words::done(&found.question.pending.approval, said.ruling))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => refused(error),
    }
}

fn agreed(out: &mut Out) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        anyhow::bail!("nobody is there to agree to this; say --yes if it is wanted");
    }
    out.prompt("write this, and answer yes? [y/N] ")?;
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "yes"))
}

/// A command, shortened and harmless.
pub(super) fn command_line(command: &[crate::model::Text]) -> String {
    command.iter().map(|part| escape(&part.0)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn spans_of_time_have_a_unit_and_an_end() {
        for (text, want) in [
            ("90s", Some(90)),
            ("10m", Some(600)),
            ("2h", Some(7200)),
            ("30d", Some(2_592_000)),
            ("31d", None),
            ("0s", None),
            ("10", None),
            ("h", None),
            ("5w", None),
            ("99999999999999999999h", None),
            ("-1s", None),
        ] {
            assert_eq!(seconds(text).ok(), want, "{text}");
        }
    }
}
