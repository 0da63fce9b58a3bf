//! From YAML text to a [`Policy`], with every mistake at once. Files are the caller's business: it hands over texts.

mod check;
pub(crate) mod fields;
mod rules;
mod settings;

use std::sync::Arc;

use self::{fields::Reader, settings::SettingsRead};
use super::{
    content::TextPatterns,
    problem::{Position, Problem, Problems, Source},
    rule::{Defaults, Policy, Profile, Rule},
    yaml,
};

/// Presets that may include each other.
const INCLUDES_MAX: usize = 16;

/// What the file may say, at the top.
const KEYS: &[&str] = &["version", "name", "include", "settings", "defaults", "rules", "profiles"];

/// Reads a policy. `include` gives the text of a preset by name.
pub fn load(
    name: &str,
    text: &str,
    include: &dyn Fn(&str) -> Option<String>,
) -> Result<Policy, Vec<Problem>> {
    let mut loader = Loader { problems: Problems::default(), include, open: Vec::new(), read: 0 };
    let mut draft = Draft::default();
    let source = Arc::new(Source { name: name.to_owned(), text: text.to_owned() });
    loader.file(&source, &mut draft);
    let Loader { mut problems, .. } = loader;
    let mut policy = Policy {
        name: draft.name.unwrap_or_else(|| name.to_owned()),
        settings: draft.settings.merged(&mut problems),
        defaults: draft.defaults,
        rules: draft.rules,
        profiles: draft.profiles,
        patterns: TextPatterns::default(),
    };
    policy.patterns = TextPatterns::new(&policy, &mut problems);
    check::policy(&policy, &mut problems);
    problems.or(policy)
}

/// What has been read so far, of all files.
#[derive(Default)]
struct Draft {
    name: Option<String>,
    settings: SettingsRead,
    defaults: Defaults,
    rules: Vec<Rule>,
    profiles: Vec<Profile>,
}

struct Loader<'a> {
    problems: Problems,
    include: &'a dyn Fn(&str) -> Option<String>,
    /// Names of the presets that are being read.
    open: Vec<String>,
    read: usize,
}

impl Loader<'_> {
    fn file(&mut self, source: &Arc<Source>, draft: &mut Draft) {
        let start = Position { source: Arc::clone(source), line: 1, column: 1 };
        let node = match yaml::parse(source) {
            Ok(Some(node)) => node,
            Ok(None) => {
                self.problems.at(&start, "the file is empty", "a policy starts with version: 1");
                return;
            }
            Err(problem) => {
                self.problems.add(problem);
                return;
            }
        };
        let mut reader = Reader { source, problems: &mut self.problems };
        let Some(fields) = reader.map(&node, "a policy", KEYS) else { return };
        match fields.get("version") {
            Some(version) => {
                if reader.text(version, "version").is_some_and(|text| text != "1") {
                    reader.wrong(version, "this version of the format is unknown", "write version: 1");
                }
            }
            None => reader.problems.at(&start, "version is missing", "write version: 1"),
        }
        let included: Vec<_> = fields
            .get("include")
            .map(|node| reader.list(node, "include"))
            .unwrap_or_default()
            .into_iter()
            .filter_map(|node| Some((node.position(source), reader.id(node, "a preset")?)))
            .collect();
        for (at, name) in included {
            self.include(&at, name, draft);
        }
        let mut reader = Reader { source, problems: &mut self.problems };
        if let Some(name) = fields.get("name").and_then(|node| reader.id(node, "name")) {
            draft.name = Some(name);
        }
        if let Some(node) = fields.get("settings") {
            draft.settings.read(&mut reader, node);
        }
        if let Some(node) = fields.get("defaults") {
            draft.defaults.extend(reader.defaults(node));
        }
        if let Some(node) = fields.get("rules") {
            let rules = reader.rules(node);
            replace(&mut draft.rules, rules, |rule| &rule.id);
        }
        if let Some(node) = fields.get("profiles") {
            let profiles = reader.profiles(node);
            replace(&mut draft.profiles, profiles, |profile| &profile.name);
        }
    }

    fn include(&mut self, at: &Position, name: String, draft: &mut Draft) {
        self.read += 1;
        if self.open.contains(&name) {
            self.problems.at(at, format!("{name} includes itself"), "");
        } else if self.read > INCLUDES_MAX {
            self.problems.at(at, format!("more than {INCLUDES_MAX} presets are included"), "");
        } else if let Some(text) = (self.include)(&name) {
            let source = Arc::new(Source { name: name.clone(), text });
            self.open.push(name);
            self.file(&source, draft);
            self.open.pop();
        } else {
            self.problems.at(
                at,
                format!("there is no preset {name:?}"),
                format!("presets are {}", super::presets::NAMES.join(", ")),
            );
        }
    }
}

/// Later ones take the place of earlier ones with the same name.
fn replace<T>(all: &mut Vec<T>, new: Vec<T>, name: impl Fn(&T) -> &str) {
    let mut places: std::collections::HashMap<String, usize> =
        all.iter().enumerate().map(|(at, item)| (name(item).to_owned(), at)).collect();
    for item in new {
        if let Some(old) = places.get(name(&item)).and_then(|at| all.get_mut(*at)) {
            *old = item;
        } else {
            places.insert(name(&item).to_owned(), all.len());
            all.push(item);
        }
    }
}

#[cfg(test)]
mod tests;
