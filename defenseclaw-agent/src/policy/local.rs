//! The local policy: what people have allowed for good. A file of rules beside the policy, in its words, that only allow. It is no
//! layer of the policy and judges nothing: where the policy says `confirm`, it answers for the person. What the policy
//! blocks it cannot open, because nobody is asked about that.
//!
//! Which file that is, and who may write it, is the business of who reads it.

use super::{Bindings, Problem, Session, load, object::Object, rule};
use crate::model::{Mode, PolicyAction, Subject};

/// What stands above the first rule.
const HEADER: &str = "# What was allowed for good when somebody was asked. Each rule answers questions about exactly what it names; it opens
# nothing that the policy blocks. Take a rule out and load the policy again, and the question is asked again.
version: 1
name: local

rules:
";
/// Characters that mean something in a pattern.
const SPECIAL: &str = "*?[]{}\\";

/// Answers that stand, in a session.
#[derive(Debug)]
pub struct Local {
    rules: Session,
    owner: u32,
}

/// A rule that is to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addition {
    /// The whole file with it.
    pub text: String,
    /// What changes, as a unified diff.
    pub diff: String,
}

impl Local {
    /// Reads the file. `owner` is the user who has written it; home and project are those of the session.
    pub fn load(
        name: &str,
        text: &str,
        home: &[u8],
        project: &[u8],
        owner: u32,
    ) -> Result<Self, Vec<Problem>> {
        let policy = load(name, text, &|_| None)?;
        let problems: Vec<_> = policy.rules.iter().filter_map(wrong).collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        if !policy.defaults.is_empty()
            || !policy.profiles.is_empty()
            || policy.settings != rule::Settings::default()
        {
            let message = format!("{name} has more than rules");
            let hint = "a local policy answers questions: leave out settings, defaults and profiles";
            return Err(vec![Problem::nowhere(message, hint)]);
        }
        let bindings = Bindings {
            home: home.to_vec(),
            project: project.to_vec(),
            profile: "default".to_owned(),
            mode: Some(Mode::Action),
        };
        Ok(Self { rules: Session::new(&policy, &bindings)?, owner })
    }

    /// The user who has written it.
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// Whether a question about this was answered for good: a rule allows everything that it is about. Of two objects at once
    /// nothing is known here.
    pub fn answers(&self, subject: &Subject) -> bool {
        let Ok(objects) = objects(subject) else { return false };
        let allowed = |object: &Object<'_>| {
            let said = self.rules.judge(super::Actor::default(), object);
            // Its number is its place; what is no rule of the file comes after.
            said.is_some_and(|entry| {
                entry.raw_action == PolicyAction::Allow && usize::from(entry.rule) < self.rules.rules.len()
            })
        };
        !objects.is_empty() && objects.iter().all(allowed)
    }
}

/// Why a rule cannot be one of those.
fn wrong(rule: &rule::Rule) -> Option<Problem> {
    let id = &rule.id;
    let (message, hint) = if rule.action != Some(PolicyAction::Allow) {
        (format!("rule {id:?} does more than allow"), "write action: allow, or put it into the policy")
    } else if rule.unless.is_some() {
        (format!("rule {id:?} spares somebody"), "leave out unless: who asks is not looked at here")
    } else if !rule.contents.is_empty() {
        (format!("rule {id:?} is about texts, which nobody is asked about for good"), "take it out")
    } else {
        return None;
    };
    Some(Problem::at(&rule.at, message, hint))
}

/// What a question is about, as policy judges it; why not, where that is no single object.
fn objects(subject: &Subject) -> Result<Vec<Object<'_>>, &'static str> {
    let object = std::str::from_utf8(&subject.object.0).map_err(|_err| "its name is not text")?;
    let words: Vec<_> = subject.effect.split('+').collect();
    let two = |word: &str| words.contains(&word);
    if two("file.link") || two("file.delete") && words.len() > 1 || two("exec") && object.contains("->") {
        return Err("it is about two files at once");
    }
    let judged = |word: &str| {
        let subject = rule::Subject::from_name(word).ok_or("no rule can be about it")?;
        match subject {
            rule::Subject::Content(_) => Err("it is about a text"),
            rule::Subject::Effect(_) if object == "?" => Err("it has no name"),
            rule::Subject::Effect(_) | rule::Subject::Privilege(_) => {
                Object::parse(subject, object).map_err(|_err| "no rule can name it")
            }
        }
    };
    words.into_iter().map(judged).collect()
}

/// Adds a rule that answers questions about exactly this. `present` is the file as it is, if there is one, and `name` what it is
/// called. An error says why no such rule can be written.
pub fn add(name: &str, present: Option<&str>, subject: &Subject) -> Result<Addition, String> {
    let cannot = |why: &str| format!("this cannot be allowed for good: {why}; allow it for the session");
    let found = objects(subject).map_err(cannot)?;
    let matches = matches(subject, &found).map_err(cannot)?;
    let before = present.unwrap_or_default();
    let known = read(name, before)?;
    if known.as_ref().is_some_and(|local| local.answers(subject)) {
        return Err(format!("{name} allows this already"));
    }
    let mut text = if before.trim().is_empty() { HEADER.to_owned() } else { before.to_owned() };
    if !text.ends_with('\n') {
        text.push('\n');
    }
    let ids: Vec<_> = known.iter().flat_map(|local| &local.rules.info).map(|rule| rule.id.clone()).collect();
    let free = (1..=ids.len() + 1).map(|number| format!("local.{number}")).find(|id| !ids.contains(id));
    let id = free.ok_or_else(|| cannot("every id is taken"))?;
    let effects: Vec<_> = subject.effect.split('+').collect();
    let reason = quoted(&format!("Answers rule {}.", subject.rule));
    let effects = effects.join(", ");
    text.push_str(
        &[
            format!("  - id: {id}"),
            format!("    effect: [{effects}]"),
            format!("    match: {matches}"),
            "    severity: info".to_owned(),
            "    action: allow".to_owned(),
            format!("    reason: {reason}\n"),
        ]
        .join("\n"),
    );
    // The file may have been written by a person, and end with something else than a list of rules.
    let added = read(name, &text).ok().flatten();
    let count = |local: &Option<Local>| local.as_ref().map_or(0, |local| local.rules.rules.len());
    if count(&added) != count(&known) + 1 || !added.is_some_and(|local| local.answers(subject)) {
        return Err(format!(
            "{name} does not end with a list of rules, so none can be added at its end; do so by hand"
        ));
    }
    let diff = similar::TextDiff::from_lines(before, &text);
    let old = if present.is_some() { name } else { "/dev/null" };
    let diff = diff.unified_diff().context_radius(3).header(old, name).to_string();
    Ok(Addition { text, diff })
}

/// The file in a session that nothing in it depends on; none if there is nothing in it.
fn read(name: &str, text: &str) -> Result<Option<Local>, String> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    // Directories that no rule written here names.
    let local = Local::load(name, text, b"/home/nobody-in-particular", b"/nowhere-in-particular", 0);
    local.map(Some).map_err(|problems| {
        let all: Vec<_> = problems.iter().map(ToString::to_string).collect();
        format!("{name} cannot be used: {}", all.join("; "))
    })
}

/// `match` of the rule.
fn matches(subject: &Subject, objects: &[Object<'_>]) -> Result<String, &'static str> {
    let text = subject.object.lossy();
    match objects.first() {
        Some(Object::Path(effect, _)) => {
            if text.contains(|c| SPECIAL.contains(c)) {
                return Err("its name has a character that means something else in a rule");
            }
            let key = if *effect == crate::model::Effect::Unix { "unix" } else { "paths" };
            Ok(format!("{{{key}: [{}]}}", quoted(&text)))
        }
        Some(Object::Abstract(name)) => {
            Ok(format!("{{abstract: [{}]}}", quoted(&String::from_utf8_lossy(name))))
        }
        Some(Object::Address { address, port, name: None, .. }) => {
            Ok(format!("{{addresses: [{}], ports: [{port}]}}", quoted(&address.to_string())))
        }
        Some(Object::Privilege(_)) => {
            Err("rules about privileges have no object, so one would allow all of them")
        }
        _ => Err("no rule can name it"),
    }
}

/// In double quotes, as YAML and JSON alike have them.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
