//! Tests of policies, as data: who does what to which object, and what should come of it. Values that are lists stand
//! for every combination.

use std::sync::Arc;

use super::{
    load::fields::Reader,
    object::{Actor, Object},
    problem::{Position, Problem, Problems, Source},
    rule::Subject,
    session::{Bindings, Session},
    yaml::{self, Node},
};
use crate::model::{Mode, PolicyAction};

const KEYS: &[&str] = &["version", "policy", "profile", "mode", "home", "project", "cases"];
const CASE_KEYS: &[&str] = &["exe", "parent", "effect", "object", "expect", "rule", "mode"];
/// Combinations of one case.
const COMBINATIONS_MAX: usize = 10_000;

/// A file of cases.
#[derive(Debug)]
pub struct Suite {
    /// Presets or files that all cases are for.
    pub policies: Vec<String>,
    profile: String,
    mode: Mode,
    home: String,
    project: String,
    cases: Vec<Case>,
}

#[derive(Debug)]
struct Case {
    at: Position,
    mode: Option<Mode>,
    executables: Vec<String>,
    parents: Vec<String>,
    subjects: Vec<Subject>,
    objects: Vec<String>,
    expect: Vec<PolicyAction>,
    rule: Option<String>,
}

/// What came of a [`Suite`].
#[derive(Debug, Default)]
pub struct Outcome {
    /// Combinations that were asked.
    pub asked: usize,
    /// Those that came out differently, and what could not be asked.
    pub failures: Vec<Problem>,
}

/// Reads a file of cases.
pub fn suite(name: &str, text: &str) -> Result<Suite, Vec<Problem>> {
    let source = Arc::new(Source { name: name.to_owned(), text: text.to_owned() });
    let start = Position { source: Arc::clone(&source), line: 1, column: 1 };
    let mut problems = Problems::default();
    let node = match yaml::parse(&source) {
        Ok(Some(node)) => node,
        Ok(None) => return Err(vec![Problem::at(&start, "the file is empty", "it needs policy and cases")]),
        Err(problem) => return Err(vec![problem]),
    };
    let mut reader = Reader { source: &source, problems: &mut problems };
    let fields = reader.map(&node, "a file of cases", KEYS);
    let mut found = Suite {
        policies: Vec::new(),
        profile: "default".to_owned(),
        mode: Mode::Action,
        home: "/home/user".to_owned(),
        project: "/home/user/project".to_owned(),
        cases: Vec::new(),
    };
    if let Some(fields) = fields {
        for key in ["version", "policy", "cases"] {
            if fields.get(key).is_none() {
                reader.problems.at(&start, format!("{key} is missing"), "");
            }
        }
        if let Some(version) = fields.get("version")
            && reader.text(version, "version").is_some_and(|text| text != "1")
        {
            reader.wrong(version, "this version of the format is unknown", "write version: 1");
        }
        found.policies = fields.get("policy").map(|node| reader.texts(node, "policy")).unwrap_or_default();
        if let Some(profile) = fields.get("profile").and_then(|node| reader.id(node, "profile")) {
            found.profile = profile;
        }
        if let Some(mode) = fields.get("mode").and_then(|node| reader.mode(node)) {
            found.mode = mode;
        }
        for (key, place) in [("home", &mut found.home), ("project", &mut found.project)] {
            if let Some(text) = fields.get(key).and_then(|node| reader.text(node, key)) {
                text.clone_into(place);
            }
        }
        if let Some(node) = fields.get("cases") {
            let items = reader.list(node, "cases");
            found.cases = items.into_iter().filter_map(|item| reader.case(item)).collect();
        }
    }
    problems.or(found)
}

impl Reader<'_> {
    fn mode(&mut self, node: &Node) -> Option<Mode> {
        self.word(node, "mode", Mode::ALL, Mode::as_str)
    }

    fn texts(&mut self, node: &Node, what: &str) -> Vec<String> {
        self.values(node, what, |text| Ok(text.to_owned()))
    }

    fn case(&mut self, node: &Node) -> Option<Case> {
        let fields = self.map(node, "a case", CASE_KEYS)?;
        let mut texts = |key: &str| fields.get(key).map(|node| self.texts(node, key)).unwrap_or_default();
        let (executables, parents, objects) = (texts("exe"), texts("parent"), texts("object"));
        let mut subjects = Vec::new();
        for item in fields.get("effect").map(|node| self.list(node, "effect")).unwrap_or_default() {
            subjects.extend(self.subjects(item));
        }
        let mut expect = Vec::new();
        for item in fields.get("expect").map(|node| self.list(node, "expect")).unwrap_or_default() {
            expect.extend(self.word(item, "expect", PolicyAction::ALL, PolicyAction::as_str));
        }
        if subjects.is_empty() || expect.is_empty() {
            self.wrong(node, "this case asks or expects nothing", "each case has effect, object and expect");
            return None;
        }
        let combinations = [executables.len(), parents.len(), subjects.len(), objects.len()]
            .into_iter()
            .fold(1, |all: usize, some| all.saturating_mul(some.max(1)));
        if combinations > COMBINATIONS_MAX {
            self.wrong(node, format!("this case stands for {combinations} combinations"), "split it");
            return None;
        }
        Some(Case {
            at: self.place(node),
            mode: fields.get("mode").and_then(|node| self.mode(node)),
            executables,
            parents,
            subjects,
            objects,
            expect,
            rule: fields.get("rule").and_then(|node| self.id(node, "rule")),
        })
    }
}

impl Suite {
    /// Asks a policy. `session` binds it.
    pub fn run(&self, session: &dyn Fn(&Bindings) -> Result<Session, Vec<Problem>>) -> Outcome {
        let mut outcome = Outcome::default();
        let mut sessions: Vec<(Mode, Session)> = Vec::new();
        for case in &self.cases {
            let mode = case.mode.unwrap_or(self.mode);
            if !sessions.iter().any(|(known, _)| *known == mode) {
                let bindings = Bindings {
                    home: self.home.clone().into_bytes(),
                    project: self.project.clone().into_bytes(),
                    profile: self.profile.clone(),
                    mode: Some(mode),
                };
                match session(&bindings) {
                    Ok(session) => sessions.push((mode, session)),
                    Err(problems) => {
                        outcome.failures.extend(problems);
                        return outcome;
                    }
                }
            }
            if let Some((_, session)) = sessions.iter().find(|(known, _)| *known == mode) {
                self.case(case, session, &mut outcome);
            }
        }
        outcome
    }

    fn case(&self, case: &Case, session: &Session, outcome: &mut Outcome) {
        let some = |list: &[String]| if list.is_empty() { vec![String::new()] } else { list.to_vec() };
        for executable in some(&case.executables) {
            for parent in some(&case.parents) {
                for object in some(&case.objects) {
                    for subject in &case.subjects {
                        outcome.asked += 1;
                        let [executable, parent, object] =
                            [&executable, &parent, &object].map(|text| self.expand(text));
                        if let Err(message) = case.ask(session, &executable, &parent, *subject, &object) {
                            let asked = format!("{} {object} by {executable}", subject.as_str());
                            outcome.failures.push(Problem::at(&case.at, format!("{asked}: {message}"), ""));
                        }
                    }
                }
            }
        }
    }

    /// With the directories of the suite.
    fn expand(&self, text: &str) -> String {
        if let Some(rest) = text.strip_prefix("${project}") {
            format!("{}{rest}", self.project)
        } else if let Some(rest) = text.strip_prefix('~') {
            format!("{}{rest}", self.home)
        } else {
            text.to_owned()
        }
    }
}

impl Case {
    fn ask(
        &self,
        session: &Session,
        executable: &str,
        parent: &str,
        subject: Subject,
        object: &str,
    ) -> Result<(), String> {
        let path = |text: &str| (!text.is_empty()).then(|| text.as_bytes().to_vec());
        let (executable, parent) = (path(executable), path(parent));
        let actor = Actor { executable: executable.as_deref(), parent: parent.as_deref() };
        let entry = session.judge(actor, &Object::parse(subject, object)?);
        let action = entry.map_or(PolicyAction::Allow, |entry| entry.action);
        let rule =
            entry.and_then(|entry| session.rule(entry.rule)).map_or("no rule", |rule| rule.id.as_str());
        if !self.expect.contains(&action) {
            let expected: Vec<_> = self.expect.iter().map(|action| action.as_str()).collect();
            return Err(format!("{action} ({rule}), not {}", expected.join(" or ")));
        }
        match &self.rule {
            Some(expected) if expected != rule => Err(format!("{action} by {rule}, not by {expected}")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
