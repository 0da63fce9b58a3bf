//! Whether who answers stands outside of every tree that is watched. An agent that may run commands could otherwise answer its
//! own questions, itself or through what is typed into the terminal that it has.

use std::fs;

use crate::{
    model::{Caller, ProcessKey, SessionId},
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
    /// It is in the cgroup of a run, whichever: other runs' trees are known by nothing else here.
    pub(in super::super) launched: bool,
}

impl Suspect {
    fn new(process: ProcessKey, what: &'static str) -> Self {
        let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", process.tgid)).unwrap_or_default();
        Self { process, what, launched: is_of_a_run(&cgroup) }
    }
}

/// Whether one of a process's cgroups was made for a session.
fn is_of_a_run(text: &str) -> bool {
    let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.flat_map(|path| path.split('/')).any(|name| {
        name.strip_prefix("defenseclaw-").is_some_and(|session| session.parse::<SessionId>().is_ok())
    })
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
        found.push(Suspect::new(known.process, if found.is_empty() { what } else { above }));
        next = known.ppid;
    }
    (!found.is_empty()).then_some(found)
}

fn at_the_terminal(seat: &Seat) -> Vec<Suspect> {
    let leader = sensor::parent_of(seat.leader)
        .map(|leader| Suspect::new(leader.process, "the leader of the session of who answers"));
    let foreground = match seat.terminal {
        Some((terminal, group)) if group != 0 => sensor::seated(terminal, group),
        _ => Vec::new(),
    };
    let what = "a process in the foreground of the terminal of who answers";
    let foreground = foreground.into_iter().map(|process| Suspect::new(process, what));
    leader.into_iter().chain(foreground).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_of_other_runs_are_known_by_their_cgroups() {
        for (text, is) in [
            ("0::/user.slice/defenseclaw-0123456789abcdef\n", true),
            ("12:cpu:/x\n0::/defenseclaw-0123456789abcdef/inner:y\n", true),
            ("0::/system.slice/defenseclaw-daemon.service\n", false),
            ("0::/defenseclaw\n", false),
            ("", false),
        ] {
            assert_eq!(is_of_a_run(text), is, "{text}");
        }
    }

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
