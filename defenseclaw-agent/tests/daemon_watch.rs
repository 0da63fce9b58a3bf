//! The daemon as it watches: real agents' shapes, a real kernel, a real audit. Needs root and a BPF object; without them each
//! test is counted as ignored, and why is printed. Only processes that a test has started are ever enrolled.
#![expect(clippy::disallowed_methods, reason = "these tests start processes")]
#![expect(clippy::print_stderr, reason = "it says why it skips")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "libtest-mimic turns a panic into a failure")]
#![expect(clippy::indexing_slicing, reason = "likewise")]

#[path = "daemon_watch/place.rs"]
mod place;

use std::{os::unix::process::CommandExt as _, process::Command, process::ExitCode};

use defenseclaw::{
    model::{
        AuditRecord, Connector, Event, ExitStatus, HookCall, MainExit, Origin, PolicyAction, SessionEnd,
        SessionId, SessionStart,
    },
    sensor::{Sensor, SensorError, SensorOptions},
};
use libtest_mimic::{Arguments, Failed, Trial};
use place::{NOBODY, Place, sessions};

type Test = fn() -> Result<(), Failed>;

const TESTS: &[(&str, Test)] = &[
    ("an_agent_is_adopted_with_what_it_runs_and_nothing_else", adopted),
    ("two_agents_at_once_are_two_sessions", two),
    ("nobody_has_the_processes_of_others_enrolled", stranger),
    ("a_hook_from_another_pid_namespace_is_bound", namespace),
    ("sessions_end_with_the_daemon_and_say_what_they_leave", stopped),
    ("without_privileges_hooks_are_answered_and_the_daemon_says_so", unprivileged),
];

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Each daemon loads its own programs: side by side they would only wait for each other.
    arguments.test_threads = Some(1);
    let skip = reason_to_skip();
    if let Some(reason) = &skip {
        eprintln!("skipping {} tests: {reason}", TESTS.len());
    }
    let trials = TESTS.iter().map(|(name, test)| Trial::test(*name, *test).with_ignored_flag(skip.is_some()));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn reason_to_skip() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("loading BPF programs needs root".to_owned());
    }
    let options = SensorOptions { bulk_ring: 4096, priority_ring: 4096, processes: 1, judge: false };
    match Sensor::load(&options) {
        // Whoever promised the object wants to know that it is missing.
        Err(error @ SensorError::NoObject)
            if !std::env::var("DEFENSECLAW_EXPECT").is_ok_and(|list| list.contains("bpf_object")) =>
        {
            Some(error.to_string())
        }
        // Any other error is for the tests to find.
        _ => None,
    }
}

fn events(rows: &[AuditRecord]) -> impl Iterator<Item = &Event> {
    rows.iter().filter_map(|row| if let AuditRecord::Event(event) = row { Some(&**event) } else { None })
}

fn hooks(rows: &[AuditRecord]) -> Vec<&HookCall> {
    rows.iter()
        .filter_map(|row| if let AuditRecord::Hook(call) = row { Some(&**call) } else { None })
        .collect()
}

fn start(rows: &[AuditRecord], session: SessionId) -> &SessionStart {
    let found = rows.iter().find_map(|row| match row {
        AuditRecord::SessionStart(start) if start.session == session => Some(&**start),
        _ => None,
    });
    found.unwrap()
}

fn end(rows: &[AuditRecord], session: SessionId) -> &SessionEnd {
    let found = rows.iter().find_map(|row| match row {
        AuditRecord::SessionEnd(end) if end.session == session => Some(end),
        _ => None,
    });
    found.unwrap()
}

/// Sessions in which a file was opened.
fn opened(rows: &[AuditRecord], name: &str) -> Vec<SessionId> {
    let about = |event: &&Event| event.action.path().is_some_and(|path| path.text.lossy().ends_with(name));
    let mut found: Vec<_> = events(rows).filter(about).map(|event| event.session).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn adopted() -> Result<(), Failed> {
    let mut place = Place::started(None);
    for name in ["before", "own", "child", "late", "foreign", "go"] {
        place.write(name, name);
    }
    place.payload("pre", "s1", "cat own");
    place.payload("resumed", "s2", "cat own");
    let (mut agent, mut other) = (place.agent(), place.agent());
    // It runs something before anybody knows of it: a shell of which more shells hang that wait.
    assert_eq!(agent.run("cat before; mkfifo gate; (bash -c 'read x < gate; cat child') & job=$!"), 0);
    assert_eq!(agent.run(&place.hook("pre")), 0);
    assert_eq!(place.n_sessions(), 1);
    assert_eq!(agent.run("cat own"), 0);
    assert_eq!(agent.run("echo x > gate; wait $job"), 0);
    assert_eq!(agent.run(&place.hook("resumed")), 0);
    assert_eq!(agent.run("(setsid bash -c 'cat late' &); cat secret/key"), 0);
    assert_eq!(other.run("cat foreign"), 0);
    agent.end();
    place.wait("the session does not end", |place| place.n_sessions() == 0);
    let rows = place.stop();
    let [session] = sessions(&rows)[..] else { return Err(format!("{:?}", sessions(&rows)).into()) };
    let start = start(&rows, session);
    let uid = nix::unistd::getuid().as_raw();
    assert_eq!(
        start.origin,
        Origin::Adopted { connector: Connector::ClaudeCode, agent_session: Some("s1".to_owned()), uid }
    );
    assert_eq!((start.root.tgid, start.command[0].lossy()), (agent.pid(), "bash".into()));
    let of: Vec<_> = hooks(&rows).iter().map(|call| call.session).collect();
    assert_eq!(of, [Some(session), Some(session)]);
    for name in ["/own", "/child", "/late"] {
        assert_eq!(opened(&rows, name), [session], "{name}");
    }
    for name in ["/before", "/foreign"] {
        assert_eq!(opened(&rows, name), [], "{name}");
    }
    // One name for the root, whoever names it.
    let by_root = |event: &&Event| event.process.tgid == agent.pid();
    assert!(events(&rows).any(|event| by_root(&event)));
    assert!(events(&rows).filter(by_root).all(|event| event.process == start.root));
    let end = end(&rows, session);
    assert_eq!((end.main, end.left_running), (MainExit::Ended(ExitStatus::Code(3)), 0));
    assert_eq!(end.events, events(&rows).count() as u64);
    // Detected, not prevented: the kernel had no policy for it.
    let decided: Vec<_> = events(&rows)
        .filter(|event| event.action.path().is_some_and(|path| path.text.lossy().ends_with("secret/key")))
        .filter_map(|event| event.decision.as_ref())
        .collect();
    assert!(!decided.is_empty());
    for decision in decided {
        assert_eq!(
            (decision.action, decision.verdict.raw_action),
            (PolicyAction::Alert, PolicyAction::Block)
        );
        assert_eq!(decision.verdict.rule_ids, ["secret"]);
    }
    assert!(!rows.iter().any(|row| matches!(row, AuditRecord::Loss(_))));
    Ok(())
}

fn two() -> Result<(), Failed> {
    let mut place = Place::started(None);
    place.payload("a.json", "sa", "ls");
    place.payload("b.json", "sb", "ls");
    let (mut a, mut b) = (place.agent(), place.agent());
    place.write("of-a", "");
    place.write("of-b", "");
    assert_eq!(a.run(&place.hook("a.json")), 0);
    assert_eq!(b.run(&place.hook("b.json")), 0);
    assert_eq!(place.n_sessions(), 2);
    for _ in 0..20 {
        a.run("cat of-a");
        b.run("cat of-b");
    }
    a.end();
    place.wait("the first does not end", |place| place.n_sessions() == 1);
    b.run("cat of-b");
    b.run(&place.hook("b.json"));
    b.end();
    place.wait("the second does not end", |place| place.n_sessions() == 0);
    let rows = place.stop();
    let [first, second] = sessions(&rows)[..] else { return Err(format!("{:?}", sessions(&rows)).into()) };
    assert_eq!((opened(&rows, "/of-a"), opened(&rows, "/of-b")), (vec![first], vec![second]));
    let of: Vec<_> = hooks(&rows).iter().map(|call| call.session.unwrap()).collect();
    assert_eq!(of, [first, second, second]);
    for session in [first, second] {
        assert_eq!(end(&rows, session).main, MainExit::Ended(ExitStatus::Code(3)));
        assert_eq!(
            end(&rows, session).events,
            events(&rows).filter(|event| event.session == session).count() as u64
        );
    }
    Ok(())
}

fn stranger() -> Result<(), Failed> {
    let mut place = Place::started(None);
    place.payload("pre", "s", "ls");
    // Root's agent has somebody else ask for it.
    let mut agent = place.agent();
    let hook = place.hook("pre");
    let ids = format!("--reuid {NOBODY} --regid {NOBODY} --clear-groups");
    assert_eq!(agent.run(&format!("setpriv {ids} {hook}")), 0);
    place.write("unseen", "");
    assert_eq!((agent.run("cat unseen"), place.n_sessions()), (0, 0));
    // And an agent of somebody else asks for itself.
    let mut command = Command::new("bash");
    command.arg(place.path("agent.sh")).uid(NOBODY).gid(NOBODY);
    let mut theirs = place.agent_in({
        place.write("out", "");
        place.write("err", "");
        for name in ["out", "err"] {
            nix::unistd::chown(&place.path(name), Some(NOBODY.into()), None).unwrap();
        }
        command
    });
    assert_eq!(theirs.run(&hook), 0);
    assert_eq!(place.n_sessions(), 1);
    theirs.end();
    place.wait("the session does not end", |place| place.n_sessions() == 0);
    let rows = place.stop();
    let [session] = sessions(&rows)[..] else { return Err(format!("{:?}", sessions(&rows)).into()) };
    assert_eq!(start(&rows, session).root.tgid, theirs.pid());
    assert!(matches!(start(&rows, session).origin, Origin::Adopted { uid: NOBODY, .. }));
    assert_eq!(opened(&rows, "/unseen"), []);
    let of: Vec<_> = hooks(&rows).iter().map(|call| call.session).collect();
    assert_eq!(of, [None, Some(session)]);
    Ok(())
}

fn namespace() -> Result<(), Failed> {
    let mut place = Place::started(None);
    place.payload("pre", "s", "ls");
    place.write("inner", "");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "bash"]).arg(place.path("agent.sh"));
    let mut agent = place.agent_in(command);
    assert_eq!(agent.run(&place.hook("pre")), 0);
    assert_eq!(agent.run("test $$ = 1 && cat inner"), 0);
    agent.end();
    place.wait("the session does not end", |place| place.n_sessions() == 0);
    let rows = place.stop();
    let [session] = sessions(&rows)[..] else { return Err(format!("{:?}", sessions(&rows)).into()) };
    assert_eq!(hooks(&rows)[0].session, Some(session));
    assert_eq!(opened(&rows, "/inner"), [session]);
    let root = start(&rows, session).root.tgid;
    assert!(root > 1 && root != agent.pid(), "{root} is not as the host counts");
    Ok(())
}

fn stopped() -> Result<(), Failed> {
    let mut place = Place::started(None);
    place.payload("pre", "s", "ls");
    let mut agent = place.agent();
    assert_eq!(agent.run(&format!("sleep 1000 & {}", place.hook("pre"))), 0);
    let rows = place.stop();
    // Nothing of it stays behind, and it goes on.
    assert_eq!(agent.run("kill $!"), 0);
    let [session] = sessions(&rows)[..] else { return Err(format!("{:?}", sessions(&rows)).into()) };
    assert_eq!((end(&rows, session).main, end(&rows, session).left_running), (MainExit::StillRunning, 2));
    Ok(())
}

fn unprivileged() -> Result<(), Failed> {
    let mut place = Place::started(Some(NOBODY));
    let secret = place.path("secret/key");
    place.payload("pre", "s", &format!("cat {}", secret.display()));
    let watch = place.status()["watch"].clone();
    assert_eq!(watch["level"], "none");
    assert!(watch["unwatched"].as_str().unwrap().contains("root"), "{watch}");
    let mut command = Command::new("bash");
    command.arg(place.path("agent.sh")).uid(NOBODY).gid(NOBODY);
    let mut agent = place.agent_in(command);
    assert_eq!(agent.run(&place.hook("pre")), 0);
    let said = std::fs::read_to_string(place.path("out")).unwrap();
    assert!(said.contains(r#""permissionDecision":"deny""#), "{said}");
    let rows = place.stop();
    let [call] = hooks(&rows)[..] else { return Err(format!("{rows:?}").into()) };
    assert_eq!((call.session, call.answer.action), (None, PolicyAction::Block));
    assert!(sessions(&rows).is_empty());
    Ok(())
}
