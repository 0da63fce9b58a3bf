//! The process tree: who made whom, what each process ran, and who is still alive.
//!
//! Facts may come in any order and may be missing; the tree that any permutation of one history builds is the same.
//! It knows nothing of `/proc`: whoever looks there reports it with [`ProcessTree::learn`] and [`ProcessTree::gone`].

mod expire;
mod process;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

pub use process::{Ended, Image, Process, ProcessFacts};

use crate::model::{Action, BootTime, Event, ProcessKey, SessionId};

/// Every process that is known, of every session.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ProcessTree {
    /// Ordered by pid, then start: the processes that share a pid are neighbours.
    processes: BTreeMap<ProcessKey, Process>,
    /// Ordered by parent, then start of the child. An index of its own, because a child is often known before its
    /// parent.
    children: BTreeSet<Link>,
    /// Sessions without a live process have no entry.
    live: BTreeMap<SessionId, usize>,
    n_live: usize,
}

/// Field order is the order of [`ProcessTree::children`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Link {
    parent: ProcessKey,
    start_ns: u64,
    tgid: u32,
}

impl Link {
    fn new(parent: ProcessKey, child: ProcessKey) -> Self {
        Self { parent, start_ns: child.start_ns, tgid: child.tgid }
    }

    fn child(self) -> ProcessKey {
        ProcessKey { tgid: self.tgid, start_ns: self.start_ns }
    }
}

impl ProcessTree {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in one event. Every kind counts: a process that opens a file exists, even if its fork was lost.
    pub fn apply(&mut self, event: &Event) {
        // The kernel could not tell who it was.
        if event.process.tgid == 0 {
            return;
        }
        let key = event.process;
        self.touch(key, event.session, event.time);
        #[expect(clippy::wildcard_enum_match_arm, reason = "all other kinds say no more than that it exists")]
        match &event.action {
            Action::ProcessFork { child, .. } if child.tgid != 0 => {
                self.touch(*child, event.session, event.time);
                self.set_parent(*child, key, true);
                self.update(*child, |process| process.fork_seen = true);
            }
            Action::ProcessExec(exec) => {
                self.set_parent(key, exec.parent, false);
                self.update(key, |process| process.add_exec(Image::of_exec(event.time, exec)));
            }
            Action::ProcessExit { status } => {
                self.end(key, Ended { time: event.time, status: Some(*status) });
            }
            _ => {}
        }
    }

    /// Takes in what `/proc` says of a process. Kernel events win over it, whenever they come.
    pub fn learn(&mut self, facts: &ProcessFacts) {
        let key = facts.key;
        if key.tgid == 0 {
            return;
        }
        // The label of a later event knows better.
        self.touch(key, facts.session, BootTime(0));
        if let Some(parent) = facts.parent {
            self.set_parent(key, parent, false);
        }
        self.update(key, |process| {
            process.learned = Some(Box::new(Image::of_facts(key, &facts.exe, &facts.argv)));
        });
    }

    /// The process does not exist any more, and how it ended is not known. Unknown processes stay unknown.
    pub fn gone(&mut self, key: ProcessKey, now: BootTime) {
        self.end(key, Ended { time: now, status: None });
    }

    /// The process.
    pub fn get(&self, key: ProcessKey) -> Option<&Process> {
        self.processes.get(&key)
    }

    /// Whether a process with this pid is in the tree and has not ended.
    pub fn is_live_pid(&self, tgid: u32) -> bool {
        let (first, last) = (ProcessKey { tgid, start_ns: 0 }, ProcessKey { tgid, start_ns: u64::MAX });
        self.processes.range(first..=last).next_back().is_some_and(|(_, process)| process.is_live())
    }

    /// Processes that had or have this pid, oldest first.
    pub fn with_pid(&self, tgid: u32) -> impl DoubleEndedIterator<Item = ProcessKey> {
        let (first, last) = (ProcessKey { tgid, start_ns: 0 }, ProcessKey { tgid, start_ns: u64::MAX });
        self.processes.range(first..=last).map(|(key, _)| *key)
    }

    /// Program that a process ran at a moment: its own, or until it has started one that of who made it. None where that
    /// is not known.
    pub fn executable_at(&self, key: ProcessKey, time: BootTime) -> Option<&[u8]> {
        let (mut key, mut time) = (key, time);
        // A parent is always older than its child (`set_parent`), so this ends.
        loop {
            let process = self.get(key)?;
            if let Some(image) = process.image_at(time) {
                return Some(&*image.exe).filter(|exe| !exe.is_empty());
            }
            time = BootTime(key.start_ns);
            key = process.parent()?;
        }
    }

    /// Processes known, live and ended.
    pub fn len(&self) -> usize {
        self.processes.len()
    }

    /// Nothing is known.
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Live processes.
    pub fn n_live(&self) -> usize {
        self.n_live
    }

    /// Live processes of this session.
    pub fn n_live_in(&self, session: SessionId) -> usize {
        self.live.get(&session).copied().unwrap_or(0)
    }

    /// All processes, by pid, then start.
    pub fn iter(&self) -> impl Iterator<Item = (ProcessKey, &Process)> {
        self.processes.iter().map(|(key, process)| (*key, process))
    }

    /// Live processes of this session: those whose end may have been missed.
    pub fn live_in(&self, session: SessionId) -> impl Iterator<Item = ProcessKey> {
        self.iter()
            .filter(move |(_, process)| process.is_live() && process.session() == session)
            .map(|(key, _)| key)
    }

    /// Processes whose parent is not in the tree, oldest first.
    pub fn roots(&self) -> Vec<ProcessKey> {
        let is_root = |process: &Process| process.parent().is_none_or(|parent| self.get(parent).is_none());
        let mut roots: Vec<_> =
            self.iter().filter(|(_, process)| is_root(process)).map(|(key, _)| key).collect();
        roots.sort_unstable_by_key(|key| (key.start_ns, key.tgid));
        roots
    }

    /// Children of a process, oldest first. A child whose parent ended keeps it: reparenting is not followed.
    pub fn children(&self, parent: ProcessKey) -> impl DoubleEndedIterator<Item = ProcessKey> {
        let first = Link { parent, start_ns: 0, tgid: 0 };
        let last = Link { parent, start_ns: u64::MAX, tgid: u32::MAX };
        self.children.range(first..=last).map(|link| link.child())
    }

    /// Parent, its parent and so on, as far as they are in the tree.
    pub fn ancestors(&self, key: ProcessKey) -> impl Iterator<Item = (ProcessKey, &Process)> {
        // A parent is always older than its child (`set_parent`), so this ends.
        let parent_of = |process: &Process| {
            let parent = process.parent()?;
            Some((parent, self.get(parent)?))
        };
        std::iter::successors(self.get(key).and_then(parent_of), move |(_, process)| parent_of(process))
    }

    /// Session a process belongs to.
    pub fn session(&self, key: ProcessKey) -> Option<SessionId> {
        self.get(key).map(Process::session)
    }

    /// Makes sure the process is known, and in which session it was at `time`.
    fn touch(&mut self, key: ProcessKey, session: SessionId, time: BootTime) {
        match self.processes.entry(key) {
            Entry::Occupied(mut known) => {
                let process = known.get_mut();
                let before = process.session();
                process.labelled(session, time);
                let (after, live) = (process.session(), process.is_live());
                if live && after != before {
                    self.count_end(before);
                    self.count_start(after);
                }
            }
            Entry::Vacant(vacant) => {
                vacant.insert(Process::new(session, time));
                self.count_start(session);
                self.settle_reuse(key);
            }
        }
    }

    /// Two processes with one pid cannot both live: the older one has ended, even if its exit was lost.
    fn settle_reuse(&mut self, key: ProcessKey) {
        let first = ProcessKey { tgid: key.tgid, start_ns: 0 };
        let last = ProcessKey { tgid: key.tgid, start_ns: u64::MAX };
        let older = self.processes.range(first..key).next_back().map(|(older, _)| *older);
        let newer = self.processes.range(key..=last).nth(1).map(|(newer, _)| *newer);
        for (old, new) in [(older, Some(key)), (Some(key), newer)] {
            if let (Some(old), Some(new)) = (old, new) {
                self.end(old, Ended { time: BootTime(new.start_ns), status: None });
            }
        }
    }

    fn set_parent(&mut self, child: ProcessKey, parent: ProcessKey, by_fork: bool) {
        // Refusing a parent that is not older keeps cycles out, whatever the input.
        if (parent.start_ns, parent.tgid) >= (child.start_ns, child.tgid) || parent.tgid == 0 {
            return;
        }
        let Some(process) = self.processes.get_mut(&child) else { return };
        let before = process.parent();
        process.suggest_parent(parent, by_fork);
        let after = process.parent();
        if before != after {
            if let Some(before) = before {
                self.children.remove(&Link::new(before, child));
            }
            if let Some(after) = after {
                self.children.insert(Link::new(after, child));
            }
        }
    }

    fn end(&mut self, key: ProcessKey, ended: Ended) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let was_live = process.is_live();
        process.end(ended);
        if was_live {
            let session = process.session();
            self.count_end(session);
        }
    }

    fn update(&mut self, key: ProcessKey, change: impl FnOnce(&mut Process)) {
        if let Some(process) = self.processes.get_mut(&key) {
            change(process);
        }
    }

    fn count_start(&mut self, session: SessionId) {
        self.n_live += 1;
        *self.live.entry(session).or_insert(0) += 1;
    }

    fn count_end(&mut self, session: SessionId) {
        self.n_live -= 1;
        if let Entry::Occupied(mut count) = self.live.entry(session) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}
