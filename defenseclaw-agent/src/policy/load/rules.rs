//! `rules`.

use std::collections::{BTreeSet, HashMap};

use super::{
    super::{
        content::{Detector, Kind, TextPattern},
        image::Ports,
        network::{HostPattern, Network},
        rule::{At, FILE, Matches, NET, Rule, Spared, Subject},
        yaml::Node,
    },
    fields::{Fields, Reader},
};
use crate::model::{Content, Effect, Effects, PolicyAction, Privilege, Severity};

const KEYS: &[&str] = &["id", "effect", "match", "unless", "severity", "action", "kill", "reason"];
const MATCH_KEYS: &[&str] =
    &["paths", "executables", "hosts", "addresses", "ports", "unix", "abstract", "patterns", "detectors"];
/// Which effects know which kind of object.
const ABOUT: &[(&str, Effects)] = &[
    ("paths", FILE.union(Effects::EXEC)),
    ("executables", Effects::EXEC),
    ("hosts", Effects::DNS.union(Effects::NET_CONNECT)),
    ("addresses", NET),
    ("ports", NET),
    ("unix", Effects::UNIX),
    ("abstract", Effects::UNIX),
];
/// Keys of texts.
const ABOUT_TEXTS: &[&str] = &["patterns", "detectors"];
/// Bytes of an abstract name: what `sun_path` holds after the NUL.
const ABSTRACT_MAX: usize = 107;

impl Reader<'_> {
    pub(super) fn rules(&mut self, node: &Node) -> Vec<Rule> {
        let mut found: Vec<Rule> = Vec::new();
        let mut lines: HashMap<String, usize> = HashMap::new();
        for item in self.list(node, "rules") {
            let Some(rule) = self.rule(item) else { continue };
            if let Some(line) = lines.insert(rule.id.clone(), item.line) {
                let hint = format!("it is in line {line} already; give each rule its own id");
                self.wrong(item, format!("rule {:?} is here twice", rule.id), hint);
            } else {
                found.push(rule);
            }
        }
        found
    }

    fn rule(&mut self, node: &Node) -> Option<Rule> {
        let fields = self.map(node, "a rule", KEYS)?;
        for key in ["id", "effect", "severity"] {
            if fields.get(key).is_none() {
                self.wrong(node, format!("this rule has no {key}"), "each rule has id, effect and severity");
            }
        }
        let id = fields.get("id").and_then(|node| self.rule_id(node));
        let About { effects, privileges, contents } = self.effects(&fields);
        let (matches, given) =
            fields.get("match").map(|node| self.matches(node, effects)).unwrap_or_default();
        if !contents.is_empty() {
            self.fit_texts(node, &fields, effects.is_empty() && privileges.is_empty(), &given);
        } else if !effects.is_empty() || !privileges.is_empty() {
            self.fit(fields.get("match").unwrap_or(node), effects, &given);
        }
        let unless =
            fields.get("unless").and_then(|node| self.unless(node, id.as_deref().unwrap_or_default()));
        let severity = fields
            .get("severity")
            .and_then(|node| self.word(node, "severity", Severity::ALL, Severity::as_str));
        let action = fields
            .get("action")
            .and_then(|node| self.word(node, "action", PolicyAction::ALL, PolicyAction::as_str));
        let kill = fields.get("kill").is_some_and(|node| self.flag(node, "kill"));
        let reason = fields.get("reason").and_then(|node| self.reason(node)).unwrap_or_default();
        let (id, severity) = (id?, severity?);
        Some(Rule {
            id,
            effects,
            privileges,
            contents,
            matches,
            unless,
            severity,
            action,
            kill,
            reason,
            at: self.place(node),
        })
    }

    fn rule_id(&mut self, node: &Node) -> Option<String> {
        let id = self.id(node, "id")?;
        if id == "unresolved" {
            self.wrong(node, "this id means objects that cannot be resolved", "choose another");
            return None;
        }
        Some(id)
    }

    fn effects(&mut self, fields: &Fields<'_>) -> About {
        let mut about = About::default();
        let Some(node) = fields.get("effect") else { return about };
        for item in self.list(node, "effect") {
            for subject in self.subjects(item) {
                match subject {
                    Subject::Effect(effect) => about.effects |= Effects::from(effect),
                    Subject::Privilege(privilege) => {
                        about.privileges.insert(privilege);
                    }
                    Subject::Content(content) => {
                        about.contents.insert(content);
                    }
                }
            }
        }
        about
    }

    /// The objects, and which keys name them: also those whose values are wrong, which is said once.
    fn matches(&mut self, node: &Node, effects: Effects) -> (Matches, Vec<&'static str>) {
        let Some(fields) = self.map(node, "match", MATCH_KEYS) else {
            // Said already: what it was meant to name is not known.
            let all = ABOUT.iter().filter(|(_, about)| about.intersects(effects)).map(|(key, _)| *key);
            return (Matches::default(), all.collect());
        };
        let given = MATCH_KEYS.iter().copied().filter(|key| fields.get(key).is_some()).collect();
        let mut patterns =
            |key: &str| fields.get(key).map(|node| self.patterns(node, key)).unwrap_or_default();
        let (paths, executables, unix) = (patterns("paths"), patterns("executables"), patterns("unix"));
        let hosts = fields.get("hosts").map(|node| self.values(node, "hosts", HostPattern::parse));
        let addresses = fields.get("addresses").map(|node| self.values(node, "addresses", Network::parse));
        let ports = fields.get("ports").map(|node| self.values(node, "ports", Ports::parse));
        let abstract_names = fields.get("abstract").map(|node| self.values(node, "abstract", abstract_name));
        let texts = fields.get("patterns").map(|node| self.text_patterns(node));
        let detectors = fields.get("detectors").map(|node| self.values(node, "detectors", detectors));
        let matches = Matches {
            paths,
            executables,
            hosts: hosts.unwrap_or_default(),
            addresses: addresses.unwrap_or_default(),
            ports: ports.unwrap_or_default(),
            unix,
            abstract_names: abstract_names.unwrap_or_default(),
            patterns: texts.unwrap_or_default(),
            detectors: detectors.unwrap_or_default().into_iter().flatten().collect(),
        };
        (matches, given)
    }

    fn text_patterns(&mut self, node: &Node) -> Vec<At<TextPattern>> {
        let mut found = Vec::new();
        for item in self.list(node, "patterns") {
            let Some(text) = self.text(item, "a pattern") else { continue };
            match TextPattern::parse(text) {
                Ok(value) => found.push(At { value, at: self.place(item) }),
                Err((message, hint)) => self.wrong(item, message, hint),
            }
        }
        found
    }

    /// A rule about texts says what to look for, and nothing that texts do not have.
    fn fit_texts(&mut self, node: &Node, fields: &Fields<'_>, alone: bool, given: &[&str]) {
        if !alone {
            let hint = "write one rule for texts and one for what processes do";
            self.wrong(node, "this rule is about texts and about something else", hint);
            return;
        }
        let place = fields.get("match").unwrap_or(node);
        if !given.iter().any(|key| ABOUT_TEXTS.contains(key)) {
            self.wrong(place, "nothing says what to look for", "add patterns or detectors to match");
        }
        for key in given.iter().filter(|key| !ABOUT_TEXTS.contains(key)) {
            self.wrong(
                place,
                format!("{key} match nothing that this rule is about"),
                "texts have patterns and detectors",
            );
        }
        for key in ["unless", "kill"] {
            if let Some(node) = fields.get(key) {
                self.wrong(node, format!("a rule about texts has no {key}"), "remove it");
            }
        }
    }

    /// Each effect has something to match, and nothing is matched in vain.
    fn fit(&mut self, node: &Node, effects: Effects, given: &[&str]) {
        let mut served = Effects::empty();
        for (key, about) in ABOUT.iter().filter(|(key, _)| given.contains(key)) {
            served |= *about;
            if !effects.intersects(*about) {
                self.wrong(node, format!("{key} match nothing that this rule is about"), wanted(*about));
            }
        }
        for key in given.iter().filter(|key| ABOUT_TEXTS.contains(key)) {
            let hint = "they are for prompt, tool.input, tool.output, message";
            self.wrong(node, format!("{key} match nothing that this rule is about"), hint);
        }
        for effect in Effect::ALL.iter().filter(|effect| (effects - served).contains(Effects::from(**effect)))
        {
            let fits = ABOUT.iter().filter(|(_, about)| about.contains(Effects::from(*effect)));
            let keys: Vec<_> = fits.map(|(key, _)| *key).collect();
            self.wrong(
                node,
                format!("nothing says which objects {effect} is about"),
                format!("add {} to match; for all of them use defaults", keys.join(" or ")),
            );
        }
    }

    fn unless(&mut self, node: &Node, id: &str) -> Option<Spared> {
        let fields = self.map(node, "unless", &["executables", "parents"])?;
        let spared = match (fields.get("executables"), fields.get("parents")) {
            (Some(_), Some(_)) => {
                let hint = "split the rule's effects, or choose one: the kernel asks one question per rule";
                self.wrong(node, "unless has both executables and parents", hint);
                return None;
            }
            (Some(node), None) => Spared::Executables(self.patterns(node, "executables")),
            (None, Some(node)) => Spared::Parents(self.patterns(node, "parents")),
            (None, None) => {
                self.wrong(node, "unless names nobody", "leave it out, or name executables or parents");
                return None;
            }
        };
        let (Spared::Executables(patterns) | Spared::Parents(patterns)) = &spared;
        for pattern in patterns {
            let held = pattern.value.wild();
            let text = pattern.value.as_str();
            let extension = text.starts_with("**/*.").then_some("it goes by extension");
            let anywhere = (text.starts_with("**/") && text.ends_with("/**"))
                .then_some("the directory may be anywhere, and only names of programs may");
            if let Some(why) = held.or(extension).or(anywhere) {
                let message = format!("rule {id:?}: the kernel cannot recognise {text:?}: {why}");
                self.problems.at(&pattern.at, message, "name programs by full path, or a directory with /**");
            }
        }
        Some(spared)
    }

    fn reason(&mut self, node: &Node) -> Option<String> {
        let text = self.text(node, "reason")?;
        if text.trim().contains(char::is_control) {
            self.wrong(node, "reason has control characters or several lines", "write one line, or use >-");
            return None;
        }
        Some(text.trim().to_owned())
    }
}

/// What `effect` says.
#[derive(Default)]
struct About {
    effects: Effects,
    privileges: BTreeSet<Privilege>,
    contents: BTreeSet<Content>,
}

fn detectors(name: &str) -> Result<Vec<Detector>, (String, &'static str)> {
    let found = Detector::named(name);
    if found.is_empty() {
        let kinds = Kind::ALL.iter().map(|kind| kind.as_str());
        let names: Vec<_> = kinds.chain(Detector::all().map(Detector::as_str)).collect();
        return Err((format!("there is no detector {name:?}: they are {}", names.join(", ")), ""));
    }
    Ok(found)
}

fn wanted(about: Effects) -> String {
    let effects = Effect::ALL.iter().filter(|effect| about.contains(Effects::from(**effect)));
    let words: Vec<_> = effects.map(|effect| effect.as_str()).collect();
    format!("they are for {}", words.join(", "))
}

fn abstract_name(text: &str) -> Result<Vec<u8>, (String, &'static str)> {
    let name = text.strip_prefix('@').unwrap_or(text);
    if name.is_empty() || name.len() > ABSTRACT_MAX {
        return Err((format!("{text:?} is no abstract name"), "1 to 107 bytes, with or without @"));
    }
    if name.contains('*') {
        return Err((
            format!("abstract name {text:?} has a *"),
            "abstract names match as a whole; use defaults for the rest",
        ));
    }
    Ok(name.as_bytes().to_vec())
}
