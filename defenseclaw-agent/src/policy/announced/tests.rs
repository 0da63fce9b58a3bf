//! What announced tool calls are judged to do, and what is left alone.

use super::*;
use crate::{
    model::Mode,
    policy::{Bindings, load},
};

const POLICY: &str = r"
version: 1
rules:
  - {id: keys, effect: [file.read, file.write, file.create, file.delete], match: {paths: ['~/.ssh/**']}, unless: {executables: [/usr/bin/ssh]}, severity: critical, reason: no}
  - {id: env, effect: file.read, match: {paths: ['**/.env']}, severity: high, reason: no}
  - {id: made, effect: file.create, match: {paths: ['/srv/**']}, severity: high, reason: no}
  - {id: curl, effect: exec, match: {executables: ['**/curl']}, severity: high, reason: no}
  - {id: wget, effect: exec, match: {executables: [/usr/bin/wget]}, severity: high, reason: no}
  - {id: paste, effect: [dns, net.connect], match: {hosts: ['paste.example']}, severity: high, reason: no}
  - {id: meta, effect: net.connect, match: {addresses: [169.254.0.0/16]}, severity: high, reason: no}
";

fn session() -> Session {
    let policy = load("p", POLICY, &|_| None).unwrap();
    let bindings = Bindings {
        home: b"/home/u".to_vec(),
        project: b"/home/u/p".to_vec(),
        profile: "default".to_owned(),
        mode: Some(Mode::Action),
    };
    Session::new(&policy, &bindings).unwrap()
}

fn call() -> ToolCall {
    ToolCall {
        id: None,
        tool: "t".to_owned(),
        input: serde_json::Value::Null,
        intents: Vec::new(),
        output: None,
        failed: false,
        background: false,
        process_group: None,
        mcp: None,
    }
}

fn said(intents: Vec<Intent>) -> Vec<String> {
    let session = session();
    let call = ToolCall { intents, ..call() };
    let at = Whereabouts { cwd: Some("/home/u/p"), home: "/home/u" };
    announced(&session, at, &call)
        .iter()
        .map(|said| session.rule(said.entry.rule).unwrap().id.clone())
        .collect()
}

fn known(text: &str) -> Target {
    Target::known(text)
}

fn exec(program: &str) -> Intent {
    Intent::Exec(vec![known(program), known("x")])
}

#[test]
fn what_is_said_is_judged_and_what_is_not_is_left_alone() {
    let read = |text: &str| Intent::Read(known(text));
    let connect = |text: &str| Intent::Connect(known(text));
    for (intent, want) in [
        (read("/home/u/.ssh/id"), Some("keys")),
        (read("~/.ssh/id"), Some("keys")),
        (read("../.ssh/./id"), Some("keys")),
        (read("/home/u/p/../../u//.ssh"), Some("keys")),
        (read("~root/.ssh/id"), None),
        (read(".env"), Some("env")),
        (read(""), None),
        (read(&"/x".repeat(3000)), None),
        (Intent::Read(Target::unknown("$HOME/.ssh/id")), None),
        (Intent::Unparsed("~/.ssh/id".to_owned()), None),
        (Intent::Delete(known("~/.ssh")), Some("keys")),
        (Intent::Write(known("~/.ssh/id")), Some("keys")),
        // To make it is blocked, to change it is not, and nobody said which it is.
        (Intent::Write(known("/srv/a")), None),
        (exec("curl"), Some("curl")),
        (exec("/opt/curl"), Some("curl")),
        // It may be another one that is found first.
        (exec("wget"), None),
        (exec("/usr/bin/wget"), Some("wget")),
        (Intent::Exec(vec![Target::unknown("$x")]), None),
        (connect("https://paste.example/a?b"), Some("paste")),
        (connect("https://u:p@paste.example:8443"), Some("paste")),
        (connect("http://169.254.169.254/latest"), Some("meta")),
        (connect("http://[::ffff:169.254.169.254]/"), Some("meta")),
        (connect("https://example.com"), None),
        (connect("gopher://paste.example"), None),
        (connect("https://"), None),
        (connect("https://a b:99999999"), None),
    ] {
        let shown = format!("{intent:?}");
        assert_eq!(said(vec![intent]), want.into_iter().collect::<Vec<_>>(), "{shown}");
    }
}

#[test]
fn the_program_of_a_command_is_spared_and_no_other() {
    let read = || Intent::Read(known("~/.ssh/id"));
    assert!(said(vec![exec("/usr/bin/ssh"), read()]).is_empty());
    assert!(said(vec![exec("ssh"), read()]).is_empty(), "it can be the one that is spared");
    assert_eq!(said(vec![exec("cat"), read()]), ["keys"]);
    assert_eq!(said(vec![exec("ssh"), exec("cat"), read()]), ["keys"]);
}

#[test]
fn what_is_equally_strict_comes_in_its_order_and_each_thing_once() {
    let intents =
        vec![Intent::Read(known(".env")), Intent::Read(known("a/.env")), Intent::Read(known("~/.ssh/a"))];
    assert_eq!(said(intents), ["env", "env", "keys"]);
}

#[test]
fn what_was_said_names_what_it_is_about() {
    let session = session();
    let at = Whereabouts { cwd: Some("/home/u/p"), home: "/home/u" };
    for (intents, want) in [
        (vec![Intent::Read(known("~/.ssh/x/../id"))], [("keys", "file.read", "/home/u/.ssh/id")].as_slice()),
        (vec![Intent::Write(known("~/.ssh/id"))], &[("keys", "file.write", "/home/u/.ssh/id")]),
        (
            vec![Intent::Read(known(".env")), Intent::Read(known("a/.env")), Intent::Read(known("./.env"))],
            &[("env", "file.read", "/home/u/p/.env"), ("env", "file.read", "/home/u/p/a/.env")],
        ),
        (vec![exec("curl")], &[("curl", "exec", "curl")]),
        (vec![exec("./curl")], &[("curl", "exec", "/home/u/p/curl")]),
        (
            vec![Intent::Connect(known("https://paste.example/x?token=1"))],
            &[("paste", "net.connect", "paste.example:443")],
        ),
    ] {
        let call = ToolCall { intents, ..call() };
        let said = announced(&session, at, &call);
        let said: Vec<_> = said
            .iter()
            .map(|said| {
                (
                    session.rule(said.entry.rule).unwrap().id.as_str(),
                    said.effect.as_str(),
                    said.object.as_str(),
                )
            })
            .collect();
        assert_eq!(said, want);
    }
}
