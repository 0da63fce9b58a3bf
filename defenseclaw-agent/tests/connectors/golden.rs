//! Every recorded payload, and the event it becomes.

use std::fmt::Write as _;

use defenseclaw::{
    connectors::{self, control},
    model::{Connector, HookEvent, Phase},
};

use crate::recorded::{FOLDERS, payloads};

#[test]
fn payloads_become_events() {
    for (folder, connector) in FOLDERS {
        let mut text = String::new();
        for (name, bytes) in payloads(folder) {
            let event =
                connectors::parse(connector, &bytes).unwrap_or_else(|err| panic!("{folder}/{name}: {err}"));
            let known = control(&event);
            let event = serde_json::to_string(&event).unwrap();
            writeln!(text, "{name}: {:?} {:?}\n  {event}", known.hold, known.ask).unwrap();
        }
        insta::assert_snapshot!(folder, text);
    }
}

fn events(connector: Connector) -> impl Iterator<Item = (String, HookEvent)> {
    FOLDERS.into_iter().filter(move |(_, other)| *other == connector).flat_map(move |(folder, _)| {
        payloads(folder)
            .into_iter()
            .map(move |(name, bytes)| (name, connectors::parse(connector, &bytes).unwrap()))
    })
}

#[test]
fn every_recorded_event_is_in_the_table_or_deliberately_other() {
    for connector in Connector::ALL {
        for (name, event) in events(*connector) {
            if matches!(event.phase, Phase::ToolPre | Phase::ToolPost) {
                let [call] = event.tools.as_slice() else { panic!("{connector} {name}: {event:?}") };
                assert!(!call.tool.is_empty());
            }
            if event.phase == Phase::PromptSubmit && connector != &Connector::OpenClaw {
                assert!(event.text.is_some(), "{connector} {name}");
            }
            assert!(!event.repaired, "{connector} {name}");
        }
    }
}

#[test]
fn calls_before_and_after_have_the_same_id_where_the_agent_has_one() {
    for (connector, before, after) in [
        (Connector::ClaudeCode, "PreToolUse.Bash.json", "PostToolUse.Bash.json"),
        (Connector::Codex, "PreToolUse.apply_patch.add.json", "PostToolUse.apply_patch.add.json"),
        (Connector::OpenClaw, "before_tool_call.exec.json", "after_tool_call.exec.json"),
        (Connector::OpenCode, "tool.execute.before.bash.json", "tool.execute.after.bash.json"),
    ] {
        let id = |wanted: &str| {
            let (_, event) = events(connector).find(|(name, _)| name == wanted).unwrap();
            let call = event.tools.first().unwrap();
            (call.id.clone().unwrap(), call.intents.clone())
        };
        assert_eq!(id(before), id(after), "{connector}");
    }
}
