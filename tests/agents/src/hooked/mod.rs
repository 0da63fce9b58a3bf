//! Agents with our hooks, as `connector install` writes them, against the daemon: each real agent is driven by the
//! scripted model through what hooks are for. This file lists the trials; what is known of an agent is in `agents`.

mod agents;
mod asked;
mod blocked;
mod daemon_down;
mod declared;
mod etc;
mod guard;
mod removed;
mod rows;
mod settings;
mod stage;
mod together;
mod watched;

use std::sync::{Arc, OnceLock};

use anyhow::Result;
use libtest_mimic::Trial;

use crate::{install, prerequisites};
use agents::Agent;
use watched::Watched;

/// A trial that needs a run of its own.
type Play = fn(&'static Agent) -> Result<()>;

const PLAYS: [(&str, Play); 9] = [
    ("asked::approved_goes_on_and_denied_is_told_why", asked::approved_goes_on_and_denied_is_told_why),
    ("asked::keys_of_the_terminal_view_decide", asked::keys_of_the_terminal_view_decide),
    ("blocked::neither_command_nor_file_happens", blocked::neither_command_nor_file_happens),
    ("daemon_down::open_lets_the_tool_run", daemon_down::open_lets_the_tool_run),
    ("daemon_down::closed_holds_the_tool", daemon_down::closed_holds_the_tool),
    ("daemon_down::closed_holds_the_prompt", daemon_down::closed_holds_the_prompt),
    ("removed::from_the_user_s_own_configuration", removed::from_the_user_s_own_configuration),
    (
        "declared::programs_belong_to_the_calls_that_announced_them",
        declared::programs_belong_to_the_calls_that_announced_them,
    ),
    ("together::rows_never_mix_sessions", together::rows_never_mix_sessions),
];

/// All of them.
pub(crate) fn trials() -> Vec<Trial> {
    agents::ALL.iter().copied().flat_map(of).collect()
}

fn of(agent: &'static Agent) -> Vec<Trial> {
    let name = |what: &str| format!("{}::hooked::{what}", agent.name());
    // Before a trial has a network of its own, where there is no registry. Tried once.
    let installed = Arc::new(OnceLock::new());
    let trial = |what: &str, test: Box<dyn FnOnce() -> Result<()> + Send>| {
        let installed = Arc::clone(&installed);
        Trial::ignorable_test(name(what), move || {
            crate::unless_missing(
                || prerequisites::of_watching().or_else(|| agent.elsewhere()),
                || {
                    let found = || install::installed(&agent.package).map_err(|err| format!("{err:#}"));
                    installed.get_or_init(found).as_ref().map_err(|text| anyhow::Error::msg(text.clone()))?;
                    test()
                },
            )
        })
    };
    // One run that is allowed everything serves many proofs; the first that is asked for makes it.
    let allowed = Arc::new(OnceLock::new());
    let proofs = watched::ALL.iter().map(|(what, proof)| {
        let allowed = Arc::clone(&allowed);
        let test = move || {
            let run = allowed.get_or_init(|| Watched::new(agent).map_err(|err| format!("{err:#}")));
            proof(run.as_ref().map_err(|text| anyhow::Error::msg(text.clone()))?)
        };
        trial(&format!("allowed::{what}"), Box::new(test))
    });
    let plays = PLAYS.iter().map(|(what, play)| trial(what, Box::new(move || play(agent))));
    let managed = agent.managed.as_ref().map(|managed| {
        let test = move || removed::managed_hooks_stay(agent, managed);
        trial("removed::managed_hooks_stay", Box::new(test))
    });
    let closed = agent.removed_at_once.then(|| {
        let test = move || removed::closed_hook_outlasts_its_removal(agent);
        trial("removed::closed_hook_outlasts_its_removal", Box::new(test))
    });
    proofs.chain(plays).chain(managed).chain(closed).collect()
}
