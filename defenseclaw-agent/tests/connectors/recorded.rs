//! The recordings below `tests/hooks`.

use std::{fs, path::PathBuf};

use defenseclaw::model::Connector;
use serde_json::Value;

pub(crate) fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/hooks"))
}

/// Folders of payloads with their connectors.
pub(crate) const FOLDERS: [(&str, Connector); 9] = [
    ("claude-code", Connector::ClaudeCode),
    ("claude-code-2.1.197", Connector::ClaudeCode),
    ("codex", Connector::Codex),
    ("gemini-cli", Connector::GeminiCli),
    ("cursor", Connector::Cursor),
    ("openclaw", Connector::OpenClaw),
    ("opencode", Connector::OpenCode),
    ("copilot-cli", Connector::CopilotCli),
    ("windsurf", Connector::Windsurf),
];

/// Name and bytes of each payload in a folder, in order of name.
pub(crate) fn payloads(folder: &str) -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<(String, Vec<u8>)> = fs::read_dir(root().join(folder))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name() != "meta.json")
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .collect();
    found.sort();
    assert!(!found.is_empty(), "{folder}");
    found
}

/// One reply that was tried, and what came of it.
pub(crate) struct Tried {
    pub(crate) event: String,
    pub(crate) reply: Value,
    pub(crate) tool_ran: bool,
    pub(crate) model_got: String,
}

/// The cases of a file with exactly one reply, given at once and read to its end.
pub(crate) fn tried(file: &str) -> Vec<Tried> {
    let text = fs::read_to_string(root().join("responses").join(file)).unwrap();
    let recorded: Value = serde_json::from_str(&text).unwrap();
    let mut found = Vec::new();
    for row in recorded["cases"].as_object().unwrap().values() {
        let [reply] = row["replies"].as_array().unwrap().as_slice() else { continue };
        let disturbed = ["sleep", "signal", "status", "tag"].iter().any(|key| reply.get(key).is_some());
        if disturbed || reply["event"].is_null() {
            continue;
        }
        found.push(Tried {
            event: reply["event"].as_str().unwrap().to_owned(),
            reply: reply.clone(),
            tool_ran: row["tool_ran"] == true,
            model_got: row["model_got"].to_string(),
        });
    }
    found
}
