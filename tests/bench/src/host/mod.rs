//! Wall time of real work, with and without watching, on this host.
//!
//! Pairs are interleaved and their order alternates, so that what else the machine does hits both sides. The work
//! times itself: what the watcher needs to start and to finish is reported apart. Events and losses are those of the
//! measured runs, not of others.

mod watched;
mod workloads;

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

pub(crate) use watched::{Watched, field, usage, watch};
use watched::{Report, Watcher};
pub(crate) use workloads::{Work, Workload, lay_out, work};

use crate::statistics::{Estimate, bootstrap, median};

/// Compare work with and without watching.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Fail where a budget is missed
    #[arg(long)]
    check: bool,
    /// Pairs of runs for each kind of work
    #[arg(long, default_value_t = 15)]
    pairs: usize,
    /// Start no further pair after this many seconds
    #[arg(long, default_value_t = 540)]
    seconds: u64,
    /// Only this kind of work
    #[arg(long, value_enum)]
    only: Vec<Workload>,
}

/// Most that watching may add to the wall time, in percent.
const BUDGET_PERCENT: f64 = 5.0;
/// From the start of the watcher to its first record.
const BUDGET_START: Duration = Duration::from_secs(2);
/// Most memory of the watcher, KiB.
const BUDGET_MEMORY: u64 = 60 << 10;

/// One kind of work.
#[derive(Debug, Serialize)]
struct Outcome {
    pairs: usize,
    plain_ms: f64,
    watched_ms: f64,
    added_percent: Estimate,
    events_per_run: u64,
    lost: u64,
    watcher_cpu_ms: f64,
    watcher_peak_kib: u64,
    start_ms: f64,
    slowest_start_ms: f64,
}

/// Measures and prints.
pub(crate) fn measure(arguments: &Arguments) -> Result<ExitCode> {
    let scratch = tempfile::tempdir()?;
    let tree = scratch.path().join("tree");
    lay_out(&tree)?;
    let chosen: &[Workload] = if arguments.only.is_empty() { &Workload::ALL } else { &arguments.only };
    let started = Instant::now();
    let mut runs: BTreeMap<Workload, Vec<Pair>> = BTreeMap::new();
    for &workload in chosen {
        // Fills the caches; not counted.
        plain(workload, &tree)?;
    }
    'all: for pair in 0..arguments.pairs {
        for &workload in chosen {
            if started.elapsed().as_secs() > arguments.seconds {
                eprintln!("out of time after {pair} of {} pairs", arguments.pairs);
                break 'all;
            }
            let database = scratch.path().join(format!("{pair}-{workload:?}.db"));
            let found = if pair % 2 == 0 {
                let plain = plain(workload, &tree)?;
                Pair { plain, watched: watched(workload, &tree, &database)? }
            } else {
                let watched = watched(workload, &tree, &database)?;
                Pair { plain: plain(workload, &tree)?, watched }
            };
            runs.entry(workload).or_default().push(found);
        }
    }
    let mut results = BTreeMap::new();
    for (workload, pairs) in &runs {
        results.insert(*workload, summarise(pairs).context("no pairs")?);
    }
    show(&results);
    println!("{}", serde_json::to_string(&results)?);
    let missed = complaints(&results);
    for complaint in &missed {
        eprintln!("{complaint}");
    }
    Ok(if arguments.check && !missed.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

struct Pair {
    plain: Duration,
    watched: (Duration, Report),
}

fn plain(workload: Workload, tree: &Path) -> Result<Duration> {
    elapsed(Command::new(std::env::current_exe()?).args(workload.command(tree)))
}

fn watched(workload: Workload, tree: &Path, database: &Path) -> Result<(Duration, Report)> {
    let watcher = Watcher::new(database, workload.command(tree))?;
    let time = elapsed(&mut watcher.command())?;
    Ok((time, watcher.report()?))
}

/// What the work at the end of `command` says it took.
fn elapsed(command: &mut Command) -> Result<Duration> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        bail!("{command:?}: {}", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let nanoseconds = text.trim().parse().with_context(|| format!("{command:?} said {text:?}"))?;
    Ok(Duration::from_nanos(nanoseconds))
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn summarise(pairs: &[Pair]) -> Option<Outcome> {
    let of = |value: &dyn Fn(&Pair) -> f64| median(&mut pairs.iter().map(value).collect::<Vec<_>>());
    let added: Vec<f64> = pairs
        .iter()
        .map(|pair| (pair.watched.0.as_secs_f64() / pair.plain.as_secs_f64() - 1.0) * 100.0)
        .collect();
    let reports = || pairs.iter().map(|pair| &pair.watched.1);
    Some(Outcome {
        pairs: pairs.len(),
        plain_ms: of(&|pair| milliseconds(pair.plain))?,
        watched_ms: of(&|pair| milliseconds(pair.watched.0))?,
        added_percent: bootstrap(&added)?,
        events_per_run: median(&mut reports().map(|report| report.seen).collect::<Vec<_>>())?,
        lost: reports().map(|report| report.lost).sum(),
        watcher_cpu_ms: of(&|pair| milliseconds(pair.watched.1.cpu))?,
        watcher_peak_kib: reports().map(|report| report.peak_kib).max()?,
        start_ms: of(&|pair| milliseconds(pair.watched.1.start))?,
        slowest_start_ms: milliseconds(reports().map(|report| report.start).max()?),
    })
}

fn show(results: &BTreeMap<Workload, Outcome>) {
    eprintln!(
        "{:8}{:>7}{:>11}{:>11}{:>26}{:>10}{:>7}{:>12}{:>12}{:>11}",
        "", "pairs", "plain ms", "watched", "added % [95 %]", "events", "lost", "watcher ms", "peak KiB", "start ms"
    );
    for (workload, result) in results {
        let Estimate { median, low, high } = result.added_percent;
        eprintln!(
            "{:8}{:>7}{:>11.1}{:>11.1}{:>26}{:>10}{:>7}{:>12.1}{:>12}{:>11.0}",
            workload.name(),
            result.pairs,
            result.plain_ms,
            result.watched_ms,
            format!("{median:+.2} [{low:+.2}, {high:+.2}]"),
            result.events_per_run,
            result.lost,
            result.watcher_cpu_ms,
            result.watcher_peak_kib,
            result.start_ms,
        );
    }
}

fn complaints(results: &BTreeMap<Workload, Outcome>) -> Vec<String> {
    let mut missed = Vec::new();
    for (workload, result) in results {
        let name = workload.name();
        if result.added_percent.median > BUDGET_PERCENT {
            missed.push(format!(
                "{name}: adds {:.2} %, over the budget of {BUDGET_PERCENT} %",
                result.added_percent.median
            ));
        }
        if result.start_ms > milliseconds(BUDGET_START) {
            missed.push(format!("{name}: {:.0} ms to the first record", result.start_ms));
        }
        if result.watcher_peak_kib > BUDGET_MEMORY {
            missed.push(format!("{name}: the watcher took {} KiB", result.watcher_peak_kib));
        }
    }
    missed
}
