//! Codex's TOML: hooks and the pin of the feature in the machine's requirements, and a user's trust in our hook.

use std::path::Path;

use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, value};

use super::{
    Request,
    entries::{self, Shape},
    json as text,
};
use crate::{connectors, model::Connector};

fn parse(text: &str) -> Result<DocumentMut, String> {
    text.parse().map_err(|err: toml_edit::TomlError| err.message().to_owned())
}

/// The machine's requirements with our hooks, and the feature pinned: without the pin `--disable hooks` turns them off.
pub(super) fn add_requirements(request: &Request, text: &str) -> Result<String, String> {
    let mut document = parse(text)?;
    let features = table(document.as_table_mut(), "features")?;
    if features.get("hooks").and_then(Item::as_bool) != Some(true) {
        features.insert("hooks", value(true));
    }
    let hooks = table(document.as_table_mut(), "hooks")?;
    hooks.set_implicit(true);
    for (event, _) in connectors::events(Connector::Codex) {
        let wanted = entries::hook(request, Shape::Groups, event);
        let seconds = wanted.get("timeout").and_then(Json::as_i64).unwrap_or_default();
        let command = entries::command(request);
        let current: Vec<&Table> =
            groups(hooks, event).flat_map(inner).filter(|hook| is_ours(hook)).collect();
        if let [hook] = current.as_slice()
            && hook.get("command").and_then(Item::as_str) == Some(command.as_str())
            && hook.get("timeout").and_then(Item::as_integer) == Some(seconds)
        {
            continue;
        }
        drop_ours(hooks, event);
        let mut hook = Table::new();
        hook.insert("type", value("command"));
        hook.insert("command", value(command));
        hook.insert("timeout", value(seconds));
        let mut inner = ArrayOfTables::new();
        inner.push(hook);
        let mut group = Table::new();
        group.insert("hooks", Item::ArrayOfTables(inner));
        let list = hooks.entry(event).or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
        let Some(list) = list.as_array_of_tables_mut() else {
            return Err(format!("`hooks.{event}` is not written as `[[hooks.{event}]]`"));
        };
        list.push(group);
    }
    Ok(document.to_string())
}

/// The requirements without our hooks. The pin of the feature stays: somebody else's hooks may rely on it.
pub(super) fn cut_requirements(text: &str) -> Result<String, String> {
    let mut document = parse(text)?;
    let Some(hooks) = document.get_mut("hooks").and_then(Item::as_table_mut) else {
        return Ok(text.to_owned());
    };
    let events: Vec<String> = hooks.iter().map(|(event, _)| event.to_owned()).collect();
    let mut found = false;
    for event in &events {
        found |= drop_ours(hooks, event);
    }
    if !found {
        return Ok(text.to_owned());
    }
    if hooks.is_empty() {
        document.remove("hooks");
    }
    Ok(document.to_string())
}

fn table<'a>(parent: &'a mut Table, name: &str) -> Result<&'a mut Table, String> {
    parent
        .entry(name)
        .or_insert(Item::Table(Table::new()))
        .as_table_mut()
        .ok_or_else(|| format!("`{name}` is not a table"))
}

fn groups<'a>(hooks: &'a Table, event: &str) -> impl Iterator<Item = &'a Table> {
    hooks.get(event).and_then(Item::as_array_of_tables).into_iter().flatten()
}

fn inner(group: &Table) -> impl Iterator<Item = &Table> {
    group.get("hooks").and_then(Item::as_array_of_tables).into_iter().flatten()
}

fn is_ours(hook: &Table) -> bool {
    let command = hook.get("command").and_then(Item::as_str).unwrap_or_default();
    entries::is_ours(&json!({"command": command}), Connector::Codex)
}

fn drop_ours(hooks: &mut Table, event: &str) -> bool {
    let Some(list) = hooks.get_mut(event).and_then(Item::as_array_of_tables_mut) else { return false };
    let mut found = false;
    for group in list.iter_mut() {
        if let Some(inner) = group.get_mut("hooks").and_then(Item::as_array_of_tables_mut) {
            let before = inner.len();
            inner.retain(|hook| !is_ours(hook));
            found |= inner.len() < before;
        }
    }
    if found {
        list.retain(|group| inner(group).next().is_some());
        if list.is_empty() {
            hooks.remove(event);
        }
    }
    found
}

/// The user's configuration with trust in the hooks of ours that stand in `hooks_text`.
pub(super) fn add_trust(
    request: &Request,
    hooks: &Path,
    hooks_text: &str,
    text: &str,
) -> Result<String, String> {
    let mut document = parse(&cut_trust(request, text)?)?;
    let wanted = trusted(request, hooks, hooks_text)?;
    if current(&parse(text)?, &wanted) {
        return Ok(text.to_owned());
    }
    let table_of_hooks = table(document.as_table_mut(), "hooks")?;
    table_of_hooks.set_implicit(true);
    let state = table(table_of_hooks, "state")?;
    state.set_implicit(true);
    for (key, hash) in wanted {
        let mut entry = Table::new();
        entry.insert("trusted_hash", value(hash));
        state.insert(&key, Item::Table(entry));
    }
    Ok(document.to_string())
}

fn current(document: &DocumentMut, wanted: &[(String, String)]) -> bool {
    let state = document.get("hooks").and_then(|hooks| hooks.get("state"));
    wanted.iter().all(|(key, hash)| {
        let entry = state.and_then(|state| state.get(key));
        let told = entry.and_then(|entry| entry.get("trusted_hash")).and_then(Item::as_str);
        told == Some(hash)
            && entry.and_then(|entry| entry.get("enabled")).and_then(Item::as_bool) != Some(false)
    })
}

/// The user's configuration without trust in hooks of ours.
pub(super) fn cut_trust(request: &Request, text: &str) -> Result<String, String> {
    let mut document = parse(text)?;
    let hashes: Vec<String> =
        connectors::events(Connector::Codex).map(|(event, _)| hash(request, event)).collect();
    let state =
        document.get_mut("hooks").and_then(|hooks| hooks.get_mut("state")).and_then(Item::as_table_mut);
    let Some(state) = state else { return Ok(text.to_owned()) };
    let before = state.len();
    state.retain(|_, entry| {
        let told = entry.get("trusted_hash").and_then(Item::as_str);
        !told.is_some_and(|told| hashes.iter().any(|hash| hash == told))
    });
    if state.len() == before {
        return Ok(text.to_owned());
    }
    Ok(document.to_string())
}

/// Key and hash of each hook of ours, where it stands in the file.
fn trusted(request: &Request, file: &Path, hooks_text: &str) -> Result<Vec<(String, String)>, String> {
    let root = text::parse(hooks_text)?.to_serde_value().unwrap_or_default();
    let mut found = Vec::new();
    for (event, _) in connectors::events(Connector::Codex) {
        let groups = root.pointer(&format!("/hooks/{event}")).and_then(Json::as_array);
        for (at, group) in groups.into_iter().flatten().enumerate() {
            let hooks = group.get("hooks").and_then(Json::as_array);
            for (index, hook) in hooks.into_iter().flatten().enumerate() {
                if entries::is_ours(hook, Connector::Codex) {
                    let key = format!("{}:{}:{at}:{index}", file.display(), snake(event));
                    found.push((key, hash(request, event)));
                }
            }
        }
    }
    Ok(found)
}

/// What Codex compares: the hash of the hook's canonical JSON.
pub(super) fn hash(request: &Request, event: &str) -> String {
    let canonical = json!({
        "event_name": snake(event),
        "hooks": [{
            "async": false,
            "command": entries::command(request),
            "timeout": connectors::timeout(Connector::Codex, event, request.holds).as_secs(),
            "type": "command",
        }],
    });
    let digest = Sha256::digest(canonical.to_string().as_bytes());
    let nibbles = digest.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let digits: String = nibbles.filter_map(|nibble| char::from_digit(u32::from(nibble), 16)).collect();
    format!("sha256:{digits}")
}

fn snake(event: &str) -> String {
    let mut out = String::new();
    for character in event.chars() {
        if character.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(character.to_ascii_lowercase());
    }
    out
}
