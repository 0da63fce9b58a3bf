//! The decisions in the audit, as `defenseclaw events --json` prints them.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A decision, and when it was made.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) time: u64,
    pub(super) action: String,
    pub(super) rules: Vec<String>,
    /// About a file that was open when the command started.
    pub(super) handed: bool,
}

pub(super) fn decisions(binary: &Path, database: &Path) -> Result<Vec<Record>> {
    let mut child = Command::new(binary)
        .arg("--db")
        .arg(database)
        .args(["events", "--json", "--session", "last"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", binary.display()))?;
    let mut records = Vec::new();
    for line in BufReader::new(child.stdout.take().context("stdout")?).lines() {
        let row: Value = serde_json::from_str(&line?)?;
        let Some(time) = row.get("time").and_then(Value::as_u64) else { continue };
        if let Some((action, rules)) = decision(&row) {
            let handed = row.get("vantage").and_then(Value::as_str) == Some("handed");
            records.push(Record { time, action, rules, handed });
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "`events --json` ended with {status}");
    Ok(records)
}

/// The decision of a row, wherever in it: an object that names rules and an action.
fn decision(value: &Value) -> Option<(String, Vec<String>)> {
    match value {
        Value::Object(fields) => {
            if let (Some(Value::Array(rules)), Some(Value::String(action))) =
                (fields.get("rule_ids"), fields.get("action"))
            {
                let rules = rules.iter().filter_map(Value::as_str).map(str::to_owned).collect();
                return Some((action.clone(), rules));
            }
            fields.values().find_map(decision)
        }
        Value::Array(values) => values.iter().find_map(decision),
        _ => None,
    }
}
