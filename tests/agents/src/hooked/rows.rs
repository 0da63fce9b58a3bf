//! Rows of answered hooks, by what trials ask of them.

use anyhow::{Result, ensure};
use defenseclaw::model::{HookCall, HookEvent, Intent, Phase, PolicyAction, ToolCall};

/// Rows of one phase that speak of exactly one tool call, with that call.
pub(super) fn of_tools(rows: &[HookCall], phase: Phase) -> Vec<(&HookCall, &HookEvent, &ToolCall)> {
    rows.iter()
        .filter_map(|row| {
            let event = row.event.as_ref().filter(|event| event.phase == phase)?;
            Some((row, event, event.tools.first()?))
        })
        .collect()
}

/// Rows of one phase whose tool was passed this text.
pub(super) fn with<'a>(
    rows: &'a [HookCall],
    phase: Phase,
    text: &str,
) -> Vec<(&'a HookCall, &'a HookEvent, &'a ToolCall)> {
    let mut found = of_tools(rows, phase);
    found.retain(|(_, _, call)| mentions(&call.input, text));
    found
}

/// Whether the text is in any string of the value.
pub(super) fn mentions(value: &serde_json::Value, text: &str) -> bool {
    match value {
        serde_json::Value::String(string) => string.contains(text),
        serde_json::Value::Array(items) => items.iter().any(|item| mentions(item, text)),
        serde_json::Value::Object(fields) => fields.values().any(|field| mentions(field, text)),
        _ => false,
    }
}

/// It was read, judged and allowed.
pub(super) fn allowed(row: &HookCall) -> Result<()> {
    ensure!(
        row.problem.is_none() && row.answer.failed.is_none() && row.answer.action == PolicyAction::Allow,
        "it was not allowed: {row:?}"
    );
    Ok(())
}

/// Whether a command with this word is announced.
pub(super) fn announces_word(call: &ToolCall, word: &str) -> bool {
    call.intents.iter().any(|intent| match intent {
        Intent::Exec(words) => words.iter().any(|found| found.value() == Some(word)),
        _ => false,
    })
}

/// Whether a write to a path that ends so is announced.
pub(super) fn announces_write(call: &ToolCall, end: &str) -> bool {
    call.intents.iter().any(|intent| match intent {
        Intent::Write(path) => path.value().is_some_and(|path| path.ends_with(end)),
        _ => false,
    })
}
