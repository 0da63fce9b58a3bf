//! Edits of JSON with comments, as text: what is not ours keeps its bytes.

use jsonc_parser::{
    ParseOptions,
    cst::{CstArray, CstInputValue, CstNode, CstObject, CstRootNode},
};
use serde_json::Value;

use super::{
    Request,
    entries::{self, Shape},
};
use crate::{connectors, model::Connector};

/// The text of a file that was not there.
const EMPTY: &str = "{}\n";

pub(super) fn parse(text: &str) -> Result<CstRootNode, String> {
    let text = if text.trim().is_empty() { EMPTY } else { text };
    let root = CstRootNode::parse(text, &ParseOptions::default()).map_err(|err| err.to_string())?;
    match root.value() {
        Some(CstNode::Container(_)) if root.object_value().is_some() => Ok(root),
        _ => Err("its content is not a JSON object".to_owned()),
    }
}

pub(super) fn object(parent: &CstObject, name: &str) -> Result<CstObject, String> {
    parent.object_value_or_create(name).ok_or_else(|| format!("`{name}` is not an object"))
}

pub(super) fn array(parent: &CstObject, name: &str) -> Result<CstArray, String> {
    parent.array_value_or_create(name).ok_or_else(|| format!("`{name}` is not a list"))
}

/// Our hook at every event that we register for, and at no other.
pub(super) fn add(request: &Request, shape: Shape, text: &str) -> Result<String, String> {
    let root = parse(text)?;
    let top = root.object_value_or_set();
    if shape.has_version() && top.get("version").is_none() {
        top.insert(0, "version", input(&Value::from(1)));
    }
    let hooks = object(&top, "hooks")?;
    for property in hooks.properties() {
        let name = property.decoded_name().unwrap_or_default();
        if !connectors::events(request.connector).any(|(event, _)| event == name) {
            drop_ours(request.connector, shape, &hooks, &name);
        }
    }
    for (event, _) in connectors::events(request.connector) {
        let wanted = entries::hook(request, shape, event);
        if ours(request.connector, shape, &hooks, event).as_slice() == [wanted.clone()] {
            continue;
        }
        drop_ours(request.connector, shape, &hooks, event);
        let entry = if shape.is_grouped() { serde_json::json!({"hooks": [wanted]}) } else { wanted };
        array(&hooks, event)?.append(input(&entry));
    }
    if shape == Shape::Named && request.scope == super::Scope::Managed {
        // Without it a user's own file switches all hooks off.
        let switches = object(&top, "hooksConfig")?;
        switches.get("enabled").map_or_else(
            || drop(switches.append("enabled", input(&Value::Bool(true)))),
            |property| property.set_value(input(&Value::Bool(true))),
        );
    }
    Ok(root.to_string())
}

/// The text without our hooks, and without the lists that became empty by that.
pub(super) fn cut(connector: Connector, shape: Shape, text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Ok(text.to_owned());
    }
    let root = parse(text)?;
    let Some(top) = root.object_value() else { return Ok(text.to_owned()) };
    let Some(hooks) = top.object_value("hooks") else { return Ok(text.to_owned()) };
    let mut found = false;
    for property in hooks.properties() {
        let name = property.decoded_name().unwrap_or_default();
        found |= drop_ours(connector, shape, &hooks, &name);
    }
    if !found {
        return Ok(text.to_owned());
    }
    if hooks.properties().is_empty() {
        top.get("hooks").into_iter().for_each(jsonc_parser::cst::CstObjectProp::remove);
    }
    Ok(root.to_string())
}

/// Whether a text says nothing at all.
pub(super) fn is_empty(shape: Shape, text: &str) -> bool {
    let Ok(root) = parse(text) else { return false };
    let top = root.object_value_or_set();
    let version = |name: &str| shape.has_version() && name == "version";
    let names: Vec<String> =
        top.properties().iter().filter_map(jsonc_parser::cst::CstObjectProp::decoded_name).collect();
    let comment = root.children().iter().chain(&top.children()).any(CstNode::is_comment);
    names.iter().all(|name| version(name)) && !comment
}

/// Our hooks at an event.
pub(super) fn ours(connector: Connector, shape: Shape, hooks: &CstObject, event: &str) -> Vec<Value> {
    let nodes = elements(hooks.array_value(event));
    let hooks =
        nodes.iter().flat_map(|node| if shape.is_grouped() { inner(node) } else { vec![node.clone()] });
    hooks.filter_map(|node| node.to_serde_value()).filter(|hook| entries::is_ours(hook, connector)).collect()
}

/// Removes our hooks from an event, the groups that only held them, and the event if nothing is left.
fn drop_ours(connector: Connector, shape: Shape, hooks: &CstObject, event: &str) -> bool {
    let mut found = false;
    for node in elements(hooks.array_value(event)) {
        let candidates = if shape.is_grouped() { inner(&node) } else { vec![node.clone()] };
        let total = candidates.len();
        let ours: Vec<CstNode> = candidates
            .into_iter()
            .filter(|hook| hook.to_serde_value().is_some_and(|hook| entries::is_ours(&hook, connector)))
            .collect();
        found |= !ours.is_empty();
        if ours.is_empty() {
            continue;
        }
        if ours.len() == total {
            node.remove();
        } else {
            ours.into_iter().for_each(CstNode::remove);
        }
    }
    if found && elements(hooks.array_value(event)).is_empty() {
        hooks.get(event).into_iter().for_each(jsonc_parser::cst::CstObjectProp::remove);
    }
    found
}

fn inner(group: &CstNode) -> Vec<CstNode> {
    elements(group.as_object().and_then(|group| group.array_value("hooks")))
}

fn elements(array: Option<CstArray>) -> Vec<CstNode> {
    array.map(|array| array.elements()).unwrap_or_default()
}

/// A value in the form in which the editor takes it.
pub(super) fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(*value),
        Value::Number(number) => CstInputValue::Number(number.to_string()),
        Value::String(text) => CstInputValue::String(text.clone()),
        Value::Array(items) => CstInputValue::Array(items.iter().map(input).collect()),
        Value::Object(fields) => {
            CstInputValue::Object(fields.iter().map(|(key, value)| (key.clone(), input(value))).collect())
        }
    }
}
