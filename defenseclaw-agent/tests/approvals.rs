//! Questions to a person, as people answer them: a real daemon, a hook that waits, and the commands that answer it.
#![cfg(test)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream, process::CommandExt as _},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use defenseclaw::{
    model::{AuditRecord, Outcome, Ruling, Via},
    store::{Filter, Reader, StoreError},
};
use insta::assert_snapshot;
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use serde_json::Value;
use tempfile::TempDir;

/// Long enough for a busy machine; nothing that works waits for it.
const PATIENCE: Duration = Duration::from_mins(1);
/// A user who owns nothing here.
const NOBODY: u32 = 65534;

struct Place {
    dir: TempDir,
    daemon: Child,
}

#[expect(clippy::disallowed_methods, reason = "tests may start processes")]
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_defenseclaw"));
    command.env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Place {
    fn new(approvals: &str) -> Self {
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        fs::write(
            dir.path().join("policy.yaml"),
            format!(
                "version: 1\nrules:\n  - {{id: secret, effect: file.read, match: {{paths: ['{}/**']}}, severity: high, reason: keep out}}\n",
                path("secret")
            ),
        )
        .unwrap();
        let config = format!(
            "version: 1\nsocket: {}\naudit: {}\npolicy: {}\nwatch: false\nmode: hitl\napprovals: {{{approvals}}}\nconnectors: {{claude-code: {{ask: hold}}}}\n",
            path("d.sock"),
            path("audit.db"),
            path("policy.yaml"),
        );
        fs::write(dir.path().join("config.yaml"), config).unwrap();
        let daemon =
            program().arg("daemon").arg("--config").arg(dir.path().join("config.yaml")).spawn().unwrap();
        let place = Self { dir, daemon };
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(place.path("d.sock")).is_err() {
            assert!(Instant::now() < deadline, "the daemon does not listen");
            thread::yield_now();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An agent wants to read a secret, and waits.
    fn ask(&self, name: &str) -> Child {
        let mut child = program()
            .args(["hook", "claude-code", "--timeout-ms", "60000", "--hold-ms", "60000", "--socket"])
            .arg(self.path("d.sock"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let payload = serde_json::json!({
            "hook_event_name": "PreToolUse", "session_id": "s1", "cwd": "/", "tool_name": "Read",
            "tool_use_id": "t1", "tool_input": {"file_path": self.path("secret").join(name)},
        });
        child.stdin.take().unwrap().write_all(payload.to_string().as_bytes()).unwrap();
        child
    }

    fn request(&self, method: &str, target: &str, body: &str) -> (u16, String) {
        let mut stream = UnixStream::connect(self.path("d.sock")).unwrap();
        let length = body.len();
        write!(stream, "{method} {target} HTTP/1.1\r\nhost: d\r\ncontent-length: {length}\r\n\r\n{body}")
            .unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// What is open, once that many questions are.
    fn open(&self, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + PATIENCE;
        let mut target = "/v1/approvals".to_owned();
        loop {
            let (status, body) = self.request("GET", &target, "");
            assert_eq!(status, 200, "{body}");
            let open: Value = serde_json::from_str(&body).unwrap();
            let found = open["approvals"].as_array().unwrap();
            if found.len() == count {
                return found.clone();
            }
            assert!(Instant::now() < deadline, "{body}");
            target = format!("/v1/approvals?after={}&wait_ms=10000", open["version"]);
        }
    }

    fn id(&self) -> String {
        self.open(1)[0]["id"].as_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.args(arguments).arg("--socket").arg(self.path("d.sock")).env("TZ", "UTC");
        command
    }

    fn run(&self, arguments: &[&str]) -> (Option<i32>, String) {
        said(&self.command(arguments).output().unwrap())
    }

    fn stop(mut self) -> Vec<AuditRecord> {
        kill(Pid::from_raw(self.daemon.id().cast_signed()), Signal::SIGTERM).unwrap();
        assert!(self.daemon.wait().unwrap().success());
        let mut rows = Vec::new();
        Reader::open(&self.path("audit.db"))
            .unwrap()
            .records(&Filter::default(), 0, None, |stored| {
                rows.push(stored.record);
                Ok::<_, StoreError>(std::ops::ControlFlow::Continue(()))
            })
            .unwrap();
        rows
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.daemon.kill().ok();
        self.daemon.wait().ok();
    }
}

fn said(output: &Output) -> (Option<i32>, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
}

fn denied(hook: Child) -> Option<String> {
    let output = hook.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.contains(r#""permissionDecision":"deny""#).then_some(text)
}

fn settings(place: &Place) -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(&regex_of(&place.path("").display().to_string()), "[dir]/");
    settings.add_filter(r"\d+\.\d s left", "[time] left");
    settings.add_filter(r"process \d+", "process [pid]");
    settings.add_filter(r"uid \d+", "uid [uid]");
    settings
}

fn regex_of(text: &str) -> String {
    text.replace('.', r"\.")
}

#[test]
fn a_question_is_listed_shown_answered_once_and_kept() {
    let place = Place::new("");
    assert_eq!(place.run(&["approvals", "list"]).0, Some(0));
    let hook = place.ask("key");
    let id = place.id();
    let (listed, shown) = (place.run(&["approvals", "list"]), place.run(&["approvals", "show", &id]));
    assert_eq!((listed.0, shown.0), (Some(0), Some(0)));
    settings(&place).bind(|| {
        assert_snapshot!("approvals_list", listed.1);
        assert_snapshot!("approvals_show", shown.1);
    });
    let (code, text) = place.run(&["approvals", "approve", &id]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(denied(hook), None);
    // The first answer counts.
    let (code, text) = place.run(&["approvals", "deny", &id]);
    assert!(code == Some(1) && text.contains("settled already: allowed, once"), "{code:?} {text}");
    assert!(place.run(&["approvals", "show", &id]).1.contains("settled   allowed, once by uid"));
    assert_eq!(place.request("POST", &format!("/v1/approvals/{id}"), r#"{"ruling":"once"}"#).0, 409);
    let hook = place.ask("key");
    let id = place.id();
    let (code, _) = place.run(&["approvals", "deny", &id, "--message", "use the copy"]);
    assert_eq!(code, Some(0));
    assert!(denied(hook).unwrap().contains("use the copy"));
    let rows = place.stop();
    let ends: Vec<_> = rows
        .iter()
        .filter_map(|row| if let AuditRecord::Settled(end) = row { Some(&end.outcome) } else { None })
        .map(|outcome| {
            let Outcome::Ruled { ruling, by, .. } = outcome else { panic!("{outcome:?}") };
            (*ruling, by.via, by.uid)
        })
        .collect();
    let uid = geteuid().as_raw();
    assert_eq!(ends, [(Ruling::Once, Via::Command, uid), (Ruling::Deny, Via::Command, uid)]);
}

#[test]
fn what_makes_no_sense_is_refused_and_nobody_answers_for_others() {
    let place = Place::new("");
    let hook = place.ask("key");
    let id = place.id();
    for (method, target, body, want) in [
        ("POST", format!("/v1/approvals/{id}"), r#"{"ruling":"maybe"}"#, 400),
        ("POST", format!("/v1/approvals/{id}"), r#"{"ruling":"once","uid":0}"#, 400),
        ("POST", format!("/v1/approvals/{id}"), r#"{"ruling":"once","via":"grant"}"#, 400),
        ("POST", format!("/v1/approvals/{id}"), r#"{"ruling":"once","expires_s":9}"#, 400),
        ("PUT", format!("/v1/approvals/{id}"), "", 405),
        ("POST", "/v1/approvals".to_owned(), "{}", 405),
        ("POST", "/v1/approvals/aff".to_owned(), r#"{"ruling":"once"}"#, 404),
        ("POST", "/v1/approvals/x".to_owned(), r#"{"ruling":"once"}"#, 404),
        ("GET", "/v1/approvals?after=x".to_owned(), "", 400),
        ("DELETE", "/v1/grants/g1".to_owned(), "", 404),
        ("POST", "/v1/grants".to_owned(), "", 405),
    ] {
        let (status, said) = place.request(method, &target, body);
        assert_eq!(status, want, "{method} {target} {body}: {said}");
    }
    let long = format!(r#"{{"ruling":"deny","message":"{}"}}"#, "x".repeat(9000));
    assert_eq!(place.request("POST", &format!("/v1/approvals/{id}"), &long).0, 413);
    assert_eq!(place.run(&["approvals", "approve", "a999"]).0, Some(1));
    assert_eq!(place.run(&["approvals", "approve", "nonsense"]).0, Some(2));
    if geteuid().is_root() {
        // Neither seen nor answered by somebody else.
        let mut command = place.command(&["approvals", "approve", &id]);
        let (code, text) = said(&command.uid(NOBODY).gid(NOBODY).output().unwrap());
        assert_eq!(code, Some(1), "{text}");
        let mut command = place.command(&["approvals", "list", "--json"]);
        assert_eq!(said(&command.uid(NOBODY).gid(NOBODY).output().unwrap()).0, Some(0));
    }
    assert_eq!(place.open(1).len(), 1);
    assert_eq!(place.run(&["grants"]), (Some(0), "note: nothing is granted\n".to_owned()));
    assert_eq!(place.run(&["approvals", "deny", &id]).0, Some(0));
    assert!(denied(hook).is_some());
}

#[test]
fn hostile_text_is_shown_and_not_obeyed() {
    let place = Place::new("");
    let hook = place.ask("\u{1b}[2J\u{202e}\nallowed by root\u{7}");
    let id = place.id();
    for arguments in
        [&["approvals", "list"][..], &["approvals", "show", &id], &["approvals", "list", "--json"]]
    {
        let (code, text) = place.run(arguments);
        assert_eq!(code, Some(0));
        let raw = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(raw), "{text:?}");
        assert!(!text.lines().any(|line| line.starts_with("allowed")), "{text:?}");
    }
    let message = "no\u{1b}[31m";
    assert_eq!(place.run(&["approvals", "deny", &id, "--message", message]).0, Some(0));
    assert!(!place.run(&["approvals", "show", &id]).1.contains('\u{1b}'));
    assert!(denied(hook).is_some());
}

#[test]
fn who_watches_hears_of_questions_and_of_their_ends() {
    let place = Place::new("timeout: 3600s");
    let mut watch = place.command(&["approvals", "watch", "--json"]).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let hook = place.ask("key");
    let asked = next();
    assert_eq!(asked["asked"]["rule"], "secret", "{asked}");
    let id = asked["asked"]["id"].as_str().unwrap().to_owned();
    assert_eq!(place.run(&["approvals", "deny", &id]).0, Some(0));
    let settled = next();
    assert_eq!((&settled["settled"]["ruling"], &settled["approval"]["id"]), (&"deny".into(), &id.into()));
    assert!(denied(hook).is_some());
    // It ends with the daemon's end only for who reads it; a signal ends it.
    kill(Pid::from_raw(watch.id().cast_signed()), Signal::SIGTERM).unwrap();
    watch.wait().unwrap();
    // Somebody who waits for a change does not keep the daemon from ending.
    let (_, body) = place.request("GET", "/v1/approvals", "");
    let version = serde_json::from_str::<Value>(&body).unwrap()["version"].clone();
    thread::scope(|scope| {
        let waits = scope
            .spawn(|| place.request("GET", &format!("/v1/approvals?after={version}&wait_ms=10000"), "").0);
        let hook = place.ask("key");
        assert_eq!(waits.join().unwrap(), 200);
        assert_eq!(place.run(&["approvals", "deny", &place.id()]).0, Some(0));
        assert!(denied(hook).is_some());
    });
}

#[test]
fn what_is_allowed_for_good_is_shown_first_and_not_asked_again() {
    let place = Place::new("");
    let hook = place.ask("key");
    let id = place.id();
    // Nobody is there to agree to it.
    let (code, text) = place.run(&["approvals", "approve", &id, "--always"]);
    assert!(code == Some(2) && text.contains("policy.local.yaml"), "{code:?} {text}");
    assert!(!place.path("policy.local.yaml").exists());
    let (code, text) = place.run(&["approvals", "approve", &id, "--always", "--yes"]);
    assert_eq!(code, Some(0), "{text}");
    settings(&place).bind(|| assert_snapshot!("approvals_always", text));
    assert_eq!(denied(hook), None);
    assert_eq!(fs::metadata(place.path("policy.local.yaml")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(denied(place.ask("key")), None);
    // Of nothing else anything was said.
    let hook = place.ask("other");
    let id = place.id();
    if geteuid().is_root() {
        let mut command = place.command(&["approvals", "approve", &id, "--always", "--yes"]);
        assert_eq!(said(&command.uid(NOBODY).gid(NOBODY).output().unwrap()).0, Some(1));
    }
    assert_eq!(place.run(&["approvals", "deny", &id]).0, Some(0));
    assert!(denied(hook).is_some());
}

#[test]
fn who_does_not_answer_in_time_has_not() {
    let place = Place::new("timeout: 1s");
    let hook = place.ask("key");
    let id = place.id();
    assert!(denied(hook).is_some());
    place.open(0);
    let (code, text) = place.run(&["approvals", "approve", &id]);
    assert!(code == Some(1) && text.contains("nobody had answered in time"), "{code:?} {text}");
}
