//! Policies, as anybody may write them: any text is a policy or a list of problems, and what becomes a policy can be
//! bound, compiled and asked.
#![no_main]

use defenseclaw::{
    model::Mode,
    policy::{Actor, Bindings, Object, Session, Subject, load, lookup::Lookup, suite},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = suite("cases", text);
    let policy = match load("policy", text, &|name| (name == "self").then(|| text.to_owned())) {
        Ok(policy) => policy,
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                let _ = problem.to_string();
            }
            return;
        }
    };
    let profiles = policy.profiles.iter().map(|profile| profile.name.clone()).chain(["default".to_owned()]);
    for (profile, mode) in profiles.take(4).flat_map(|name| Mode::ALL.iter().map(move |mode| (name.clone(), *mode))) {
        let bindings =
            Bindings { home: b"/home/u".to_vec(), project: b"/home/u/p".to_vec(), profile, mode: Some(mode) };
        let Ok(session) = Session::new(&policy, &bindings) else { continue };
        let image = session.image();
        let lookup = image.as_ref().ok().map(Lookup::new);
        for subject in Subject::all() {
            for object in ["/", "/home/u/p/a/.env", "?", "1.2.3.4:22", "[::1]:1", "a.b=10.0.0.1:443", "a.b", "@x"] {
                let Ok(object) = Object::parse(subject, object) else { continue };
                let actor = Actor { executable: Some(b"/usr/bin/a"), parent: None };
                let said = session.judge(actor, &object);
                // Wild patterns are not in the image, and change only what is not blocked.
                if let Some(lookup) = &lookup
                    && session.user_space_rules().is_empty()
                {
                    assert_eq!(said.map(|entry| entry.rule), lookup.judge(actor, &object).map(|entry| entry.rule));
                }
            }
        }
    }
});
