//! What is known of one watched session: who announces, which calls there are, and which tree each process belongs to.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    Said,
    call::Call,
    deeds,
    findings::Findings,
    flow::Flow,
    paths,
    root::{Kind, Root, Tally},
};
use crate::{
    model::{Action, BootTime, Event, Evidence, ProcessKey, SessionId, SessionStart, ToolCallId},
    tree::{Process, ProcessTree},
};

/// Processes whose tree is remembered.
const PLACED_MAX: usize = 65_536;
/// Trees that are remembered.
const ROOTS_MAX: usize = 4096;
/// Program starts that are kept until their process can be placed.
const UNPLACED_MAX: usize = 64;
/// Processes that announce.
pub(super) const AGENTS_MAX: usize = 64;
/// Processes above an announcer that are known as its own.
const ABOVE_MAX: usize = 16;
/// Below this no pruning is worth it.
const PRUNE_FROM: usize = 1024;

/// A process that announces calls.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) process: ProcessKey,
    /// What its children are born with.
    pub(super) label: Option<ToolCallId>,
    pub(super) last_hook: BootTime,
    /// Programs it started since then that nothing explains.
    pub(super) unheard: u32,
    pub(super) silence_told: bool,
}

/// Where a process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It announces, or is above who does.
    Agent,
    /// Below this one.
    Under(ProcessKey),
    /// Not started by an agent, as far as is known.
    Outside,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) id: SessionId,
    pub(super) root: ProcessKey,
    pub(super) home: Vec<u8>,
    pub(super) project: Vec<u8>,
    /// Directories of the agents themselves.
    pub(super) own: Vec<Vec<u8>>,
    pub(super) first_hook: Option<BootTime>,
    pub(super) first_tool: Option<BootTime>,
    /// Labels from here on are ours; smaller ones another watcher gave.
    pub(super) labels_from: Option<ToolCallId>,
    pub(super) agents: Vec<Agent>,
    above: HashSet<ProcessKey>,
    pub(super) calls: BTreeMap<ToolCallId, Call>,
    /// Calls that events can still be joined to by themselves.
    pub(super) active: Vec<ToolCallId>,
    under: HashMap<ProcessKey, ProcessKey>,
    prune_at: usize,
    pub(super) roots: HashMap<ProcessKey, Root>,
    /// Trees that something is to be said of.
    pub(super) waiting: Vec<ProcessKey>,
    /// Program starts of processes of whom the records that place them have not come yet.
    unplaced: Vec<Event>,
    /// What agents did themselves, outside of any call; what their hooks did; what they do of themselves.
    pub(super) itself: Tally,
    pub(super) hooks: Tally,
    pub(super) routine: Tally,
    /// Trees that no call explains, beyond the bound of rows.
    pub(super) others: Tally,
    pub(super) n_rows: usize,
    /// Calls that had to be forgotten while they were open.
    pub(super) forgotten: u64,
    pub(super) flow: Flow,
    pub(super) findings: Findings,
}

impl Session {
    pub(super) fn new(start: &SessionStart) -> Self {
        Self {
            id: start.session,
            root: start.root,
            home: start.home.0.clone(),
            project: start.project.0.clone(),
            own: Vec::new(),
            first_hook: None,
            first_tool: None,
            labels_from: None,
            agents: Vec::new(),
            above: HashSet::new(),
            calls: BTreeMap::new(),
            active: Vec::new(),
            under: HashMap::new(),
            prune_at: PRUNE_FROM,
            roots: HashMap::new(),
            waiting: Vec::new(),
            unplaced: Vec::new(),
            itself: Tally::default(),
            hooks: Tally::default(),
            routine: Tally::default(),
            others: Tally::default(),
            n_rows: 0,
            forgotten: 0,
            flow: Flow::default(),
            findings: Findings::default(),
        }
    }

    /// It has had a hook.
    pub(super) fn is_awake(&self) -> bool {
        self.first_hook.is_some()
    }

    pub(super) fn event(&mut self, event: &mut Event, tree: &ProcessTree, said: &mut Vec<Said>) {
        if let Action::DnsAnswer { name, addresses, .. } = &event.action {
            self.answered(&name.0, addresses);
        }
        if event.process.tgid == 0 {
            event.tool_call = None;
            return;
        }
        let place = self.place(event.process, tree);
        match place {
            Place::Under(root) => self.of_tree(root, event, tree, said),
            Place::Agent => self.of_agent(event, tree, said),
            Place::Outside => match event.tool_call.filter(|label| self.accepts(*label)) {
                // Who made it is not known, but what for.
                Some(_) if self.take_root(event.process, self.root, tree) => {
                    self.of_tree(event.process, event, tree, said);
                }
                label => {
                    if matches!(event.action, Action::ProcessExec(_)) && self.unplaced.len() < UNPLACED_MAX {
                        self.unplaced.push(Event { tool_call: label, ..event.clone() });
                    }
                    event.tool_call = None;
                }
            },
        }
        if !self.unplaced.is_empty()
            && matches!(event.action, Action::ProcessExec(_) | Action::ProcessFork { .. })
        {
            self.place_again(tree, said);
        }
        self.watch_flow(event, place, said);
    }

    /// Program starts whose process can be placed by now.
    fn place_again(&mut self, tree: &ProcessTree, said: &mut Vec<Said>) {
        for mut event in std::mem::take(&mut self.unplaced) {
            match self.place(event.process, tree) {
                Place::Under(root) => {
                    let label = event.tool_call.take();
                    self.started(root, &event, label, tree, said);
                }
                Place::Agent => {}
                Place::Outside => self.unplaced.push(event),
            }
        }
    }

    /// The records that would place these do not come any more.
    pub(super) fn forget_unplaced(&mut self, now: BootTime) {
        self.unplaced.retain(|event| !super::conclude::past(event.time, now));
    }

    /// The tree that a process belongs to. Agents belong to the tree of who started them, if a call did.
    pub(super) fn place(&mut self, key: ProcessKey, tree: &ProcessTree) -> Place {
        if self.agents.iter().any(|agent| agent.process == key) {
            return Place::Agent;
        }
        if let Some(root) = self.under.get(&key) {
            return Place::Under(*root);
        }
        if self.above.contains(&key) {
            return Place::Agent;
        }
        // From the process upwards, until somebody is known.
        let mut chain = vec![key];
        for (parent, _) in tree.ancestors(key) {
            let root = if self.agents.iter().any(|agent| agent.process == parent) {
                let top = chain.pop().unwrap_or(key);
                if !self.take_root(top, parent, tree) {
                    return Place::Outside;
                }
                top
            } else if let Some(root) = self.under.get(&parent) {
                *root
            } else {
                chain.push(parent);
                continue;
            };
            if let Some(root) = self.roots.get_mut(&root) {
                root.tally.seen.processes += chain.len() as u64;
            }
            for process in chain {
                self.put(process, root, tree);
            }
            return Place::Under(root);
        }
        Place::Outside
    }

    /// The call of the tree that a process belongs to, whoever it is.
    pub(super) fn call_around(&self, key: ProcessKey) -> Option<ToolCallId> {
        self.under.get(&key).and_then(|root| self.roots.get(root)).and_then(Root::call)
    }

    /// Makes a process the top of a tree of its own; whether there is room.
    pub(super) fn take_root(&mut self, process: ProcessKey, agent: ProcessKey, tree: &ProcessTree) -> bool {
        if self.roots.len() >= ROOTS_MAX && !self.roots.contains_key(&process) {
            return false;
        }
        let mut root = Root::new(process, agent);
        if let Some(image) = tree.get(process).and_then(Process::image) {
            root.ran(image);
        }
        // What an agent starts that a call has started is for that call, unless it is for one of its own.
        let around = self.call_around(agent);
        if let Some(call) = around {
            root.kind = Kind::Call(call, Evidence::Agent);
        }
        if self.roots.insert(process, root).is_none() && around.is_none() {
            self.waiting.push(process);
        }
        self.put(process, process, tree);
        true
    }

    pub(super) fn put(&mut self, process: ProcessKey, root: ProcessKey, tree: &ProcessTree) {
        if self.under.len() >= PLACED_MAX {
            self.prune(tree);
        }
        if self.under.len() < PLACED_MAX {
            self.under.insert(process, root);
        }
    }

    /// Forgets processes that the tree has forgotten, when there are many.
    pub(super) fn prune_if_many(&mut self, tree: &ProcessTree) {
        if self.under.len() >= self.prune_at {
            self.prune(tree);
            self.prune_at = PRUNE_FROM.max(2 * self.under.len());
        }
    }

    fn prune(&mut self, tree: &ProcessTree) {
        self.under.retain(|process, _| tree.get(*process).is_some());
    }

    /// A process announces. Where it was placed before does not change.
    pub(super) fn announces(&mut self, process: ProcessKey, tree: &ProcessTree, now: BootTime) {
        if let Some(agent) = self.agents.iter_mut().find(|agent| agent.process == process) {
            (agent.last_hook, agent.unheard, agent.silence_told) = (now, 0, false);
            return;
        }
        if self.agents.len() >= AGENTS_MAX {
            self.agents.retain(|agent| tree.get(agent.process).is_some());
        }
        if self.agents.len() >= AGENTS_MAX {
            return;
        }
        self.agents.push(Agent { process, label: None, last_hook: now, unheard: 0, silence_told: false });
        self.above.retain(|above| tree.get(*above).is_some());
        let ancestors: Vec<_> = tree
            .ancestors(process)
            .map(|(key, _)| key)
            .take(ABOVE_MAX)
            // Above an agent that a call started is that call's tree.
            .take_while(|key| !self.under.contains_key(key) || self.call_around(*key).is_none())
            .collect();
        for key in ancestors {
            if !self.agents.iter().any(|agent| agent.process == key) {
                self.leave_tree(key);
                self.above.insert(key);
            }
        }
        if self.call_around(process).is_none() {
            self.leave_tree(process);
        }
    }

    fn leave_tree(&mut self, process: ProcessKey) {
        if let Some(root) = self.under.remove(&process)
            && root == process
        {
            self.roots.remove(&root);
            self.waiting.retain(|waiting| *waiting != root);
        }
    }

    /// An event of an agent's own process.
    fn of_agent(&mut self, event: &mut Event, tree: &ProcessTree, said: &mut Vec<Said>) {
        // The label is what its children are born with, not what it works for itself.
        event.tool_call = None;
        if let Some(call) = self.in_process(event) {
            event.tool_call = Some(call);
            return;
        }
        if let Some(root) = self.under.get(&event.process).copied() {
            self.of_tree(root, event, tree, said);
            return;
        }
        self.itself.count(event);
    }

    /// An event of a process below an agent.
    fn of_tree(&mut self, root: ProcessKey, event: &mut Event, tree: &ProcessTree, said: &mut Vec<Said>) {
        let label = event.tool_call.take();
        if let Action::ProcessFork { child, .. } = event.action
            && child.tgid != 0
            && !self.under.contains_key(&child)
            // Of a child of an agent nobody knows yet what it is for.
            && !self.agents.iter().any(|agent| agent.process == event.process)
        {
            self.put(child, root, tree);
            if let Some(root) = self.roots.get_mut(&root) {
                root.tally.seen.processes += 1;
            }
        }
        let mut root = root;
        if matches!(event.action, Action::ProcessExec(_)) {
            root = self.started(root, event, label, tree, said);
        }
        self.take_label(root, event, label);
        let Some(found) = self.roots.get_mut(&root) else { return };
        found.tally.count(event);
        let mut wait = false;
        match found.kind {
            Kind::Call(call, _) => {
                event.tool_call = Some(call);
                self.contradict(call, event);
            }
            Kind::Waiting | Kind::Own | Kind::Startup | Kind::Routine | Kind::Hook | Kind::Unexplained => {
                if found.connect.is_none() && deeds::egress(event).is_some() {
                    found.connect = Some(deeds::reference(event));
                    wait = true;
                }
                if found.secret.is_none() && deeds::secret(event).is_some() {
                    found.secret = Some(deeds::reference(event));
                    wait = true;
                }
            }
        }
        if wait && !self.waiting.contains(&root) {
            self.waiting.push(root);
        }
    }

    /// A label that says something of this session.
    pub(super) fn accepts(&self, label: ToolCallId) -> bool {
        self.calls.contains_key(&label) || self.labels_from.is_none_or(|first| label < first)
    }

    /// A file of an agent's own: its configuration, its log.
    pub(super) fn is_own(&self, path: &[u8]) -> bool {
        self.own.iter().any(|directory| paths::within(path, directory))
    }

    fn answered(&mut self, name: &[u8], addresses: &[std::net::IpAddr]) {
        for id in &self.active {
            let Some(call) = self.calls.get_mut(id) else { continue };
            if call.hosts.iter().any(|host| host.as_bytes().eq_ignore_ascii_case(name))
                && call.addresses.len() < 64
            {
                call.addresses.extend_from_slice(addresses);
            }
        }
    }
}
