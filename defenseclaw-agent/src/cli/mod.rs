//! Interim command line.
use std::{ffi::OsString, io::Write, path::PathBuf, process::ExitCode};

use clap::Parser;

use crate::{launcher, runtime, store};

#[derive(Parser, Debug)]
struct Cli {
    #[arg(long, global = true)]
    db: Option<PathBuf>,
    #[command(subcommand)]
    command: Cmd,
}
#[derive(clap::Subcommand, Debug)]
enum Cmd {
    Run {
        #[arg(long)]
        report: Option<String>,
        #[arg(long)]
        report_file: Option<PathBuf>,
        #[arg(long)]
        stats_json: Option<PathBuf>,
        #[arg(long)]
        detach_after_main: bool,
        #[arg(long)]
        ring_bytes: Option<u32>,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    Events {
        #[arg(long)]
        session: Option<String>,
        #[arg(long)]
        json: bool,
    },
    Audit { what: String },
    Doctor { #[arg(long)] json: bool },
}
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let db = cli.db.unwrap_or_else(|| "/var/lib/defenseclaw/audit.db".into());
    let mut out = std::io::stdout().lock();
    match cli.command {
        Cmd::Run { stats_json, detach_after_main, ring_bytes, command, .. } => {
            let mut sensor = crate::sensor::SensorOptions::default();
            if let Some(b) = ring_bytes { sensor.bulk_ring = b; sensor.priority_ring = b; }
            match runtime::run(&runtime::RunOptions { command, user: None, database: db, default_database: false, detach_after_main, sensor }) {
                Ok(o) => {
                    if let Some(p) = stats_json { std::fs::write(p, serde_json::to_vec(&o.stats).unwrap_or_default()).ok(); }
                    match o.status { Some(s) => launcher::finish_like(s), None => ExitCode::from(0) }
                }
                Err(e) => { writeln!(std::io::stderr(), "error: {e}").ok(); ExitCode::from(e.exit_code()) }
            }
        }
        Cmd::Events { session, .. } => {
            let Ok(r) = store::Reader::open(&db) else { return ExitCode::from(2) };
            let id = r.resolve_session(session.as_deref().unwrap_or("last"));
            let mut f = store::Filter::default();
            f.session = id.ok();
            r.records::<store::StoreError>(&f, 0, None, |s| { writeln!(out, "{}", serde_json::to_string(&s).unwrap_or_default()).ok(); Ok(std::ops::ControlFlow::Continue(())) }).ok();
            ExitCode::SUCCESS
        }
        Cmd::Audit { .. } => {
            match store::verify(&db, None) { Ok(r) => { writeln!(out, "{r:?}").ok(); ExitCode::SUCCESS } Err(e) => { writeln!(out, "error: {e}").ok(); ExitCode::from(2) } }
        }
        Cmd::Doctor { .. } => { writeln!(out, "{}", serde_json::to_string_pretty(&runtime::diagnose(&db)).unwrap_or_default()).ok(); ExitCode::SUCCESS }
    }
}
