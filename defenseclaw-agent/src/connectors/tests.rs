//! Replies against the form of each agent, and payloads that nobody sent. The real payloads are in `tests/connectors`.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::{Text, Way};

/// An event of each kind that the connector knows.
fn known(connector: Connector) -> Vec<HookEvent> {
    let rows = agent(connector).events.iter();
    let tool = |name: &str| {
        let mut call = fields::call(name, json!({"command": "ls"}));
        call.mcp = name.starts_with("mcp__").then(Default::default);
        call
    };
    rows.flat_map(|row| {
        ["Bash", "Read", "mcp__a__b"].map(|name| {
            let mut event = HookEvent::new(connector, row.phase, row.name);
            event.tools.push(tool(name));
            event
        })
    })
    .collect()
}

fn replies(reason: &str) -> [Reply; 4] {
    let reason = || reason.to_owned();
    [
        Reply::Allow,
        Reply::Alert { note: reason() },
        Reply::Confirm { reason: reason() },
        Reply::Block { reason: reason() },
    ]
}

/// What every agent takes: one whole JSON object or nothing on stdout, and 0 or, with text on stderr, 2.
fn is_well_formed(output: &HookOutput) -> bool {
    let object = serde_json::from_slice::<Value>(&output.stdout).is_ok_and(|value| value.is_object());
    match output.exit_code {
        0 => output.stderr.is_empty() && (output.stdout.is_empty() || object),
        2 => output.stdout.is_empty() && !output.stderr.is_empty(),
        _ => false,
    }
}

#[test]
fn a_block_is_said_where_the_table_says_that_it_holds_and_nowhere_else() {
    for event in Connector::ALL.iter().flat_map(|connector| known(*connector)) {
        let said = |reply: &Reply| encode(reply, &event, Attendance::Unattended);
        let [allow, alert, confirm, block] = replies("R").map(|reply| said(&reply));
        let control = control(&event);
        assert_eq!(block != allow, control.hold > Hold::Nothing, "{event:?}");
        assert_eq!(alert != allow, control.note, "{event:?}");
        if control.ask == Ask::None {
            let holds = control.hold >= Hold::Withholds;
            assert_eq!(confirm == block && confirm != allow, holds, "{event:?}");
        }
    }
}

#[test]
fn unknown_events_are_only_observed() {
    for connector in Connector::ALL {
        let event = HookEvent::new(*connector, Phase::Other, "NotInventedYet");
        let allow = encode(&Reply::Allow, &event, Attendance::Attended);
        for reply in replies("R") {
            assert_eq!(encode(&reply, &event, Attendance::Attended), allow);
        }
    }
}

#[test]
fn a_stop_is_held_once() {
    for (connector, name) in
        [(Connector::ClaudeCode, "Stop"), (Connector::Codex, "Stop"), (Connector::GeminiCli, "AfterAgent")]
    {
        let mut event = HookEvent::new(connector, Phase::Stop, name);
        let block = Reply::Block { reason: "R".to_owned() };
        assert_ne!(encode(&block, &event, Attendance::Attended), HookOutput::default());
        event.stop_repeated = true;
        assert_eq!(encode(&block, &event, Attendance::Attended), HookOutput::default());
    }
}

#[test]
fn a_cut_payload_is_answered_for_its_event() {
    let cut = br#"{"session_id":"s","hook_event_name":"PreToolUse","tool_name":"Bash","tool_input":{"command":"cat "#;
    for (connector, expected) in [
        (Connector::ClaudeCode, "permissionDecision\":\"deny"),
        (Connector::Codex, "permissionDecision\":\"deny"),
    ] {
        assert_eq!(parse(connector, cut), Err(PayloadError::Cut(cut.len())));
        let output = fail(connector, FailMode::Closed, cut, "no daemon");
        assert!(String::from_utf8_lossy(&output.stdout).contains(expected), "{output:?}");
        assert_eq!(fail(connector, FailMode::Open, cut, "no daemon"), HookOutput::default());
    }
    // A stop must not go on for ever because of us, and a session's end cannot be held.
    let end = br#"{"hook_event_name":"SessionEnd","reason":"other","x":"#;
    assert_eq!(fail(Connector::ClaudeCode, FailMode::Closed, end, "no daemon"), HookOutput::default());
}

#[test]
fn without_an_event_a_closed_agent_gets_the_block_that_fits_most() {
    for (connector, expected) in [
        (Connector::ClaudeCode, "exit 2 stdout \"\" stderr \"R\""),
        (Connector::Codex, "exit 2 stdout \"\" stderr \"R\""),
        (Connector::GeminiCli, "exit 2 stdout \"\" stderr \"R\""),
        (Connector::Cursor, "exit 2 stdout \"\" stderr \"R\""),
        (Connector::Windsurf, "exit 2 stdout \"\" stderr \"R\""),
        (Connector::OpenClaw, r#"exit 0 stdout "{\"block\":true,\"blockReason\":\"R\"}" stderr """#),
        (Connector::OpenCode, r#"exit 0 stdout "{\"throw\":\"R\"}" stderr """#),
        (
            Connector::CopilotCli,
            r#"exit 0 stdout "{\"permissionDecision\":\"deny\",\"permissionDecisionReason\":\"R\"}" stderr """#,
        ),
    ] {
        let output = fail(connector, FailMode::Closed, b"\xff\0{", "R");
        assert_eq!(format!("{output:?}"), expected, "{connector}");
    }
    let cursor = fail(Connector::Cursor, FailMode::Open, b"", "R");
    assert_eq!(cursor.stdout, b"{}", "silence would be a failure, which blocks");
}

#[test]
fn agents_wait_long_enough_for_our_own_deadline() {
    for connector in Connector::ALL {
        assert!(events(*connector).next().is_some());
        for (name, _) in events(*connector) {
            assert!(timeout(*connector, name, false) > Duration::from_secs(2), "{connector} {name}");
        }
    }
}

proptest! {
    #[test]
    fn no_payload_is_too_much(bytes: Vec<u8>) {
        for connector in Connector::ALL {
            drop(parse(*connector, &bytes));
            prop_assert!(is_well_formed(&fail(*connector, FailMode::Closed, &bytes, "R")));
        }
    }

    #[test]
    fn no_reason_breaks_a_reply(reason in ".{0,60}|[\\x00-\\x20]{0,5}") {
        for event in Connector::ALL.iter().flat_map(|connector| known(*connector)) {
            for (reply, attendance) in replies(&reason).iter().zip([Attendance::Attended, Attendance::Unattended]) {
                let output = encode(reply, &event, attendance);
                prop_assert!(is_well_formed(&output), "{:?} {:?}", event, output);
            }
        }
    }
}

#[test]
fn plugins_say_where_a_tool_works() {
    let opencode = json!({
        "hook": "tool.execute.before", "directory": "/p",
        "input": {"tool": "bash", "sessionID": "s", "callID": "c"}, "output": {"args": {"command": "cat a"}},
    });
    let openclaw = json!({
        "hook": "before_tool_call", "directory": "/p",
        "event": {"toolName": "exec", "params": {"command": "cat a"}, "toolCallId": "c"}, "ctx": {"runId": "r"},
    });
    for (connector, payload) in [(Connector::OpenCode, opencode), (Connector::OpenClaw, openclaw)] {
        let event = parse(connector, payload.to_string().as_bytes()).unwrap();
        assert_eq!(event.cwd.as_deref(), Some("/p"), "{connector}");
    }
}

#[test]
fn openclaw_names_tools_of_mcp_servers() {
    let of = |tool: &str| {
        let payload =
            json!({"hook": "before_tool_call", "event": {"toolName": tool, "params": {"text": "x"}}});
        parse(Connector::OpenClaw, payload.to_string().as_bytes()).unwrap().tools.remove(0)
    };
    let call = of("lab__look_up");
    let server = call.mcp.map(|mcp| (mcp.server, mcp.tool));
    assert_eq!(server, Some((Some("lab".to_owned()), "look_up".to_owned())));
    assert!(matches!(call.intents.as_slice(), [crate::model::Intent::Unparsed(_)]), "{:?}", call.intents);
    assert!(of("memory_search").mcp.is_none());
}

/// A hook before the agent's shell tool.
fn before_shell(connector: Connector) -> HookEvent {
    let row = agent(connector).events.iter().find(|row| row.phase == Phase::ToolPre).unwrap();
    HookEvent::new(connector, row.phase, row.name)
}

#[test]
fn a_person_is_asked_in_the_way_that_is_safe_for_the_agent() {
    use Attendance::{Attended, Unattended};
    for (connector, somebody_there, nobody_there) in [
        (Connector::ClaudeCode, Way::Native, Way::Hold),
        (Connector::Codex, Way::Hold, Way::Hold),
        (Connector::GeminiCli, Way::Hold, Way::Hold),
        (Connector::OpenCode, Way::Hold, Way::Hold),
        (Connector::OpenClaw, Way::Hold, Way::Hold),
        (Connector::Cursor, Way::Fallback, Way::Fallback),
        (Connector::CopilotCli, Way::Fallback, Way::Fallback),
        (Connector::Windsurf, Way::Fallback, Way::Fallback),
    ] {
        let event = before_shell(connector);
        let of = |attendance| way(&event, default_way(connector), attendance);
        assert_eq!((of(Attended), of(Unattended)), (somebody_there, nobody_there), "{connector}");
        // What nobody asks is never said to ask, and what asks never where nobody can answer.
        let asks = agent(connector).row(&event.name).unwrap().control.ask != Ask::None;
        assert_eq!(way(&event, Way::Native, Attended) == Way::Native, asks, "{connector}");
        assert_eq!(way(&event, Way::Native, Unattended), Way::Hold, "{connector}");
        for attendance in [Attended, Unattended] {
            assert_eq!(way(&event, Way::Hold, attendance), Way::Hold);
            assert_eq!(way(&event, Way::Fallback, attendance), Way::Fallback);
        }
    }
    let mut event = before_shell(Connector::ClaudeCode);
    event.permission_mode = Some("dontAsk".to_owned());
    assert_eq!(way(&event, Way::Native, Attended), Way::Hold);
}

#[test]
fn only_before_a_tool_that_can_be_kept_from_running_is_anybody_asked() {
    for event in Connector::ALL.iter().flat_map(|connector| known(*connector)) {
        let asked = [Way::Native, Way::Hold].map(|wanted| way(&event, wanted, Attendance::Attended));
        let can = event.phase == Phase::ToolPre && control(&event).hold == Hold::Prevents;
        assert_eq!(asked.contains(&Way::Fallback), !can, "{event:?}");
        // Who waits for a person waits longer for its hook than the hook does.
        let waits = timeout(event.connector, &event.name, true);
        assert_eq!(waits > HOLD_MAX, can, "{event:?}");
        assert!(waits >= timeout(event.connector, &event.name, false), "{event:?}");
    }
}

#[test]
fn who_prints_its_answer_has_nobody_to_talk_to() {
    let claude = "/x/node_modules/@anthropic-ai/claude-code-linux-x64/claude";
    for (connector, argv, talks) in [
        (Connector::ClaudeCode, &["claude"][..], true),
        (Connector::ClaudeCode, &[claude, "--model", "opus", "fix it"], true),
        (Connector::ClaudeCode, &["node", "/usr/bin/claude", "--resume"], true),
        (Connector::ClaudeCode, &["claude", "-p", "fix it"], false),
        (Connector::ClaudeCode, &["claude", "-cp", "fix it"], false),
        (Connector::ClaudeCode, &["claude", "--print", "fix it"], false),
        (Connector::ClaudeCode, &["claude", "--input-format=stream-json"], false),
        (Connector::ClaudeCode, &["python3", "sdk.py"], false),
        (Connector::ClaudeCode, &[], false),
        (Connector::GeminiCli, &["node", "--max-old-space-size=1", "/usr/bin/gemini"], true),
        (Connector::GeminiCli, &["node", "/usr/bin/gemini", "--yolo"], true),
        (Connector::GeminiCli, &["node", "/usr/bin/gemini", "-p", "x"], false),
        (Connector::GeminiCli, &["node", "/usr/bin/gemini", "what is this"], false),
        (Connector::GeminiCli, &["node", "/usr/bin/gemini", "--acp"], false),
        (Connector::Codex, &["codex"], false),
        (Connector::OpenClaw, &["openclaw", "agent"], false),
    ] {
        let argv: Vec<Text> = argv.iter().map(|word| (*word).into()).collect();
        assert_eq!(is_interactive(connector, &argv), talks, "{connector} {argv:?}");
    }
}
