//! Agents with our hooks, as `connector install` writes them, against the daemon: each real agent is driven by the
//! scripted model through what hooks are for. This file lists the trials; what is known of an agent is in `agents`.

mod agents;
mod blocked;
mod daemon_down;
mod etc;
mod guard;
mod removed;
mod rows;
mod settings;
mod stage;
mod together;
mod watched;

use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use libtest_mimic::Trial;

use crate::prerequisites;
use agents::Agent;
use watched::Watched;

/// A trial that needs a run of its own.
type Play = fn(&'static Agent) -> Result<()>;

const PLAYS: [(&str, Play); 6] = [
    ("blocked::neither_command_nor_file_happens", blocked::neither_command_nor_file_happens),
    ("daemon_down::open_lets_the_tool_run", daemon_down::open_lets_the_tool_run),
    ("daemon_down::closed_holds_the_tool", daemon_down::closed_holds_the_tool),
    ("daemon_down::closed_holds_the_prompt", daemon_down::closed_holds_the_prompt),
    ("removed::from_the_user_s_own_configuration", removed::from_the_user_s_own_configuration),
    ("together::rows_never_mix_sessions", together::rows_never_mix_sessions),
];

/// All of them.
pub(crate) fn trials() -> Vec<Trial> {
    agents::ALL.iter().copied().flat_map(of).collect()
}

fn of(agent: &'static Agent) -> Vec<Trial> {
    let name = |what: &str| format!("{}::hooked::{what}", agent.name());
    // One run that is allowed everything serves many proofs; the first that is asked for makes it.
    let allowed = Arc::new(OnceLock::new());
    let proofs = watched::ALL.iter().map(|(what, proof)| {
        let allowed = Arc::clone(&allowed);
        trial(name(&format!("allowed::{what}")), move || {
            let run = allowed.get_or_init(|| Watched::new(agent).map_err(|err| format!("{err:#}")));
            proof(run.as_ref().map_err(|text| anyhow::Error::msg(text.clone()))?)
        })
    });
    let plays = PLAYS.iter().map(|(what, play)| trial(name(what), move || play(agent)));
    let managed = agent.managed.as_ref().map(|managed| {
        trial(name("removed::managed_hooks_stay"), move || removed::managed_hooks_stay(agent, managed))
    });
    proofs.chain(plays).chain(managed).collect()
}

fn trial(name: String, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    Trial::ignorable_test(name.clone(), move || {
        crate::unless_missing(prerequisites::of_watching, || test().with_context(|| name))
    })
}
