//! Trials that need a run of their own: floods, kills, exit codes, and everything that goes wrong.

pub(crate) mod attempt;
mod detach;
mod errors;
mod exit_code;
mod flood;
mod judged;
pub(crate) mod kill;
mod persist;

use std::{
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use libtest_mimic::{Completion, Failed, Trial};

use crate::{
    check::{Setting, trial},
    sys,
};

/// Seconds one run may take: under emulation the programs alone need most of a minute to load.
pub(crate) const RUN_SECONDS: u64 = 600;

type Run = fn(&Setting) -> Result<()>;

pub(crate) fn trials(setting: &Setting) -> Vec<Trial> {
    let all: &[(&str, Run)] = &[
        ("run/flood", flood::equations),
        ("run/kill, before exec", kill::before_exec),
        ("run/kill, command started", kill::started),
        ("run/kill, mid-flood", kill::mid_flood),
        ("run/kill, at the end", kill::at_the_end),
        ("run/exit code 0", exit_code::zero),
        ("run/exit code 255", exit_code::last),
        ("run/exit by signal", exit_code::signal),
        ("run/command not found", exit_code::not_found),
        ("run/input and output", exit_code::streams),
        ("run/detach after main", detach::after_main),
        ("run/database in a missing directory", errors::missing_directory),
        ("run/database is a directory", errors::directory),
        ("run/database is read-only", errors::read_only),
        ("run/database is corrupt", errors::corrupt),
        ("run/disk full at the start", errors::full_at_start),
        ("run/disk full meanwhile", errors::full_meanwhile),
        ("run/without privileges", errors::unprivileged),
        ("run/judged, observe", judged::observe),
        ("run/judged, action", judged::action),
        ("run/judged, kill", judged::kill),
        ("run/judged, kill by the cgroup", judged::kill_by_cgroup),
        ("run/judged, privileges", judged::privileges),
        ("run/judged, no room to watch", judged::no_room),
        ("run/judged, preset default", judged::preset_default),
        ("run/judged, preset strict", judged::preset_strict),
        ("run/persist, kill and adopt", persist::kill_and_adopt),
        ("run/persist, kill mid-flood", persist::mid_flood),
        ("run/persist, kill the adopter", persist::kill_the_adopter),
        ("run/persist, leave and release", persist::leave_and_release),
        ("run/persist, kill at random moments", persist::random_moments),
    ];
    all.iter()
        .map(|&(name, run)| {
            let setting = setting.clone();
            trial(name, move || match run(&setting) {
                Ok(()) => Ok(Completion::Completed),
                Err(err) => Err(Failed::from(format!("{err:#}"))),
            })
        })
        .collect()
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a command to its end, or kills it at the deadline and fails.
pub(crate) fn to_its_end(command: &mut Command) -> Result<Ended> {
    let (out, err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let child = command
        .stdout(out.try_clone()?)
        .stderr(err.try_clone()?)
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {command:?}"))?;
    let status = wait(child).with_context(|| format!("{command:?}"))?;
    Ok(Ended { status, stdout: text_of(out)?, stderr: text_of(err)? })
}

fn text_of(mut file: std::fs::File) -> Result<String> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Waits for a child until the deadline.
pub(crate) fn wait(mut child: Child) -> Result<ExitStatus> {
    let mut ended = None;
    sys::wait_until(RUN_SECONDS, || {
        ended = child.try_wait().ok().flatten();
        ended.is_some()
    });
    let Some(status) = ended else {
        child.kill()?;
        child.wait()?;
        bail!("not ended after {:?}", Duration::from_secs(RUN_SECONDS));
    };
    Ok(status)
}
