//! The image answers as the policy does, whatever the policy: random policies, as text, and random objects.

use proptest::{prelude::*, strategy::ValueTree};

use super::*;
use crate::{
    model::{Mode, Privilege},
    policy::{Bindings, Session, Subject, load},
};

const NAMES: [&str; 7] = ["a", "b", "c", ".env", "x.pem", "y.pem", "proj"];

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(NAMES.to_vec()).prop_map(str::to_owned)
}

fn path(names: &[String]) -> String {
    names.iter().flat_map(|name| ["/", name]).collect()
}

fn held_pattern() -> impl Strategy<Value = String> {
    let front = prop::sample::select(vec!["", "~", "${project}"]);
    let tail = prop::sample::select(vec!["", "/**", "/*"]);
    prop_oneof![
        4 => (front, prop::collection::vec(name(), 0..4), tail).prop_map(|(front, names, tail)| {
            let text = format!("{front}{}{tail}", path(&names));
            if text.is_empty() { "/".into() } else { text }
        }),
        2 => (name(), prop::bool::ANY).prop_map(|(name, tree)| format!("**/{name}{}", if tree { "/**" } else { "" })),
        2 => (name(), name(), prop::bool::ANY)
            .prop_map(|(a, b, tree)| format!("**/{a}/{b}{}", if tree { "/**" } else { "" })),
        1 => prop::sample::select(vec!["**/*.pem", "**/*.env"]).prop_map(str::to_owned),
    ]
}

fn wild_pattern() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["/a/*/b", "**/a/*", "**/*", "/a/**/c", "**/a/b/c", "**/?", "/*/b/**", "~/x*"])
        .prop_map(str::to_owned)
}

fn unless() -> impl Strategy<Value = String> {
    let owner = prop::sample::select(vec!["/bin/a", "/bin/**", "**/b", "/bin/*"]);
    let kind = prop::sample::select(vec!["executables", "parents"]);
    prop::option::weighted(0.4, (kind, owner)).prop_map(|found| {
        found.map_or_else(String::new, |(kind, owner)| format!(", unless: {{{kind}: '{owner}'}}"))
    })
}

/// `severity` and `action` of a rule that may block, or never does.
fn said(blocks: bool) -> impl Strategy<Value = String> {
    let severity = prop::sample::select(if blocks {
        vec!["info", "low", "medium", "high", "critical"]
    } else {
        vec!["info", "low", "medium"]
    });
    let action =
        prop::sample::select(if blocks { vec!["", "alert", "block", "confirm"] } else { vec!["", "alert"] });
    (severity, action).prop_map(|(severity, action)| {
        let action = if action.is_empty() { String::new() } else { format!(", action: {action}") };
        format!("severity: {severity}{action}, reason: x")
    })
}

fn path_rule(pattern: BoxedStrategy<String>, blocks: bool) -> impl Strategy<Value = String> {
    let effects = prop::sample::subsequence(
        vec!["file.read", "file.write", "file.create", "file.delete", "file.link", "file.attr", "exec"],
        1..5,
    );
    (effects, prop::collection::vec(pattern, 1..3), unless(), said(blocks)).prop_map(
        |(effects, patterns, unless, said)| {
            let patterns: Vec<_> = patterns.iter().map(|text| format!("'{text}'")).collect();
            format!(
                "effect: [{}], match: {{paths: [{}]}}{unless}, {said}",
                effects.join(","),
                patterns.join(",")
            )
        },
    )
}

fn net_rule() -> impl Strategy<Value = String> {
    let effects =
        prop::sample::select(vec!["net.connect", "[net.connect, dns]", "[net.connect, net.bind]", "dns"]);
    let hosts = prop::sample::subsequence(vec!["a.b", "'*.a.b'", "'*.b'", "'*'", "x.a.b"], 0..3);
    let addresses = prop::sample::subsequence(
        vec![
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.1.2.3",
            "0.0.0.0/0",
            "::/0",
            "fe80::/10",
            "::1",
            "'::ffff:10.1.2.3'",
        ],
        0..3,
    );
    let ports = prop::sample::subsequence(vec!["22", "20-30", "22-25", "0-65535", "443"], 0..3);
    (effects, hosts, addresses, ports, unless(), said(true)).prop_map(
        |(effects, hosts, mut addresses, mut ports, unless, said)| {
            let mut hosts = hosts;
            if effects == "dns" {
                addresses.clear();
                ports.clear();
            }
            if effects.contains("dns") && hosts.is_empty() {
                hosts.push("a.b");
            }
            if effects.contains("bind") {
                hosts.retain(|_| !addresses.is_empty() || !ports.is_empty());
            }
            if hosts.is_empty() && addresses.is_empty() && ports.is_empty() {
                ports.push("443");
            }
            let list = |key: &str, items: &[&str]| {
                if items.is_empty() { String::new() } else { format!("{key}: [{}], ", items.join(",")) }
            };
            let (hosts, addresses, ports) =
                (list("hosts", &hosts), list("addresses", &addresses), list("ports", &ports));
            format!("effect: {effects}, match: {{{hosts}{addresses}{ports}}}{unless}, {said}")
        },
    )
}

fn other_rule() -> impl Strategy<Value = String> {
    let privileges = prop::sample::select(vec!["priv.mount", "[priv.mount, priv.bpf]"]);
    prop_oneof![
        (privileges, unless(), said(true))
            .prop_map(|(effect, unless, said)| format!("effect: {effect}{unless}, {said}")),
        (
            prop::sample::select(vec![
                "unix: /a/b",
                "unix: '/a/**'",
                "abstract: x",
                "unix: '**/a', abstract: [x, y]"
            ]),
            unless(),
            said(true)
        )
            .prop_map(|(objects, unless, said)| format!(
                "effect: unix, match: {{{objects}}}{unless}, {said}"
            )),
    ]
}

fn policy(wild: bool) -> impl Strategy<Value = String> {
    let path = path_rule(held_pattern().boxed(), true);
    let wild = path_rule(if wild { wild_pattern().boxed() } else { held_pattern().boxed() }, false);
    let rule = prop_oneof![5 => path, 2 => wild, 3 => net_rule(), 1 => other_rule()];
    let defaults = prop::sample::select(vec![
        "{}",
        "{'file.*': block, dns: alert}",
        "{'net.*': block, exec: alert, unix: block, file.delete: allow}",
        "{priv.mount: alert, file.read: alert}",
    ]);
    let unresolved = prop::sample::select(vec!["block", "alert", "allow"]);
    (prop::collection::vec(rule, 0..12), defaults, unresolved).prop_map(|(rules, defaults, unresolved)| {
        let head = format!("version: 1\nsettings: {{unresolved: {unresolved}}}\ndefaults: {defaults}\n");
        let rules: Vec<_> =
            rules.iter().enumerate().map(|(n, rule)| format!("  - {{id: r{n}, {rule}}}\n")).collect();
        head + if rules.is_empty() { "" } else { "rules:\n" } + &rules.concat()
    })
}

/// What is asked of a policy: subject, object and the two programs.
type Question = (Subject, String, Option<&'static str>, Option<&'static str>);

fn question() -> impl Strategy<Value = Question> {
    let path = (prop::sample::select(vec!["", "/a/b", "/a/proj"]), prop::collection::vec(name(), 0..5))
        .prop_map(|(front, names)| {
            let text = format!("{front}{}", path(&names));
            if text.is_empty() { "/".to_owned() } else { text }
        });
    let effects: Vec<_> = crate::model::Effect::ALL.iter().copied().take(8).map(Subject::Effect).collect();
    let on_path = (prop::sample::select(effects), path);
    let address = prop::sample::select(vec![
        "10.1.2.3",
        "10.1.2.4",
        "10.2.0.0",
        "192.0.2.7",
        "[::1]",
        "[fe80::1]",
        "[2001:db8::1]",
        "[::ffff:10.1.2.3]",
    ]);
    let name = prop::sample::select(vec!["", "a.b=", "x.a.b=", "y.x.a.b=", "c.d="]);
    let port = prop::sample::select(vec![22, 23, 30, 443, 0, 65535]);
    let net = prop::sample::select(vec!["net.connect", "net.bind"]);
    let on_net = (net, name, address, port).prop_map(|(effect, name, address, port)| {
        (Subject::from_name(effect).unwrap(), format!("{name}{address}:{port}"))
    });
    let other = prop::sample::select(vec![
        ("dns", "a.b"),
        ("dns", "x.a.b"),
        ("dns", "q"),
        ("unix", "@x"),
        ("unix", "@z"),
        ("unix", "?"),
        ("file.read", "?"),
        ("file.read", "/a/../b"),
        ("priv.mount", ""),
        ("priv.bpf", ""),
        ("priv.perf", ""),
    ]);
    let other = other.prop_map(|(effect, text)| (Subject::from_name(effect).unwrap(), text.to_owned()));
    let program = || prop::option::of(prop::sample::select(vec!["/bin/a", "/bin/x/y", "/usr/b", "b"]));
    (prop_oneof![4 => on_path, 2 => on_net, 1 => other], program(), program())
        .prop_map(|((subject, text), executable, parent)| (subject, text, executable, parent))
}

fn bind(text: &str, mode: Mode) -> Session {
    let policy = load("p", text, &|_| None).unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"));
    let bindings = Bindings {
        home: b"/a/b".to_vec(),
        project: b"/a/proj".to_vec(),
        profile: "default".into(),
        mode: Some(mode),
    };
    Session::new(&policy, &bindings).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn the_image_answers_as_the_policy_does(
        text in policy(false),
        mode in prop::sample::select(Mode::ALL.to_vec()),
        questions in prop::collection::vec(question(), 1..40),
    ) {
        let session = bind(&text, mode);
        // What does not fit the kernel's limits is refused as a whole.
        let Ok(image) = session.image() else { return Ok(()) };
        let lookup = Lookup::new(&image);
        for (subject, object, executable, parent) in questions {
            let actor = Actor { executable: executable.map(str::as_bytes), parent: parent.map(str::as_bytes) };
            let object = Object::parse(subject, &object).unwrap();
            let (want, found) = (session.judge(actor, &object), lookup.judge(actor, &object));
            let essence = |entry: Option<Entry>| entry.map(|entry| (entry.rule, entry.action, entry.raw_action, entry.would_block));
            prop_assert_eq!(essence(want), essence(found), "{:?} {:?}\n{}", object, actor, text);
        }
    }

    #[test]
    fn wild_patterns_never_change_what_is_blocked(
        text in policy(true),
        questions in prop::collection::vec(question(), 1..40),
    ) {
        let session = bind(&text, Mode::Action);
        let Ok(image) = session.image() else { return Ok(()) };
        let lookup = Lookup::new(&image);
        for (subject, object, executable, parent) in questions {
            let actor = Actor { executable: executable.map(str::as_bytes), parent: parent.map(str::as_bytes) };
            let object = Object::parse(subject, &object).unwrap();
            let (want, found) = (session.judge(actor, &object), lookup.judge(actor, &object));
            prop_assert_eq!(lets_through(want), lets_through(found), "{:?}\n{}", object, text);
        }
    }
}

#[test]
fn most_random_policies_fit_the_kernel() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut fits = 0;
    for _ in 0..100 {
        let text = policy(false).new_tree(&mut runner).unwrap().current();
        fits += u32::from(bind(&text, Mode::Action).image().is_ok());
    }
    assert!(fits > 80, "{fits} of 100: the property above is hardly tested");
}

#[test]
fn privileges_are_asked_in_order() {
    let text = "version: 1
rules:
  - {id: strict, effect: priv.mount, severity: high, reason: x, unless: {executables: /bin/a}}
  - {id: loose, effect: priv.mount, severity: medium}
";
    let image = bind(text, Mode::Action).image().unwrap();
    let lookup = Lookup::new(&image);
    let asked = |program: &str| {
        let actor = Actor { executable: Some(program.as_bytes()), parent: None };
        let entry = lookup.judge(actor, &Object::Privilege(Privilege::Mount)).unwrap();
        image.rules[usize::from(entry.rule)].id.clone()
    };
    assert_eq!(asked("/bin/b"), "strict");
    assert_eq!(asked("/bin/a"), "loose");
}
