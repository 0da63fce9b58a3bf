//! What stands answers exactly that, and opens nothing else.

use proptest::prelude::*;

use super::*;
use crate::{
    model::{Content, Effect, Privilege, Text, Verdict},
    policy::{Actor, evaluate},
};

fn subject(effect: &str, object: &str) -> Subject {
    Subject { rule: "secret.ssh".to_owned(), effect: effect.to_owned(), object: object.into() }
}

fn local(text: &str) -> Local {
    Local::load("local.yaml", text, b"/home/u", b"/home/u/p", 1000).unwrap()
}

fn allows(local: &Local, object: &Object<'_>) -> bool {
    let Verdict { raw_action, rule_ids, .. } = evaluate(&local.rules, Actor::default(), object);
    raw_action == PolicyAction::Allow && !rule_ids.is_empty()
}

#[test]
fn an_answer_for_good_is_a_rule_for_exactly_that() {
    let others = [
        Object::Path(Effect::FileRead, b"/home/u/.ssh/id"),
        Object::Path(Effect::FileWrite, b"/home/u/.ssh/id"),
        Object::Path(Effect::FileRead, b"/home/u/.ssh"),
        Object::Path(Effect::FileRead, b"/home/u/.ssh/id/x"),
        Object::Path(Effect::FileRead, b"/home/u/.ssh/id2"),
        Object::Path(Effect::Exec, b"/usr/bin/rm"),
        Object::Path(Effect::Unix, b"/run/docker.sock"),
        Object::Abstract(b"bus"),
        Object::parse(rule::Subject::Effect(Effect::NetConnect), "1.2.3.4:443").unwrap(),
        Object::parse(rule::Subject::Effect(Effect::NetConnect), "1.2.3.4:80").unwrap(),
        Object::parse(rule::Subject::Effect(Effect::NetConnect), "1.2.3.5:443").unwrap(),
        Object::parse(rule::Subject::Effect(Effect::NetBind), "[::1]:80").unwrap(),
        Object::Privilege(Privilege::Mount),
        Object::Name("a.b"),
    ];
    for (effect, object, opens) in [
        ("file.read", "/home/u/.ssh/id", vec![0]),
        ("file.read+file.write", "/home/u/.ssh/id", vec![0, 1]),
        ("exec", "/usr/bin/rm", vec![5]),
        ("unix", "/run/docker.sock", vec![6]),
        ("unix", "@bus", vec![7]),
        ("net.connect", "1.2.3.4:443", vec![8]),
        ("net.bind", "[::1]:80", vec![11]),
        ("file.read", "/tmp/\"quotes\": # and, 'so' on\n", vec![]),
        ("file.read", "/tmp/~ ${project} !x &y", vec![]),
    ] {
        let asked = subject(effect, object);
        let written = match add("local.yaml", None, &asked) {
            Ok(written) => written,
            Err(why) => {
                // Nothing is promised that cannot be kept.
                assert!(object.contains('$'), "{why}");
                continue;
            }
        };
        let local = local(&written.text);
        assert!(local.answers(&asked), "{}", written.text);
        for (at, other) in others.iter().enumerate() {
            assert_eq!(allows(&local, other), opens.contains(&at), "{other:?} by\n{}", written.text);
        }
        assert!(written.diff.starts_with("--- /dev/null\n+++ local.yaml\n@@"), "{}", written.diff);
    }
}

#[test]
fn what_no_exact_rule_can_be_about_is_refused() {
    for (effect, object, why) in [
        ("priv.ptrace", "access process 1@2 -> mode 0x2", "no object"),
        ("file.delete+file.create", "/a -> /b", "two files"),
        ("exec", "/a -> /bin/sh", "two files"),
        ("file.link+file.read+file.create", "/a -> /b", "two files"),
        ("file.read", "/a/*", "means something else"),
        ("file.read", "?", "no name"),
        ("file.read", "relative", "no rule can name it"),
        ("prompt", "text", "a text"),
        ("dns", "a.b", "no rule can name it"),
        ("net.connect", "?:80", "no rule can name it"),
        ("nonsense", "/a", "no rule can be about it"),
    ] {
        let refused = add("local.yaml", None, &subject(effect, object)).unwrap_err();
        assert!(refused.contains(why), "{effect} {object}: {refused}");
    }
    let bytes = Subject { object: Text(b"/a\xff".to_vec()), ..subject("file.read", "") };
    assert!(add("local.yaml", None, &bytes).unwrap_err().contains("not text"));
}

#[test]
fn rules_are_added_to_what_is_there() {
    let first = add("l", None, &subject("file.read", "/a")).unwrap();
    let second = add("l", Some(first.text.trim_end()), &subject("file.read", "/b")).unwrap();
    assert!(second.text.starts_with(first.text.trim_end()) && second.text.contains("local.2"));
    assert!(second.diff.contains("+  - id: local.2") && !second.diff.contains("+  - id: local.1"));
    let both = local(&second.text);
    assert!(both.answers(&subject("file.read", "/a")) && both.answers(&subject("file.read", "/b")));
    assert!(add("l", Some(&second.text), &subject("file.read", "/a")).unwrap_err().contains("already"));
    for (present, why) in [
        ("version: 1\nname: l\n", "does not end with a list"),
        (
            "version: 1\nrules:\n  - {id: x, effect: file.read, match: {paths: /x}, severity: info, action: allow}\nname: l\n",
            "does not end",
        ),
        ("nonsense", "cannot be used"),
        ("version: 1\ninclude: [default]\n", "cannot be used"),
    ] {
        let refused = add("l", Some(present), &subject("file.read", "/b")).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn a_local_policy_only_allows() {
    let rule = "{id: x, effect: file.read, match: {paths: /x}, severity: info";
    for (text, why) in [
        (format!("rules: [{rule}}}]"), "more than allow"),
        (format!("rules: [{rule}, action: alert}}]"), "more than allow"),
        (format!("rules: [{rule}, action: allow, unless: {{executables: /y}}}}]"), "spares"),
        (format!("settings: {{unresolved: allow}}\nrules: [{rule}, action: allow}}]"), "more than rules"),
        (format!("defaults: {{file.read: block}}\nrules: [{rule}, action: allow}}]"), "more than rules"),
        (
            "rules: [{id: x, effect: prompt, match: {detectors: secrets}, severity: info, action: allow}]"
                .into(),
            "texts",
        ),
        (
            "rules: [{id: x, effect: file.read, match: {paths: /x}, severity: critical, action: allow}]"
                .into(),
            "critical",
        ),
    ] {
        let problems = Local::load("l", &format!("version: 1\n{text}"), b"/h", b"/p", 0).unwrap_err();
        assert!(problems.iter().any(|problem| problem.to_string().contains(why)), "{problems:?}");
    }
    assert!(!local("version: 1").answers(&subject("file.read", "/a")));
    let content = format!("{}", Content::Prompt);
    assert!(!local("version: 1").answers(&subject(&content, "x")));
}

proptest! {
    #[test]
    fn no_name_opens_another(name in "[a-z*?~${}\\[\\]\\\\ \"'#:&!%@`>\\-\n.]{1,12}", other in "[a-z.]{1,12}") {
        let asked = subject("file.read", &format!("/d/{name}"));
        if let Ok(written) = add("l", None, &asked) {
            let local = local(&written.text);
            prop_assert!(local.answers(&asked));
            if other != name {
                let opened = local.answers(&subject("file.read", &format!("/d/{other}")));
                prop_assert!(!opened);
            }
            let (write, dir) = (subject("file.write", &format!("/d/{name}")), subject("file.read", "/d"));
            prop_assert!(!local.answers(&write) && !local.answers(&dir));
        }
    }
}
