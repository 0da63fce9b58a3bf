//! The suite proper: one watched run of all provocations, then a trial for each thing they claim. Nothing is provoked here.

mod claims;
mod compare;
mod coverage;
mod durations;
mod scope;
pub(crate) mod session;
mod whole;

use std::{
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use defenseclaw::model::Level;
pub(crate) use durations::Stopwatch;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
pub(crate) use session::{Observed, records};

use crate::{network, oracle, pause, policy, provoke::CASES, runs};

/// What the caller says about this machine.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    /// The `defenseclaw` under test.
    pub(crate) binary: PathBuf,
    /// Level that this kernel must give.
    pub(crate) level: Level,
    /// Capabilities that must not be missing, from `DEFENSECLAW_EXPECT`.
    pub(crate) expect: Vec<String>,
}

impl Setting {
    /// A trial that this machine cannot do: an explicit skip, unless the caller said that it can.
    pub(crate) fn skip(&self, trial: &str, needs: &str, reason: &str) -> Result<Completion, Failed> {
        if self.expect.iter().any(|name| name == needs) {
            return Err(format!("`{needs}` is expected here, but: {reason}").into());
        }
        println!("skipped: {trial}: {needs}: {reason}");
        Ok(Completion::ignored_with(reason))
    }
}

/// Makes a trial of a function that may skip itself.
pub(crate) fn trial(
    name: impl Into<String>,
    run: impl FnOnce() -> Result<Completion, Failed> + Send + 'static,
) -> Trial {
    let name = name.into();
    let watch = name.clone();
    Trial::ignorable_test(name, move || {
        let _watch = Stopwatch::start(watch);
        run()
    })
}

pub(crate) fn main(all: &[OsString]) -> ExitCode {
    match prepare(all) {
        Ok((arguments, trials)) => {
            let conclusion = libtest_mimic::run(&arguments, trials);
            pause::finish();
            policy::finish();
            if !arguments.list {
                durations::print();
            }
            conclusion.exit_code()
        }
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::from(2)
        }
    }
}

fn prepare(all: &[OsString]) -> Result<(Arguments, Vec<Trial>)> {
    let (setting, rest) = setting(all)?;
    let mut arguments = Arguments::from_iter(rest);
    // Runs count the BPF programs of the whole machine and share its load.
    arguments.test_threads = Some(1);
    let mut trials = runs::trials(&setting);
    trials.extend(oracle::trials(&setting));
    trials.extend(network::trials(&setting));
    trials.extend(policy::trials(&setting));
    trials.extend(pause::trials(&setting));
    if arguments.list {
        trials.extend(
            CASES.iter().map(|case| trial(format!("{}/provoked", case.name), || Ok(Completion::Completed))),
        );
        return Ok((arguments, trials));
    }
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "the suite needs root: it loads BPF programs and provokes what only root may do; run it with sudo"
        );
    }
    // The run takes its time, so it is not made where only other trials are wanted.
    let only_others = arguments.filter.as_ref().is_some_and(|filter| {
        ["run/", "oracle/", "network/", "policy/", "pause/"].iter().any(|group| filter.starts_with(group))
    });
    if !only_others {
        let watch = Stopwatch::start("(the watched run of all provocations)");
        let observed = Arc::new(session::observe(&setting).context("the watched run of all provocations")?);
        drop(watch);
        let mut found = claims::trials(&setting, &observed);
        found.extend(whole::trials(&setting, &observed));
        found.extend(scope::trials(&setting, &observed));
        found.append(&mut trials);
        trials = found;
    }
    Ok((arguments, trials))
}

/// Takes our own arguments away and leaves those of the test harness.
fn setting(all: &[OsString]) -> Result<(Setting, Vec<OsString>)> {
    let mut level = Level::Lsm;
    let mut rest = Vec::new();
    let mut arguments = all.iter();
    while let Some(argument) = arguments.next() {
        let value = if argument == "--level" {
            arguments.next().map(OsString::as_os_str)
        } else {
            argument.to_str().and_then(|text| text.strip_prefix("--level=")).map(OsStr::new)
        };
        match value {
            None if argument == "--level" => bail!("--level needs a value: lsm or tracepoint"),
            None => rest.push(argument.clone()),
            Some(value) if value == "lsm" => level = Level::Lsm,
            Some(value) if value == "tracepoint" => level = Level::Tracepoint,
            Some(value) => bail!("--level is lsm or tracepoint, not {}", value.display()),
        }
    }
    let expect = env::var("DEFENSECLAW_EXPECT").unwrap_or_default();
    let expect =
        expect.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let binary = env::var_os("DEFENSECLAW").map_or_else(|| PathBuf::from("defenseclaw"), PathBuf::from);
    Ok((Setting { binary, level, expect }, rest))
}
