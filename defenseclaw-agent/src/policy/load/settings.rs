//! `settings` and `profiles`.

use super::{
    super::{
        problem::{Position, Problems},
        rule::{At, Profile, Settings, Thresholds},
        yaml::Node,
    },
    fields::Reader,
};
use crate::model::{Mode, PolicyAction, Severity};

/// Settings of all files: what is said later counts.
#[derive(Default)]
pub(super) struct SettingsRead {
    unresolved: Option<PolicyAction>,
    confirm_fallback: Option<PolicyAction>,
    action_alert: Option<Severity>,
    action_block: Option<Severity>,
    hitl_alert: Option<Severity>,
    hitl_confirm: Option<Severity>,
    hitl_block: Option<Severity>,
    thresholds_at: Option<Position>,
}

fn later<T>(slot: &mut Option<T>, value: Option<T>) {
    if value.is_some() {
        *slot = value;
    }
}

impl SettingsRead {
    pub(super) fn read(&mut self, reader: &mut Reader<'_>, node: &Node) {
        let keys = ["unresolved", "confirm_fallback", "thresholds"];
        let Some(fields) = reader.map(node, "settings", &keys) else { return };
        if let Some(node) = fields.get("unresolved") {
            let words = [PolicyAction::Block, PolicyAction::Alert, PolicyAction::Allow];
            later(&mut self.unresolved, reader.word(node, "unresolved", &words, PolicyAction::as_str));
        }
        if let Some(node) = fields.get("confirm_fallback") {
            let words = [PolicyAction::Block, PolicyAction::Allow];
            later(
                &mut self.confirm_fallback,
                reader.word(node, "confirm_fallback", &words, PolicyAction::as_str),
            );
        }
        let Some(node) = fields.get("thresholds") else { return };
        self.thresholds_at = Some(reader.place(node));
        let Some(modes) = reader.map(node, "thresholds", &["action", "hitl"]) else { return };
        if let Some(action) = modes.get("action")
            && let Some(fields) = reader.map(action, "thresholds of action", &["alert", "block"])
        {
            later(&mut self.action_alert, severity(reader, fields.get("alert")));
            later(&mut self.action_block, severity(reader, fields.get("block")));
        }
        if let Some(hitl) = modes.get("hitl")
            && let Some(fields) = reader.map(hitl, "thresholds of hitl", &["alert", "confirm", "block"])
        {
            later(&mut self.hitl_alert, severity(reader, fields.get("alert")));
            later(&mut self.hitl_confirm, severity(reader, fields.get("confirm")));
            later(&mut self.hitl_block, severity(reader, fields.get("block")));
        }
    }

    /// With defaults for what no file says.
    pub(super) fn merged(self, problems: &mut Problems) -> Settings {
        let usual = Settings::default();
        let normal = usual.thresholds;
        let thresholds = Thresholds {
            action_alert: self.action_alert.unwrap_or(normal.action_alert),
            action_block: self.action_block.unwrap_or(normal.action_block),
            hitl_alert: self.hitl_alert.unwrap_or(normal.hitl_alert),
            hitl_confirm: self.hitl_confirm.unwrap_or(normal.hitl_confirm),
            hitl_block: self.hitl_block.unwrap_or(normal.hitl_block),
        };
        if let Some(at) = &self.thresholds_at {
            let ordered = thresholds.action_alert <= thresholds.action_block
                && thresholds.hitl_alert <= thresholds.hitl_confirm
                && thresholds.hitl_confirm <= thresholds.hitl_block;
            if !ordered {
                let hint = "alert must not need a higher severity than confirm, nor confirm than block";
                problems.at(at, "thresholds are in the wrong order", hint);
            }
        }
        Settings {
            unresolved: self.unresolved.unwrap_or(usual.unresolved),
            confirm_fallback: self.confirm_fallback.unwrap_or(usual.confirm_fallback),
            thresholds,
        }
    }
}

fn severity(reader: &mut Reader<'_>, node: Option<&Node>) -> Option<Severity> {
    node.and_then(|node| reader.word(node, "a threshold", Severity::ALL, Severity::as_str))
}

impl Reader<'_> {
    pub(super) fn profiles(&mut self, node: &Node) -> Vec<Profile> {
        let mut found: Vec<Profile> = Vec::new();
        for item in self.list(node, "profiles") {
            let Some(profile) = self.profile(item) else { continue };
            if found.iter().any(|other| other.name == profile.name) {
                self.wrong(item, format!("profile {:?} is here twice", profile.name), "");
            } else {
                found.push(profile);
            }
        }
        found
    }

    fn profile(&mut self, node: &Node) -> Option<Profile> {
        let fields = self.map(node, "a profile", &["name", "connectors", "rules", "mode", "defaults"])?;
        let Some(name) = fields.get("name") else {
            self.wrong(node, "this profile has no name", "");
            return None;
        };
        let name = self.id(name, "name")?;
        let connectors = match fields.get("connectors") {
            Some(node) => {
                let items = self.list(node, "connectors");
                items.into_iter().filter_map(|item| self.id(item, "a connector")).collect()
            }
            None => Vec::new(),
        };
        let (mut include, mut exclude) = (Vec::new(), Vec::new());
        if let Some(rules) = fields.get("rules")
            && let Some(fields) = self.map(rules, "rules of a profile", &["include", "exclude"])
        {
            include = fields.get("include").map(|node| self.globs(node, "include")).unwrap_or_default();
            exclude = fields.get("exclude").map(|node| self.globs(node, "exclude")).unwrap_or_default();
        }
        let mode = fields.get("mode").and_then(|node| self.word(node, "mode", Mode::ALL, Mode::as_str));
        let defaults = fields.get("defaults").map(|node| self.defaults(node)).unwrap_or_default();
        Some(Profile { name, connectors, include, exclude, mode, defaults })
    }

    fn globs(&mut self, node: &Node, what: &str) -> Vec<At<String>> {
        let items = self.list(node, what);
        let mut found = Vec::new();
        for item in items {
            if let Some(text) = self.text(item, "a pattern of rule ids") {
                found.push(At { value: text.to_owned(), at: self.place(item) });
            }
        }
        found
    }
}
