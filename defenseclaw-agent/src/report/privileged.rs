//! Operations on the system or on other processes, each with who did it. Equal ones of one process are counted.

use std::collections::{HashMap, hash_map::Entry};

use serde::Serialize;

use super::Outcomes;
use crate::model::{Action, Event, ProcessKey};

/// Operations that are listed.
const OPERATIONS_MAX: usize = 20_000;

/// Operations on the system or on other processes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Privileged {
    /// Events of this section.
    pub events: u64,
    /// In the order of their first occurrence.
    pub operations: Vec<PrivilegedOperation>,
    /// Events beyond the bound of the list.
    pub unlisted: u64,
}

/// One operation.
#[derive(Clone, Debug, Serialize)]
pub struct PrivilegedOperation {
    /// Who.
    pub process: ProcessKey,
    /// When first.
    pub first_ns: u64,
    /// When last.
    pub last_ns: u64,
    /// Real user id at that moment.
    pub uid: u32,
    /// How often.
    pub count: u64,
    /// With what results.
    pub outcomes: Outcomes,
    /// Counted with the processes, listed here as well: a program that runs with other rights than its caller, or a
    /// process in namespaces of its own.
    pub counted_elsewhere: bool,
    /// What.
    #[serde(flatten)]
    pub action: Action,
}

#[derive(Debug, Default)]
pub(super) struct Builder {
    events: u64,
    operations: Vec<PrivilegedOperation>,
    /// Position of an operation, by who and what. Actions have no hash of their own, their debug form has.
    known: HashMap<(ProcessKey, String), usize>,
    unlisted: u64,
}

impl Builder {
    /// An event of this section.
    pub(super) fn push(&mut self, event: &Event, at_ns: u64) {
        self.events += 1;
        if !self.list(event, at_ns, false) {
            self.unlisted += 1;
        }
    }

    /// A process event, which may deserve a line here.
    pub(super) fn notice(&mut self, event: &Event, at_ns: u64) {
        let elevated = matches!(&event.action, Action::ProcessExec(exec)
            if exec.euid != event.uid || exec.egid != exec.gid);
        let apart = matches!(&event.action, Action::ProcessFork { namespaces, .. } if !namespaces.is_empty());
        if elevated || apart {
            self.list(event, at_ns, true);
        }
    }

    fn list(&mut self, event: &Event, at_ns: u64, counted_elsewhere: bool) -> bool {
        let n_operations = self.operations.len();
        let position = match self.known.entry((event.process, format!("{:?}", event.action))) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(_) if n_operations >= OPERATIONS_MAX => return false,
            Entry::Vacant(vacant) => {
                self.operations.push(PrivilegedOperation {
                    process: event.process,
                    first_ns: at_ns,
                    last_ns: at_ns,
                    uid: event.uid,
                    count: 0,
                    outcomes: Outcomes::default(),
                    counted_elsewhere,
                    action: event.action.clone(),
                });
                *vacant.insert(n_operations)
            }
        };
        if let Some(operation) = self.operations.get_mut(position) {
            operation.count += 1;
            operation.first_ns = operation.first_ns.min(at_ns);
            operation.last_ns = operation.last_ns.max(at_ns);
            operation.outcomes.add(event.result);
        }
        true
    }

    pub(super) fn finish(mut self) -> Privileged {
        self.operations.sort_by_key(|operation| operation.first_ns);
        Privileged { events: self.events, operations: self.operations, unlisted: self.unlisted }
    }
}
