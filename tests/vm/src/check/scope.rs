//! Nothing but the tree: no record of processes beside it, nor of the watcher.

use std::sync::Arc;

use defenseclaw::model::Event;
use libtest_mimic::{Completion, Failed, Trial};

use super::{Observed, Setting, compare::json, trial};

pub(crate) fn trials(_setting: &Setting, observed: &Arc<Observed>) -> Vec<Trial> {
    let outsiders = Arc::clone(observed);
    let watcher = Arc::clone(observed);
    vec![
        trial("scope/processes outside the session", move || {
            let pids = &outsiders.outsiders;
            if pids.len() < 10
                && outsiders.truths.iter().any(|truth| truth.case == "scope" && truth.skips.is_empty())
            {
                return Err(format!("the process outside has done too little: {pids:?}").into());
            }
            none_of(&outsiders, pids)
        }),
        trial("scope/the watcher", move || none_of(&watcher, &[watcher.watcher])),
    ]
}

/// Fails when one of these processes has acted in the audit.
fn none_of(observed: &Observed, pids: &[u32]) -> Result<Completion, Failed> {
    let found: Vec<&Event> = pids.iter().flat_map(|pid| observed.of(*pid)).collect();
    if found.is_empty() {
        return Ok(Completion::Completed);
    }
    let lines: Vec<String> = found.iter().take(20).map(json).collect();
    Err(format!("{} events of processes outside the session:\n{}", found.len(), lines.join("\n")).into())
}
