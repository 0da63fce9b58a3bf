//! Nodes of the tree as typed values; what does not fit is said and left out.

use std::{collections::HashMap, sync::Arc};

use super::super::{
    pattern::Template,
    problem::{Position, Problems, Source},
    rule::{At, Defaults, Subject},
    yaml::{Node, Value},
};
use crate::model::PolicyAction;

/// Bytes of an id or name.
const ID_MAX: usize = 128;
/// Bytes of other text.
const TEXT_MAX: usize = 4096;

/// Values of a mapping by key.
pub(crate) struct Fields<'n>(HashMap<&'n str, &'n Node>);

impl<'n> Fields<'n> {
    pub(crate) fn get(&self, key: &str) -> Option<&'n Node> {
        self.0.get(key).copied()
    }
}

/// Reads nodes of one file.
pub(crate) struct Reader<'a> {
    pub(crate) source: &'a Arc<Source>,
    pub(crate) problems: &'a mut Problems,
}

impl Reader<'_> {
    pub(in crate::policy) fn place(&self, node: &Node) -> Position {
        node.position(self.source)
    }

    pub(crate) fn wrong(&mut self, node: &Node, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.at(&node.position(self.source), message, hint);
    }

    /// Pairs of a mapping with text keys, each key once.
    pub(crate) fn pairs<'n>(
        &mut self,
        node: &'n Node,
        what: &str,
    ) -> Option<Vec<(&'n Node, &'n str, &'n Node)>> {
        let Value::Map(pairs) = &node.value else {
            self.wrong(node, format!("{what} must be a mapping, not {}", node.kind()), "write key: value");
            return None;
        };
        let mut seen = HashMap::new();
        let mut found = Vec::new();
        for (key, value) in pairs {
            let Value::Text(name) = &key.value else {
                self.wrong(key, format!("a key must be a single word, not {}", key.kind()), "");
                continue;
            };
            if let Some(line) = seen.insert(name.as_str(), key.line) {
                self.wrong(key, format!("{name:?} is here twice"), format!("it is in line {line} already"));
                continue;
            }
            found.push((key, name.as_str(), value));
        }
        Some(found)
    }

    /// A mapping with known keys.
    pub(crate) fn map<'n>(&mut self, node: &'n Node, what: &str, keys: &[&str]) -> Option<Fields<'n>> {
        let pairs = self.pairs(node, what)?;
        let mut fields = HashMap::new();
        for (key, name, value) in pairs {
            if keys.contains(&name) {
                fields.insert(name, value);
            } else {
                self.wrong(
                    key,
                    format!("{what} has no key {name:?}"),
                    format!("keys are {}", keys.join(", ")),
                );
            }
        }
        Some(Fields(fields))
    }

    /// A list, or what could be its only item.
    pub(in crate::policy) fn list<'n>(&mut self, node: &'n Node, what: &str) -> Vec<&'n Node> {
        match &node.value {
            Value::List(items) => {
                if items.is_empty() {
                    self.wrong(node, format!("{what} is an empty list"), "leave it out, or name something");
                }
                items.iter().collect()
            }
            Value::Text(_) | Value::Map(_) => vec![node],
        }
    }

    /// Text that is not empty.
    pub(crate) fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        let Value::Text(text) = &node.value else {
            self.wrong(node, format!("{what} must be a single value, not {}", node.kind()), "");
            return None;
        };
        if text.trim().is_empty() {
            self.wrong(node, format!("{what} is empty"), "");
            return None;
        }
        if text.len() > TEXT_MAX {
            self.wrong(node, format!("{what} has more than {TEXT_MAX} bytes"), "");
            return None;
        }
        Some(text)
    }

    /// A name that is safe in a table, a file name and a metric.
    pub(crate) fn id(&mut self, node: &Node, what: &str) -> Option<String> {
        let text = self.text(node, what)?;
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if text.len() > ID_MAX || !text.chars().all(fits) {
            self.wrong(
                node,
                format!("{what} {text:?} is no name"),
                format!("letters, digits and . _ -, at most {ID_MAX}"),
            );
            return None;
        }
        Some(text.to_owned())
    }

    /// One of the words of a type.
    pub(crate) fn word<T: Copy>(
        &mut self,
        node: &Node,
        what: &str,
        all: &[T],
        word: impl Fn(T) -> &'static str,
    ) -> Option<T> {
        let text = self.text(node, what)?;
        let found = all.iter().copied().find(|candidate| word(*candidate) == text);
        if found.is_none() {
            let words: Vec<_> = all.iter().map(|candidate| word(*candidate)).collect();
            self.wrong(
                node,
                format!("{what} cannot be {text:?}"),
                format!("write one of {}", words.join(", ")),
            );
        }
        found
    }

    pub(crate) fn flag(&mut self, node: &Node, what: &str) -> bool {
        self.word(node, what, &[true, false], |flag| if flag { "true" } else { "false" }).unwrap_or(false)
    }

    /// What a word of `effect` or `defaults` means: one thing, or a group like `file.*`.
    pub(in crate::policy) fn subjects(&mut self, node: &Node) -> Vec<Subject> {
        let Some(text) = self.text(node, "effect") else { return Vec::new() };
        if let Some(one) = Subject::from_name(text) {
            return vec![one];
        }
        let group = text.strip_suffix('*').filter(|front| front.ends_with('.'));
        let found: Vec<_> = group.map_or_else(Vec::new, |front| {
            Subject::all().filter(|subject| subject.as_str().starts_with(front)).collect()
        });
        if found.is_empty() {
            let words: Vec<_> = Subject::all().map(Subject::as_str).collect();
            self.wrong(
                node,
                format!("there is no effect {text:?}"),
                format!("effects are {}, file.*, net.*, priv.*, tool.*", words.join(", ")),
            );
        }
        found
    }

    /// Actions by effect. What is named alone goes before its group.
    pub(in crate::policy) fn defaults(&mut self, node: &Node) -> Defaults {
        let mut groups = Defaults::new();
        let mut single = Defaults::new();
        for (key, _, value) in self.pairs(node, "defaults").unwrap_or_default() {
            let subjects = self.subjects(key);
            let allowed = [PolicyAction::Allow, PolicyAction::Alert, PolicyAction::Block];
            let Some(action) = self.word(value, "a default", &allowed, PolicyAction::as_str) else {
                continue;
            };
            if subjects.iter().any(|subject| matches!(subject, Subject::Content(_))) {
                self.wrong(
                    key,
                    "texts have no default: every text is one",
                    "name what must not be in them, in a rule",
                );
                continue;
            }
            let into = if subjects.len() == 1 { &mut single } else { &mut groups };
            into.extend(subjects.into_iter().map(|subject| (subject, action)));
        }
        groups.extend(single);
        groups
    }

    /// Path patterns.
    pub(in crate::policy) fn patterns(&mut self, node: &Node, what: &str) -> Vec<At<Template>> {
        let mut found = Vec::new();
        for item in self.list(node, what) {
            let Some(text) = self.text(item, "a pattern") else { continue };
            match Template::parse(text) {
                Ok(value) => found.push(At { value, at: self.place(item) }),
                Err((message, hint)) => self.wrong(item, message, hint),
            }
        }
        found
    }

    /// Values that a function reads.
    pub(in crate::policy) fn values<T>(
        &mut self,
        node: &Node,
        what: &str,
        read: impl Fn(&str) -> Result<T, (String, &'static str)>,
    ) -> Vec<T> {
        let mut found = Vec::new();
        for item in self.list(node, what) {
            let Some(text) = self.text(item, what) else { continue };
            match read(text) {
                Ok(value) => found.push(value),
                Err((message, hint)) => self.wrong(item, message, hint),
            }
        }
        found
    }
}
