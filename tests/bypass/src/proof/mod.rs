//! The suite proper: one run for each user and each policy, then a trial for each technique. Every trial holds three
//! facts together: the tree outside got its goal, the enrolled one got it on the allowed twin, and on the protected
//! object it got what the catalogue expects.

mod audit;
mod judge;
mod run;

use std::{
    env,
    ffi::{OsStr, OsString},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::{
    cases::{self, Case},
    catalogue::{self, Entry, Expected, Needs},
};
use judge::{Facts, Got};

/// What the caller says about this machine.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about a machine, each an argument")]
pub(crate) struct Setting {
    /// The `defenseclaw` under test.
    binary: PathBuf,
    /// Whether policy is held by BPF LSM.
    lsm: bool,
    /// No policy at all: every technique must get its goal. Shows that they are real.
    unconfined: bool,
    /// Nothing else lives here: file systems may be mounted, files of the system written.
    own_machine: bool,
    /// Further options of `run`.
    options: Vec<String>,
    /// Whether techniques must not be skipped for want of a feature.
    expect_all: bool,
}

pub(crate) fn main(all: &[OsString]) -> ExitCode {
    match prepare(all) {
        Ok((arguments, trials)) => libtest_mimic::run(&arguments, trials).exit_code(),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn prepare(all: &[OsString]) -> Result<(Arguments, Vec<Trial>)> {
    let (setting, rest) = setting(all)?;
    let mut arguments = Arguments::from_iter(rest);
    arguments.test_threads = Some(1);
    let entries = catalogue::load()?;
    if !arguments.list && !nix::unistd::geteuid().is_root() {
        bail!("the suite needs root: it loads BPF programs and acts as other users; run it with sudo");
    }
    if setting.own_machine && !arguments.list {
        cases::kernel::load_modules();
    }
    let wanted = env::var("SUITE_CASES").unwrap_or_default();
    let wanted: Vec<&str> = wanted.split(',').filter(|id| !id.is_empty()).collect();
    let mut trials = Vec::new();
    for (user, root) in [("root", true), ("user", false)] {
        for privileged in [false, true] {
            let chosen: Vec<(&'static Case, Entry)> = entries
                .iter()
                .filter(|entry| entry.who.includes(root))
                .filter(|entry| setting.lsm || setting.unconfined || entry.level == Needs::Any)
                .filter(|entry| wanted.is_empty() || wanted.contains(&entry.id.as_str()))
                .filter_map(|entry| Some((cases::find(&entry.id)?, entry.clone())))
                .filter(|(case, _)| case.privileged == privileged)
                .collect();
            if chosen.is_empty() {
                continue;
            }
            let policy = if privileged { "privileges" } else { "objects" };
            let facts = if arguments.list {
                Arc::default()
            } else {
                let which = || format!("the run as {user} under policy {policy}");
                Arc::new(run::run(&setting, root, privileged, &chosen).with_context(which)?)
            };
            trials.push(whole(format!("{user}/run under policy {policy}"), &facts));
            for (case, entry) in chosen {
                trials.push(trial(format!("{user}/{}", entry.id), &setting, &facts, case, entry));
            }
        }
    }
    Ok((arguments, trials))
}

/// Nothing that the cases do may end the run or the watcher.
fn whole(name: String, facts: &Arc<Facts>) -> Trial {
    let facts = facts.clone();
    Trial::test(name, move || match &facts.trouble {
        Some(trouble) => Err(Failed::from(trouble.clone())),
        None => Ok(()),
    })
}

fn trial(name: String, setting: &Setting, facts: &Arc<Facts>, case: &'static Case, entry: Entry) -> Trial {
    let (setting, facts) = (setting.clone(), facts.clone());
    Trial::ignorable_test(name, move || match judge(&setting, &facts, case, &entry) {
        Ok(None) => Ok(Completion::Completed),
        Ok(Some(reason)) if setting.expect_all => {
            Err(Failed::from(format!("every technique is expected to work here, but: {reason}")))
        }
        Ok(Some(reason)) => {
            println!("skipped: {}: {reason}", entry.id);
            Ok(Completion::ignored_with(reason))
        }
        Err(error) => Err(Failed::from(format!("{error:#}"))),
    })
}

/// A reason means that this machine cannot try it.
fn judge(setting: &Setting, facts: &Facts, case: &Case, entry: &Entry) -> Result<Option<String>> {
    if let Some(reason) = facts.impossible.get(case.id) {
        return Ok(Some(reason.clone()));
    }
    match facts.outside(case.id)? {
        Got::Unsupported(reason) => return Ok(Some(reason.clone())),
        Got::Refused(why) => bail!("a tree that is not enrolled must succeed, but: {why}"),
        Got::Goal => {}
    }
    match facts.twin(case.id)? {
        Got::Unsupported(reason) => return Ok(Some(reason.clone())),
        Got::Refused(_) if case.nameless && !setting.unconfined => {}
        Got::Refused(why) => bail!("the allowed twin must work, but: {why}"),
        Got::Goal => {}
    }
    let got = facts.protected(case.id)?;
    if setting.unconfined {
        return match got {
            Got::Goal => Ok(None),
            Got::Refused(why) | Got::Unsupported(why) => {
                bail!("without any policy it must succeed, but: {why}")
            }
        };
    }
    match (entry.expected, got) {
        (Expected::Blocked, Got::Goal) => bail!("it got its goal"),
        (Expected::Blocked, Got::Refused(_) | Got::Unsupported(_)) => {
            facts.recorded(case, "block", &entry.rules)?;
        }
        (Expected::Detected, Got::Goal) => facts.recorded(case, "alert", &entry.rules)?,
        (Expected::StatedLimit, Got::Goal) => {}
        (Expected::Detected, Got::Refused(why) | Got::Unsupported(why)) => {
            bail!("it must succeed, but: {why}")
        }
        (Expected::StatedLimit, Got::Refused(why) | Got::Unsupported(why)) => {
            bail!("it is stated as a limit and is none any more: {why}")
        }
    }
    Ok(None)
}

/// Takes our own arguments away and leaves those of the test harness.
fn setting(all: &[OsString]) -> Result<(Setting, Vec<OsString>)> {
    let mut setting = Setting {
        binary: env::var_os("DEFENSECLAW").map_or_else(|| PathBuf::from("defenseclaw"), PathBuf::from),
        lsm: true,
        unconfined: false,
        own_machine: false,
        options: env::var("SUITE_RUN_OPTIONS")
            .unwrap_or_default()
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        expect_all: env::var("DEFENSECLAW_EXPECT")
            .is_ok_and(|names| names.split(',').any(|name| name == "techniques")),
    };
    let mut rest = Vec::new();
    let mut arguments = all.iter();
    while let Some(argument) = arguments.next() {
        if argument == "--level" {
            setting.lsm = match arguments.next().map(OsString::as_os_str) {
                Some(level) if level == OsStr::new("lsm") => true,
                Some(level) if level == OsStr::new("tracepoint") => false,
                other => bail!("--level is lsm or tracepoint, not {other:?}"),
            };
        } else if argument == "--unconfined" {
            setting.unconfined = true;
        } else if argument == "--own-machine" {
            setting.own_machine = true;
        } else {
            rest.push(argument.clone());
        }
    }
    Ok((setting, rest))
}
