//! Precedence, case by case.

use crate::{
    model::Mode,
    policy::{Actor, Bindings, Object, Session, Subject, evaluate, load},
};

fn session(rules: &str, mode: Mode) -> Session {
    let text = format!("version: 1\n{rules}");
    let policy = load("p", &text, &|_| None).unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"));
    let bindings = Bindings {
        home: b"/home/u".to_vec(),
        project: b"/home/u/proj".to_vec(),
        profile: "default".into(),
        mode: Some(mode),
    };
    Session::new(&policy, &bindings).unwrap()
}

/// The rule that decides; empty if nothing was said.
fn decides(session: &Session, executable: &str, parent: &str, asked: &str) -> String {
    let (effect, object) = asked.split_once(' ').unwrap_or((asked, ""));
    let actor = Actor { executable: Some(executable.as_bytes()), parent: Some(parent.as_bytes()) };
    let object = Object::parse(Subject::from_name(effect).unwrap(), object).unwrap();
    evaluate(session, actor, &object).rule_ids.first().cloned().unwrap_or_default()
}

fn table(rules: &str, cases: &[(&str, &str)]) {
    let session = session(rules, Mode::Action);
    for (asked, want) in cases {
        assert_eq!(decides(&session, "/bin/x", "/bin/p", asked), *want, "{asked}\n{rules}");
    }
}

#[test]
fn the_deepest_pattern_decides() {
    table(
        "rules:
  - {id: home, effect: file.*, match: {paths: '~/**'}, severity: high, reason: x}
  - {id: project, effect: file.*, match: {paths: '${project}/**'}, severity: low}
  - {id: keys, effect: file.*, match: {paths: '${project}/keys/**'}, severity: critical, reason: x}
  - {id: public, effect: file.read, match: {paths: '${project}/keys/id.pub'}, severity: low}
",
        &[
            // An allow inside a deny, a deny inside that allow, an allow inside that deny.
            ("file.read /home/u/x", "home"),
            ("file.read /home/u/proj/x", "project"),
            ("file.read /home/u/proj/keys/id", "keys"),
            ("file.read /home/u/proj/keys/id.pub", "public"),
            ("file.write /home/u/proj/keys/id.pub", "keys"),
            // A name that only begins alike is another name.
            ("file.read /home/u/proj2/x", "home"),
            ("file.read /home/u2/x", ""),
            ("file.read /home/u/proj/keys2", "project"),
            // The directory itself.
            ("file.read /home/u/proj", "project"),
            ("file.read /home/u", "home"),
            ("file.read /home", ""),
            // Spelling.
            ("file.read /home/u/proj/keys/", "keys"),
            ("file.read /home/u//proj/./keys/id", "keys"),
            ("file.read /home/u/proj/KEYS/id", "project"),
            ("file.read /home/u/proj/keys /id", "project"),
            ("file.read /home/u/proj/../.ssh/id", "unresolved"),
            ("file.read ?", "unresolved"),
        ],
    );
}

#[test]
fn among_equally_deep_patterns_the_kind_decides() {
    let rule = |id: &str, path: &str| {
        format!("  - {{id: {id}, effect: file.read, match: {{paths: '{path}'}}, severity: low}}\n")
    };
    let all = [
        ("exact", "/a/b/c.pem"),
        ("subtree", "/a/b/c.pem/**"),
        ("pair", "**/b/c.pem"),
        ("name", "**/c.pem"),
        ("extension", "**/*.pem"),
        ("children", "/a/b/*"),
        ("above", "/a/b/**"),
    ];
    for from in 0..all.len() {
        // In reverse, so that the order of the file does not decide.
        let rules: String = all[from..].iter().rev().map(|(id, path)| rule(id, path)).collect();
        table(&format!("rules:\n{rules}"), &[("file.read /a/b/c.pem", all[from].0)]);
    }
}

#[test]
fn floating_patterns_count_where_they_match() {
    table(
        "rules:
  - {id: project, effect: file.read, match: {paths: '${project}/**'}, severity: low}
  - {id: env, effect: file.read, match: {paths: '**/.env'}, severity: high, reason: x}
  - {id: hooks, effect: file.read, match: {paths: '**/.git/hooks/**'}, severity: high, reason: x}
  - {id: sample, effect: file.read, match: {paths: '${project}/.git/hooks/x/**'}, severity: low}
",
        &[
            ("file.read /home/u/proj/.env", "env"),
            ("file.read /home/u/proj/.env.example", "project"),
            ("file.read /home/u/proj/.git/hooks", "hooks"),
            ("file.read /home/u/proj/.git/hooks/pre-commit", "hooks"),
            ("file.read /home/u/proj/.git/hooks/x/y", "sample"),
            ("file.read /home/u/proj/.git/hooks/x/y/.git/hooks/z", "hooks"),
            ("file.read /home/u/proj/hooks/x", "project"),
        ],
    );
}

#[test]
fn at_equal_rank_the_stricter_decides() {
    let rule = |id: &str, said: &str| {
        format!("  - {{id: {id}, effect: exec, match: {{paths: /a}}, reason: x, {said}}}\n")
    };
    let all = [
        ("block", "severity: low, action: block"),
        ("confirm", "severity: low, action: confirm"),
        ("alert", "severity: high, action: alert"),
        ("allow", "severity: high, action: allow"),
    ];
    for from in 0..all.len() {
        let rules: String = all[from..].iter().rev().map(|(id, said)| rule(id, said)).collect();
        table(&format!("rules:\n{rules}"), &[("exec /a", all[from].0)]);
    }
    let rules = rule("first", "severity: high") + &rule("second", "severity: high");
    table(&format!("rules:\n{rules}"), &[("exec /a", "first")]);
    let rules = rule("high", "severity: high") + &rule("critical", "severity: critical");
    table(&format!("rules:\n{rules}"), &[("exec /a", "critical")]);
}

#[test]
fn taking_away_a_directory_takes_away_what_is_below() {
    table(
        "rules:
  - {id: keys, effect: file.delete, match: {paths: '~/.ssh/**'}, severity: high, reason: x, unless: {executables: /bin/x}}
  - {id: one, effect: 'file.*', match: {paths: '/etc/x/y'}, severity: critical, reason: x}
  - {id: in, effect: file.delete, match: {paths: '/var/d/*'}, severity: high, reason: x}
  - {id: allowed, effect: file.delete, match: {paths: '/etc/**'}, severity: low}
  - {id: read, effect: file.read, match: {paths: '/srv/r'}, severity: high, reason: x}
  - {id: floating, effect: file.delete, match: {paths: '**/z/w'}, severity: high, reason: x}
",
        &[
            ("file.delete /home/u", "keys"),
            ("file.delete /home", "keys"),
            // The owner may delete what is its own, and nothing above.
            ("file.delete /home/u/.ssh", ""),
            ("file.delete /home/u/.ssh/id", ""),
            ("file.delete /home/u/.ss", ""),
            ("file.write /home/u", ""),
            ("file.delete /etc/x", "one"),
            ("file.delete /etc", "one"),
            ("file.delete /etc/z", "allowed"),
            ("file.delete /var/d", "in"),
            ("file.delete /var/d/a", "in"),
            ("file.delete /var/d/a/b", ""),
            ("file.delete /srv", ""),
            ("file.delete /a/z", ""),
            ("file.delete /", ""),
        ],
    );
}

#[test]
fn owners_are_spared() {
    let session = session(
        "rules:
  - {id: exe, effect: file.read, match: {paths: '~/.ssh/**'}, severity: high, reason: x, unless: {executables: [/usr/bin/ssh, '/opt/git/**', '**/scp']}}
  - {id: parent, effect: exec, match: {executables: /usr/bin/curl}, severity: high, reason: x, unless: {parents: /usr/bin/git}}
  - {id: behind, effect: file.read, match: {paths: '~/**'}, severity: medium}
",
        Mode::Action,
    );
    for (executable, parent, asked, want) in [
        ("/bin/cat", "/usr/bin/ssh", "file.read /home/u/.ssh/id", "exe"),
        // Whom the decisive rule spares meets the next one.
        ("/usr/bin/ssh", "/bin/sh", "file.read /home/u/.ssh/id", "behind"),
        ("/usr/bin/ssh2", "/bin/sh", "file.read /home/u/.ssh/id", "exe"),
        ("/opt/git/libexec/x", "/bin/sh", "file.read /home/u/.ssh/id", "behind"),
        ("/tmp/scp", "/bin/sh", "file.read /home/u/.ssh/id", "behind"),
        ("/bin/sh", "/usr/bin/git", "exec /usr/bin/curl", ""),
        ("/usr/bin/git", "/bin/sh", "exec /usr/bin/curl", "parent"),
        ("ssh", "", "file.read /home/u/.ssh/id", "exe"),
    ] {
        assert_eq!(decides(&session, executable, parent, asked), want, "{executable} {asked}");
    }
}

#[test]
fn the_narrowest_network_decides_then_the_narrowest_ports() {
    table(
        "rules:
  - {id: all4, effect: net.connect, match: {addresses: 0.0.0.0/0}, severity: low}
  - {id: ten, effect: net.connect, match: {addresses: 10.0.0.0/8}, severity: high, reason: x}
  - {id: ten-one, effect: net.connect, match: {addresses: 10.1.0.0/16}, severity: low}
  - {id: one, effect: net.connect, match: {addresses: 10.1.2.3}, severity: high, reason: x}
  - {id: ssh, effect: net.connect, match: {addresses: 10.1.0.0/16, ports: 22}, severity: high, reason: x}
  - {id: low, effect: net.connect, match: {addresses: 10.1.0.0/16, ports: 0-1023}, severity: medium}
  - {id: local6, effect: net.connect, match: {addresses: 'fe80::/10'}, severity: high, reason: x}
  - {id: listen, effect: net.bind, match: {ports: 0-1023}, severity: high, reason: x}
",
        &[
            ("net.connect 9.9.9.9:443", "all4"),
            ("net.connect 10.9.9.9:443", "ten"),
            ("net.connect 10.1.9.9:8080", "ten-one"),
            ("net.connect 10.1.9.9:443", "low"),
            ("net.connect 10.1.9.9:22", "ssh"),
            ("net.connect 10.1.2.3:8080", "one"),
            ("net.connect [::ffff:10.1.2.3]:8080", "one"),
            ("net.connect [fe80::1]:80", "local6"),
            ("net.connect [2001:db8::1]:80", ""),
            ("net.bind 10.1.2.3:8080", ""),
            ("net.bind 10.1.2.3:80", "listen"),
            ("net.bind [::]:80", "listen"),
        ],
    );
}

#[test]
fn names_stand_between_addresses_and_networks() {
    table(
        "rules:
  - {id: none, effect: net.connect, match: {addresses: [0.0.0.0/0, 10.1.0.0/31]}, severity: high, reason: x}
  - {id: hosts, effect: [net.connect, dns], match: {hosts: '*.example.com', ports: 443}, severity: low}
  - {id: bad, effect: [net.connect, dns], match: {hosts: bad.example.com}, severity: high, reason: x}
  - {id: single, effect: net.connect, match: {addresses: 10.1.0.1}, severity: high, reason: x}
  - {id: rest, effect: dns, match: {hosts: '*'}, severity: medium}
",
        &[
            ("net.connect 10.1.0.0:443", "none"),
            ("net.connect www.example.com=10.1.0.0:443", "hosts"),
            ("net.connect www.example.com=10.1.0.0:80", "none"),
            ("net.connect www.example.com=10.1.0.1:443", "single"),
            ("net.connect WWW.Example.COM.=10.1.0.0:443", "hosts"),
            ("net.connect bad.example.com=10.1.0.0:443", "bad"),
            ("net.connect very.bad.example.com=10.1.0.0:443", "hosts"),
            ("net.connect example.com=10.1.0.0:443", "none"),
            ("net.connect badexample.com=10.1.0.0:443", "none"),
            ("dns www.example.com", "hosts"),
            ("dns bad.example.com", "bad"),
            ("dns example.com", "rest"),
        ],
    );
}

#[test]
fn defaults_speak_where_no_rule_does() {
    table(
        "defaults: {file.write: block, net.connect: alert, priv.bpf: block, unix: block}
rules:
  - {id: project, effect: file.write, match: {paths: '${project}/**'}, severity: low}
  - {id: socket, effect: unix, match: {unix: /run/ok, abstract: ok}, severity: low}
",
        &[
            ("file.write /home/u/proj/x", "project"),
            ("file.write /home/u/x", "default:file.write"),
            ("file.read /home/u/x", ""),
            ("net.connect 1.2.3.4:1", "default:net.connect"),
            ("priv.bpf", "default:priv.bpf"),
            ("priv.perf", ""),
            ("unix /run/ok", "socket"),
            ("unix /run/other", "default:unix"),
            ("unix @ok", "socket"),
            ("unix @okay", "default:unix"),
        ],
    );
}

#[test]
fn modes_turn_what_is_said_into_what_is_done() {
    use crate::model::PolicyAction::{Alert, Allow, Block, Confirm};
    let rules = "settings: {confirm_fallback: allow}
rules:
  - {id: low, effect: exec, match: {paths: /low}, severity: low}
  - {id: medium, effect: exec, match: {paths: /medium}, severity: medium}
  - {id: high, effect: exec, match: {paths: /high}, severity: high, kill: true, reason: x}
  - {id: critical, effect: exec, match: {paths: /critical}, severity: critical, reason: x}
  - {id: ask, effect: exec, match: {paths: /ask}, severity: low, action: confirm, reason: x}
  - {id: alerts, effect: exec, match: {paths: /alerts}, severity: critical, action: alert}
";
    for (mode, path, raw, action, would_block) in [
        (Mode::Observe, "/low", Allow, Allow, false),
        (Mode::Observe, "/medium", Alert, Alert, false),
        (Mode::Observe, "/high", Block, Alert, true),
        (Mode::Observe, "/ask", Confirm, Alert, true),
        (Mode::Action, "/low", Allow, Allow, false),
        (Mode::Action, "/medium", Alert, Alert, false),
        (Mode::Action, "/high", Block, Block, false),
        (Mode::Action, "/critical", Block, Block, false),
        (Mode::Action, "/ask", Confirm, Allow, false),
        (Mode::Action, "/alerts", Alert, Alert, false),
        (Mode::Hitl, "/medium", Alert, Alert, false),
        (Mode::Hitl, "/high", Confirm, Allow, false),
        (Mode::Hitl, "/critical", Block, Block, false),
    ] {
        let session = session(rules, mode);
        let object = Object::Path(crate::model::Effect::Exec, path.as_bytes());
        let entry = session.judge(Actor::default(), &object).unwrap();
        assert_eq!(
            (entry.raw_action, entry.action, entry.would_block),
            (raw, action, would_block),
            "{mode} {path}"
        );
        assert_eq!(entry.kill, path == "/high" && action == Block, "{mode} {path}");
    }
}

#[test]
fn wild_patterns_speak_where_nothing_is_blocked() {
    table(
        "rules:
  - {id: tree, effect: file.read, match: {paths: '/a/**'}, severity: high, reason: x}
  - {id: quiet, effect: file.read, match: {paths: '/a/*/b'}, severity: low}
  - {id: loud, effect: file.read, match: {paths: '/b/*/c'}, severity: medium}
  - {id: open, effect: file.read, match: {paths: '/b/**'}, severity: low}
",
        &[("file.read /a/x/b", "tree"), ("file.read /b/x/c", "loud"), ("file.read /b/x/d", "open")],
    );
}
