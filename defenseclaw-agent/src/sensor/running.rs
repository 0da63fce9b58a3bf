//! Processes that ran already when they were enrolled, and the label that a process hands to its children. Which of them
//! are to be enrolled is decided elsewhere.
//!
//! `/proc` tells starts in clock ticks, the kernel's records in nanoseconds. Who was enrolled while running has its start in
//! whole ticks everywhere, also in the records that name it: one process, one name.

use std::collections::HashMap;

use super::{LabelPod, Sensor, SensorError, map_error, proc::TICK_NS, removed};
use crate::model::{Action, BootTime, Event, ProcessKey, SessionId, ToolCallId};

/// `BPF_NOEXIST`: never displaces a label.
const IF_ABSENT: u64 = 1;
/// `BPF_EXIST`: never makes one.
const IF_PRESENT: u64 = 2;
/// Records of a process can be read after that of its end, but not much later.
const KEEP_ENDED_NS: u64 = 60_000_000_000;

/// Starts in whole ticks by pid, and the end once it is known.
#[derive(Debug, Default)]
pub(super) struct Running {
    starts: HashMap<u32, (u64, Option<BootTime>)>,
    latest: BootTime,
}

impl Running {
    fn note(&mut self, process: ProcessKey) {
        let latest = self.latest.0;
        self.starts.retain(|_, (_, ended)| ended.is_none_or(|ended| latest < ended.0 + KEEP_ENDED_NS));
        self.starts.insert(process.tgid, (process.start_ns, None));
    }

    pub(super) fn rename(&mut self, events: &mut [Event]) {
        if self.starts.is_empty() {
            return;
        }
        for event in events {
            self.latest = self.latest.max(event.time);
            self.whole_ticks(&mut event.process);
            #[expect(clippy::wildcard_enum_match_arm, reason = "all that name a process that may be older")]
            match &mut event.action {
                Action::ProcessExec(exec) => self.whole_ticks(&mut exec.parent),
                Action::Ptrace { target, .. } | Action::Signal { target: Some(target), .. } => {
                    self.whole_ticks(target);
                }
                Action::ProcessExit { .. } => {
                    if let Some((start, ended)) = self.starts.get_mut(&event.process.tgid)
                        && *start == event.process.start_ns
                    {
                        *ended = Some(event.time);
                    }
                }
                _ => {}
            }
        }
    }

    fn whole_ticks(&self, process: &mut ProcessKey) {
        if let Some((start, _)) = self.starts.get(&process.tgid)
            && is_start(process.start_ns, *start)
        {
            process.start_ns = *start;
        }
    }
}

/// Whether an exact start is this one in whole ticks.
fn is_start(exact: u64, in_ticks: u64) -> bool {
    exact / TICK_NS == in_ticks / TICK_NS
}

impl Sensor {
    /// Watches a process that runs already, whose start is in whole ticks. False if it is watched already, or has ended.
    /// Who enrols it at its very end should look again: see [`Sensor::release_ended`].
    pub fn enrol_running(&mut self, process: ProcessKey, session: SessionId) -> Result<bool, SensorError> {
        let enrolled = self.scope.insert(u64::from(process.tgid), LabelPod::of(session), IF_ABSENT);
        if let Err(error) = enrolled {
            let there = self.label_of(process.tgid)?.is_some();
            return if there { Ok(false) } else { Err(map_error("enrol the process")(error)) };
        }
        if super::is_alive(process) {
            self.running.note(process);
            return Ok(true);
        }
        self.release_ended(process)?;
        Ok(false)
    }

    /// Removes what is left of a process that had passed the kernel's program for ends when it was enrolled: otherwise
    /// whoever gets its pid next would be watched.
    pub fn release_ended(&mut self, process: ProcessKey) -> Result<(), SensorError> {
        let Some(label) = self.label_of(process.tgid)? else { return Ok(()) };
        if label.0.start_ns == 0 || is_start(label.0.start_ns, process.start_ns) {
            removed(self.scope.remove(&u64::from(process.tgid))).map_err(map_error("release the process"))?;
        }
        Ok(())
    }

    /// Session of a process that is watched; `start_ns` as exact as it is known.
    pub fn session_of(&self, process: ProcessKey) -> Result<Option<SessionId>, SensorError> {
        let label = self.label_of(process.tgid)?.map(|LabelPod(label)| label);
        // Of one that has done nothing yet the label has no start; a pid means one process while it is enrolled.
        let is_it = |start| start == 0 || process.start_ns == 0 || is_start(start, process.start_ns);
        Ok(label.filter(|label| is_it(label.start_ns)).map(|label| SessionId(label.session)))
    }

    /// From now on children of this process are born with that call's label, or with none. False if it is not watched
    /// any more.
    ///
    /// The value of a hash map can only be replaced as a whole, so what a program writes into the old one meanwhile is
    /// lost. Programs write two things: the start, of which each of them writes the same when it finds none, and, where a
    /// policy judges in the kernel, the sets that the running program belongs to. The first may be lost. The second may
    /// not, so such a process is refused here. A process that ends meanwhile gets no label again: only what is present is
    /// replaced.
    pub fn label(&mut self, process: ProcessKey, call: Option<ToolCallId>) -> Result<bool, SensorError> {
        let Some(LabelPod(mut label)) = self.label_of(process.tgid)? else { return Ok(false) };
        if label.start_ns != 0 && !is_start(label.start_ns, process.start_ns) {
            return Ok(false);
        }
        if label.profile != 0 {
            return Err(SensorError::Map {
                operation: "label the process",
                reason: "a policy in the kernel judges it, whose notes would be overwritten".to_owned(),
            });
        }
        let tool_call = call.map_or(0, |call| call.0);
        if label.tool_call == tool_call {
            return Ok(true);
        }
        label.tool_call = tool_call;
        match self.scope.insert(u64::from(process.tgid), LabelPod(label), IF_PRESENT) {
            Ok(()) => Ok(true),
            Err(_) if self.label_of(process.tgid)?.is_none() => Ok(false),
            Err(error) => Err(map_error("label the process")(error)),
        }
    }

    fn label_of(&self, tgid: u32) -> Result<Option<LabelPod>, SensorError> {
        use aya::maps::MapError;
        match self.scope.get(&u64::from(tgid), 0) {
            Ok(label) => Ok(Some(label)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(map_error("look a process up")(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ExitStatus, Vantage};

    fn event(process: ProcessKey, time: u64, action: Action) -> Event {
        Event {
            time: BootTime(time),
            session: SessionId(1),
            process,
            tid: process.tgid,
            uid: 0,
            cgroup: 0,
            tool_call: None,
            result: None,
            vantage: Vantage::Kernel,
            verdict: None,
            decision: None,
            action,
        }
    }

    #[test]
    fn one_process_has_one_name_and_its_successor_another() {
        let mut running = Running::default();
        let known = ProcessKey { tgid: 7, start_ns: 50 * TICK_NS };
        running.note(known);
        let exact = ProcessKey { start_ns: 50 * TICK_NS + 123, ..known };
        let later = ProcessKey { start_ns: 99 * TICK_NS + 5, ..known };
        let signal = |target| Action::Signal { signal: 9, target: Some(target) };
        let mut events = [
            event(exact, 1, signal(exact)),
            event(exact, 2, Action::ProcessExit { status: ExitStatus::Code(0) }),
            // Read late.
            event(exact, 1, signal(later)),
            event(later, 3, signal(exact)),
        ];
        running.rename(&mut events);
        let named: Vec<_> = events.iter().map(|event| (event.process, event.action.clone())).collect();
        assert_eq!(named[0], (known, signal(known)));
        assert_eq!(named[1].0, known);
        assert_eq!(named[2], (known, signal(later)));
        assert_eq!(named[3], (later, signal(known)));
        // Some time after its end it is forgotten.
        running.latest = BootTime(2 + KEEP_ENDED_NS);
        running.note(ProcessKey { tgid: 8, start_ns: TICK_NS });
        assert_eq!(running.starts.len(), 1);
    }
}
