//! What changes from one policy to another: rule by rule, and on objects made from the patterns of both.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde::Serialize;

use super::{
    Template,
    image::{PathKey, PathPattern, Reach, Unless},
    lookup::lets_through,
    network::HostPattern,
    object::{Actor, Object},
    problem::Problem,
    rule::{At, Policy, Rule, Spared, Subject},
    session::{Bindings, Session},
};
use crate::model::{Effect, Effects};

/// How two policies differ.
#[derive(Debug, Default, Serialize)]
pub struct Difference {
    /// Settings, defaults and profiles that differ, as `what: before -> after`.
    pub settings: Vec<String>,
    /// Rules that differ.
    pub rules: Vec<RuleChange>,
    /// Operations that become blocked or are no longer.
    pub operations: Vec<OperationChange>,
    /// Operations that were tried.
    pub tried: usize,
}

/// A rule that is not the same.
#[derive(Debug, Serialize)]
pub struct RuleChange {
    /// Which.
    pub id: String,
    /// `added`, `removed`, or what of it changed.
    pub change: String,
}

/// An operation that is not judged the same.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct OperationChange {
    /// It is blocked now; else it is no longer.
    pub blocked: bool,
    /// Effect or privilege.
    pub effect: String,
    /// On what.
    pub object: String,
    /// By which program; empty: any that nobody spares.
    pub executable: String,
    /// Rule that decided before.
    pub before: String,
    /// Rule that decides now.
    pub after: String,
}

/// Compares two policies in one session.
pub fn diff(before: &Policy, after: &Policy, bindings: &Bindings) -> Result<Difference, Vec<Problem>> {
    let sessions = (Session::new(before, bindings)?, Session::new(after, bindings)?);
    let mut difference = Difference {
        settings: settings(before, after),
        rules: rules(before, after),
        ..Difference::default()
    };
    let mut operations = BTreeSet::new();
    for session in [&sessions.0, &sessions.1] {
        collect(session, &mut operations);
    }
    for (subject, object, executable) in operations {
        let Ok(asked) = Object::parse(subject, &object) else { continue };
        let program = (!executable.is_empty()).then_some(executable.as_bytes());
        let actor = Actor { executable: program, parent: program };
        difference.tried += 1;
        let (was, is) = (sessions.0.judge(actor, &asked), sessions.1.judge(actor, &asked));
        if lets_through(was) == lets_through(is) {
            continue;
        }
        let rule = |session: &Session, entry: Option<super::image::Entry>| {
            let info = entry.and_then(|entry| session.rule(entry.rule));
            info.map_or_else(String::new, |info| info.id.clone())
        };
        difference.operations.push(OperationChange {
            blocked: !lets_through(is),
            effect: subject.as_str().to_owned(),
            object,
            executable,
            before: rule(&sessions.0, was),
            after: rule(&sessions.1, is),
        });
    }
    difference.operations.sort();
    Ok(difference)
}

impl Difference {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.settings.is_empty() && self.rules.is_empty() && self.operations.is_empty()
    }
}

fn settings(before: &Policy, after: &Policy) -> Vec<String> {
    let mut found = Vec::new();
    let mut note = |what: &str, a: String, b: String| {
        if a != b {
            found.push(format!("{what}: {a} -> {b}"));
        }
    };
    let (a, b) = (&before.settings, &after.settings);
    note("unresolved", a.unresolved.to_string(), b.unresolved.to_string());
    note("confirm_fallback", a.confirm_fallback.to_string(), b.confirm_fallback.to_string());
    note("thresholds", format!("{:?}", a.thresholds), format!("{:?}", b.thresholds));
    for subject in Subject::all() {
        let default = |policy: &Policy| {
            policy.defaults.get(&subject).map_or_else(|| "allow".to_owned(), ToString::to_string)
        };
        note(&format!("default of {}", subject.as_str()), default(before), default(after));
    }
    let names: BTreeSet<_> =
        before.profiles.iter().chain(&after.profiles).map(|profile| profile.name.as_str()).collect();
    for name in names {
        note(&format!("profile {name}"), profile(before, name), profile(after, name));
    }
    found
}

fn profile(policy: &Policy, name: &str) -> String {
    let Some(profile) = policy.profile(name) else { return "none".to_owned() };
    let globs =
        |globs: &[At<String>]| globs.iter().map(|glob| glob.value.clone()).collect::<Vec<_>>().join(" ");
    format!(
        "[connectors: {}; include: {}; exclude: {}; mode: {}; defaults: {}]",
        profile.connectors.join(" "),
        globs(&profile.include),
        globs(&profile.exclude),
        profile.mode.map_or("-", |mode| mode.as_str()),
        profile.defaults.iter().fold(String::new(), |mut text, (subject, action)| {
            // Writing to a String cannot fail.
            write!(text, "{}={action} ", subject.as_str()).ok();
            text
        })
    )
}

fn rules(before: &Policy, after: &Policy) -> Vec<RuleChange> {
    let by_id = |policy: &'_ Policy| -> BTreeMap<String, Rule> {
        policy.rules.iter().map(|rule| (rule.id.clone(), rule.clone())).collect()
    };
    let (before, after) = (by_id(before), by_id(after));
    let ids: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    ids.into_iter()
        .filter_map(|id| {
            let change = match (before.get(id), after.get(id)) {
                (None, Some(_)) => "added".to_owned(),
                (Some(_), None) => "removed".to_owned(),
                (Some(a), Some(b)) => {
                    let changed: Vec<_> = fields(a)
                        .into_iter()
                        .zip(fields(b))
                        .filter(|((_, a), (_, b))| a != b)
                        .map(|((name, _), _)| name)
                        .collect();
                    changed.join(", ")
                }
                (None, None) => String::new(),
            };
            (!change.is_empty()).then(|| RuleChange { id: id.clone(), change })
        })
        .collect()
}

/// What a rule says, without where it stands.
fn fields(rule: &Rule) -> [(&'static str, String); 8] {
    let texts = |templates: &[At<Template>]| {
        templates
            .iter()
            .map(|template| template.value.as_str())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
            .join("\n")
    };
    let matches = &rule.matches;
    let unless = match &rule.unless {
        None => String::new(),
        Some(Spared::Executables(templates)) => format!("executables\n{}", texts(templates)),
        Some(Spared::Parents(templates)) => format!("parents\n{}", texts(templates)),
    };
    let contents: BTreeSet<_> = matches.patterns.iter().map(|pattern| &pattern.value.text).collect();
    let objects = format!(
        "{}\n\n{}\n\n{}\n\n{:?} {:?} {:?} {:?}",
        texts(&matches.paths),
        texts(&matches.executables),
        texts(&matches.unix),
        matches.hosts,
        matches.addresses,
        matches.ports,
        matches.abstract_names
    );
    [
        ("effect", format!("{:?} {:?}", rule.effects, rule.privileges)),
        ("match", objects),
        ("texts", format!("{:?} {:?} {contents:?}", rule.contents, matches.detectors)),
        ("unless", unless),
        ("severity", rule.severity.to_string()),
        ("action", rule.action.map_or_else(String::new, |action| action.to_string())),
        ("kill", rule.kill.to_string()),
        ("reason", rule.reason.clone()),
    ]
}

type Operation = (Subject, String, String);

/// Operations that the rules of a session are about, and their neighbours.
fn collect(session: &Session, found: &mut BTreeSet<Operation>) {
    let path_effects: Vec<_> = Effect::ALL
        .iter()
        .copied()
        .filter(|effect| !matches!(effect, Effect::NetConnect | Effect::NetBind | Effect::Dns))
        .collect();
    for path in &session.paths {
        let programs = programs(session, path.rule);
        for object in samples(&path.pattern) {
            for effect in path_effects.iter().filter(|effect| path.effects.contains(Effects::from(**effect)))
            {
                for program in &programs {
                    found.insert((Subject::Effect(*effect), object.clone(), program.clone()));
                }
            }
        }
    }
    for (number, rule) in session.rules.iter().enumerate() {
        let programs = programs(session, number);
        let mut ask = |subject: Subject, object: String| {
            for program in &programs {
                found.insert((subject, object.clone(), program.clone()));
            }
        };
        for name in &rule.abstract_names {
            ask(Subject::Effect(Effect::Unix), format!("@{}", String::from_utf8_lossy(name)));
        }
        for privilege in &rule.privileges {
            ask(Subject::Privilege(*privilege), String::new());
        }
        let hosts: Vec<_> = rule.hosts.iter().flat_map(host_samples).collect();
        for host in hosts.iter().filter(|_| rule.entry.effects.contains(Effects::DNS)) {
            ask(Subject::Effect(Effect::Dns), host.clone());
        }
        let mut ports: BTreeSet<u16> =
            rule.ports.iter().flat_map(|ports| [ports.first, ports.last]).collect();
        ports.extend([80, 443]);
        let nets = [Effect::NetConnect, Effect::NetBind];
        for effect in nets.into_iter().filter(|effect| rule.entry.effects.contains(Effects::from(*effect))) {
            for port in &ports {
                for network in &rule.addresses {
                    ask(
                        Subject::Effect(effect),
                        std::net::SocketAddr::new(network.address, *port).to_string(),
                    );
                }
                for host in hosts.iter().filter(|_| effect == Effect::NetConnect) {
                    ask(Subject::Effect(effect), format!("{host}:{port}"));
                }
            }
        }
    }
    for subject in Subject::all() {
        let object = match subject {
            Subject::Effect(Effect::NetConnect | Effect::NetBind) => "192.0.2.1:443",
            Subject::Effect(Effect::Dns) => "example.com",
            Subject::Effect(_) => "/somewhere/else",
            Subject::Privilege(_) => "",
            // What a pattern means cannot be made up; the change of a rule is said.
            Subject::Content(_) => continue,
        };
        found.insert((subject, object.to_owned(), String::new()));
        if matches!(subject, Subject::Effect(Effect::FileRead)) {
            found.insert((subject, "?".to_owned(), String::new()));
        }
    }
}

/// Nobody in particular, and one of each whom the rule spares.
fn programs(session: &Session, rule: usize) -> Vec<String> {
    let unless = session.rules.get(rule).and_then(|rule| rule.entry.unless);
    let owners = unless.and_then(|unless| {
        let (Unless::Executable(set) | Unless::Parent(set)) = unless;
        session.owners.get(usize::from(set))
    });
    let named = owners.into_iter().flatten().filter_map(|pattern| samples(pattern).into_iter().last());
    std::iter::once(String::new()).chain(named).collect()
}

/// Paths that a pattern is about, and some beside it. The last one is always meant.
fn samples(pattern: &PathPattern) -> Vec<String> {
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    let whole = match &pattern.key {
        PathKey::Anchored(key) => key.iter().fold(String::new(), |path, name| path + "/" + &text(name)),
        PathKey::Name(name) => format!("/somewhere/{}", text(name)),
        PathKey::Pair(directory, name) => format!("/somewhere/{}/{}", text(directory), text(name)),
        PathKey::Extension(extension) => format!("/somewhere/file.{}", text(extension)),
    };
    let own = if whole.is_empty() { "/".to_owned() } else { whole.clone() };
    match pattern.reach {
        Reach::Exact | Reach::Ancestor => vec![format!("{whole}/below"), own],
        Reach::Children => vec![own, format!("{whole}/below/deeper"), format!("{whole}/below")],
        Reach::Subtree => vec![own, format!("{whole}/below")],
    }
}

fn host_samples(host: &HostPattern) -> Vec<String> {
    let name = host.labels.join(".");
    match (name.is_empty(), host.below) {
        (true, _) => vec!["example.com".to_owned()],
        (false, true) => vec![name.clone(), format!("www.{name}")],
        (false, false) => vec![name],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::Mode,
        policy::{load, preset},
    };

    fn bindings() -> Bindings {
        Bindings {
            home: b"/home/u".to_vec(),
            project: b"/home/u/p".to_vec(),
            profile: "default".into(),
            mode: Some(Mode::Action),
        }
    }

    fn read(text: &str) -> Policy {
        load("p", &format!("version: 1\n{text}"), &|_| None).unwrap()
    }

    #[test]
    fn what_changes_is_said() {
        let before = read(
            "defaults: {exec: block}
rules:
  - {id: gone, effect: file.read, match: {paths: '~/.ssh/**'}, severity: high, reason: x}
  - {id: wider, effect: file.read, match: {paths: /a}, severity: high, reason: x, unless: {executables: /bin/x}}
  - {id: same, effect: dns, match: {hosts: a.b}, severity: high, reason: x}
",
        );
        let after = read(
            "rules:
  - {id: same, effect: dns, match: {hosts: a.b}, severity: high, reason: x}
  - {id: wider, effect: file.read, match: {paths: '/a/**'}, severity: high, reason: x}
  - {id: new, effect: net.connect, match: {addresses: 10.0.0.0/8}, severity: high, reason: x}
",
        );
        let found = diff(&before, &after, &bindings()).unwrap();
        assert_eq!(found.settings, ["default of exec: block -> allow"]);
        let rules: Vec<_> = found.rules.iter().map(|rule| format!("{} {}", rule.id, rule.change)).collect();
        assert_eq!(rules, ["gone removed", "new added", "wider match, unless"]);
        let operations: Vec<_> = found
            .operations
            .iter()
            .map(|change| {
                format!(
                    "{}{} {} {}",
                    if change.blocked { '+' } else { '-' },
                    change.effect,
                    change.object,
                    change.executable
                )
            })
            .collect();
        for want in [
            "-file.read /home/u/.ssh/below ",
            "+file.read /a/below ",
            "+file.read /a /bin/x",
            "-exec /somewhere/else ",
            "+net.connect 10.0.0.0:443 ",
        ] {
            assert!(operations.iter().any(|found| found == want), "{want} is not in {operations:#?}");
        }
        assert!(!operations.iter().any(|found| found.contains("a.b")));
    }

    #[test]
    fn a_policy_does_not_differ_from_itself() {
        let policy = load("default", preset("default").unwrap(), &|_| None).unwrap();
        let found = diff(&policy, &policy, &bindings()).unwrap();
        assert!(found.is_empty());
        assert!(found.tried > 1000, "{}", found.tried);
    }
}
