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

type Test = fn();

const TESTS: &[(&str, Test)] = &[
    ("an_agent_is_adopted_with_what_it_runs_and_nothing_else", adopted),
    ("two_agents_at_once_are_two_sessions", two),
    ("nobody_has_the_processes_of_others_enrolled", stranger),
    ("a_hook_from_another_pid_namespace_is_bound", namespace),
    ("sessions_end_with_the_daemon_and_say_what_they_leave", stopped),
    ("who_asks_reads_what_is_its_own", readers),
    ("nobody_answers_from_inside_a_tree_or_from_its_terminal", answered),
    ("without_privileges_hooks_are_answered_and_the_daemon_says_so", unprivileged),
];

fn main() -> ExitCode {
    if let [_, role, socket, target] = &std::env::args().collect::<Vec<_>>()[..]
        && role == "--get"
    {
        return place::get_as_somebody(socket, target);
    }
    let mut arguments = Arguments::from_args();
    // Each daemon loads its own programs: side by side they would only wait for each other.
    arguments.test_threads = Some(1);
    let skip = reason_to_skip();
    if let Some(reason) = &skip {
        eprintln!("skipping {} tests: {reason}", TESTS.len());
    }
    let trials = TESTS.iter().map(|(name, test)| {
        let run = || -> Result<(), Failed> {
            test();
            Ok(())
        };
        Trial::test(*name, run).with_ignored_flag(skip.is_some())
    });
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

/// The only session there is.
fn only(rows: &[AuditRecord]) -> SessionId {
    let [session] = sessions(rows)[..] else { panic!("{:?}", sessions(rows)) };
    session
}

fn start(rows: &[AuditRecord], session: SessionId) -> &SessionStart {
    let mut starts = rows
        .iter()
        .filter_map(|row| if let AuditRecord::SessionStart(start) = row { Some(start) } else { None });
    starts.find(|start| start.session == session).unwrap()
}

fn end(rows: &[AuditRecord], session: SessionId) -> &SessionEnd {
    let mut ends =
        rows.iter().filter_map(|row| if let AuditRecord::SessionEnd(end) = row { Some(end) } else { None });
    ends.find(|end| end.session == session).unwrap()
}

/// Sessions in which a file was opened.
fn opened(rows: &[AuditRecord], name: &str) -> Vec<SessionId> {
    let about = |event: &&Event| event.action.path().is_some_and(|path| path.text.lossy().ends_with(name));
    let mut found: Vec<_> = events(rows).filter(about).map(|event| event.session).collect();
    found.sort_unstable();
    found.dedup();
    found
}

fn adopted() {
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
    place.wait("it is not adopted", |place| place.n_sessions() == 1);
    assert_eq!(agent.run("cat own"), 0);
    assert_eq!(agent.run("echo x > gate; wait $job"), 0);
    assert_eq!(agent.run(&place.hook("resumed")), 0);
    assert_eq!(agent.run("(setsid bash -c 'cat late' &); cat secret/key"), 0);
    assert_eq!(other.run("cat foreign"), 0);
    agent.end();
    place.wait("the session does not end", |place| place.n_sessions() == 0);
    let rows = place.stop();
    let session = only(&rows);
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
}

fn two() {
    let mut place = Place::started(None);
    place.payload("a.json", "sa", "ls");
    place.payload("b.json", "sb", "ls");
    let (mut a, mut b) = (place.agent(), place.agent());
    place.write("of-a", "");
    place.write("of-b", "");
    assert_eq!(a.run(&place.hook("a.json")), 0);
    assert_eq!(b.run(&place.hook("b.json")), 0);
    place.wait("they are not adopted", |place| place.n_sessions() == 2);
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
    let [first, second] = sessions(&rows)[..] else { panic!("{:?}", sessions(&rows)) };
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
}

fn stranger() {
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
    let mut theirs = place.agent_of(NOBODY);
    assert_eq!(theirs.run(&hook), 0);
    place.wait("it is not adopted", |place| place.n_sessions() == 1);
    theirs.end();
    place.wait("the session does not end", |place| place.n_sessions() == 0);
    let rows = place.stop();
    let session = only(&rows);
    assert_eq!(start(&rows, session).root.tgid, theirs.pid());
    assert!(matches!(start(&rows, session).origin, Origin::Adopted { uid: NOBODY, .. }));
    assert_eq!(opened(&rows, "/unseen"), []);
    let of: Vec<_> = hooks(&rows).iter().map(|call| call.session).collect();
    assert_eq!(of, [None, Some(session)]);
}

fn namespace() {
    let mut place = Place::started(None);
    place.payload("pre", "s", "ls");
    place.write("inner", "");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "bash"]).arg(place.path("agent.sh"));
    let mut agent = place.agent_in(command);
    assert_eq!(agent.run(&place.hook("pre")), 0);
    place.wait("it is not adopted", |place| place.n_sessions() == 1);
    assert_eq!(agent.run("test $$ = 1 && cat inner"), 0);
    agent.end();
    place.wait("the session does not end", |place| place.n_sessions() == 0);
    let rows = place.stop();
    let session = only(&rows);
    assert_eq!(hooks(&rows)[0].session, Some(session));
    assert_eq!(opened(&rows, "/inner"), [session]);
    let root = start(&rows, session).root.tgid;
    assert!(root > 1 && root != agent.pid(), "{root} is not as the host counts");
}

fn stopped() {
    let mut place = Place::started(None);
    place.payload("pre", "s", "ls");
    place.write("verify", r#"{"hook_event_name": "defenseclaw.verify"}"#);
    let mut agent = place.agent();
    // Who only tries whether we answer is not watched for it.
    assert_eq!(agent.run(&place.hook("verify")), 0);
    assert_eq!(agent.run(&format!("sleep 1000 & {}", place.hook("pre"))), 0);
    place.wait("it is not adopted", |place| place.n_sessions() == 1);
    let rows = place.stop();
    // Nothing of it stays behind, and it goes on.
    assert_eq!(agent.run("kill $!"), 0);
    let session = only(&rows);
    let of: Vec<_> = hooks(&rows).iter().map(|call| call.session).collect();
    assert_eq!(of, [None, Some(session)]);
    assert_eq!((end(&rows, session).main, end(&rows, session).left_running), (MainExit::StillRunning, 2));
}

/// The question that is open, which comes.
fn question(place: &Place) -> String {
    place.wait("nothing is asked", |place| place.get("/v1/approvals").1.contains("\"id\""));
    let open: serde_json::Value = serde_json::from_str(&place.get("/v1/approvals").1).unwrap();
    open["approvals"][0]["id"].as_str().unwrap().to_owned()
}

fn answered() {
    let mut place = Place::asking();
    let secret = place.path("secret/key");
    place.payload("pre", "s1", &format!("cat {}", secret.display()));
    place.payload("harmless", "s1", "true");
    // An agent in the foreground of a terminal, and beside it who answers: neither it nor the leader is in the tree.
    let (program, socket) = (place.program(), place.path("d.sock"));
    let answer =
        |verb: &str| format!("{} approvals {verb} $id --socket {}", program.display(), socket.display());
    let approve = answer("approve");
    place.write(
        "terminal.sh",
        &format!(
            "set -m; mkfifo ask; (read id < ask; {approve} > said 2>&1; echo $? > code) & bash agent.sh\n"
        ),
    );
    // Who leads a session and opens a terminal that nobody has, has it.
    let terminal = nix::pty::openpty(None, None).unwrap();
    let name = nix::unistd::ttyname(&terminal.slave).unwrap();
    let mut command = Command::new("setsid");
    let open = format!("exec 9<>{}; exec bash --norc -i terminal.sh", name.display());
    command.args(["bash", "-c", &open]);
    let mut agent = place.agent_in(command);
    assert_eq!(agent.run(&place.hook("harmless")), 0);
    place.wait("it is not adopted", |place| place.n_sessions() == 1);
    assert_eq!(agent.run(&format!("({} > reply) & hook=$!", place.held_hook("pre"))), 0);
    let id = question(&place);
    // From inside, also by who has left the session and its parent.
    for way in ["", "setsid --wait "] {
        assert_eq!(agent.run(&format!("id={id}; {way}{}", answer("approve"))), 1, "{way}");
        let said = std::fs::read_to_string(place.path("err-0")).unwrap();
        assert!(said.contains("is watched itself"), "{said}");
    }
    // From outside, at its terminal.
    place.write("id", &id);
    assert_eq!(agent.run("cat id > ask"), 0);
    place.wait("it is not answered", |place| place.path("code").metadata().is_ok_and(|code| code.len() > 0));
    assert_eq!(std::fs::read_to_string(place.path("code")).unwrap(), "1\n");
    let said = std::fs::read_to_string(place.path("said")).unwrap();
    assert!(said.contains("foreground of the terminal"), "{said}");
    // Who has nothing to do with it.
    let output = place
        .defenseclaw()
        .args(["approvals", "deny", &id, "--message", "not today", "--socket"])
        .arg(&socket)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(agent.run("wait $hook"), 0);
    let reply = std::fs::read_to_string(place.path("reply")).unwrap();
    assert!(reply.contains("deny") && reply.contains("not today"), "{reply}");
    drop(agent);
    let rows = place.stop();
    let settled: Vec<_> = rows
        .iter()
        .filter_map(|row| if let AuditRecord::Settled(end) = row { Some(end) } else { None })
        .collect();
    assert_eq!(settled.len(), 1);
    assert!(!settled[0].allowed, "{settled:?}");
}

fn program_of_nobody(place: &Place, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = place.defenseclaw();
    command.args(arguments).env("HOME", place.path("home")).uid(NOBODY).gid(NOBODY);
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn readers() {
    let mut place = Place::started(None);
    place.payload("pre", "s", "ls");
    let mut ours = place.agent();
    assert_eq!(ours.run(&place.hook("pre")), 0);
    place.wait("it is not adopted", |place| place.n_sessions() == 1);
    assert_eq!(ours.run("cat secret/key"), 0);
    let mut theirs = place.agent_of(NOBODY);
    assert_eq!(theirs.run(&place.hook("pre")), 0);
    place.wait("they are not adopted", |place| place.n_sessions() == 2);
    let id = |value: &serde_json::Value| value["session"].as_str().unwrap().to_owned();
    let kept = |place: &Place| -> Vec<serde_json::Value> {
        serde_json::from_str(&place.get("/v1/sessions").1).unwrap()
    };
    // Adopted is not in the audit yet.
    place.wait("their sessions are not kept", |place| kept(place).len() == 2);
    let all = kept(&place);
    let [own, other] = [0, 1].map(|at| id(&all[at]));
    // The owner of one of them, by the program and by hand.
    place.home_of(NOBODY);
    let program = |arguments: &[&str]| program_of_nobody(&place, arguments);
    let lines = |text: &str| -> Vec<serde_json::Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (code, said, _) = program(&["sessions", "--json"]);
    assert_eq!((code, lines(&said).iter().map(id).collect::<Vec<_>>()), (Some(0), vec![other.clone()]));
    place.wait("their rows do not come", |_| program(&["events", "--json"]).1.contains("process_exit"));
    let (code, said, _) = program(&["events", "--json"]);
    assert_eq!(code, Some(0));
    assert!(lines(&said).iter().all(|row| id(row) == other), "{said}");
    assert!(program(&["events", "--session", "last", "--limit", "1"]).1.contains("session_start"));
    let (code, _, said) = program(&["events", "--session", &own]);
    assert_eq!(code, Some(2), "{said}");
    let (code, said, _) = program(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &status["watch"]["watched_sessions"]), (Some(0), &2.into()));
    assert_eq!(status["watch"]["sessions"].as_array().unwrap().iter().map(id).collect::<Vec<_>>(), [&*other]);
    assert!(program(&["status"]).1.contains(&other));
    assert_eq!(place.get_as(NOBODY, &format!("/v1/events?session={own}")), 404);
    assert_eq!(place.get_as(NOBODY, &format!("/v1/events?session={other}")), 200);
    assert_eq!(place.get("/v1/events?offset=7").0, 400);
    assert_eq!(place.get(&format!("/v1/events?session={}", "0".repeat(16))).0, 404);
    // What policy said of ours, and then what comes.
    place.wait("the alert does not come", |place| {
        place.get(&format!("/v1/events?session={own}&alerts=1")).1.contains("secret/key")
    });
    let last = place.rows().len();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            place.get(&format!("/v1/events?session={own}&after={last}&wait_ms=10000&kind=process_exec"))
        });
        assert_eq!(ours.run("/bin/echo hello"), 0);
        let (code, rows) = waiting.join().unwrap();
        assert_eq!(code, 200);
        assert!(lines(&rows)[0]["seq"].as_u64().unwrap() > last as u64, "{rows}");
    });
    ours.end();
    theirs.end();
    place.stop();
    let (code, _, said) = program_of_nobody(&place, &["status"]);
    assert!(code == Some(1) && said.contains("no daemon answers"), "{said}");
}

fn unprivileged() {
    let mut place = Place::started(Some(NOBODY));
    let secret = place.path("secret/key");
    place.payload("pre", "s", &format!("cat {}", secret.display()));
    let watch = place.status()["watch"].clone();
    assert_eq!(watch["level"], "none");
    assert!(watch["unwatched"].as_str().unwrap().contains("root"), "{watch}");
    let mut agent = place.agent_of(NOBODY);
    assert_eq!(agent.run(&place.hook("pre")), 0);
    let said = std::fs::read_to_string(place.path("out-65534")).unwrap();
    assert!(said.contains(r#""permissionDecision":"deny""#), "{said}");
    let rows = place.stop();
    let [call] = hooks(&rows)[..] else { panic!("{rows:?}") };
    assert_eq!((call.session, call.answer.action), (None, PolicyAction::Block));
    assert!(sessions(&rows).is_empty());
}
