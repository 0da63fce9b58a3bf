//! What loading accepts, and what it says of the rest.

use super::*;
use crate::model::{Mode, PolicyAction};

fn presets(name: &str) -> Option<String> {
    match name {
        "base" => {
            Some("version: 1\nrules:\n  - {id: a, effect: exec, match: {paths: /a}, severity: low}\n".into())
        }
        "loop" => Some("version: 1\ninclude: loop\n".into()),
        "broken" => Some("version: 1\nbad: x\n".into()),
        _ => None,
    }
}

fn read(text: &str) -> Result<Policy, Vec<Problem>> {
    load("p.yaml", text, &presets)
}

fn said(text: &str) -> Vec<String> {
    match read(text) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    }
}

fn rule(body: &str) -> String {
    format!("version: 1\nrules:\n  - {{id: r, {body}}}\n")
}

#[test]
fn a_full_policy_is_read() {
    let policy = read(
        r#"
version: 1
name: full
include: [base]
settings:
  unresolved: alert
  confirm_fallback: allow
  thresholds: {action: {alert: low, block: critical}, hitl: {confirm: critical}}
defaults: {"file.*": alert, file.read: allow, priv.bpf: block}
rules:
  - id: one
    effect: [file.*, exec, unix]
    match: {paths: ["~/.ssh/**", "**/.env"], unix: /run/x.sock, abstract: "@x"}
    unless: {executables: /usr/bin/ssh}
    severity: high
    action: block
    kill: true
    reason: >-
      one
      line
  - {id: two, effect: [dns, net.connect], match: {hosts: ["*.a.b", c.d], addresses: 10.0.0.0/8, ports: [22, "80-90"]}, severity: info}
  - {id: three, effect: priv.*, severity: medium}
profiles:
  - {name: default, rules: {exclude: "t*"}}
  - {name: other, connectors: [codex, claude-code], rules: {include: [one, "t*"]}, mode: observe, defaults: {dns: block}}
"#,
    )
    .unwrap();
    let ids: Vec<_> = policy.rules.iter().map(|rule| rule.id.as_str()).collect();
    assert_eq!(ids, ["a", "one", "two", "three"]);
    assert_eq!(policy.rules[1].reason, "one line");
    assert_eq!(policy.rules[3].privileges.len(), 15);
    assert_eq!(policy.defaults[&super::super::Subject::from_name("file.read").unwrap()], PolicyAction::Allow);
    assert_eq!(policy.defaults[&super::super::Subject::from_name("file.attr").unwrap()], PolicyAction::Alert);
    assert_eq!(policy.profile_of("codex").unwrap().mode, Some(Mode::Observe));
    assert_eq!(policy.profile_of("cursor").unwrap().name, "default");
    assert!(!policy.profile_of("cursor").unwrap().has(&policy.rules[2]));
    assert!(policy.profile_of("codex").unwrap().has(&policy.rules[2]));
}

#[test]
fn later_rules_take_the_place_of_included_ones() {
    let policy = read(
        "version: 1\ninclude: base\nrules:\n  - {id: a, effect: exec, match: {paths: /b}, severity: info}\n",
    );
    let policy = policy.unwrap();
    assert_eq!(policy.rules.len(), 1);
    assert_eq!(policy.rules[0].matches.paths[0].value.as_str(), "/b");
}

#[test]
fn every_mistake_is_said_at_once_with_its_place() {
    let text = "version: 2
nmae: x
rules:
  - {id: a, effect: file.raed, severity: high}
  - {id: b, effect: exec, match: {paths: [a/b, /x/]}, severity: hihg}
  - {id: b, id: c, effect: dns, match: {hosts: 'a b'}, severity: low}
";
    let problems = read(text).unwrap_err();
    let places: Vec<_> = problems.iter().map(|problem| (problem.line, problem.column)).collect();
    assert_eq!(places, [(1, 10), (2, 1), (4, 5), (4, 21), (5, 43), (5, 48), (5, 65), (6, 13), (6, 48)]);
    assert!(problems.iter().all(|problem| problem.source == "p.yaml" && !problem.snippet.is_empty()));
    assert!(problems[3].hint.contains("file.read"));
}

#[test]
fn mistakes_have_words() {
    for (text, want) in [
        ("", "the file is empty"),
        ("- a\n", "must be a mapping, not a list"),
        ("name: x\n", "version is missing"),
        ("version: 1\nversion: 1\n", "\"version\" is here twice"),
        ("version: 1\ninclude: [loop]\n", "loop includes itself"),
        ("version: 1\ninclude: nothing\n", "there is no preset \"nothing\""),
        ("version: 1\ninclude: broken\n", "broken:2:1: a policy has no key \"bad\""),
        ("version: 1\nname: a b\n", "is no name"),
        ("version: 1\nrules: []\n", "empty list"),
        ("version: 1\nsettings: {unresolved: confirm}\n", "unresolved cannot be \"confirm\""),
        ("version: 1\nsettings: {thresholds: {action: {alert: high, block: low}}}\n", "wrong order"),
        ("version: 1\ndefaults: {exec: confirm}\n", "a default cannot be"),
        ("version: 1\nprofiles: [{name: p, rules: {include: nope}}]\n", "no rule has an id like"),
        ("version: 1\nprofiles: [{name: p}, {name: p}]\n", "here twice"),
        (&rule("severity: low"), "has no effect"),
        (&rule("effect: exec, severity: low"), "nothing says which objects exec is about"),
        (&rule("effect: [exec, dns], match: {paths: /a}, severity: low"), "which objects dns is about"),
        (&rule("effect: exec, match: {paths: /a, hosts: a.b}, severity: low"), "hosts match nothing"),
        (&rule("effect: net.bind, match: {hosts: a.b, ports: 1}, severity: low"), "hosts match nothing"),
        (&rule("effect: exec, match: {paths: []}, severity: low"), "empty list"),
        (&rule("effect: exec, match: {paths: /a}, severity: high"), "gives no reason"),
        (&rule("effect: exec, match: {paths: /a}, severity: low, kill: true"), "never blocks"),
        (&rule("effect: exec, match: {paths: /a}, severity: low, kill: yes"), "kill cannot be \"yes\""),
        (&rule("effect: exec, match: {paths: /a}, severity: low, unless: {}"), "names nobody"),
        (
            &rule("effect: exec, match: {paths: /a}, severity: low, unless: {executables: /a, parents: /b}"),
            "both executables and parents",
        ),
        (
            &rule("effect: exec, match: {paths: /a}, severity: low, unless: {parents: '/a/*/b'}"),
            "cannot recognise",
        ),
        (
            &rule("effect: exec, match: {paths: /a}, severity: low, unless: {executables: '**/*.sh'}"),
            "by extension",
        ),
        (
            &rule("effect: exec, match: {paths: /a}, severity: low, unless: {executables: '**/bin/**'}"),
            "may be anywhere",
        ),
        (
            &rule("effect: exec, match: {paths: '/a/*/b'}, severity: high, reason: x"),
            "the kernel cannot hold",
        ),
        (
            &rule("effect: exec, match: {paths: '**/*.tar.gz'}, severity: low, action: confirm, reason: x"),
            "cannot hold",
        ),
        (
            &rule("effect: exec, match: {paths: /a}, severity: critical, action: allow"),
            "a critical rule cannot allow",
        ),
        (&rule("effect: unix, match: {abstract: 'a*'}, severity: low"), "has a *"),
        (&rule("effect: exec, match: {paths: **/a}, severity: low"), "put quotes"),
        ("version: 1\nrules: [{id: unresolved, effect: priv.bpf, severity: low}]\n", "cannot be resolved"),
        ("version: 1\nrules: [{id: 'default:exec', effect: priv.bpf, severity: low}]\n", "is no name"),
    ] {
        let said = said(text);
        assert!(said.iter().any(|problem| problem.contains(want)), "{text}\nwants {want:?}, said {said:#?}");
    }
}

#[test]
fn critical_is_never_lowered_by_the_fallback() {
    let critical = "settings: {confirm_fallback: allow}\nrules: [{id: r, effect: priv.bpf, severity: critical, action: confirm, reason: x}]\n";
    assert!(said(&format!("version: 1\n{critical}")).concat().contains("confirm_fallback would allow"));
    let high = critical.replace("severity: critical", "severity: high");
    assert!(said(&format!("version: 1\n{high}")).is_empty());
}

#[test]
fn what_never_blocks_may_be_wild() {
    for body in [
        "effect: file.read, match: {paths: ['/a/*/b', '**/*.tar.gz', '~/x/**/y']}, severity: medium",
        "effect: file.read, match: {paths: '/a/*/b'}, severity: high, action: alert",
    ] {
        assert_eq!(said(&rule(body)), [""; 0]);
    }
}

#[test]
fn problems_have_an_end() {
    let keys: Vec<_> = (0..5000).map(|key| format!("k{key}: 1\n")).collect();
    let problems = read(&keys.concat()).unwrap_err();
    assert_eq!(problems.len(), 101);
    assert_eq!(problems[100].message, "and 4901 more");
}

proptest::proptest! {
    /// Any text is a policy or a list of problems, however close to a policy it is.
    #[test]
    fn no_text_is_too_odd(
        cuts in proptest::collection::vec((0_usize..20_000, 0_usize..40, "[-a-z*~${}\\[\\],:'\"&!%@|>0-9/ \n\\PC]{0,6}"), 0..8),
    ) {
        let mut text = crate::policy::preset("strict").unwrap().to_owned();
        for (at, length, new) in cuts {
            let at = text.floor_char_boundary(at % (text.len() + 1));
            let end = text.floor_char_boundary((at + length).min(text.len())).max(at);
            text.replace_range(at..end, &new);
        }
        let include = |name: &str| crate::policy::preset(name).map(str::to_owned);
        if let Err(problems) = load("p", &text, &include) {
            proptest::prop_assert!(problems.iter().all(|problem| !problem.message.is_empty()));
        }
    }
}
