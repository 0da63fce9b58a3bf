//! Proof that the kernel holds what a policy says: each effect end to end through `defenseclaw run`, random policies
//! against their evaluation, and policies that are replaced under load. What a policy means is not decided here.

mod agreement;
mod effects;
pub(crate) mod kernel;
mod swaps;

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Completion, Failed, Trial};

pub(crate) use agreement::Random;

use crate::check::{Setting, trial};

/// What a program must be able to do at a level that holds more than addresses.
const LSM: &str = "bpf_lsm";

pub(crate) fn trials(setting: &Setting) -> Vec<Trial> {
    let mut trials = effects::trials(setting);
    trials.push(of(setting, "policy/random policies mean the same in the kernel", agreement::agreement));
    trials.extend(swaps::trials(setting));
    trials
}

/// Takes away what trials share.
pub(crate) fn finish() {
    kernel::unload();
}

/// `policy PROGRAM …`: the programs that act under a policy.
pub(crate) fn program_main(arguments: &[&[u8]]) -> ExitCode {
    let text = |at: usize| arguments.get(at).map(|word| String::from_utf8_lossy(word)).unwrap_or_default();
    let words: Vec<_> = (1..arguments.len()).map(&text).collect();
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match &*text(0) {
        "effects" => effects::program::main(&words),
        "load" => swaps::load::main(&words),
        "worker" => agreement::worker::main(&words),
        "act" => effects::program::act_main(&words),
        _ => ExitCode::from(98),
    }
}

/// `policy-read SCRIPT FILE`: what a script is for.
pub(crate) fn read_main(arguments: &[&[u8]]) -> ExitCode {
    effects::program::read_main(arguments)
}

/// A trial of this group.
fn of(setting: &Setting, name: impl Into<String>, run: fn(&Setting) -> Result<()>) -> Trial {
    let setting = setting.clone();
    trial(name, move || completed(run(&setting)))
}

fn completed(result: Result<()>) -> Result<Completion, Failed> {
    match result {
        Ok(()) => Ok(Completion::Completed),
        Err(err) => Err(Failed::from(format!("{err:#}"))),
    }
}
