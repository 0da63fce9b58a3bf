//! Recorded payloads, damaged: cut anywhere, bytes changed, values of another type in every place.

use defenseclaw::{
    connectors::{PayloadError, encode, fail, parse},
    model::{Attendance, Connector, FailMode, Reply},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::recorded::{FOLDERS, payloads};

fn all() -> Vec<(Connector, Vec<u8>)> {
    FOLDERS
        .into_iter()
        .flat_map(|(folder, connector)| {
            payloads(folder).into_iter().map(move |(_, bytes)| (connector, bytes))
        })
        .filter(|(_, bytes)| bytes.len() < 8192)
        .collect()
}

fn exercise(connector: Connector, bytes: &[u8]) {
    if let Ok(event) = parse(connector, bytes) {
        let _ = encode(&Reply::Block { reason: "R".to_owned() }, &event, Attendance::Unattended);
        serde_json::to_vec(&event).unwrap();
    }
    let _ = fail(connector, FailMode::Closed, bytes, "R");
}

/// Every value of a payload replaced by `other`, one at a time.
fn with_other(value: &Value, other: &Value) -> Vec<Value> {
    let mut found = vec![other.clone()];
    match value {
        Value::Object(fields) => {
            for (key, inner) in fields {
                found.extend(with_other(inner, other).into_iter().map(|inner| {
                    let mut fields = fields.clone();
                    fields.insert(key.clone(), inner);
                    Value::Object(fields)
                }));
            }
        }
        Value::Array(items) => {
            for (at, inner) in items.iter().enumerate().take(4) {
                found.extend(with_other(inner, other).into_iter().map(|inner| {
                    let mut items = items.clone();
                    items[at] = inner;
                    Value::Array(items)
                }));
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    found
}

#[test]
fn a_value_of_another_type_is_never_too_much() {
    let long = "\u{1b}]0;x\u{7}\0".repeat(100);
    for (connector, bytes) in all() {
        let payload: Value = serde_json::from_slice(&bytes).unwrap();
        for other in [json!(null), json!(-1.5e300), json!([[]]), json!({"a": {}}), json!(long), json!(true)] {
            for damaged in with_other(&payload, &other) {
                exercise(connector, damaged.to_string().as_bytes());
            }
        }
    }
}

#[test]
fn a_cut_anywhere_is_said_to_be_one() {
    for (connector, bytes) in all().into_iter().step_by(7) {
        let whole: Vec<u8> = bytes.trim_ascii_end().to_vec();
        for end in 1..whole.len() {
            let cut = &whole[..end];
            assert!(
                matches!(parse(connector, cut), Err(PayloadError::Cut(_))),
                "{}",
                String::from_utf8_lossy(cut)
            );
        }
    }
}

#[test]
fn huge_and_deep_payloads_are_read() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let huge = "x".repeat(4 << 20);
    for junk in [deep, format!("\"{huge}\"")] {
        let text = format!(
            r#"{{"hook_event_name":"PreToolUse","tool_input":{{"junk":{junk},"command":"cat /etc/shadow"}},"tool_name":"Bash"}}"#
        );
        let event = parse(Connector::ClaudeCode, text.as_bytes()).unwrap();
        assert_eq!(event.tools[0].input["command"], "cat /etc/shadow");
        assert_eq!(event.tools[0].intents.len(), 2, "an input cannot hide its command behind junk");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn changed_bytes_are_never_too_much(
        which: prop::sample::Index,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        end: prop::sample::Index,
    ) {
        use std::sync::OnceLock;
        static ALL: OnceLock<Vec<(Connector, Vec<u8>)>> = OnceLock::new();
        let payloads = ALL.get_or_init(all);
        let (connector, mut bytes) = which.get(payloads).clone();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        exercise(connector, &bytes);
        exercise(connector, &bytes[..end.index(bytes.len())]);
    }
}
