//! `rules`.

use std::collections::{BTreeSet, HashMap};

use super::{
    super::{
        image::Ports,
        network::{HostPattern, Network},
        rule::{FILE, Matches, NET, Rule, Spared, Subject},
        yaml::Node,
    },
    fields::{Fields, Reader},
};
use crate::model::{Effect, Effects, PolicyAction, Privilege, Severity};

const KEYS: &[&str] = &["id", "effect", "match", "unless", "severity", "action", "kill", "reason"];
const MATCH_KEYS: &[&str] = &["paths", "executables", "hosts", "addresses", "ports", "unix", "abstract"];
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
        let (effects, privileges) = self.effects(&fields);
        let (matches, given) =
            fields.get("match").map(|node| self.matches(node, effects)).unwrap_or_default();
        if !effects.is_empty() || !privileges.is_empty() {
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

    fn effects(&mut self, fields: &Fields<'_>) -> (Effects, BTreeSet<Privilege>) {
        let mut effects = Effects::empty();
        let mut privileges = BTreeSet::new();
        let Some(node) = fields.get("effect") else { return (effects, privileges) };
        for item in self.list(node, "effect") {
            for subject in self.subjects(item) {
                match subject {
                    Subject::Effect(effect) => effects |= Effects::from(effect),
                    Subject::Privilege(privilege) => {
                        privileges.insert(privilege);
                    }
                }
            }
        }
        (effects, privileges)
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
        let matches = Matches {
            paths,
            executables,
            hosts: hosts.unwrap_or_default(),
            addresses: addresses.unwrap_or_default(),
            ports: ports.unwrap_or_default(),
            unix,
            abstract_names: abstract_names.unwrap_or_default(),
        };
        (matches, given)
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
