//! One rule for each effect, through the real `run`: what is protected is refused, its twin is not, nobody else is
//! affected, and the audit has one record of each refusal. In mode observe everything happens and is recorded.

mod audit;
mod files;
mod network;
mod place;
mod privileges;
pub(super) mod program;
mod sockets;
mod watched;

use std::sync::{Arc, OnceLock};

use anyhow::{Result, anyhow, bail, ensure};
use defenseclaw::model::Level;
use libtest_mimic::{Completion, Failed, Trial};
use place::{Case, Side, Tree};
use watched::{Facts, Mode};

pub(super) use self::{
    files::exec,
    network::{bind, connect},
    place::open,
    sockets::unix_address,
};
use super::{LSM, completed};
use crate::check::{Setting, trial};

/// Every case, in the order in which they are done.
fn cases() -> impl Iterator<Item = &'static Case> {
    files::CASES.iter().chain(sockets::CASES).chain(network::CASES).chain(privileges::CASES)
}

fn find(name: &str) -> Option<&'static Case> {
    cases().find(|case| case.name == name)
}

/// The run of a mode, made when the first trial asks for it.
type Shared = Arc<OnceLock<Result<Facts, String>>>;

pub(super) fn trials(setting: &Setting) -> Vec<Trial> {
    let mut trials = Vec::new();
    for mode in [Mode::Action, Mode::Observe] {
        let shared = Shared::default();
        for case in cases() {
            let name = format!("policy/{}, {}", mode.word(), case.name);
            let (setting, shared) = (setting.clone(), Arc::clone(&shared));
            trials.push(trial(name.clone(), move || {
                if setting.level != Level::Lsm && !case.is_held_by_cgroup() {
                    return setting.skip(&name, LSM, "below level lsm only addresses are held");
                }
                judged(&setting, &name, &shared, mode, case)
            }));
        }
        let (setting, name) = (setting.clone(), format!("policy/{}, no other record", mode.word()));
        trials.push(trial(name, move || {
            completed(facts(&setting, &shared, mode).and_then(|facts| audit::nothing_else(facts, mode)))
        }));
    }
    trials
}

fn facts<'a>(setting: &Setting, shared: &'a Shared, mode: Mode) -> Result<&'a Facts> {
    let facts = shared.get_or_init(|| watched::run(setting, mode).map_err(|err| format!("{err:#}")));
    facts.as_ref().map_err(|err| anyhow!("the run in mode {}: {err}", mode.word()))
}

fn judged(
    setting: &Setting,
    name: &str,
    shared: &Shared,
    mode: Mode,
    case: &Case,
) -> Result<Completion, Failed> {
    let facts = match facts(setting, shared, mode) {
        Ok(facts) => facts,
        Err(err) => return Err(Failed::from(format!("{err:#}"))),
    };
    if let Ok(outcome) = facts.outcome(case, Tree::Outside, Side::Allowed)
        && outcome.status == libc::ENOSYS
    {
        return setting.skip(name, "system calls", "this kernel does not have it");
    }
    let compared = compare(facts, mode, case);
    if compared.is_ok() && mode == Mode::Observe && setting.level != Level::Lsm {
        return setting.skip(name, LSM, "it happened, but below level lsm its records are not judged");
    }
    completed(compared)
}

fn compare(facts: &Facts, mode: Mode, case: &Case) -> Result<()> {
    let outcome = |tree, side| facts.outcome(case, tree, side);
    let outside = [outcome(Tree::Outside, Side::Protected)?, outcome(Tree::Outside, Side::Allowed)?];
    for outcome in outside {
        let status = outcome.status;
        ensure!(case.natural.contains(&status), "outside, where nothing is judged: {}", said(status));
    }
    let natural = outside[1].status;
    let [protected, allowed] =
        [outcome(Tree::Inside, Side::Protected)?, outcome(Tree::Inside, Side::Allowed)?];
    ensure!(allowed.status == natural, "the twin that no rule names: {}", said(allowed.status));
    match mode {
        Mode::Action => {
            ensure!(protected.status == case.refused, "not refused: {}", said(protected.status));
            audit::one_refusal(facts, case, protected)
        }
        Mode::Observe => {
            ensure!(protected.status == natural, "observed only, but: {}", said(protected.status));
            if facts.level == Level::Lsm { audit::would_block(facts, case, protected) } else { Ok(()) }
        }
    }
}

/// How an attempt ended, for people.
fn said(status: i32) -> String {
    match status {
        0 => "it succeeded".to_owned(),
        signal if signal < 0 => format!("signal {}", -signal),
        errno => std::io::Error::from_raw_os_error(errno).to_string(),
    }
}

/// The only event of some that fits, or what is wrong.
fn only<T>(mut found: Vec<T>, what: &str) -> Result<T> {
    match (found.pop(), found.len()) {
        (Some(one), 0) => Ok(one),
        (None, _) => bail!("no {what}"),
        (Some(_), more) => bail!("{} times {what}", more + 1),
    }
}
