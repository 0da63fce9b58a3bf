//! `defenseclaw top` in a pseudo terminal, asking a peer that speaks the daemon's wire, and a real daemon.
#![cfg(test)]

#[path = "top/peer.rs"]
mod peer;
#[path = "top/screen.rs"]
mod screen;

use std::{
    io::Write as _,
    process::{Child, Stdio},
};

use defenseclaw::{
    model::{
        Approval, ApprovalId, ApprovalSettled, AuditRecord, BootTime, Finding, Outcome, Posture,
        PostureChange, Severity,
    },
    runtime::clock,
};
use nix::sys::signal::Signal;
use peer::{Peer, question, session};
use screen::{Screen, program};
use serde_json::json;
use tempfile::TempDir;

const SMALL: (u16, u16) = (24, 80);
const LARGE: (u16, u16) = (50, 200);
/// What stands below a question when answers count.
const ARMED: &str = "y once  s this session  n deny";

fn place() -> (TempDir, Peer) {
    let directory = TempDir::new().unwrap();
    let peer = Peer::start(directory.path(), "d.sock");
    (directory, peer)
}

fn busy(peer: &Peer) {
    peer.says(json!({
        "version": "0.1.0", "pid": 7, "policy": "strict", "mode": "hitl", "generation": 3, "answered": 5, "failed": 0,
        "watch": {"level": "lsm", "unwatched": null, "events_per_second": 12.5, "losses": {}, "sessions": [{
            "session": session().to_string(), "connector": "claude-code", "uid": 4_000_000_000_u32, "pid": 3000,
            // Half a minute from any other reading.
            "since": clock::wall_now().0 - (2 * 3600 + 30) * 1_000_000_000, "events": 77,
        }]},
    }));
    let boot = BootTime(u64::MAX / 2);
    peer.tells(&AuditRecord::Posture(PostureChange { session: session(), boot, posture: Posture::Enforced }));
    peer.tells(&AuditRecord::Finding(Box::new(Finding {
        session: session(),
        boot,
        rule: "unannounced.network".to_owned(),
        severity: Severity::Medium,
        summary: "connected to 203.0.113.9:443, which no call announced".to_owned(),
        tool_call: None,
        process: None,
        evidence: Vec::new(),
    })));
    peer.asks(&question(1, b"/home/dev/.ssh/id_ed25519"), 1);
    peer.asks(&Approval { severity: Severity::Critical, ..question(2, b"/home/dev/.aws/credentials") }, 3);
}

/// Seconds that pass are not what is looked at.
fn still(screen: &str) -> String {
    let seconds = regex::Regex::new(r"\b3(600|59\d) s").unwrap();
    // Nor is whether five of them have passed, after which there is a rate.
    seconds.replace_all(screen, "#### s").replace(" 0/s", "   -")
}

#[test]
fn layouts_are_whole_in_a_small_and_in_a_large_terminal() {
    for (name, size) in [("small", SMALL), ("large", LARGE)] {
        let (directory, peer) = place();
        busy(&peer);
        let screen = Screen::top(directory.path(), &["d.sock"], size);
        screen.see("no call announced");
        screen.see("enforced");
        screen.see("credentials");
        insta::assert_snapshot!(format!("top_lists_{name}"), still(&screen.see("claude-code")));
        screen.typed("\r");
        insta::assert_snapshot!(format!("top_question_{name}"), still(&screen.see(ARMED)));
        screen.typed("\x1b");
        screen.see("Enter open");
        screen.typed("?");
        screen.see("q quits, and answers nothing");
    }
}

#[test]
fn answers_say_what_was_typed_about_the_question_that_was_seen() {
    let (directory, peer) = place();
    let screen = Screen::top(directory.path(), &["d.sock"], SMALL);
    for (index, (keys, said)) in [
        ("y", json!({"ruling": "once", "via": "view"})),
        ("s", json!({"ruling": "session", "via": "view"})),
        ("n", json!({"ruling": "deny", "via": "view"})),
        ("m", json!({"ruling": "deny", "message": "q: ask me first, né", "via": "view"})),
        ("A", json!({"ruling": "always", "via": "view"})),
    ]
    .into_iter()
    .enumerate()
    {
        let id = u64::try_from(index).unwrap() + 1;
        let object = format!("/srv/object-{id}");
        peer.asks(&question(id, object.as_bytes()), 1);
        screen.see(&object);
        screen.typed("\r");
        screen.see(ARMED);
        screen.typed(keys);
        match keys {
            "m" => {
                screen.see("deny, and tell the agent");
                // A message may have any letter; one that is pasted as well.
                screen.typed("q: ask\x1b[200~ me\nfirst\x1b[201~, né");
                screen.see("q: ask me first, né");
                screen.see("Enter sends");
                screen.typed("\r");
            }
            "A" => {
                screen.see("+    action: allow");
                screen.see("/etc/defenseclaw/local.yaml");
                assert_eq!(peer.posted().len(), index);
                screen.see("y write the rule and allow");
                screen.typed("y");
            }
            _ => {}
        }
        assert_eq!(peer.answers(index + 1)[index], (ApprovalId(id).to_string(), said));
        screen.see("approvals 0");
    }
}

#[test]
fn what_is_typed_too_fast_answers_nothing() {
    let (directory, peer) = place();
    peer.asks(&question(1, b"/srv/first"), 1);
    let screen = Screen::top(directory.path(), &["d.sock"], SMALL);
    screen.see("/srv/first");
    // Blindly, and then a key that is held down; pasted text is no answer either.
    screen.typed("\ryyyyyy\x1b[200~y\x1b[201~");
    screen.see(ARMED);
    assert_eq!(peer.posted(), []);
    screen.typed("\x1b");
    screen.see("approvals 1");
    // From the list an answer only opens the question.
    screen.typed("n");
    screen.see(ARMED);
    assert_eq!(peer.posted(), []);
    screen.typed("n");
    assert_eq!(peer.answers(1)[0].1["ruling"], "deny");
}

#[test]
fn nothing_that_comes_or_goes_moves_the_cursor_to_another_question() {
    let (directory, peer) = place();
    peer.asks(&question(5, b"/srv/five"), 1);
    let screen = Screen::top(directory.path(), &["d.sock"], SMALL);
    screen.see("/srv/five");
    // One that would stand before it, and one behind it.
    peer.asks(&question(2, b"/srv/two"), 1);
    peer.asks(&question(7, b"/srv/seven"), 1);
    screen.see("approvals 3");
    screen.typed("\r");
    assert!(screen.see(ARMED).contains("/srv/five"));
    screen.typed("\x1b");
    screen.see("approvals 3");
    peer.settles(5);
    screen.see("approvals 2");
    // Nothing is selected, so a key that was meant for the one that is gone opens nothing.
    screen.typed("\r");
    screen.typed("\r");
    let shown = screen.see(ARMED);
    assert!(shown.contains("/srv/two") && shown.contains("approval a2"), "{shown}");
    // While it is looked at, it ends: answers are dead.
    peer.tells(&AuditRecord::Settled(ApprovalSettled {
        id: ApprovalId(2),
        session: Some(session()),
        boot: BootTime(u64::MAX),
        allowed: false,
        outcome: Outcome::Expired,
        waiters: 1,
    }));
    peer.settles(2);
    screen.see("not open any more");
    screen.see("nobody answered in time");
    screen.typed("y");
    screen.see("it is not open any more");
    assert_eq!(peer.posted(), []);
    // The same id with another beginning is another question.
    peer.asks(&Approval { since: BootTime(9), ..question(2, b"/srv/other") }, 1);
    screen.typed("\x1b");
    screen.see("/srv/other");
    assert_eq!(peer.posted(), []);
}

#[test]
fn an_answer_that_is_not_taken_says_why() {
    let (directory, peer) = place();
    peer.asks(&question(1, b"/srv/first"), 1);
    peer.refuses(Some((403, "who asks stands in a watched tree\x1b[2J")));
    let screen = Screen::top(directory.path(), &["d.sock"], SMALL);
    screen.see("/srv/first");
    screen.typed("\r");
    screen.see(ARMED);
    screen.typed("y");
    screen.see("not answered: who asks stands in a watched tree\\x1b[2J");
    peer.refuses(None);
    screen.see(ARMED);
    screen.typed("y");
    assert_eq!(peer.answers(1)[0].1["ruling"], "once");
}

#[test]
fn hostile_text_forges_nothing_and_is_seen_to_its_end() {
    let mut long = b"/srv/\x1b[2J\x1b]0;title\x07\n\r\x1b[5;1Hforged  HIGH  other.rule ".to_vec();
    long.extend("\u{202e}\u{5d0}\u{200b}\u{9b}31m日本\u{1f469}\u{200d}\u{1f4bb}e\u{301}".as_bytes());
    long.resize(4000, b'\x01');
    long.extend(b"/the-end \xff");
    let (directory, peer) = place();
    let mut hostile = question(1, &long);
    hostile.subject.rule = "rule\n│forged".to_owned();
    hostile.reason = "because\x1b[1A \u{2066}".to_owned();
    hostile.command = vec![defenseclaw::model::Text(long.clone())];
    hostile.agent_session = Some("\x1b[31m\u{202e}".to_owned());
    peer.asks(&hostile, 1);
    peer.asks(&question(2, b"/srv/honest"), 1);
    for size in [SMALL, LARGE] {
        let screen = Screen::top(directory.path(), &["d.sock"], size);
        screen.see("/srv/honest");
        let framed = |rows: &[String]| {
            for row in &rows[1..rows.len() - 1] {
                let ends: Vec<_> =
                    row.chars().next().into_iter().chain(row.trim_end().chars().last()).collect();
                assert!(ends.iter().all(|end| "│┌┐└┘".contains(*end)), "{row:?} in\n{}", rows.join("\n"));
            }
        };
        framed(&screen.rows());
        assert_eq!(screen.contents().matches("/srv/").count(), 2);
        screen.typed("\r");
        let shown = screen.see("the object goes on below");
        framed(&screen.rows());
        // Typed into the terminal's own words: the title, colours and positions of the object were never sent.
        let sent = screen.bytes();
        for raw in [&b"\x1b]0;title"[..], b"\x1b[5;1Hforged", "\u{202e}".as_bytes(), "\u{9b}".as_bytes()] {
            assert!(!sent.windows(raw.len()).any(|window| window == raw), "{raw:?}");
        }
        assert!(shown.contains("\\x1b[2J\\x1b]0;title\\x07\\n\\r\\x1b[5;1Hforged \\x20HIGH"), "{shown}");
        screen.typed("y");
        screen.see("see its end before you allow it");
        assert_eq!(peer.posted(), []);
        // Row by row, the whole of the object can be read.
        let before = screen.contents();
        screen.typed("\x1b[6~");
        screen.wait("another part", |screen| screen.contents() != before);
        screen.typed("\x1b[F");
        screen.see("kept by");
        screen.typed("\x1b[H");
        screen.see("/srv/\\x1b[2J");
        if size == LARGE {
            screen.see(ARMED);
            screen.typed("y");
            assert_eq!(peer.answers(1)[0].0, "a1");
        }
        screen.typed("q");
    }
}

#[test]
fn who_is_asked_may_come_late_go_and_come_back() {
    let directory = TempDir::new().unwrap();
    let screen = Screen::top(directory.path(), &["d.sock", "run.sock"], SMALL);
    let shown = screen.see("nobody to ask: trying again every second");
    assert!(shown.contains("defenseclaw daemon"), "{shown}");
    let daemon = Peer::start(directory.path(), "d.sock");
    daemon.asks(&question(1, b"/srv/of-the-daemon"), 1);
    screen.see("/srv/of-the-daemon");
    let run = Peer::start(directory.path(), "run.sock");
    run.asks(&question(1, b"/srv/of-the-run"), 1);
    screen.see("/srv/of-the-run");
    screen.see("approvals 2");
    screen.typed("\r");
    screen.see(ARMED);
    daemon.stop();
    screen.see("not open any more");
    screen.typed("\x1b");
    screen.see("approvals 1");
    let daemon = Peer::start(directory.path(), "d.sock");
    daemon.asks(&question(1, b"/srv/of-the-next"), 1);
    screen.see("/srv/of-the-next");
    // The same id at two places: the answer goes to the one that was looked at.
    screen.typed("\x1b[H");
    screen.typed("\r");
    assert!(screen.see(ARMED).contains("/srv/of-the-run"));
    screen.typed("y");
    assert_eq!(run.answers(1)[0].0, "a1");
    assert_eq!(daemon.posted(), []);
    run.stop();
    daemon.stop();
    screen.see("nobody to ask: trying again every second");
}

#[test]
fn a_terminal_may_change_its_size_and_says_when_it_is_too_small() {
    let (directory, peer) = place();
    busy(&peer);
    let screen = Screen::top(directory.path(), &["d.sock"], SMALL);
    screen.see("credentials");
    screen.typed("\r");
    screen.see(ARMED);
    screen.resize((10, 50));
    screen.see("too small: 50x10, needs 60x15");
    // What cannot be seen cannot be answered.
    screen.typed("y");
    screen.resize(LARGE);
    screen.see("private keys stay private");
    screen.see(ARMED);
    assert_eq!(peer.posted(), []);
    screen.typed("\x1b");
    screen.see("POSTURE");
    assert_eq!(screen.rows().len(), 50);
    assert!(screen.rows()[48].trim_end().ends_with('┘'));
}

#[test]
fn the_terminal_is_given_back_however_it_ends() {
    for end in [Some(Signal::SIGTERM), Some(Signal::SIGINT), Some(Signal::SIGHUP), None] {
        let (directory, peer) = place();
        peer.asks(&question(1, b"/srv/first"), 1);
        let mut screen = Screen::top(directory.path(), &["d.sock"], SMALL);
        screen.see("/srv/first");
        assert!(!screen.is_cooked());
        match end {
            Some(signal) => screen.signal(signal),
            None => screen.typed("q"),
        }
        let status = screen.ended();
        assert_eq!(status.code(), Some(0), "{end:?}");
        screen.wait("the screen before", |screen| !screen.alternate_screen() && !screen.hide_cursor());
        assert!(screen.is_cooked(), "{end:?}");
        screen.wait("pasting as before", |screen| !screen.bracketed_paste());
        assert_eq!(screen.contents().trim(), "");
        assert_eq!(peer.posted(), []);
    }
}

#[test]
fn without_a_terminal_that_can_draw_it_says_so() {
    let directory = TempDir::new().unwrap();
    let output = program(directory.path()).arg("top").stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("top needs a terminal"), "{said}");
    assert_eq!(output.stdout, b"");

    let mut command = program(directory.path());
    command.arg("top").env("TERM", "dumb");
    let mut screen = Screen::start(command, SMALL);
    screen.wait("a refusal", |screen| screen.contents().contains("TERM=dumb"));
    assert_eq!(screen.ended().code(), Some(2));
    assert!(!screen.bytes().windows(3).any(|three| three == b"\x1b[?"));
}

#[test]
fn no_colour_is_sent_where_nobody_wants_it() {
    let foreground = regex::Regex::new(r"\x1b\[(3[0-7]|9[0-7]|38;[0-9;]+)m").unwrap();
    for (wanted, colours) in [("", true), ("1", false)] {
        let (directory, peer) = place();
        busy(&peer);
        let mut command = program(directory.path());
        command.args(["top", "--socket", "d.sock"]).env("NO_COLOR", wanted);
        let screen = Screen::start(command, SMALL);
        screen.see("credentials");
        screen.see("no call announced");
        let sent = String::from_utf8_lossy(&screen.bytes()).into_owned();
        assert_eq!(foreground.is_match(&sent), colours, "{wanted:?}");
    }
}

/// A daemon, ended with the test.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn a_real_daemon_is_shown_and_its_questions_are_answered() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let rule = format!(
        "{{id: secret, effect: file.read, match: {{paths: ['{}/**']}}, severity: high, reason: keep out}}",
        path("secret").display()
    );
    std::fs::write(path("policy.yaml"), format!("version: 1\nrules:\n  - {rule}\n")).unwrap();
    let [socket, audit, policy] = ["d.sock", "audit.db", "policy.yaml"].map(path);
    let (socket, audit, policy) = (socket.display(), audit.display(), policy.display());
    let config = format!(
        "version: 1\nsocket: {socket}\naudit: {audit}\npolicy: {policy}\nwatch: false\nmode: hitl\nconnectors: {{claude-code: {{ask: hold}}}}\n"
    );
    std::fs::write(path("config.yaml"), config).unwrap();
    let mut screen = Screen::top(directory.path(), &["d.sock"], LARGE);
    screen.see("nobody to ask");
    let mut command = program(directory.path());
    command.args(["daemon", "--config", "config.yaml"]).stdin(Stdio::null()).stderr(Stdio::null());
    let daemon = Daemon(command.spawn().unwrap());
    screen.see(concat!("daemon ", env!("CARGO_PKG_VERSION")));
    screen.see("watches nothing");
    screen.see("approvals 0");

    let ask = |name: &str| {
        let mut command = program(directory.path());
        command.args([
            "hook",
            "claude-code",
            "--timeout-ms",
            "60000",
            "--hold-ms",
            "60000",
            "--socket",
            "d.sock",
        ]);
        let mut hook = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let payload = json!({
            "hook_event_name": "PreToolUse", "session_id": "s1", "cwd": "/", "tool_name": "Read",
            "tool_use_id": name, "tool_input": {"file_path": path("secret").join(name)},
        });
        hook.stdin.take().unwrap().write_all(payload.to_string().as_bytes()).unwrap();
        screen.see(&format!("secret/{name}"));
        screen.typed("\r");
        screen.see(ARMED);
        hook
    };
    let reply = |hook: Child| {
        screen.see("approvals 0");
        String::from_utf8(hook.wait_with_output().unwrap().stdout).unwrap()
    };

    let hook = ask("denied");
    screen.typed("m");
    screen.see("Enter sends");
    screen.typed("not today\r");
    let said = reply(hook);
    assert!(said.contains("deny") && said.contains("not today"), "{said}");

    let hook = ask("allowed");
    screen.typed("y");
    let said = reply(hook);
    assert!(!said.contains("deny"), "{said}");

    let hook = ask("for-good");
    screen.typed("A");
    screen.see("y write the rule and allow");
    let shown = screen.see("policy.local.yaml");
    assert!(shown.contains("secret/for-good"), "{shown}");
    assert!(!path("policy.local.yaml").exists());
    screen.typed("y");
    let said = reply(hook);
    assert!(!said.contains("deny"), "{said}");
    let written = std::fs::read_to_string(path("policy.local.yaml")).unwrap();
    assert!(written.contains("secret/for-good"), "{written}");

    // Rows of the audit tell of it, by the view's word.
    screen.see("(view): not today");
    drop(daemon);
    screen.see("nobody to ask");
    screen.typed("q");
    assert_eq!(screen.ended().code(), Some(0));
}
