//! Which call is behind a process, and behind what the agent does itself.

use super::{
    Said,
    call::{Call, Class},
    deeds::{self, Deed},
    hooks, paths,
    root::{Kind, Root},
    session::Session,
    text::{self, Fit},
};
use crate::{
    model::{Action, Attributed, BootTime, Event, Evidence, Exec, ProcessKey, Text, ToolCallId},
    tree::ProcessTree,
};

/// Processes between a tree's top and the program that tells; they get its label, too.
const LABELLED_MAX: usize = 8;
/// Calls that are listed beside the one that was taken.
const ALTERNATIVES_MAX: usize = 8;

impl Session {
    /// A process of a tree has started a program. Returns the tree that it belongs to from now on.
    pub(super) fn started(
        &mut self,
        root_key: ProcessKey,
        event: &Event,
        label: Option<ToolCallId>,
        tree: &ProcessTree,
        said: &mut Vec<Said>,
    ) -> ProcessKey {
        let (Action::ProcessExec(exec), Some(root)) = (&event.action, self.roots.get_mut(&root_key)) else {
            return root_key;
        };
        let key = event.process;
        let was_shell = root.is_shell;
        if key == root_key {
            root.runs(event, exec);
        }
        let agent = root.agent;
        // Programs of a call's own tree may look like anything; only who outlives its call may work for another one.
        if let Kind::Call(call, by) = root.kind
            && by < Evidence::Label
            && self.calls.get(&call).is_none_or(|call| call.covers(BootTime(key.start_ns)))
        {
            return root_key;
        }
        let root_start = root.start;
        let found = self.fitting(agent, exec, |call| {
            // A shell that stays, and gets one command after the other.
            call.covers(root_start) || key != root_key && was_shell && call.covers(BootTime(key.start_ns))
        });
        if let Some((fit, ids)) =
            found.filter(|(fit, _)| key == root_key || fit.evidence() != Evidence::Argument)
        {
            return self.attribute(root_key, event, fit.evidence(), &ids, label, tree, said);
        }
        if key != root_key || root_is_settled(self.roots.get(&root_key)) {
            return root_key;
        }
        if hooks::is_hook(exec) {
            self.set(root_key, Kind::Hook);
        } else if is_routine(exec) {
            self.set(root_key, Kind::Routine);
        } else if label.is_none()
            && let Some(id) = self.only_open(root_key)
        {
            return self.attribute(root_key, event, Evidence::OnlyOpen, &[id], label, tree, said);
        }
        root_key
    }

    /// The only call that an agent can have started this for, if its arguments do not speak against it.
    pub(super) fn only_open(&self, root: ProcessKey) -> Option<ToolCallId> {
        let root = self.roots.get(&root)?;
        let mut open = self.active.iter().filter_map(|id| self.calls.get(id)).filter(|call| {
            call.agent == root.agent && call.starts_processes() && call.covers(root.start) && !call.late
        });
        let (Some(call), None) = (open.next(), open.next()) else { return None };
        (!call.announced.has_text() || !root.tells).then_some(call.id)
    }

    /// The calls that a program fits best, of those that were open.
    fn fitting(
        &self,
        agent: ProcessKey,
        exec: &Exec,
        was_open: impl Fn(&Call) -> bool,
    ) -> Option<(Fit, Vec<ToolCallId>)> {
        let calls = self.active.iter().filter_map(|id| self.calls.get(id));
        let mut best: Option<(bool, Fit, Vec<&Call>)> = None;
        for call in calls.filter(|call| call.agent == agent && was_open(call)) {
            let Some(fit) = call.announced.fit(exec) else { continue };
            // What was refused is thought of last.
            let rank = (!call.refused, fit);
            match &mut best {
                Some((allowed, known, calls)) if (*allowed, *known) == rank => calls.push(call),
                Some((allowed, known, _)) if (*allowed, *known) > rank => {}
                _ => best = Some((rank.0, rank.1, vec![call])),
            }
        }
        let (_, fit, mut calls) = best?;
        // The oldest that has none yet.
        calls.sort_by_key(|call| (call.found, call.id));
        Some((fit, calls.into_iter().map(|call| call.id).take(ALTERNATIVES_MAX + 1).collect()))
    }

    /// Ties a process to the first of these calls, with everything between it and the top of its tree that was started for it.
    #[expect(clippy::too_many_arguments, reason = "what is known of one program start")]
    fn attribute(
        &mut self,
        root_key: ProcessKey,
        event: &Event,
        by: Evidence,
        ids: &[ToolCallId],
        label: Option<ToolCallId>,
        tree: &ProcessTree,
        said: &mut Vec<Said>,
    ) -> ProcessKey {
        let Some((id, rest)) = ids.split_first() else { return root_key };
        let Some(opened) = self.calls.get(id).map(|call| call.opened) else { return root_key };
        let mut chain = vec![event.process];
        if event.process != root_key {
            let above = tree.ancestors(event.process).map(|(key, _)| key);
            chain.extend(above.take_while(|key| *key != root_key).filter(|key| key.start_ns >= opened.0));
            if root_key.start_ns >= opened.0 {
                chain.push(root_key);
            }
        }
        let top = chain.last().copied().unwrap_or(root_key);
        if top != root_key {
            let agent = self.roots.get(&root_key).map_or(self.root, |root| root.agent);
            if !self.take_root(top, agent, tree) {
                return root_key;
            }
            for process in &chain {
                self.put(*process, top, tree);
            }
            if let (Some(root), Action::ProcessExec(exec)) = (self.roots.get_mut(&top), &event.action) {
                root.runs(event, exec);
            }
        }
        // What was believed before on weaker grounds.
        if let Some(before) =
            self.roots.get(&top).and_then(Root::call).and_then(|call| self.calls.get_mut(&call))
        {
            before.attributed.retain(|one| one.process != top);
        }
        self.set(top, Kind::Call(*id, by));
        self.waiting.retain(|waiting| *waiting != top);
        if label != Some(*id) {
            let living =
                chain.iter().filter(|key| tree.get(**key).is_some_and(crate::tree::Process::is_live));
            for process in living.take(LABELLED_MAX) {
                said.push(Said::Label { process: *process, call: Some(*id) });
            }
        }
        if let Some(call) = self.calls.get_mut(id) {
            call.found |= by <= Evidence::Words;
            call.note(Attributed {
                process: top,
                time: event.time,
                by,
                what: deeds::reference(event).what,
                alternatives: rest.to_vec(),
            });
        }
        top
    }

    /// Believes what the kernel says a process was born for, unless something better is known.
    pub(super) fn take_label(&mut self, root_key: ProcessKey, event: &Event, label: Option<ToolCallId>) {
        let Some(label) = label.filter(|label| self.accepts(*label)) else { return };
        let Some(root) = self.roots.get_mut(&root_key) else { return };
        let weak = Kind::Call(label, Evidence::Agent);
        if !matches!(root.kind, Kind::Waiting | Kind::Unexplained | Kind::Startup | Kind::Own)
            && !matches!(root.kind, Kind::Call(call, Evidence::Agent) if call != label)
            || root.kind == weak
        {
            return;
        }
        // Who was there before the call does not work for it.
        let call = self.calls.get_mut(&label);
        if call.as_ref().is_some_and(|call| root.start < call.opened) {
            return;
        }
        root.kind = Kind::Call(label, Evidence::Label);
        if let Some(call) = call {
            call.note(Attributed {
                process: root_key,
                time: event.time,
                by: Evidence::Label,
                what: deeds::reference(event).what,
                alternatives: Vec::new(),
            });
        }
    }

    /// The call that an agent carries out itself with this.
    pub(super) fn in_process(&mut self, event: &Event) -> Option<ToolCallId> {
        if self.active.is_empty() {
            return None;
        }
        let agent = event.process;
        let to = deeds::endpoint(&event.action).and_then(|endpoint| endpoint.address);
        let fits = |call: &Call| {
            call.agent == agent
                && call.covers(event.time)
                && (to.is_some_and(|to| call.addresses.contains(&to)) || does(call, &event.action))
        };
        let mut fitting = self.active.iter().filter_map(|id| self.calls.get(id)).filter(|call| fits(call));
        // Of several that declare the same: the oldest that was not seen to do anything.
        let first = fitting.next()?;
        let found = if first.seen.events > 0 { fitting.find(|call| call.seen.events == 0) } else { None };
        let id = found.unwrap_or(first).id;
        let call = self.calls.get_mut(&id)?;
        call.seen.events += 1;
        call.seen.files += u64::from(deeds::is_file(event.kind()));
        call.seen.connects += u64::from(to.is_some());
        call.at(event.time);
        let what = deeds::reference(event).what;
        let known = |one: &Attributed| one.by == Evidence::Target && one.what == what;
        if !call.attributed.iter().any(known) {
            let alternatives = Vec::new();
            call.note(Attributed {
                process: agent,
                time: event.time,
                by: Evidence::Target,
                what,
                alternatives,
            });
        }
        Some(id)
    }

    /// The tree of a call that declares everything did something else.
    pub(super) fn contradict(&mut self, id: ToolCallId, event: &Event) {
        let Some(call) = self.calls.get_mut(&id) else { return };
        let ran = call.refused && matches!(event.action, Action::ProcessExec(_));
        let other = call.class == Class::Declared && deeds::succeeded(event) && {
            let connects =
                deeds::egress(event).is_some() && call.hosts.is_empty() && call.addresses.is_empty();
            let changes = |(deed, path): (Deed, &_)| deed != Deed::Read && !deeds::is_passing(path);
            let declares_changes = !call.writes.is_empty() || !call.deletes.is_empty();
            connects || !declares_changes && deeds::to_paths(&event.action).any(changes)
        };
        if ran || other {
            call.contradicted(deeds::reference(event));
        }
    }

    /// The end of a call names the process group that ran it.
    pub(super) fn named(&mut self, id: ToolCallId, pid: u32, tree: &ProcessTree, now: BootTime) {
        let Some(call) = self.calls.get(&id).filter(|call| !call.found) else { return };
        let covers = |key: &ProcessKey| call.covers(BootTime(key.start_ns));
        let Some(process) = tree.with_pid(pid).rev().find(covers) else { return };
        let free =
            |root: &Root| root.agent == call.agent && !matches!(root.kind, Kind::Call(..) | Kind::Hook);
        if !self.roots.get(&process).is_some_and(free) {
            return;
        }
        self.set(process, Kind::Call(id, Evidence::ProcessGroup));
        let what = self.roots.get(&process).map(|root| root.command.clone()).unwrap_or_default();
        if let Some(call) = self.calls.get_mut(&id) {
            let by = Evidence::ProcessGroup;
            call.note(Attributed { process, time: now, by, what, alternatives: Vec::new() });
        }
    }

    pub(super) fn set(&mut self, root: ProcessKey, kind: Kind) {
        if let Some(root) = self.roots.get_mut(&root) {
            root.kind = kind;
        }
    }
}

fn root_is_settled(root: Option<&Root>) -> bool {
    root.is_none_or(|root| root.kind != Kind::Waiting)
}

/// Whether an action is what a call declares.
fn does(call: &Call, action: &Action) -> bool {
    deeds::to_paths(action).any(|(deed, path)| {
        let path = path.text.0.as_slice();
        let any = |list: &[Vec<u8>], fits: &dyn Fn(&[u8]) -> bool| list.iter().any(|one| fits(one));
        match deed {
            Deed::Read => any(&call.reads, &|one| paths::within(path, one)),
            Deed::Write => any(&call.writes, &|one| paths::leads_to(path, one)),
            // A temporary file that takes the place of the announced one goes away.
            Deed::Delete => {
                any(&call.deletes, &|one| paths::within(path, one))
                    || any(&call.writes, &|one| paths::leads_to(path, one))
            }
        }
    })
}

/// Commands of git that change nothing: agents ask for the state of the project without being told to.
fn is_routine(exec: &Exec) -> bool {
    const QUIET: [&[u8]; 9] = [
        b"status",
        b"rev-parse",
        b"log",
        b"diff",
        b"ls-files",
        b"show-ref",
        b"describe",
        b"rev-list",
        b"--version",
    ];
    if text::base(&exec.exe.path.text.0) != b"git" {
        return false;
    }
    let mut words = exec.argv.iter().skip(1).map(|word: &Text| word.0.as_slice());
    loop {
        match words.next() {
            Some(b"-C") => drop(words.next()),
            // It can name programs that git runs.
            Some(b"-c") => return false,
            Some(word) if QUIET.contains(&word) => return true,
            Some(b"config") => return words.next().is_some_and(|word| word.starts_with(b"--get")),
            Some(b"branch") => return words.next() == Some(b"--show-current"),
            Some(b"remote") => return words.next().is_none_or(|word| word == b"-v" || word == b"get-url"),
            Some(word) if word.starts_with(b"--") => {}
            _ => return false,
        }
    }
}
