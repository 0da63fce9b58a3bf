//! One file of an installation: its text with our part in it, and without.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{InstallError, Request, entries::Shape, json, toml};

/// A file, and what of it is ours.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) request: Request,
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// Hooks by event.
    Json(Shape),
    /// Hooks and the pin of the feature.
    CodexRequirements,
    /// Trust in the hooks of the file written before.
    CodexTrust {
        hooks: PathBuf,
    },
    /// Files that are ours as a whole.
    OpenCodePlugin,
    OpenClawPlugin,
    OpenClawPackage,
    OpenClawManifest,
    /// A list of plugins.
    OpenCodeConfig {
        plugin: PathBuf,
    },
    /// A search path and a switch.
    OpenClawConfig {
        plugin: PathBuf,
    },
}

const OPENCODE: &str = include_str!("plugins/opencode.js");
const OPENCLAW: &str = include_str!("plugins/openclaw.mjs");

impl Part {
    /// The text with our part in it. `before` is the text of the file written before this one.
    pub(super) fn add(&self, text: &str, before: &str) -> Result<String, InstallError> {
        let edited = match &self.kind {
            Kind::Json(shape) => json::add(&self.request, *shape, text),
            Kind::CodexRequirements => toml::add_requirements(&self.request, text),
            Kind::CodexTrust { hooks } => toml::add_trust(&self.request, hooks, before, text),
            Kind::OpenCodeConfig { plugin } => add_plugin(text, &format!("file://{}", plugin.display())),
            Kind::OpenClawConfig { plugin } => add_entry(text, &plugin.to_string_lossy()),
            Kind::OpenCodePlugin | Kind::OpenClawPlugin | Kind::OpenClawPackage | Kind::OpenClawManifest => {
                Ok(self.whole())
            }
        };
        edited.map_err(|why| self.unreadable(why))
    }

    /// Whether a text without our part is worth a file.
    pub(super) fn is_empty(&self, text: &str) -> bool {
        match &self.kind {
            Kind::Json(shape) => json::is_empty(*shape, text),
            Kind::CodexRequirements
            | Kind::CodexTrust { .. }
            | Kind::OpenCodePlugin
            | Kind::OpenClawPlugin
            | Kind::OpenClawPackage
            | Kind::OpenClawManifest
            | Kind::OpenCodeConfig { .. }
            | Kind::OpenClawConfig { .. } => text.trim().is_empty(),
        }
    }

    /// The text without our part; nothing for files that are ours as a whole.
    pub(super) fn cut(&self, text: &str) -> Result<String, InstallError> {
        let edited = match &self.kind {
            Kind::Json(shape) => json::cut(self.request.connector, *shape, text),
            Kind::CodexRequirements => toml::cut_requirements(text),
            Kind::CodexTrust { .. } => toml::cut_trust(&self.request, text),
            Kind::OpenCodeConfig { plugin } => cut_plugin(text, &format!("file://{}", plugin.display())),
            Kind::OpenClawConfig { plugin } => cut_entry(text, &plugin.to_string_lossy()),
            Kind::OpenCodePlugin | Kind::OpenClawPlugin | Kind::OpenClawPackage | Kind::OpenClawManifest => {
                Ok(String::new())
            }
        };
        edited.map_err(|why| self.unreadable(why))
    }

    fn unreadable(&self, why: String) -> InstallError {
        InstallError::Unreadable { path: self.path.clone(), why }
    }

    fn whole(&self) -> String {
        let program = json!(self.request.program).to_string();
        let arguments = json!(self.request.arguments).to_string();
        let closed = json!(self.request.fail == crate::model::FailMode::Closed).to_string();
        let holds = self.request.holds.to_string();
        let with_settings = |plugin: &str| {
            let plugin = plugin.replace("\"@PROGRAM@\"", &program).replace("\"@CLOSED@\"", &closed);
            plugin.replace("\"@ARGUMENTS@\"", &arguments).replace("\"@HOLDS@\"", &holds)
        };
        match self.kind {
            Kind::OpenClawPlugin => with_settings(OPENCLAW),
            Kind::OpenClawPackage => pretty(&json!({
                "name": "defenseclaw", "version": "0.1.0", "type": "module",
                "openclaw": {"extensions": ["./index.mjs"]},
            })),
            Kind::OpenClawManifest => pretty(&json!({
                "id": "defenseclaw", "activation": {"onStartup": true},
                "configSchema": {"type": "object", "additionalProperties": false, "properties": {}},
            })),
            Kind::Json(_)
            | Kind::CodexRequirements
            | Kind::CodexTrust { .. }
            | Kind::OpenCodePlugin
            | Kind::OpenCodeConfig { .. }
            | Kind::OpenClawConfig { .. } => with_settings(OPENCODE),
        }
    }
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn add_plugin(text: &str, plugin: &str) -> Result<String, String> {
    let root = json::parse(text)?;
    let list = json::array(&root.object_value_or_set(), "plugin")?;
    if !list.elements().iter().any(|item| is_text(item, plugin)) {
        list.append(plugin.into());
    }
    Ok(root.to_string())
}

fn cut_plugin(text: &str, plugin: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Ok(text.to_owned());
    }
    let root = json::parse(text)?;
    let list = root.object_value().and_then(|top| top.array_value("plugin"));
    let ours =
        list.map(|list| list.elements()).unwrap_or_default().into_iter().filter(|item| is_text(item, plugin));
    let ours: Vec<_> = ours.collect();
    if ours.is_empty() {
        return Ok(text.to_owned());
    }
    ours.into_iter().for_each(jsonc_parser::cst::CstNode::remove);
    Ok(root.to_string())
}

fn add_entry(text: &str, plugin: &str) -> Result<String, String> {
    let root = json::parse(text)?;
    let plugins = json::object(&root.object_value_or_set(), "plugins")?;
    let paths = json::array(&json::object(&plugins, "load")?, "paths")?;
    if !paths.elements().iter().any(|item| is_text(item, plugin)) {
        paths.append(plugin.into());
    }
    let entries = json::object(&plugins, "entries")?;
    let wanted = json!({"enabled": true, "hooks": {"allowConversationAccess": true}});
    let present = entries.get("defenseclaw");
    if present.as_ref().and_then(jsonc_parser::cst::CstObjectProp::to_serde_value).as_ref() != Some(&wanted) {
        present.map_or_else(
            || drop(entries.append("defenseclaw", json::input(&wanted))),
            |property| property.set_value(json::input(&wanted)),
        );
    }
    Ok(root.to_string())
}

fn cut_entry(text: &str, plugin: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Ok(text.to_owned());
    }
    let root = json::parse(text)?;
    let plugins = root.object_value().and_then(|top| top.object_value("plugins"));
    let load = plugins.as_ref().and_then(|plugins| plugins.object_value("load"));
    let paths =
        load.and_then(|load| load.array_value("paths")).map(|paths| paths.elements()).unwrap_or_default();
    let ours: Vec<_> = paths.into_iter().filter(|item| is_text(item, plugin)).collect();
    let entry = plugins.and_then(|plugins| plugins.object_value("entries")?.get("defenseclaw"));
    if ours.is_empty() && entry.is_none() {
        return Ok(text.to_owned());
    }
    ours.into_iter().for_each(jsonc_parser::cst::CstNode::remove);
    entry.into_iter().for_each(jsonc_parser::cst::CstObjectProp::remove);
    Ok(root.to_string())
}

fn is_text(node: &jsonc_parser::cst::CstNode, text: &str) -> bool {
    node.to_serde_value().is_some_and(|value| value == text)
}
