//! What rows hold, and what does not fit.

use super::*;
use crate::{
    model::{Mode, Severity},
    policy::{load, lookup::cells},
};

fn bindings() -> Bindings {
    Bindings {
        home: b"/home/u".to_vec(),
        project: b"/home/u/proj".to_vec(),
        profile: "default".into(),
        mode: Some(Mode::Action),
    }
}

fn image(text: &str) -> Result<Image, Vec<Problem>> {
    compile(&load("p", &format!("version: 1\n{text}"), &|_| None).unwrap(), &bindings())
}

fn refused(text: &str, want: &str) {
    let problems = image(text).unwrap_err();
    assert!(problems.iter().any(|problem| problem.message.contains(want)), "{problems:#?}");
}

#[test]
fn rows_say_what_rules_say() {
    let image = image(
        "defaults: {exec: alert}
rules:
  - {id: keys, effect: [file.read, file.delete], match: {paths: ['~/.ssh/**', '**/id_rsa']}, severity: critical, reason: x, kill: true, unless: {executables: /usr/bin/ssh}}
",
    )
    .unwrap();
    let ids: Vec<_> = image.rules.iter().map(|rule| (rule.id.as_str(), rule.severity)).collect();
    assert_eq!(
        ids,
        [("keys", Severity::Critical), ("default:exec", Severity::Medium), ("unresolved", Severity::High)]
    );
    let rows: Vec<_> = image
        .paths
        .iter()
        .map(|row| format!("{:?} {:?}", row.pattern.reach, row.entries[0].effects))
        .collect();
    assert_eq!(rows.len(), 4, "{rows:#?}");
    assert!(image.paths.iter().all(|row| row.entries.len() == 1 && row.entries[0].kill));
    assert_eq!(image.identities, [b"/home/u/.ssh".to_vec()]);
    assert_eq!(image.owners.len(), 1);
    assert_eq!(image.defaults.len(), 1);
}

#[test]
fn entries_that_never_count_are_left_out() {
    let image = image(
        "rules:
  - {id: weak, effect: 'file.*', match: {paths: /a/b}, severity: medium}
  - {id: strong, effect: [file.read, file.write], match: {paths: /a/b}, severity: high, reason: x}
  - {id: same, effect: [file.read], match: {paths: /a/b}, severity: high, reason: x}
",
    )
    .unwrap();
    let cells = cells(&image);
    let cell = &cells[&PathKey::Anchored(vec![b"a".to_vec(), b"b".to_vec()])];
    let seen: Vec<_> = cell
        .iter()
        .map(|(_, entry)| (image.rules[usize::from(entry.rule)].id.as_str(), entry.effects))
        .collect();
    let rest = super::super::rule::FILE - Effects::FILE_READ - Effects::FILE_WRITE;
    assert_eq!(seen, [("strong", Effects::FILE_READ | Effects::FILE_WRITE), ("weak", rest)]);
}

#[test]
fn many_protected_files_below_one_directory_fit() {
    let rules: Vec<_> = (0..200)
        .map(|n| format!("  - {{id: r{n}, effect: 'file.*', match: {{paths: '~/d{n}/**'}}, severity: high, reason: x}}\n"))
        .collect();
    let image = image(&format!("rules:\n{}", rules.concat())).unwrap();
    let above: Vec<_> = image.paths.iter().filter(|row| row.pattern.reach == Reach::Ancestor).collect();
    assert_eq!(above.len(), 2);
    assert!(above.iter().all(|row| row.entries.len() == 1));
}

#[test]
fn what_does_not_fit_is_refused() {
    let many = |count: usize, body: &dyn Fn(usize) -> String| {
        let rules: Vec<_> = (0..count).map(|n| format!("  - {{id: r{n}, {}}}\n", body(n))).collect();
        format!("rules:\n{}", rules.concat())
    };
    let path = |n: usize| {
        format!(
            "effect: exec, match: {{paths: /a}}, severity: high, reason: x, unless: {{executables: /b{n}}}"
        )
    };
    assert!(image(&many(8, &path)).is_ok());
    refused(&many(9, &path), "more than 8 rules speak of the same path");
    // Rows of one key share its entries.
    let reach = |n: usize| {
        let tail = if n.is_multiple_of(2) { "" } else { "/**" };
        format!(
            "effect: exec, match: {{paths: '/a{tail}'}}, severity: high, reason: x, unless: {{executables: /b{n}}}"
        )
    };
    refused(&many(9, &reach), "more than 8 rules speak of the same path");
    let address = |n: usize| {
        format!("effect: net.connect, match: {{addresses: 10.0.0.0/8, ports: {n}}}, severity: low")
    };
    assert!(image(&many(8, &address)).is_ok());
    refused(&many(9, &address), "more than 8 rules speak of 10.0.0.0/8");
    let host = |n: usize| {
        let name = if n < 5 { "a.b" } else { "'*.b'" };
        format!("effect: net.connect, match: {{hosts: {name}, ports: {n}}}, severity: low")
    };
    assert!(image(&many(8, &host)).is_ok());
    refused(&many(9, &host), "more than 8 rules speak of host a.b");
    let privilege = |n: usize| format!("effect: priv.bpf, severity: low, unless: {{executables: /b{n}}}");
    assert!(image(&many(2, &privilege)).is_ok());
    refused(&many(3, &privilege), "more than 2 rules speak of priv.bpf");
    let owner = |n: usize| {
        format!("effect: exec, match: {{paths: /a{n}}}, severity: low, unless: {{executables: /b{n}}}")
    };
    assert!(image(&many(63, &owner)).is_ok());
    refused(&many(64, &owner), "more than 63 different unless lists");
    let length = |n: usize| format!("effect: net.connect, match: {{addresses: '::/{n}'}}, severity: low");
    assert!(image(&many(32, &length)).is_ok());
    refused(&many(33, &length), "more than 32 different prefix lengths");
}

#[test]
fn bindings_are_checked() {
    let policy = load(
        "p",
        "version: 1\nrules: [{id: a, effect: exec, match: {paths: '~/a'}, severity: low}]\n",
        &|_| None,
    )
    .unwrap();
    for (change, want) in [
        (Bindings { home: b"home".to_vec(), ..bindings() }, "home directory"),
        (Bindings { project: b"/a/../b".to_vec(), ..bindings() }, "project directory"),
        (Bindings { profile: "x".into(), ..bindings() }, "no profile \"x\""),
        (Bindings { home: "/h".repeat(64).into_bytes(), ..bindings() }, "more than 64 components"),
    ] {
        let problems = compile(&policy, &change).unwrap_err();
        assert!(problems.iter().any(|problem| problem.message.contains(want)), "{want}: {problems:#?}");
    }
}

#[test]
fn profiles_choose_rules_mode_and_defaults() {
    let policy = load(
        "p",
        "version: 1
defaults: {exec: block}
rules:
  - {id: a1, effect: priv.bpf, severity: high, reason: x}
  - {id: a2, effect: priv.perf, severity: high, reason: x}
  - {id: b, effect: priv.mount, severity: high, reason: x}
profiles:
  - {name: p, rules: {include: 'a*', exclude: a2}, mode: hitl, defaults: {exec: allow, dns: alert}}
",
        &|_| None,
    )
    .unwrap();
    let bound = |mode| Session::new(&policy, &Bindings { profile: "p".into(), mode, ..bindings() }).unwrap();
    let image = bound(None).image().unwrap();
    let ids: Vec<_> = image.rules.iter().map(|rule| rule.id.as_str()).collect();
    assert_eq!(ids, ["a1", "default:dns", "unresolved"]);
    assert_eq!(bound(None).mode(), Mode::Hitl);
    assert_eq!(bound(Some(Mode::Action)).mode(), Mode::Action);
}
