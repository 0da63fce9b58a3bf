//! The agent's own stages at full speed: decode, process tree, store. Records are captured once from a real watched
//! run, then repeated with new processes and later times.

mod capture;
mod stages;

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
pub(crate) use stages::{Stages, run as stages};

/// Events per second through decoding, tree and store, and memory.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Fail where a budget is missed
    #[arg(long)]
    check: bool,
    /// Events to replay
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Runs; the median counts
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Preset that judges every event, as where no hook of the kernel does
    #[arg(long)]
    policy: Option<String>,
    /// Directory of the database, on a disk
    #[arg(long)]
    directory: Option<PathBuf>,
}

const BUDGET_RATE: f64 = 100_000.0;
const BUDGET_MEMORY: u64 = 60 << 10;

/// Captures, replays in processes of their own, and prints.
pub(crate) fn measure(arguments: &Arguments) -> Result<ExitCode> {
    let scratch = match &arguments.directory {
        Some(directory) => tempfile::tempdir_in(directory)?,
        None => tempfile::tempdir_in(std::env::current_exe()?.parent().context("no directory")?)?,
    };
    let records = scratch.path().join("records");
    let captured = capture::capture(&scratch.path().join("tree"), &records)?;
    eprintln!("captured {captured} records");
    let mut found: Vec<stages::Found> = Vec::new();
    for run in 0..arguments.runs {
        let output = Command::new(std::env::current_exe()?)
            .arg("stages")
            .arg("--records")
            .arg(&records)
            .arg("--database")
            .arg(scratch.path().join(format!("audit-{run}.db")))
            .arg("--events")
            .arg(arguments.events.to_string())
            .args(arguments.policy.iter().flat_map(|preset| ["--policy", preset]))
            .stderr(std::process::Stdio::inherit())
            .output()?;
        if !output.status.success() {
            bail!("the replay ended with {}", output.status);
        }
        let one = serde_json::from_slice(&output.stdout).context("the replay gave no result")?;
        eprintln!("{one:?}");
        println!("{}", serde_json::to_string(&one)?);
        found.push(one);
    }
    let rate =
        crate::statistics::median(&mut found.iter().map(|one| one.events_per_second).collect::<Vec<_>>())
            .context("no runs")?;
    let peak = found.iter().map(|one| one.peak_kib).max().context("no runs")?;
    eprintln!("{rate:.0} events/s (median of {}), at most {peak} KiB", found.len());
    let missed = rate < BUDGET_RATE || peak > BUDGET_MEMORY;
    if missed {
        eprintln!("the budget is {BUDGET_RATE} events/s and {BUDGET_MEMORY} KiB");
    }
    Ok(if arguments.check && missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
