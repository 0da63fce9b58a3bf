//! Reloads through the real `run`: the file is rewritten, with and without SIGHUP, and some of what is written is no
//! policy.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::Path,
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{AuditRecord, Mode};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{Which, check, load::Outcomes, policy, prepare};
use crate::{
    check::{
        Setting, records,
        session::{Companion, run_dir, watched},
    },
    runs, sys,
};

const RELOADS: usize = 100;
/// Seconds one of them may take under emulation.
const SECONDS: u64 = 60;
/// What is no policy, and why.
const INVALID: [(&str, &str); 3] = [
    ("version: 1\nname: wrong\nrules: [{id: x, effect: file.read}]\n", "a rule without an object"),
    ("version: 1\nname: wrong\nnonsense: true\n", "an unknown key"),
    ("\u{0}\u{1}{{{", "no text"),
];

pub(super) fn reloads(setting: &Setting) -> Result<()> {
    let dir = run_dir()?;
    let base = fs::canonicalize(dir.path())?;
    prepare(&base)?;
    let outcomes = Outcomes::make(&base)?;
    let (file, db, log) = (base.join("policy.yaml"), base.join("audit.db"), base.join("stderr"));
    fs::write(&file, policy(Which::A, &base, setting.level))?;
    let options = ["--policy", &file.to_string_lossy(), "--mode", "action", "--landlock", "off"];
    let options = options.map(OsString::from);
    let options: Vec<&OsStr> = options.iter().map(OsString::as_os_str).collect();
    let program = base.join("bin/load");
    let level = setting.level.as_str();
    let command: Vec<&OsStr> = [program.as_os_str(), "policy".as_ref(), "load".as_ref(), base.as_os_str()]
        .into_iter()
        .chain(["2", level, "20"].map(OsStr::new))
        .collect();
    let child = watched(setting, &db, &options, &command)
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log)?)
        .spawn()?;
    let mut run = Companion(child);
    let said = || String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    let working = sys::wait_until(runs::RUN_SECONDS, || {
        outcomes.rounds() > 0 || run.0.try_wait().is_ok_and(|status| status.is_some())
    });
    ensure!(working && outcomes.rounds() > 0, "the run does not begin:\n{}", said());

    let done = all(&run, &file, &base, setting, &outcomes, &log);
    outcomes.stop();
    let mut ended = None;
    sys::wait_until(SECONDS, || {
        ended = run.0.try_wait().ok().flatten();
        ended.is_some()
    });
    let (loads, refusals) = done.with_context(said)?;
    ensure!(ended.is_some_and(|status| status.success()), "the run ended with {ended:?}:\n{}", said());
    check(&outcomes, setting.level)?;
    in_the_audit(setting, &db, loads, refusals)
}

/// Every reload, each waited for. How many policies came into force after the first, and how many did not.
fn all(
    run: &Companion,
    file: &Path,
    base: &Path,
    setting: &Setting,
    outcomes: &Outcomes,
    log: &Path,
) -> Result<(usize, usize)> {
    let (mut which, mut loads, mut refusals) = (Which::A, 0, 0);
    for number in 0..RELOADS {
        let hangup = || kill(Pid::from_raw(run.0.id() as i32), Signal::SIGHUP);
        if number % 5 == 4 {
            let (text, why) = INVALID[number / 5 % INVALID.len()];
            replace(file, text, number)?;
            if number % 2 == 0 {
                hangup()?;
            }
            refusals += 1;
            let refused = sys::wait_until(SECONDS, || refusals_said(log) >= refusals);
            ensure!(refused, "{why} is not refused");
            // The old one is in force: what it refuses is refused by operations that begin now.
            in_force(outcomes, which).with_context(|| format!("after {why}"))?;
            continue;
        }
        which = which.other();
        replace(file, &policy(which, base, setting.level), number)?;
        if number % 2 == 0 {
            hangup()?;
        }
        loads += 1;
        in_force(outcomes, which).with_context(|| format!("reload {number}"))?;
        refusals = refusals.max(refusals_said(log));
    }
    Ok((loads, refusals))
}

/// In place, or by another file of that name.
fn replace(file: &Path, text: &str, number: usize) -> Result<()> {
    if number.is_multiple_of(3) {
        return Ok(fs::write(file, text)?);
    }
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    Ok(fs::rename(new, file)?)
}

/// Waits until operations end as this policy wants: what it refuses is refused, what the other one does is not.
fn in_force(outcomes: &Outcomes, which: Which) -> Result<()> {
    let (refusing, passing) = if which == Which::A { (0, 1) } else { (1, 0) };
    let (refused, passed) = (outcomes.told(refusing).1, outcomes.told(passing).0);
    let met =
        sys::wait_until(SECONDS, || outcomes.told(refusing).1 > refused && outcomes.told(passing).0 > passed);
    ensure!(met, "policy {which:?} is not in force");
    Ok(())
}

/// How often `run` has said that a policy was not taken.
fn refusals_said(log: &Path) -> usize {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.matches("the policy before stays in force").count()
}

fn in_the_audit(setting: &Setting, db: &Path, loads: usize, refusals: usize) -> Result<()> {
    let (mut loaded, mut refused, mut strange) = (Vec::new(), 0, Vec::new());
    records(setting, db, &["--session", "last"], |row| {
        match row.record {
            AuditRecord::PolicyLoaded(policy) => {
                ensure!(policy.mode == Mode::Action, "{policy:?}");
                loaded.push((policy.generation, policy.name.clone()));
            }
            AuditRecord::PolicyRefused(policy) => {
                ensure!(!policy.problems.is_empty(), "{policy:?}");
                refused += 1;
            }
            AuditRecord::Event(event) if event.verdict.is_some() => strange.push(event),
            _ => {}
        }
        Ok(())
    })?;
    // A file that is written in place may be read before it is whole: that is refused, and read again.
    ensure!(refused >= refusals, "{refused} refusals are in the audit, {refusals} were said");
    ensure!(loaded.len() > loads, "{} policies are in the audit, {loads} came after the first", loaded.len());
    let ascending = loaded.windows(2).all(|two| two[0].0 < two[1].0);
    ensure!(ascending, "generations: {loaded:?}");
    ensure!(strange.is_empty(), "verdicts of policies that nobody knows: {strange:#?}");
    Ok(())
}
