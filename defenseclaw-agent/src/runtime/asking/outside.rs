//! Whether who answers stands outside of every tree that is watched. An agent that may run commands could otherwise answer its
//! own questions, itself or through what is typed into the terminal that it has.

use crate::{
    model::{Caller, ProcessKey},
    sensor::{self, Seat, TICK_NS},
};

/// Ancestors that are looked at. What has more was not started by a person.
const ANCESTORS_MAX: usize = 256;

/// A process that must not be watched if its relation is to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Suspect {
    /// It; its start is in whole clock ticks.
    pub(in super::super) process: ProcessKey,
    /// What it is to who answers.
    pub(in super::super) what: &'static str,
}

/// All of them. None if who answers is not there any more, or was not when it connected: then nobody knows who it was.
pub(super) fn suspects(caller: Caller) -> Option<Vec<Suspect>> {
    let own = ProcessKey { tgid: caller.pid, start_ns: caller.start_ticks.checked_mul(TICK_NS)? };
    if caller.start_ticks == 0 {
        return None;
    }
    let mut found = line(own, "who answers", "an ancestor of who answers")?;
    let seat = sensor::seat_of(caller.pid)?;
    found.extend(at_the_terminal(&seat));
    // Everything above was read while it was there.
    sensor::is_alive(own).then_some(found)
}

/// A process and its ancestors. None if not even itself is there.
fn line(from: ProcessKey, what: &'static str, above: &'static str) -> Option<Vec<Suspect>> {
    let mut found: Vec<Suspect> = Vec::new();
    let mut next = from.tgid;
    while let Some(known) = sensor::parent_of(next) {
        let is_it = match found.last() {
            None => known.process == from,
            // A younger one has got the pid of a parent that is gone.
            Some(child) => known.process.start_ns <= child.process.start_ns,
        };
        if !is_it || found.len() >= ANCESTORS_MAX {
            break;
        }
        found.push(Suspect { process: known.process, what: if found.is_empty() { what } else { above } });
        next = known.ppid;
    }
    (!found.is_empty()).then_some(found)
}

fn at_the_terminal(seat: &Seat) -> Vec<Suspect> {
    let leader = sensor::parent_of(seat.leader)
        .map(|leader| Suspect { process: leader.process, what: "the leader of the session of who answers" });
    let foreground = match seat.terminal {
        Some((terminal, group)) if group != 0 => sensor::seated(terminal, group),
        _ => Vec::new(),
    };
    let foreground = foreground.into_iter().map(|process| Suspect {
        process,
        what: "a process in the foreground of the terminal of who answers",
    });
    leader.into_iter().chain(foreground).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_and_our_ancestors_are_looked_at_and_who_is_gone_cannot_be() {
        let pid = std::process::id();
        let start_ticks = sensor::process_facts(pid).unwrap().start_ticks;
        let caller = Caller { pid, start_ticks, uid: 0, gid: 0 };
        let found = suspects(caller).unwrap();
        let parent = nix::unistd::getppid().as_raw().cast_unsigned();
        assert_eq!((found[0].process.tgid, found[0].what), (pid, "who answers"));
        assert_eq!((found[1].process.tgid, found[1].what), (parent, "an ancestor of who answers"));
        let leader = nix::unistd::getsid(None).unwrap().as_raw().cast_unsigned();
        assert!(leader == 0 || found.iter().any(|found| found.process.tgid == leader));
        for gone in [Caller { start_ticks: 0, ..caller }, Caller { start_ticks: start_ticks + 1, ..caller }] {
            assert_eq!(suspects(gone), None);
        }
    }
}
