//! Our replies against the ones that were tried on real agents: what lets a tool run after an intended block must
//! never be ours, and what we send must have been seen to hold.

use std::{collections::BTreeSet, fmt::Write as _};

use defenseclaw::{
    connectors::{control, encode, fail, parse},
    model::{Attendance, Connector, FailMode, Hold, HookEvent, HookOutput, Phase, Reply},
};
use serde_json::{Value, json};

use crate::recorded::{FOLDERS, Tried, payloads, tried};

const RECORDS: [(&str, Connector); 6] = [
    ("claude-code-2.1.197.json", Connector::ClaudeCode),
    ("claude-code-2.1.330.json", Connector::ClaudeCode),
    ("codex-0.169.0.json", Connector::Codex),
    ("gemini-cli-0.61.0.json", Connector::GeminiCli),
    ("openclaw-2026.9.6.json", Connector::OpenClaw),
    ("opencode-1.18.33.json", Connector::OpenCode),
];

/// What is the same in two replies that differ only in their reason: keys, decisions, exit code, whether stderr
/// has text. Reasons become `R`, unless they are empty.
fn shape(reply: &Value) -> String {
    fn blank(value: &Value, key: &str) -> Value {
        const REASONS: [&str; 9] = [
            "reason",
            "permissionDecisionReason",
            "message",
            "stopReason",
            "systemMessage",
            "blockReason",
            "throw",
            "throwString",
            "stdout",
        ];
        match value {
            Value::String(text) if REASONS.contains(&key) && !text.trim().is_empty() => json!("R"),
            Value::String(text) if key == "text" && !text.is_empty() => json!("R"),
            Value::Array(items) => items.iter().map(|item| blank(item, key)).collect(),
            Value::Object(fields) => fields
                .iter()
                .map(|(key, value)| (key.clone(), blank(value, key)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
        }
    }
    let plain = reply.get("stdout").is_some_and(Value::is_string);
    let stdout = if plain { reply["stdout"].clone() } else { blank(&reply["stdout"], "") };
    let stderr = reply["stderr"].as_str().is_some_and(|text| !text.is_empty());
    let exit = reply["exit"].as_u64().unwrap_or(0);
    let plugin: Vec<Value> = ["return", "throw", "set"].iter().map(|key| blank(&reply[key], key)).collect();
    format!("exit {exit} stderr {stderr} stdout {stdout} plugin {}", Value::Array(plugin))
}

/// Our output in the words of the records.
fn as_reply(connector: Connector, output: &HookOutput) -> Value {
    let stdout: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    // What our plugins make of it.
    if connector == Connector::OpenClaw {
        json!({"return": stdout})
    } else if let Some(thrown) = stdout.get("throw").filter(|_| connector == Connector::OpenCode) {
        json!({"throw": thrown})
    } else if connector == Connector::OpenCode {
        json!({"set": stdout})
    } else {
        json!({
            "stdout": stdout,
            "stderr": String::from_utf8_lossy(&output.stderr),
            "exit": output.exit_code,
        })
    }
}

fn events(connector: Connector) -> Vec<HookEvent> {
    let folders = FOLDERS.into_iter().filter(|(_, other)| *other == connector);
    folders
        .flat_map(|(folder, _)| payloads(folder))
        .map(|(_, bytes)| parse(connector, &bytes).unwrap())
        .collect()
}

/// Shapes that held and shapes that never did, at events of this name.
fn seen(file: &str, event: &str, held: impl Fn(&Tried) -> bool) -> (BTreeSet<String>, BTreeSet<String>) {
    let all: Vec<Tried> = tried(file).into_iter().filter(|tried| tried.event == event).collect();
    let good: BTreeSet<String> =
        all.iter().filter(|tried| held(tried)).map(|tried| shape(&tried.reply)).collect();
    let bad = all.iter().filter(|tried| !held(tried)).map(|tried| shape(&tried.reply));
    // The same reply also failed where a matcher, a setting or a flag kept the hook from being asked.
    let bad = bad.filter(|shape| !good.contains(shape)).collect();
    (good, bad)
}

const REASONS: [&str; 6] = ["because-policy", "", " \n", "\u{1b}[31m\0", "\"}{", "ünï\u{202e}code"];

#[test]
fn a_block_before_a_tool_was_seen_to_hold_and_is_none_that_was_seen_to_fail() {
    let mut traps = 0;
    for (file, connector) in RECORDS {
        for event in events(connector).iter().filter(|event| event.phase == Phase::ToolPre) {
            // With no opinion given, some modes hold the tool themselves: not a block of ours.
            let held =
                |tried: &Tried| !tried.tool_ran && tried.reply.get("stdout").is_none_or(|out| !out.is_null());
            let (good, bad) = seen(file, &event.name, held);
            traps += bad.len();
            for reason in REASONS {
                for reply in
                    [Reply::Block { reason: reason.to_owned() }, Reply::Confirm { reason: reason.to_owned() }]
                {
                    let output = encode(&reply, event, Attendance::Unattended);
                    let shape = shape(&as_reply(connector, &output));
                    assert!(
                        !bad.contains(&shape),
                        "{file}: {reply:?} is a reply after which the tool ran: {shape}"
                    );
                    assert!(
                        good.contains(&shape),
                        "{file}: {reply:?} was never seen to hold: {shape}\n{good:#?}"
                    );
                }
            }
        }
    }
    assert!(traps > 100, "{traps}");
}

#[test]
fn a_blind_block_was_seen_to_hold_before_a_tool() {
    for (file, connector) in RECORDS {
        let event = events(connector).into_iter().find(|event| event.phase == Phase::ToolPre).unwrap();
        let (good, bad) = seen(file, &event.name, |tried| !tried.tool_ran);
        for payload in [b"".as_slice(), b"{", b"\xff\xff", b"[1]"] {
            let shape = shape(&as_reply(connector, &fail(connector, FailMode::Closed, payload, "")));
            assert!(good.contains(&shape) && !bad.contains(&shape), "{file}: {shape}");
        }
    }
}

#[test]
fn a_blocked_prompt_was_seen_to_stay_away_from_the_model() {
    for (file, connector) in RECORDS {
        let events = events(connector);
        let Some(event) = events.iter().find(|event| event.phase == Phase::PromptSubmit) else { continue };
        let (good, bad) = seen(file, &event.name, |tried| !tried.tool_ran && tried.model_got == "[]");
        let reply = Reply::Block { reason: "R".to_owned() };
        let shape = shape(&as_reply(connector, &encode(&reply, event, Attendance::Attended)));
        assert!(good.contains(&shape) && !bad.contains(&shape), "{file}: {shape}\n{good:#?}");
    }
}

#[test]
fn a_withheld_result_was_seen_to_be_replaced() {
    for (file, connector) in RECORDS {
        let withheld =
            |event: &&HookEvent| event.phase == Phase::ToolPost && control(event).hold == Hold::Withholds;
        let events = events(connector);
        let replaced: Vec<&HookEvent> = events.iter().filter(withheld).collect();
        assert_eq!(replaced.is_empty(), connector == Connector::OpenClaw, "{file}");
        for event in replaced {
            let got = |tried: &Tried| {
                !tried.model_got.contains("tool-output") && !tried.model_got.contains("value of")
            };
            let (good, _) = seen(file, &event.name, got);
            let output = encode(&Reply::Block { reason: "R".to_owned() }, event, Attendance::Attended);
            // The records have their own text where ours has the reason.
            let good: BTreeSet<String> = good.iter().map(|shape| shape.replace("REPLACED", "R")).collect();
            let shape = shape(&as_reply(connector, &output));
            assert!(good.contains(&shape), "{file}: {shape}\n{good:#?}");
        }
    }
}

#[test]
fn no_objection_never_skips_the_agents_own_question() {
    for (_, connector) in FOLDERS {
        for event in events(connector) {
            for reply in [Reply::Allow, Reply::Alert { note: "N".to_owned() }] {
                let output = encode(&reply, &event, Attendance::Attended);
                let text = String::from_utf8(output.stdout).unwrap();
                assert!(!text.contains("allow") && !text.contains("approve"), "{connector}: {text}");
                assert_eq!((output.exit_code, output.stderr), (0, Vec::new()));
            }
        }
    }
}

/// Everything we ever say, by event, as bytes.
#[test]
fn replies_of_each_connector() {
    for connector in Connector::ALL {
        let mut text = String::new();
        let mut events = events(*connector);
        events.sort_by(|a, b| a.name.cmp(&b.name));
        let mut seen = BTreeSet::new();
        events.retain(|event| {
            let is_mcp = event.tools.first().is_some_and(|call| call.mcp.is_some());
            seen.insert((event.name.clone(), control(event).hold, is_mcp))
        });
        for event in events {
            let line = |reply: &Reply| {
                let [here, away] = [Attendance::Attended, Attendance::Unattended]
                    .map(|attendance| encode(reply, &event, attendance));
                if here == away { format!("{here:?}") } else { format!("{here:?}\n    unattended {away:?}") }
            };
            let (note, reason) = ("N".to_owned(), "R".to_owned());
            writeln!(text, "{} {:?}", event.name, control(&event)).unwrap();
            let allow = line(&Reply::Allow);
            writeln!(text, "  allow   {allow}").unwrap();
            for (word, reply) in [
                ("alert  ", Reply::Alert { note }),
                ("confirm", Reply::Confirm { reason: reason.clone() }),
                ("block  ", Reply::Block { reason }),
            ] {
                let said = line(&reply);
                writeln!(text, "  {word} {}", if said == allow { "as allow" } else { &said }).unwrap();
            }
        }
        insta::assert_snapshot!(format!("replies-{connector}"), text);
    }
}
