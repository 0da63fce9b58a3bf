//! The suite of real coding agents: each is installed at a pinned version, given known tool calls by a scripted
//! model on loopback, and run alone, under `defenseclaw run`, and with our hooks. Then the audit must tell what really
//! happened.
//!
//! Run it with `cargo xtask test agents` or `cargo run -p suite-agents`. This file only lists the tests; what is
//! asserted of the audit is in `proofs`, what is known of an agent in `clients`, and trials with hooks in `hooked`.

#![expect(clippy::disallowed_methods, reason = "this suite starts agents, npm and the program under test")]
#![expect(clippy::wildcard_enum_match_arm, reason = "a proof picks the events it is about")]

mod anthropic;
mod audit;
mod clients;
mod endpoint;
mod gemini;
mod hooked;
mod install;
mod network;
mod openai_chat;
mod openai_responses;
mod paused;
mod prerequisites;
mod process;
mod proofs;
mod run;
mod sandboxes;
mod scene;
mod script;
mod terminal;

use std::{
    process::ExitCode,
    sync::{Arc, OnceLock},
};

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use clients::Client;
use proofs::Watched;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // One run at a time: what a run leaves behind is found by its descent from this process.
    arguments.test_threads = Some(1);
    let driver = Trial::test("driver::overrunning_tree_is_ended", || {
        process::overrunning_tree_is_ended(&install::directory()?.join("logs"))
            .map_err(|err| format!("{err:#}").into())
    });
    let trials = std::iter::once(driver)
        .chain(clients::ALL.iter().copied().flat_map(trials_of))
        .chain(hooked::trials())
        .chain(paused::trials())
        .chain(sandboxes::trials())
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trials_of(client: &'static Client) -> Vec<Trial> {
    let alone = Trial::ignorable_test(format!("{}::alone::tools_run", client.package.name), move || {
        unless_missing(prerequisites::of_driver, || {
            run::alone(client)?.tools_ran()?;
            Ok(())
        })
    });
    // One watched run serves every proof; the first proof that is asked for makes it.
    let watched = Arc::new(OnceLock::new());
    let proofs = proofs::ALL.iter().map(|(name, proof)| {
        let watched = Arc::clone(&watched);
        Trial::ignorable_test(format!("{}::watched::{name}", client.package.name), move || {
            unless_missing(prerequisites::of_watching, || {
                let run = watched.get_or_init(|| Watched::new(client).map_err(|err| format!("{err:#}")));
                proof(run.as_ref().map_err(|text| anyhow::Error::msg(text.clone()))?)
            })
        })
    });
    std::iter::once(alone).chain(proofs).collect()
}

/// What a test needs and the machine lacks is a failure, or a counted skip where the runner has allowed it.
fn unless_missing(
    missing: impl FnOnce() -> Option<String>,
    test: impl FnOnce() -> Result<()>,
) -> Result<Completion, Failed> {
    match missing() {
        Some(reason) if prerequisites::may_skip() => Ok(Completion::ignored_with(reason)),
        Some(reason) => Err(format!("{reason}; {}", prerequisites::HOW_TO_SKIP).into()),
        None => test().map(|()| Completion::Completed).map_err(|err| format!("{err:#}").into()),
    }
}
