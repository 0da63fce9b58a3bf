//! Mode hitl: hooks that wait for a person, who answers at the daemon's socket. The hooks are real processes, and so is
//! everything that ends them.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test picks the rows that it is about")]

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use defenseclaw::model::{ApprovalSettled, Outcome, Ruling};
use serde_json::{Value, json};

use super::*;

/// Longer than anything here takes.
const HOLD: &str = "100000";

impl Place {
    /// A person decides about what is in `asked`, and nothing that is in `secret` is ever read.
    fn asking() -> Self {
        let place = Self::new();
        place.ask_about(&["asked"], "");
        place.configure(
            "mode: hitl\nconnectors:\n  cursor: {ask: fallback}\n  gemini-cli: {fail_mode: closed}\n",
        );
        place
    }

    fn ask_about(&self, asked: &[&str], settings: &str) {
        let rule = |name: &str, severity: &str| {
            let path = self.path(name);
            format!(
                "  - {{id: {name}, effect: file.read, match: {{paths: ['{}/**']}}, severity: {severity}, reason: about {name}}}\n",
                path.display()
            )
        };
        let rules: String = asked.iter().map(|name| rule(name, "high")).collect();
        self.policy(&format!("version: 1\n{settings}rules:\n{rules}{}", rule("secret", "critical")));
    }

    fn held(&self, arguments: &[&str], payload: &[u8]) -> Child {
        let mut command = self.hook(arguments);
        command.args(["--hold-ms", HOLD]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(payload).unwrap();
        child
    }

    /// `cat` of files below, by Claude Code.
    fn cat(&self, names: &[&str], session: &str) -> Vec<u8> {
        let paths: Vec<_> = names.iter().map(|name| self.path(name).display().to_string()).collect();
        before("Bash", &json!({"command": format!("cat {}", paths.join(" "))}), session)
    }

    fn json(&self, line: &str, body: &str) -> Result<Value, String> {
        let length = body.len();
        let reply = self.request(
            format!("{line} HTTP/1.1\r\nhost: d\r\ncontent-length: {length}\r\n\r\n{body}").as_bytes(),
        );
        let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_default();
        if head.starts_with("HTTP/1.1 200") { Ok(serde_json::from_str(body).unwrap()) } else { Err(reply) }
    }

    /// Open questions, once they are as they should be.
    fn open(&self, what: &str, fits: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE;
        let mut after = String::new();
        loop {
            let open = self.json(&format!("GET /v1/approvals?{after}wait_ms=1000"), "").unwrap();
            let all = open["approvals"].as_array().unwrap();
            if fits(all) {
                return all.clone();
            }
            assert!(Instant::now() < deadline, "not {what}: {open}");
            after = format!("after={}&", open["version"]);
        }
    }

    fn answer(&self, approval: &Value, ruling: &Value) {
        let id = approval["id"].as_str().unwrap();
        self.json(&format!("POST /v1/approvals/{id}"), &ruling.to_string()).unwrap();
    }

    /// Answers the only question.
    fn answer_one(&self, ruling: &Value) {
        let open = self.open("asked", |open| open.len() == 1);
        self.answer(&open[0], ruling);
    }
}

fn once() -> Value {
    json!({"ruling": "once", "via": "api"})
}

fn deny(message: Option<&str>) -> Value {
    json!({"ruling": "deny", "message": message, "via": "api"})
}

fn ended(child: Child) -> Output {
    child.wait_with_output().unwrap()
}

fn hooks(records: &[AuditRecord]) -> Vec<&HookCall> {
    records
        .iter()
        .filter_map(|row| if let AuditRecord::Hook(call) = row { Some(&**call) } else { None })
        .collect()
}

fn settled(records: &[AuditRecord]) -> Vec<&ApprovalSettled> {
    records
        .iter()
        .filter_map(|row| if let AuditRecord::Settled(end) = row { Some(end) } else { None })
        .collect()
}

#[test]
fn what_a_person_allows_runs_and_what_a_person_denies_is_told_why() {
    let place = Place::asking().start();
    let yes = place.held(&["claude-code"], &place.cat(&["asked/a"], "s"));
    place.answer_one(&once());
    let yes = ended(yes);
    assert!(is_silent(&yes), "{yes:?}");
    let no = place.held(&["codex"], &place.cat(&["asked/a"], "s"));
    place.answer_one(&deny(Some("use the copy in docs")));
    let no = ended(no);
    let text = stdout(&no);
    assert!(is_denied(&no), "{no:?}");
    for part in
        ["about asked (DefenseClaw rule asked)", "A person was asked and said no: use the copy in docs"]
    {
        assert!(text.contains(part), "{text}");
    }
    let plain = place.held(&["gemini-cli"], &{
        let text = String::from_utf8(place.cat(&["asked/a"], "s")).unwrap();
        text.replace("PreToolUse", "BeforeTool").replace("Bash", "run_shell_command").into_bytes()
    });
    place.answer_one(&deny(None));
    let plain = ended(plain);
    assert!(
        stdout(&plain).contains(r#""decision":"deny""#) && stdout(&plain).contains("said no."),
        "{plain:?}"
    );
    let (records, _place) = place.stop_with_all();
    let seen: Vec<_> = hooks(&records)
        .iter()
        .map(|call| {
            let decision = call.decision.as_ref().unwrap();
            (decision.verdict.raw_action, decision.action, decision.mechanism, call.answer.action)
        })
        .collect();
    let row = |action| (PolicyAction::Confirm, action, Mechanism::HookReply, action);
    assert_eq!(seen, [row(PolicyAction::Allow), row(PolicyAction::Block), row(PolicyAction::Block)]);
    let ends: Vec<_> = settled(&records)
        .iter()
        .map(|end| match &end.outcome {
            Outcome::Ruled { ruling, by, .. } => (end.allowed, *ruling, by.uid, by.pid),
            other => panic!("{other:?}"),
        })
        .collect();
    let by = |allowed, ruling| (allowed, ruling, geteuid().as_raw(), std::process::id());
    assert_eq!(ends, [by(true, Ruling::Once), by(false, Ruling::Deny), by(false, Ruling::Deny)]);
    // The question stands before its end, and that before the hook's row.
    let order: Vec<_> = records
        .iter()
        .filter_map(|row| match row {
            AuditRecord::Asked(_) => Some('a'),
            AuditRecord::Settled(_) => Some('s'),
            AuditRecord::Hook(_) => Some('h'),
            _ => None,
        })
        .collect();
    assert_eq!(order.iter().collect::<String>(), "ashashash");
}

#[test]
fn all_that_a_call_is_about_must_be_allowed_and_nobody_is_asked_about_what_is_blocked() {
    let place = Place::asking().start();
    for (second, denied) in [(once(), false), (deny(None), true)] {
        let held = place.held(&["claude-code"], &place.cat(&["asked/a", "asked/b", "asked/a"], "s"));
        let open = place.open("two questions", |open| open.len() == 2);
        place.answer(&open[0], &once());
        place.open("one question", |open| open.len() == 1);
        place.answer(&open[1], &second);
        assert_eq!(is_denied(&ended(held)), denied);
    }
    // The first no is enough, and ends the other question.
    let held = place.held(&["claude-code"], &place.cat(&["asked/a", "asked/b"], "s"));
    let open = place.open("two questions", |open| open.len() == 2);
    place.answer(&open[1], &deny(None));
    assert!(is_denied(&ended(held)));
    place.open("no question", <[Value]>::is_empty);
    let held = place.held(&["claude-code"], &place.cat(&["asked/a", "secret/b"], "s"));
    let blocked = ended(held);
    assert!(is_denied(&blocked) && stdout(&blocked).contains("about secret"), "{blocked:?}");
    let (records, _place) = place.stop_with_all();
    let outcomes: Vec<_> = settled(&records).iter().map(|end| end.allowed).collect();
    assert_eq!(outcomes, [true, true, true, false, false, false]);
}

#[test]
fn where_nobody_can_be_asked_the_fallback_applies_at_once() {
    let place = Place::asking().start();
    let payload = place.cat(&["asked/a"], "s");
    // Nothing says that it may be held, and too short a time for anybody.
    let mut short = place.hook(&["codex"]);
    short.args(["--hold-ms", "3500"]);
    for output in
        [place.ask(&["codex"], &payload), place.ask(&["claude-code"], &payload), finish(short, &payload)]
    {
        assert!(is_denied(&output), "{output:?}");
    }
    let cursor = json!({"hook_event_name": "beforeReadFile", "conversation_id": "s", "file_path": place.path("asked/a")});
    let output = ended(place.held(&["cursor"], cursor.to_string().as_bytes()));
    assert!(stdout(&output).contains(r#""permission":"deny""#), "{output:?}");
    // After a tool there is nothing to wait for, and elsewhere nobody is asked.
    let text = json!({"hook_event_name": "UserPromptSubmit", "session_id": "s", "prompt": "read asked/a"});
    assert!(is_silent(&ended(place.held(&["claude-code"], text.to_string().as_bytes()))));
    place.ask_about(&["asked"], "settings: {confirm_fallback: allow}\n");
    place.json("POST /v1/reload", "").unwrap();
    let output = place.ask(&["codex"], &payload);
    assert!(is_silent(&output), "{output:?}");
    let (records, _place) = place.stop_with_all();
    assert!(settled(&records).is_empty());
    for call in hooks(&records).iter().filter(|call| call.event.as_ref().unwrap().name != "UserPromptSubmit")
    {
        assert_eq!(call.decision.as_ref().unwrap().verdict.raw_action, PolicyAction::Confirm);
    }
}

#[test]
fn a_question_that_nobody_answers_ends_with_the_fallback() {
    for (fallback, denied) in [("block", true), ("allow", false)] {
        let place = Place::asking();
        place.ask_about(&["asked"], &format!("settings: {{confirm_fallback: {fallback}}}\n"));
        let place = place.start();
        let mut command = place.hook(&["codex"]);
        command.args(["--hold-ms", "4200"]);
        let output = finish(command, &place.cat(&["asked/a"], "s"));
        assert_eq!((is_denied(&output), is_silent(&output)), (denied, !denied), "{output:?}");
        assert_eq!(stdout(&output).contains("nobody has answered in time"), denied, "{output:?}");
        let (records, _place) = place.stop_with_all();
        let [end] = settled(&records)[..] else { panic!("{records:?}") };
        assert_eq!((&end.outcome, end.allowed), (&Outcome::Expired, !denied));
    }
}

#[test]
fn sixty_four_wait_at_once_and_others_are_answered_meanwhile() {
    const CALLERS: usize = 64;
    let place = Place::asking().start();
    let held: Vec<_> = (0..CALLERS)
        .map(|caller| {
            // In each of four sessions four ask about each of four files.
            let (session, file) = (format!("s{}", caller % 4), format!("asked/{}", caller / 4 % 4));
            (caller, place.held(&["claude-code"], &place.cat(&[&file], &session)))
        })
        .collect();
    let waiters = |open: &[Value]| open.iter().map(|open| open["waiters"].as_u64().unwrap()).sum::<u64>();
    let open = place.open("64 waiters", |open| waiters(open) == CALLERS as u64);
    assert_eq!(open.len(), 16, "equal questions of one session are one");
    let others = place.claude("Bash", &json!({"command": "ls"}));
    assert!(is_silent(&others), "{others:?}");
    let status = place.json("GET /v1/status", "").unwrap();
    assert_eq!(status["held"], CALLERS);
    for question in &open {
        let even = question["object"].as_str().unwrap().ends_with(['0', '2']);
        place.answer(question, &if even { once() } else { deny(None) });
    }
    for (caller, child) in held {
        let output = ended(child);
        let even = caller / 4 % 2 == 0;
        assert_eq!((is_silent(&output), is_denied(&output)), (even, !even), "{caller} {output:?}");
    }
    let (records, _place) = place.stop_with_all();
    assert_eq!((hooks(&records).len(), settled(&records).len()), (CALLERS + 1, 16));
    assert!(settled(&records).iter().all(|end| end.waiters == 4));
}

#[test]
fn a_question_ends_with_the_last_who_waits_for_it() {
    let place = Place::asking().start();
    let payload = place.cat(&["asked/a"], "s");
    let mut all: Vec<_> = (0..3).map(|_| place.held(&["claude-code"], &payload)).collect();
    for left in (0..3).rev() {
        place.open("waiting", |open| open.len() == 1 && open[0]["waiters"] == left + 1);
        let mut child = all.pop().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
    place.open("withdrawn", <[Value]>::is_empty);
    let (records, _place) = place.stop_with_all();
    let [end] = settled(&records)[..] else { panic!("{records:?}") };
    assert!(matches!(end.outcome, Outcome::Withdrawn { .. }) && !end.allowed, "{end:?}");
    let calls = hooks(&records);
    assert_eq!(calls.len(), 3);
    for call in calls {
        assert!(call.problem.as_ref().is_some_and(|why| why.contains("did not wait")), "{call:?}");
        assert!(call.answer.action == PolicyAction::Confirm && call.answer.stdout.is_empty());
    }
}

#[test]
fn a_daemon_that_is_killed_leaves_who_waits_to_its_fail_mode() {
    let mut place = Place::asking().start();
    let payload = place.cat(&["asked/a"], "s");
    let open = place.held(&["claude-code", "--fail", "open"], &payload);
    let closed = place.held(&["claude-code", "--fail", "closed"], &payload);
    place.open("both", |open| open.len() == 1 && open[0]["waiters"] == 2);
    let mut daemon = place.daemon.take().unwrap();
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    let (open, closed) = (ended(open), ended(closed));
    assert!(is_silent(&open), "{open:?}");
    assert!(is_denied(&closed) && stdout(&closed).contains("DefenseClaw gave no answer"), "{closed:?}");
}

#[test]
fn a_daemon_that_stops_answers_who_waits_by_the_fallback() {
    let place = Place::asking().start();
    let held: Vec<_> = (0..8)
        .map(|file| place.held(&["claude-code"], &place.cat(&[&format!("asked/{file}")], "s")))
        .collect();
    place.open("all", |open| open.len() == held.len());
    let (records, _place) = place.stop_with_all();
    for child in held {
        let output = ended(child);
        assert!(is_denied(&output) && stdout(&output).contains("nobody can be asked any more"), "{output:?}");
    }
    let calls = hooks(&records);
    assert!(calls.len() == 8 && calls.iter().all(|call| call.answer.action == PolicyAction::Block));
    assert_eq!(settled(&records).len(), 8);
}

#[test]
fn an_answer_counts_for_what_is_in_force_when_it_comes() {
    let place = Place::asking().start();
    let payload = place.cat(&["asked/a"], "s");
    for (asked, denied) in [(&["asked", "other"][..], false), (&[], true)] {
        let held = place.held(&["claude-code"], &payload);
        place.open("asked", |open| open.len() == 1);
        place.ask_about(asked, "");
        if denied {
            let policy = fs::read_to_string(place.path("policy.yaml")).unwrap();
            place.policy(&policy.replace("/secret/", "/asked/"));
        }
        place.json("POST /v1/reload", "").unwrap();
        place.answer_one(&once());
        let output = ended(held);
        assert_eq!((is_denied(&output), is_silent(&output)), (denied, !denied), "{output:?}");
    }
    let calls = place.stop_with_all().0;
    let rules: BTreeMap<_, _> = hooks(&calls)
        .iter()
        .map(|call| call.decision.as_ref().unwrap())
        .map(|decision| (decision.verdict.rule_ids[0].clone(), decision.generation))
        .collect();
    assert_eq!(rules, BTreeMap::from([("asked".to_owned(), 1), ("secret".to_owned(), 3)]));
}

/// A terminal, and our end of it.
fn terminal() -> (OwnedFd, OwnedFd) {
    let (mut ours, mut theirs) = (-1, -1);
    let null = std::ptr::null_mut();
    // SAFETY: both numbers live, and the rest may be null.
    let made = unsafe { libc::openpty(&raw mut ours, &raw mut theirs, null, null.cast(), null.cast()) };
    assert_eq!(made, 0);
    // SAFETY: the call has just made both, and nobody else has them.
    unsafe { (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs)) }
}

/// A script that is called like the agent runs its hook, at a terminal or not.
fn agent(place: &Place, arguments: &[&str], terminal: Option<&OwnedFd>, payload: &[u8]) -> Output {
    let script = place.path("claude");
    let hook = place.hook(&["claude-code"]);
    let words = hook.get_args().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
    let [payload_file, said] = ["payload", "said"].map(|name| place.path(name));
    fs::write(&payload_file, payload).unwrap();
    let text = format!(
        // As agents do: a shell of its own, so that what the agent reads and writes stays what it is.
        "#!/bin/sh\n/bin/sh -c '{} {words} --hold-ms {HOLD} < {} > {}'\nexit $?\n",
        env!("CARGO_BIN_EXE_defenseclaw"),
        payload_file.display(),
        said.display()
    );
    fs::write(&script, text).unwrap();
    #[expect(clippy::disallowed_methods, reason = "tests may start processes")]
    let mut command = Command::new("/bin/sh");
    command.arg(&script).args(arguments).env_clear().env("HOME", "/nonexistent");
    match terminal {
        Some(terminal) => {
            let file = || Stdio::from(terminal.try_clone().unwrap());
            command.stdin(file()).stdout(file()).stderr(file());
            let number = terminal.as_fd().as_raw_fd();
            // SAFETY: only system calls, between fork and exec.
            unsafe {
                command.pre_exec(move || {
                    nix::unistd::setsid()?;
                    match libc::ioctl(number, libc::TIOCSCTTY, 0) {
                        0 => Ok(()),
                        _ => Err(std::io::Error::last_os_error()),
                    }
                });
            }
        }
        None => {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        }
    }
    let mut child = command.spawn().unwrap();
    if terminal.is_none() || !arguments.is_empty() {
        place.answer_one(&once());
    }
    let status = child.wait().unwrap();
    Output { status, stdout: fs::read(said).unwrap(), stderr: Vec::new() }
}

#[test]
fn the_agent_asks_where_somebody_sits_there_and_what_follows_tells_what_was_said() {
    let place = Place::asking().start();
    let (_ours, theirs) = terminal();
    let payload = place.cat(&["asked/a"], "s");
    let asked = agent(&place, &[], Some(&theirs), &payload);
    assert!(stdout(&asked).contains(r#""permissionDecision":"ask""#), "{asked:?}");
    assert!(stdout(&asked).contains("about asked"), "{asked:?}");
    // It is shown, and cannot be answered here.
    let open = place.open("shown", |open| open.len() == 1);
    let id = open[0]["id"].as_str().unwrap();
    let refused = place.json(&format!("POST /v1/approvals/{id}"), &once().to_string()).unwrap_err();
    assert!(refused.contains("dialogue"), "{refused}");
    let text = String::from_utf8(payload.clone()).unwrap();
    let after = text.replace("PreToolUse", "PostToolUse");
    assert!(is_silent(&place.ask(&["claude-code"], after.as_bytes())));
    place.open("allowed", <[Value]>::is_empty);
    // The agent goes on without the tool having run.
    let again = agent(&place, &[], Some(&theirs), text.replace("t1", "t2").as_bytes());
    assert!(stdout(&again).contains(r#""permissionDecision":"ask""#), "{again:?}");
    let stop = json!({"hook_event_name": "Stop", "session_id": "s", "cwd": "/"}).to_string();
    place.ask(&["claude-code"], stop.as_bytes());
    place.open("denied", <[Value]>::is_empty);
    // Nobody sits there: it is held, and answered here.
    for (arguments, terminal) in [(&["-p", "x"][..], Some(&theirs)), (&[], None)] {
        let held = agent(&place, arguments, terminal, &payload);
        assert!(is_silent(&held), "{arguments:?} {held:?}");
    }
    let (records, _place) = place.stop_with_all();
    let ends: Vec<_> = settled(&records)
        .iter()
        .map(|end| match &end.outcome {
            Outcome::Ruled { ruling, by, .. } => (*ruling, by.via.as_str()),
            other => panic!("{other:?}"),
        })
        .collect();
    let want =
        [(Ruling::Once, "agent"), (Ruling::Deny, "agent"), (Ruling::Once, "api"), (Ruling::Once, "api")];
    assert_eq!(ends, want);
    let first = hooks(&records)[0];
    assert_eq!(first.answer.action, PolicyAction::Confirm);
    assert_eq!(first.decision.as_ref().unwrap().action, PolicyAction::Confirm);
}
