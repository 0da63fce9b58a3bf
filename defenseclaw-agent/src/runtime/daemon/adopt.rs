//! Trees that nobody started through us: the ancestors of a hook as `/proc` has them, and the enrolment of an agent with
//! everything it runs already. Which ancestor is the agent is decided in `bind`.

use std::collections::HashSet;

use super::bind::{ANCESTORS_MAX, Ancestor};
use crate::{
    model::{Caller, ProcessKey, SessionId},
    sensor::{self, ProcFacts, Sensor, SensorError, TICK_NS},
};

/// Looks for running descendants until one finds no more, but not for ever: a tree can fork faster than we look.
const ROUNDS: usize = 16;

/// Who asked and its ancestors, nearest first, by name only. To be looked for while who asked still waits: afterwards nobody
/// knows whose child it was.
pub(super) fn ancestry(caller: Caller) -> Vec<ProcessKey> {
    let mut found: Vec<ProcessKey> = Vec::new();
    let mut next = caller.pid;
    while found.len() < ANCESTORS_MAX
        && let Some(known) = sensor::parent_of(next)
    {
        let is_it = match found.last() {
            None => known.process.start_ns == caller.start_ticks.saturating_mul(TICK_NS),
            // A younger one has got the pid of a parent that is gone.
            Some(child) => known.process.start_ns <= child.start_ns,
        };
        if !is_it {
            break;
        }
        found.push(known.process);
        next = known.ppid;
    }
    found
}

/// The ancestors of who asked, nearest first.
pub(super) struct Lineage {
    pub(super) keys: Vec<ProcessKey>,
    pub(super) ancestors: Vec<Ancestor>,
}

impl Lineage {
    /// None if who asked is not there any more.
    pub(super) fn of(caller: Caller) -> Option<Self> {
        let mut child = (caller.pid, sensor::process_facts(caller.pid)?);
        if caller.start_ticks == 0 || child.1.start_ticks != caller.start_ticks {
            return None;
        }
        let mut found = Self { keys: Vec::new(), ancestors: Vec::new() };
        while found.keys.len() < ANCESTORS_MAX {
            let ppid = child.1.ppid;
            let Some(facts) = sensor::process_facts(ppid).filter(|_| ppid != 0) else { break };
            let Some(uid) = sensor::user_of(ppid) else { break };
            // Still the parent after all of this was read, so it was the parent's; else it ended meanwhile.
            let still = sensor::process_facts(child.0)
                .is_some_and(|now| now.ppid == ppid && now.start_ticks == child.1.start_ticks);
            if !still {
                break;
            }
            let (exe, argv) = (facts.exe.clone(), facts.argv.clone());
            found.ancestors.push(Ancestor { pid: ppid, uid, exe, argv });
            child = (ppid, facts);
            found.keys.push(key(&child));
        }
        Some(found)
    }
}

fn key((pid, facts): &(u32, ProcFacts)) -> ProcessKey {
    ProcessKey { tgid: *pid, start_ns: facts.start_ticks * TICK_NS }
}

/// Processes that were enrolled, each with the one that made it if that is among them.
#[derive(Debug, Default)]
pub(super) struct Enrolled {
    pub(super) processes: Vec<(ProcessKey, Option<ProcessKey>)>,
    /// There was no room for so many.
    pub(super) left_out: u64,
}

/// Enrols a process and its descendants. A child that is made after its parent was enrolled inherits that in the kernel;
/// those before are in `/proc` for as long as they run, and a look that begins after the parent's enrolment finds them. So
/// all are found once a look finds none, but for those whose parent had ended before the agent's first hook.
pub(super) fn enrol(
    sensor: &mut Sensor,
    root: ProcessKey,
    session: SessionId,
) -> Result<Enrolled, SensorError> {
    let mut enrolled = Enrolled::default();
    if !sensor.enrol_running(root, session)? {
        return Ok(enrolled);
    }
    enrolled.processes.push((root, None));
    let mut refused = HashSet::new();
    for _ in 0..ROUNDS {
        let mut running = sensor::processes();
        running.sort_by_key(|found| (found.process.start_ns, found.process.tgid));
        let before = enrolled.processes.len();
        // Within a tick the order says nothing, so go over it until nothing is added.
        loop {
            let known = enrolled.processes.len();
            for found in &running {
                let is = |key: &ProcessKey| *key == found.process;
                let parent = enrolled.processes.iter().find(|(key, _)| key.tgid == found.ppid);
                let Some((parent, _)) = parent.copied() else { continue };
                if enrolled.processes.iter().any(|(key, _)| is(key)) || refused.contains(&found.process) {
                    continue;
                }
                match sensor.enrol_running(found.process, session) {
                    Ok(true) => enrolled.processes.push((found.process, Some(parent))),
                    // Enrolled with its parent, or ended; either way it has no children that we would have to look for.
                    Ok(false) => drop(refused.insert(found.process)),
                    Err(error) => {
                        tracing::warn!(pid = found.process.tgid, "not watched: {error}");
                        enrolled.left_out += 1;
                        refused.insert(found.process);
                    }
                }
            }
            if enrolled.processes.len() == known {
                break;
            }
        }
        if enrolled.processes.len() == before {
            break;
        }
    }
    Ok(enrolled)
}
