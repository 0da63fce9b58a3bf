//! A policy bound to a session: home and project directory are known, a profile and a mode are chosen. From here
//! [`Session::judge`](super::evaluate) answers and [`compile`](super::compile) makes what the kernel holds; rules have
//! the same numbers in both.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{
    Local, Template,
    content::{Detector, TextPatterns},
    image::{Entry, PathKey, PathPattern, Ports, Reach, RuleInfo, Unless},
    network::{HostPattern, Network},
    pattern::{self, Bound, Wild},
    problem::{Position, Problem, Problems},
    rule::{At, Policy, Rule, Spared, Subject},
};
use crate::model::{Content, Effect, Effects, Mode, PolicyAction, Privilege, Severity};

/// Sets of executables that a task's label has bits for.
pub(super) const OWNERS_MAX: usize = 63;

/// What a policy is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bindings {
    /// Home directory, as the kernel names it: absolute, without symbolic links.
    pub home: Vec<u8>,
    /// Project directory, likewise.
    pub project: Vec<u8>,
    /// Name of the profile. `default` need not be in the policy; it has all rules then.
    pub profile: String,
    /// Before that of the profile; observe if there is none either.
    pub mode: Option<Mode>,
}

/// A policy in a session.
#[derive(Debug)]
pub struct Session {
    /// What entries' numbers mean.
    pub(super) info: Vec<RuleInfo>,
    pub(super) rules: Vec<BoundRule>,
    /// All path patterns that the kernel holds.
    pub(super) paths: Vec<BoundPath>,
    pub(super) wild: Vec<BoundWild>,
    /// Sets of executables.
    pub(super) owners: Vec<Vec<PathPattern>>,
    /// Where no rule speaks.
    pub(super) defaults: BTreeMap<Subject, Entry>,
    pub(super) unresolved: Entry,
    pub(super) mode: Mode,
    /// Somebody can be asked, and this is what becomes of a question that nobody answers: block or allow.
    pub(super) asks: Option<PolicyAction>,
    /// Places in `paths` by a name that must be in the object's path, or by its extension.
    pub(super) by_name: HashMap<Vec<u8>, Vec<usize>>,
    pub(super) by_extension: HashMap<Vec<u8>, Vec<usize>>,
    /// Places in `paths` of patterns that begin at the root and name nothing.
    pub(super) of_root: Vec<usize>,
    /// Of directories with something below that may not be deleted: place of the decisive rule, by path.
    pub(super) above: HashMap<Vec<u8>, usize>,
    /// Of all rules of the policy, also of those that are not in the profile.
    pub(super) patterns: TextPatterns,
    /// What was allowed for good of what the policy asks about.
    local: Option<Box<Local>>,
}

/// A rule in a session.
#[derive(Debug)]
pub(super) struct BoundRule {
    /// With all effects of the rule; its number is its place.
    pub(super) entry: Entry,
    pub(super) severity: Severity,
    pub(super) hosts: Vec<HostPattern>,
    pub(super) addresses: Vec<Network>,
    /// Never empty.
    pub(super) ports: Vec<Ports>,
    pub(super) abstract_names: Vec<Vec<u8>>,
    pub(super) privileges: Vec<Privilege>,
    /// Texts that it looks into.
    pub(super) contents: BTreeSet<Content>,
    pub(super) detectors: BTreeSet<Detector>,
    /// Numbers of its patterns.
    pub(super) patterns: std::ops::Range<usize>,
    /// For mistakes that only show here.
    pub(super) at: Position,
}

#[derive(Debug)]
pub(super) struct BoundPath {
    pub(super) rule: usize,
    pub(super) effects: Effects,
    pub(super) pattern: PathPattern,
}

#[derive(Debug)]
pub(super) struct BoundWild {
    pub(super) rule: usize,
    pub(super) effects: Effects,
    pub(super) pattern: Wild,
}

impl Session {
    /// Binds a policy where nobody can be asked: `confirm` becomes its fallback at once.
    pub fn new(policy: &Policy, bindings: &Bindings) -> Result<Self, Vec<Problem>> {
        Self::bind(policy, bindings, false)
    }

    /// Binds a policy where somebody can be asked: in mode hitl `confirm` stays what it is.
    pub fn asking(policy: &Policy, bindings: &Bindings) -> Result<Self, Vec<Problem>> {
        Self::bind(policy, bindings, true)
    }

    fn bind(policy: &Policy, bindings: &Bindings, asks: bool) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::default();
        let profile = policy.profile(&bindings.profile);
        if profile.is_none() && bindings.profile != "default" {
            let names: Vec<_> = policy.profiles.iter().map(|profile| profile.name.as_str()).collect();
            problems.add(Problem::nowhere(
                format!("policy {:?} has no profile {:?}", policy.name, bindings.profile),
                if names.is_empty() {
                    "it has none".to_owned()
                } else {
                    format!("it has {}", names.join(", "))
                },
            ));
        }
        let home = directory(&bindings.home, "home", &mut problems);
        let project = directory(&bindings.project, "project", &mut problems);
        let mode = bindings.mode.or(profile.and_then(|profile| profile.mode)).unwrap_or(Mode::Observe);
        let mut session = Self {
            info: Vec::new(),
            rules: Vec::new(),
            paths: Vec::new(),
            wild: Vec::new(),
            owners: Vec::new(),
            defaults: BTreeMap::new(),
            unresolved: NOTHING,
            mode,
            asks: (asks && mode == Mode::Hitl).then_some(policy.settings.confirm_fallback),
            by_name: HashMap::new(),
            by_extension: HashMap::new(),
            of_root: Vec::new(),
            above: HashMap::new(),
            patterns: policy.patterns.clone(),
            local: None,
        };
        let mut sets = HashMap::new();
        let mut patterns = 0;
        for rule in &policy.rules {
            let first = patterns;
            patterns += rule.matches.patterns.len();
            if profile.is_none_or(|profile| profile.has(rule)) {
                let binder = Binder { policy, home: &home, project: &project, patterns: first..patterns };
                binder.rule(rule, &mut session, &mut sets, &mut problems);
            }
        }
        session.add_defaults(policy, profile.map(|profile| &profile.defaults));
        session.index();
        problems.or(session)
    }

    /// With answers that stand. They change nothing of what is said here: whoever asks looks there first.
    #[must_use]
    pub fn with_local(self, local: Local) -> Self {
        Self { local: Some(Box::new(local)), ..self }
    }

    /// Answers that stand.
    pub fn local(&self) -> Option<&Local> {
        self.local.as_deref()
    }

    /// The mode it was bound with.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What becomes of a question that nobody answers; none where nobody is asked.
    pub fn asks(&self) -> Option<PolicyAction> {
        self.asks
    }

    /// What the audit says of a rule.
    pub fn rule(&self, number: u16) -> Option<&RuleInfo> {
        self.info.get(usize::from(number))
    }

    /// Whether a rule also ends the process where it blocks.
    pub fn kills(&self, number: u16) -> bool {
        self.rules.get(usize::from(number)).is_some_and(|rule| rule.entry.kill)
    }

    /// Whether there are patterns that only user space can judge.
    pub fn has_wild(&self) -> bool {
        !self.wild.is_empty()
    }

    /// Whether a rule has such a pattern.
    pub fn is_wild(&self, number: u16) -> bool {
        self.wild.iter().any(|wild| wild.rule == usize::from(number))
    }

    /// Ids of rules with patterns that only user space can judge. None of them blocks.
    pub fn user_space_rules(&self) -> Vec<&str> {
        let mut numbers: Vec<_> = self.wild.iter().map(|wild| wild.rule).collect();
        numbers.dedup();
        numbers.into_iter().filter_map(|number| self.info.get(number)).map(|info| info.id.as_str()).collect()
    }

    fn add_defaults(&mut self, policy: &Policy, profile: Option<&super::Defaults>) {
        let mut defaults = policy.defaults.clone();
        defaults.extend(profile.into_iter().flatten().map(|(subject, action)| (*subject, *action)));
        for (subject, action) in defaults.into_iter().filter(|(_, action)| *action != PolicyAction::Allow) {
            let effects = match subject {
                Subject::Effect(effect) => effect.into(),
                Subject::Privilege(_) | Subject::Content(_) => Effects::empty(),
            };
            let word = subject.as_str();
            let reason = format!("policy {} has no rule that allows this {word}", policy.name);
            let entry = self.number(policy, &format!("default:{word}"), effects, action, reason);
            self.defaults.insert(subject, entry);
        }
        let reason = format!("what this is about cannot be named, and policy {} judges by name", policy.name);
        self.unresolved =
            self.number(policy, "unresolved", Effects::all(), policy.settings.unresolved, reason);
    }

    /// The next number, for what is no rule of the file.
    fn number(
        &mut self,
        policy: &Policy,
        id: &str,
        effects: Effects,
        raw: PolicyAction,
        reason: String,
    ) -> Entry {
        let severity = match raw {
            PolicyAction::Block | PolicyAction::Confirm => Severity::High,
            PolicyAction::Alert => Severity::Medium,
            PolicyAction::Allow => Severity::Info,
        };
        let (action, would_block) = policy.settings.applied(raw, self.mode, self.asks.is_some());
        let rule = u16::try_from(self.info.len()).unwrap_or(u16::MAX);
        self.info.push(RuleInfo { id: id.to_owned(), severity, reason });
        Entry { effects, rule, action, raw_action: raw, would_block, kill: false, unless: None }
    }

    fn index(&mut self) {
        for path in &self.paths {
            let Some((key, last)) = path.below() else { continue };
            let Some(rule) =
                self.rules.get(path.rule).filter(|rule| rule.entry.raw_action > PolicyAction::Allow)
            else {
                continue;
            };
            let mut directory = Vec::new();
            for name in key.iter().take(last) {
                directory.push(b'/');
                directory.extend_from_slice(name);
                let known = self.above.entry(directory.clone()).or_insert(path.rule);
                if self.rules.get(*known).is_none_or(|other| rule.weight() > other.weight()) {
                    *known = path.rule;
                }
            }
        }
        for (at, path) in self.paths.iter().enumerate() {
            match &path.pattern.key {
                PathKey::Anchored(key) => match key.last() {
                    Some(name) => self.by_name.entry(name.clone()).or_default().push(at),
                    None => self.of_root.push(at),
                },
                PathKey::Name(name) | PathKey::Pair(_, name) => {
                    self.by_name.entry(name.clone()).or_default().push(at);
                }
                PathKey::Extension(extension) => {
                    self.by_extension.entry(extension.clone()).or_default().push(at);
                }
            }
        }
    }
}

/// An entry that says nothing.
const NOTHING: Entry = Entry {
    effects: Effects::empty(),
    rule: 0,
    action: PolicyAction::Allow,
    raw_action: PolicyAction::Allow,
    would_block: false,
    kill: false,
    unless: None,
};

fn directory(path: &[u8], what: &str, problems: &mut Problems) -> Vec<Vec<u8>> {
    let found = pattern::components(path);
    if found.is_none() {
        let shown = String::from_utf8_lossy(path);
        let message = format!("the {what} directory {shown:?} is no absolute path without ..");
        problems.add(Problem::nowhere(message, "resolve it first"));
    }
    found.unwrap_or_default().into_iter().map(<[u8]>::to_vec).collect()
}

struct Binder<'a> {
    policy: &'a Policy,
    home: &'a [Vec<u8>],
    project: &'a [Vec<u8>],
    /// Numbers of the rule's patterns of text.
    patterns: std::ops::Range<usize>,
}

impl Binder<'_> {
    fn rule(
        &self,
        rule: &Rule,
        session: &mut Session,
        sets: &mut HashMap<Vec<PathPattern>, u8>,
        problems: &mut Problems,
    ) {
        let settings = &self.policy.settings;
        let raw = rule.raw_action(settings.thresholds, session.mode);
        let (action, would_block) = settings.applied(raw, session.mode, session.asks.is_some());
        let number = session.rules.len();
        let entry = Entry {
            effects: rule.effects,
            rule: u16::try_from(number).unwrap_or(u16::MAX),
            action,
            raw_action: raw,
            would_block,
            kill: rule.kill && action == PolicyAction::Block,
            unless: rule.unless.as_ref().map(|spared| self.unless(spared, rule, session, sets, problems)),
        };
        for (effects, template) in rule.matches.path_patterns(rule.effects) {
            match self.bind(template, problems) {
                Some(Bound::Held(pattern)) => {
                    session.paths.push(BoundPath { rule: number, effects, pattern });
                }
                Some(Bound::Wild(pattern)) => {
                    session.wild.push(BoundWild { rule: number, effects, pattern });
                }
                None => {}
            }
        }
        let matches = &rule.matches;
        let anywhere = matches.hosts.is_empty() && matches.addresses.is_empty() && !matches.ports.is_empty();
        session.info.push(RuleInfo {
            id: rule.id.clone(),
            severity: rule.severity,
            reason: rule.reason.clone(),
        });
        session.rules.push(BoundRule {
            entry,
            severity: rule.severity,
            hosts: matches.hosts.clone(),
            addresses: if anywhere { Network::ALL.to_vec() } else { matches.addresses.clone() },
            ports: if matches.ports.is_empty() { vec![Ports::ANY] } else { matches.ports.clone() },
            abstract_names: matches.abstract_names.clone(),
            privileges: rule.privileges.iter().copied().collect(),
            contents: rule.contents.clone(),
            detectors: matches.detectors.clone(),
            patterns: self.patterns.clone(),
            at: rule.at.clone(),
        });
    }

    fn bind(&self, template: &At<Template>, problems: &mut Problems) -> Option<Bound> {
        match template.value.bind(self.home, self.project) {
            Ok(bound) => Some(bound),
            Err(message) => {
                problems.at(&template.at, message, "the home or project directory is too deep for it");
                None
            }
        }
    }

    fn unless(
        &self,
        spared: &Spared,
        rule: &Rule,
        session: &mut Session,
        sets: &mut HashMap<Vec<PathPattern>, u8>,
        problems: &mut Problems,
    ) -> Unless {
        let (Spared::Executables(templates) | Spared::Parents(templates)) = spared;
        let mut patterns = Vec::new();
        for template in templates {
            // Wild ones were refused when the file was loaded.
            if let Some(Bound::Held(pattern)) = self.bind(template, problems) {
                patterns.push(pattern);
            }
        }
        patterns.sort();
        patterns.dedup();
        let number = sets.get(&patterns).copied().unwrap_or_else(|| {
            let number = sets.len();
            if number == OWNERS_MAX {
                problems.at(
                    &rule.at,
                    format!("rule {:?}: more than {OWNERS_MAX} different unless lists", rule.id),
                    "let rules share lists, with YAML anchors",
                );
            }
            let number = u8::try_from(number).unwrap_or(u8::MAX);
            session.owners.push(patterns.clone());
            sets.insert(patterns, number);
            number
        });
        match spared {
            Spared::Executables(_) => Unless::Executable(number),
            Spared::Parents(_) => Unless::Parent(number),
        }
    }
}

impl BoundRule {
    /// Of two rules that are equally specific, the greater decides: the stricter, the more severe, the earlier.
    pub(super) fn weight(&self) -> (PolicyAction, Severity, std::cmp::Reverse<u16>) {
        (self.entry.raw_action, self.severity, std::cmp::Reverse(self.entry.rule))
    }
}

impl BoundPath {
    /// Components of an absolute pattern, if deleting a directory above would take its files away.
    pub(super) fn below(&self) -> Option<(&[Vec<u8>], usize)> {
        let PathKey::Anchored(key) = &self.pattern.key else { return None };
        let file_delete = Effects::from(Effect::FileDelete);
        // What lies directly below a directory goes with the directory itself, too.
        let last =
            if self.pattern.reach == Reach::Children { key.len() } else { key.len().saturating_sub(1) };
        self.effects.contains(file_delete).then_some((key.as_slice(), last))
    }
}
