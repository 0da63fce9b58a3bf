//! Hooks that the fail mode has answered, told of later: rows that say whose word they are. The user who tells could say
//! anything; what is certain is who told it, and when.

use std::collections::BTreeMap;

use crate::{
    connectors,
    model::{
        Answer, BootTime, Caller, Connector, FailMode, HookCall, HookEvent, HookOutput, Missed, Phase,
        PolicyAction, WallTime,
    },
};

/// Name of the event where the agent's own is not known.
const UNNAMED: &str = "defenseclaw.missed";

/// The rows of a report, which is short. Lines that only name a connector become one row that says how many they are.
pub(super) fn calls(caller: Caller, lines: &[u8], boot: BootTime, wall: WallTime) -> Vec<HookCall> {
    let row = |event: HookEvent, problem: String, fail: FailMode| HookCall {
        session: None,
        wall,
        boot,
        caller,
        connector: event.connector,
        event: Some(event),
        calls: Vec::new(),
        cut: false,
        problem: Some(problem),
        policy: None,
        decision: None,
        answer: Answer::new(
            if fail == FailMode::Closed { PolicyAction::Block } else { PolicyAction::Allow },
            Some(fail),
            &HookOutput::default(),
        ),
        latency_ns: 0,
    };
    let mut calls = Vec::new();
    let mut counted: BTreeMap<Connector, usize> = BTreeMap::new();
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        if let Ok(missed) = serde_json::from_slice::<Missed>(line) {
            let problem = format!("not judged, its user says later: {}", missed.reason);
            let fail = missed.fail;
            calls.push(row(event(missed), problem, fail));
        } else if let Some(connector) = str::from_utf8(line).ok().and_then(Connector::from_name) {
            *counted.entry(connector).or_default() += 1;
        } else {
            tracing::warn!("uid {} told of hooks in words that are not ours", caller.uid);
        }
    }
    for (connector, count) in counted {
        let event = HookEvent { late: Some(wall), ..HookEvent::new(connector, Phase::Other, UNNAMED) };
        let problem =
            format!("{count} more were not judged, their user says later, and nothing else of them");
        calls.push(row(event, problem, connectors::default_fail_mode(connector)));
    }
    calls
}

/// Nothing of it opens or closes a tool call: whatever its name is, it is over.
fn event(missed: Missed) -> HookEvent {
    let name = missed.event.unwrap_or_else(|| UNNAMED.to_owned());
    let mut event = HookEvent::new(missed.connector, Phase::Other, name);
    event.session = missed.session;
    event.late = Some(missed.wall);
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_rows_and_what_is_none_is_left() {
        let line = r#"{"t":7,"c":"codex","f":"closed","r":"late","e":"PreToolUse","s":"s1"}"#;
        let report = format!("{line}\ncodex\n\u{1b}[2J\n{{}}\ncodex\ncursor\n\n{line}");
        let caller = Caller { pid: 1, start_ticks: 2, uid: 3, gid: 4 };
        let calls = calls(caller, report.as_bytes(), BootTime(5), WallTime(6));
        let said: Vec<_> = calls
            .iter()
            .map(|call| (call.connector, call.event.as_ref().unwrap().late, call.answer.action))
            .collect();
        let first = (Connector::Codex, Some(WallTime(7)), PolicyAction::Block);
        let count = |connector| (connector, Some(WallTime(6)), PolicyAction::Allow);
        assert_eq!(said, [first, first, count(Connector::Codex), count(Connector::Cursor)]);
        assert_eq!(calls[0].problem.as_deref(), Some("not judged, its user says later: late"));
        assert!(calls[2].problem.as_ref().unwrap().starts_with("2 more"));
        assert!(calls.iter().all(|call| call.caller == caller && call.decision.is_none()));
        assert_eq!(calls[0].event.as_ref().unwrap().name, "PreToolUse");
    }
}
