//! `defenseclaw audit verify`: is the record what was written?

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::json;

use super::{
    NEGATIVE,
    output::{self, Out},
};
use crate::{
    config::Settings,
    store::{self, Break, Head},
};

/// What to do with the audit.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check that no row was changed, removed, added or moved since it was written
    ///
    /// Prints the head: the number and hash of the last row. The check alone cannot tell whether somebody with root
    /// rewrote the whole record, hashes included; compare with a head noted elsewhere to know that too.
    /// Exit code 1: something is wrong, and the first row concerned is named.
    Verify {
        /// Head that an earlier check printed: this audit must contain it
        #[arg(long, value_name = "SEQ:HASH")]
        head: Option<String>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs it.
pub fn run(command: &Command, settings: &Settings, out: &mut Out) -> anyhow::Result<ExitCode> {
    let Command::Verify { head, json } = command;
    let noted = head.as_deref().map(str::parse::<Head>).transpose()?;
    let report = store::verify(&settings.database, noted.as_ref())?;
    if *json {
        out.json(&json!({
            "intact": report.first_break.is_none(),
            "intact_rows": report.intact_rows,
            "head": report.head.to_string(),
            "break": report.first_break,
        }))?;
    } else if let Some(found) = &report.first_break {
        out.line(&format!("{}: {}", output::bad("broken"), words(found)))?;
        out.line(&format!("intact up to row {}, head {}", report.intact_rows, report.head))?;
    } else {
        out.line(&format!("intact: {} rows", report.intact_rows))?;
        out.line(&format!("head: {}", report.head))?;
    }
    Ok(if report.first_break.is_none() { ExitCode::SUCCESS } else { ExitCode::from(NEGATIVE) })
}

fn words(found: &Break) -> String {
    match found {
        Break::Changed { seq } => format!("row {seq} was changed, or replaced by another one"),
        Break::Missing { first, last } if first == last => format!("row {first} is missing"),
        Break::Missing { first, last } => format!("rows {first} to {last} are missing"),
        Break::Reordered { seq, found_at } => {
            format!("row {seq} stands at place {found_at}: rows were moved or put in between")
        }
        Break::Added { seq } => format!("row {seq} was added by someone else"),
        Break::Head => "the number or hash of the last row is missing or does not fit".to_owned(),
        Break::OtherHead { seq } => format!("row {seq} is not the row whose hash was noted"),
    }
}
