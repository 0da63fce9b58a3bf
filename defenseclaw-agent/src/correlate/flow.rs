//! A secret that was read, and data that left the machine after it. Ordered by the time of the events, not by that of
//! their records.

use std::collections::VecDeque;

use super::{
    Said, deeds,
    findings::Rule,
    session::{Place, Session},
};
use crate::model::{BootTime, Event, EvidenceRef, ToolCallId};

/// How long a secret counts as known.
const WINDOW_NS: u64 = 30 * 60 * 1_000_000_000;
/// Reads and connections that are remembered.
const KEPT: usize = 64;

#[derive(Clone, Debug)]
struct Step {
    event: EvidenceRef,
    call: Option<ToolCallId>,
}

#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Secrets that nothing has left after yet.
    secrets: VecDeque<Step>,
    /// The last connections.
    egress: VecDeque<Step>,
}

impl Flow {
    /// A read; the connection that came after it, if one did.
    fn read(&mut self, step: Step) -> Option<(Step, Step)> {
        let at = self.egress.iter().position(|egress| follows(&step, egress));
        if let Some(egress) = at.and_then(|at| self.egress.remove(at)) {
            return Some((step, egress));
        }
        push(&mut self.secrets, step);
        None
    }

    /// A connection; the secret that was read before it, if one was. It is told once.
    fn connect(&mut self, step: Step) -> Option<(Step, Step)> {
        let at = self.secrets.iter().rposition(|secret| follows(secret, &step));
        if let Some(secret) = at.and_then(|at| self.secrets.get(at).cloned()) {
            self.secrets.retain(|other| !follows(other, &step));
            return Some((secret, step));
        }
        push(&mut self.egress, step);
        None
    }
}

fn follows(secret: &Step, egress: &Step) -> bool {
    let BootTime(read) = secret.event.time;
    (read..read.saturating_add(WINDOW_NS)).contains(&egress.event.time.0) && read != egress.event.time.0
}

fn push(list: &mut VecDeque<Step>, step: Step) {
    if list.len() >= KEPT {
        list.pop_front();
    }
    list.push_back(step);
}

impl Session {
    /// What leaves the agent's own process outside of a call goes to its model, which has been told everything anyway.
    pub(super) fn watch_flow(&mut self, event: &Event, place: Place, said: &mut Vec<Said>) {
        let step = || Step { event: deeds::reference(event), call: event.tool_call };
        let mut found = None;
        if let Some(path) = deeds::secret(event) {
            let unexplained = place == Place::Agent && event.tool_call.is_none();
            if unexplained && self.is_own(&path.text.0) {
                return;
            }
            if unexplained {
                self.secret_by_itself(event, said);
            }
            if deeds::succeeded(event) && place != Place::Outside {
                found = self.flow.read(step());
            }
        } else if deeds::egress(event).is_some()
            && (matches!(place, Place::Under(_)) || place == Place::Agent && event.tool_call.is_some())
        {
            found = self.flow.connect(step());
        }
        let Some((secret, egress)) = found else { return };
        let summary = format!(
            "{} was read, and {} was connected to after it",
            secret.event.what.lossy(),
            egress.event.what.lossy()
        );
        let call = egress.call.or(secret.call);
        let process = egress.event.process;
        let evidence = vec![secret.event, egress.event];
        let now = event.time;
        self.find(&Rule::SECRET_THEN_EGRESS, summary, call, Some(process), evidence, now, said);
    }
}
