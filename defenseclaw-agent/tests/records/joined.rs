//! Rows about tool calls.

use defenseclaw::model::{
    Answer, Attributed, AuditRecord, BootTime, Caller, Connector, Correlated, Correlation, EventKind,
    Evidence, EvidenceRef, Finding, HookCall, HookEvent, HookOutput, Phase, PolicyAction, ProcessKey, Seen,
    Severity, Text, ToolCall, ToolCallId, WallTime,
};

use super::{SESSION, opened};

/// A tool call.
pub(crate) const CALL: ToolCallId = ToolCallId(0x12_3456);

fn announced(call: ToolCallId, own: &str) -> AuditRecord {
    let mut event = HookEvent::new(Connector::ClaudeCode, Phase::ToolPre, "PreToolUse");
    event.tools = vec![ToolCall {
        id: Some(own.to_owned()),
        tool: "Bash".to_owned(),
        // The number of another call as a text of the agent.
        input: serde_json::json!({"command": format!("echo {}", CALL.0)}),
        intents: Vec::new(),
        output: None,
        failed: false,
        background: false,
        process_group: None,
        mcp: None,
    }];
    AuditRecord::Hook(Box::new(HookCall {
        session: Some(SESSION),
        wall: WallTime(0),
        boot: BootTime(7),
        caller: Caller::default(),
        connector: Connector::ClaudeCode,
        event: Some(event),
        calls: vec![call],
        cut: false,
        problem: None,
        policy: None,
        decision: None,
        answer: Answer::new(PolicyAction::Allow, None, &HookOutput::default()),
        latency_ns: 1,
    }))
}

/// Rows about one call, and their like about another one.
pub(crate) fn joined(call: ToolCallId, own: &str) -> Vec<AuditRecord> {
    let process = ProcessKey { tgid: 7, start_ns: 9 };
    let what = Text(b"make \xff".to_vec());
    let AuditRecord::Event(mut event) = opened(SESSION, CALL.0) else { unreachable!() };
    event.tool_call = Some(call);
    vec![
        announced(call, own),
        AuditRecord::Event(event),
        AuditRecord::Correlated(Box::new(Correlated {
            session: SESSION,
            boot: BootTime(9),
            tool_call: Some(call),
            tool: Some("Bash".to_owned()),
            correlation: Correlation::Matched,
            reason: "said and done".to_owned(),
            process: None,
            program: Text::default(),
            seen: Seen { processes: 1, files: 2, connects: 0, events: CALL.0 },
            first: Some(BootTime(7)),
            last: None,
            attributed: vec![Attributed {
                process,
                time: BootTime(8),
                by: Evidence::Text,
                what: what.clone(),
                alternatives: vec![ToolCallId(1)],
            }],
            unlisted: 0,
        })),
        AuditRecord::Finding(Box::new(Finding {
            session: SESSION,
            boot: BootTime(9),
            rule: "correlate.conflict".to_owned(),
            severity: Severity::High,
            summary: "one thing was said, another done".to_owned(),
            tool_call: Some(call),
            process: Some(process),
            evidence: vec![EvidenceRef { time: BootTime(8), process, kind: EventKind::FileOpen, what }],
        })),
    ]
}
