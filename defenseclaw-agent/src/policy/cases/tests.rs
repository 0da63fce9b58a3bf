//! The cases that come with the presets hold, and cases say what they should.

use super::*;
use crate::policy::{CASES, PRESETS, load, lookup::Lookup, preset};

fn bind(name: &str, bindings: &Bindings) -> Result<Session, Vec<Problem>> {
    let policy = load(name, preset(name).unwrap(), &|name| preset(name).map(str::to_owned))?;
    Session::new(&policy, bindings)
}

#[test]
fn presets_do_what_their_cases_say() {
    for (name, text) in CASES {
        let suite = suite(name, text).unwrap_or_else(|problems| panic!("{problems:#?}"));
        for policy in &suite.policies {
            let outcome = suite.run(&|bindings| bind(policy, bindings));
            let failures: Vec<_> = outcome.failures.iter().map(ToString::to_string).collect();
            assert!(failures.is_empty(), "{policy}:\n{}", failures.join("\n"));
            assert!(outcome.asked > 0);
        }
    }
}

#[test]
fn every_preset_fits_the_kernel_in_every_mode() {
    for name in PRESETS {
        for mode in Mode::ALL {
            let bindings = Bindings {
                home: b"/home/user".to_vec(),
                project: b"/home/user/project".to_vec(),
                profile: "default".into(),
                mode: Some(*mode),
            };
            let session = bind(name, &bindings).unwrap_or_else(|problems| panic!("{problems:#?}"));
            let image = session.image().unwrap_or_else(|problems| panic!("{problems:#?}"));
            let lookup = Lookup::new(&image);
            let object = Object::Path(crate::model::Effect::FileRead, b"/home/user/.ssh/id_rsa");
            assert_eq!(lookup.judge(Actor::default(), &object), session.judge(Actor::default(), &object));
        }
    }
}

#[test]
fn cases_that_do_not_hold_are_said_where_they_stand() {
    let text = "version: 1
policy: p
cases:
  - {effect: exec, object: [/a, /b], expect: block}
  - {effect: exec, object: /a, expect: block, rule: other}
  - {effect: exec, object: a, expect: allow}
";
    let policy =
        "version: 1\nrules: [{id: r, effect: exec, match: {paths: /a}, severity: high, reason: x}]\n";
    let policy = load("p", policy, &|_| None).unwrap();
    let outcome = suite("cases", text).unwrap().run(&|bindings| Session::new(&policy, bindings));
    let failures: Vec<_> = outcome.failures.iter().map(ToString::to_string).collect();
    assert_eq!(outcome.asked, 4);
    assert_eq!(
        failures,
        [
            "cases:4:5: exec /b by : allow (no rule), not block",
            "cases:5:5: exec /a by : block by r, not by other",
            "cases:6:5: exec a by : exec is about absolute paths, not \"a\"",
        ]
    );
    for wrong in ["", "version: 1\n", "version: 1\npolicy: p\ncases: [{object: /a}]\n"] {
        assert!(suite("cases", wrong).is_err());
    }
}
