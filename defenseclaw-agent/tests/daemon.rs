//! The daemon and the program that asks it, as agents use them: real processes, a real socket, a real audit.
#![cfg(test)]

#[path = "daemon/held.rs"]
mod held;

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
        process::CommandExt,
    },
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use defenseclaw::{
    model::{AuditRecord, Enforced, FailMode, HookCall, Mechanism, PolicyAction},
    store::{Filter, Reader, verify},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, geteuid},
};
use tempfile::TempDir;

/// Long enough for a busy machine; nothing that works waits for it.
const PATIENCE: Duration = Duration::from_mins(1);

/// A user who owns nothing here.
const NOBODY: u32 = 65534;

struct Place {
    dir: TempDir,
    daemon: Option<Child>,
}

#[expect(clippy::disallowed_methods, reason = "tests may start processes")]
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_defenseclaw"));
    command.env_clear().env("HOME", "/nonexistent").stdin(Stdio::null());
    command
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        // Others must reach the socket where the daemon is root.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let place = Self { dir, daemon: None };
        let secret = place.path("secret");
        place.policy(&format!(
            "version: 1\nrules:\n  - {{id: secret, effect: file.read, match: {{paths: ['{}/**']}}, severity: critical, reason: keep out}}\n",
            secret.display()
        ));
        place.configure("mode: action\nconnectors:\n  codex: {enabled: false}\n  gemini-cli: {fail_mode: closed}\n  cursor: {mode: observe}\n");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn policy(&self, text: &str) {
        fs::write(self.path("policy.yaml"), text).unwrap();
    }

    fn configure(&self, rest: &str) {
        let [socket, audit, policy] = ["d.sock", "audit.db", "policy.yaml"].map(|name| self.path(name));
        let (socket, audit, policy) = (socket.display(), audit.display(), policy.display());
        let text =
            format!("version: 1\nsocket: {socket}\naudit: {audit}\npolicy: {policy}\nwatch: false\n{rest}");
        fs::write(self.path("config.yaml"), text).unwrap();
    }

    fn command(&self) -> Command {
        let mut command = program();
        command.arg("daemon").arg("--config").arg(self.path("config.yaml"));
        command
    }

    fn started() -> Self {
        Self::new().start()
    }

    fn start(self) -> Self {
        let mut place = self;
        place.daemon = Some(place.command().spawn().unwrap());
        place.started_again()
    }

    /// The same, of a daemon that was started by hand.
    fn started_again(self) -> Self {
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(self.path("d.sock")).is_err() {
            assert!(Instant::now() < deadline, "the daemon does not listen");
            thread::yield_now();
        }
        self
    }

    fn hook(&self, arguments: &[&str]) -> Command {
        let mut command = program();
        command.arg("hook").args(arguments).arg("--socket").arg(self.path("d.sock"));
        command.args(["--timeout-ms", "60000"]);
        command
    }

    fn ask(&self, arguments: &[&str], payload: &[u8]) -> Output {
        finish(self.hook(arguments), payload)
    }

    fn claude(&self, tool: &str, input: &serde_json::Value) -> Output {
        self.ask(&["claude-code"], &before(tool, input, "s1"))
    }

    fn request(&self, text: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.path("d.sock")).unwrap();
        // It may answer before it has read everything.
        drop(stream.write_all(text));
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).ok();
        String::from_utf8_lossy(&reply).into_owned()
    }

    /// Ends the daemon; what the audit holds then, which is whole.
    fn stop(self) -> Vec<HookCall> {
        self.stop_here().0
    }

    /// The same; the directory is still there.
    fn stop_here(self) -> (Vec<HookCall>, Self) {
        let (records, place) = self.stop_with_all();
        let hook = |record| {
            let AuditRecord::Hook(call) = record else { panic!("{record:?}") };
            *call
        };
        (records.into_iter().map(hook).collect(), place)
    }

    fn stop_with_all(mut self) -> (Vec<AuditRecord>, Self) {
        let mut daemon = self.daemon.take().unwrap();
        kill(Pid::from_raw(i32::try_from(daemon.id()).unwrap()), Signal::SIGTERM).unwrap();
        assert!(daemon.wait().unwrap().success());
        assert!(!self.path("d.sock").exists());
        let database = self.path("audit.db");
        assert!(verify(&database, None).unwrap().first_break.is_none());
        let mut records = Vec::new();
        Reader::open(&database)
            .unwrap()
            .records(&Filter::default(), 0, None, |stored| {
                records.push(stored.record);
                Ok::<_, defenseclaw::store::StoreError>(std::ops::ControlFlow::Continue(()))
            })
            .unwrap();
        (records, self)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            daemon.kill().ok();
            daemon.wait().ok();
        }
    }
}

fn finish(mut command: Command, payload: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // Who does not read everything closes its end.
    child.stdin.take().unwrap().write_all(payload).ok();
    child.wait_with_output().unwrap()
}

fn before(tool: &str, input: &serde_json::Value, session: &str) -> Vec<u8> {
    serde_json::json!({
        "hook_event_name": "PreToolUse", "session_id": session, "cwd": "/", "tool_name": tool,
        "tool_use_id": "t1", "tool_input": input,
    })
    .to_string()
    .into_bytes()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn is_denied(output: &Output) -> bool {
    output.status.success() && stdout(output).contains(r#""permissionDecision":"deny""#)
}

fn is_silent(output: &Output) -> bool {
    output.status.success() && output.stdout.is_empty() && output.stderr.is_empty()
}

#[test]
fn what_policy_blocks_is_denied_in_the_agents_words_and_kept() {
    let place = Place::started();
    let secret = place.path("secret/key").display().to_string();
    let read = place.claude("Read", &serde_json::json!({"file_path": secret}));
    assert!(is_denied(&read) && stdout(&read).contains("keep out (DefenseClaw rule secret)"), "{read:?}");
    let cat = place.claude("Bash", &serde_json::json!({"command": format!("cd / && cat {secret} | head")}));
    assert!(is_denied(&cat), "{cat:?}");
    for command in ["ls -l /", "cat $SECRET", "if then ((", "echo 'cat secret/key'"] {
        let output = place.claude("Bash", &serde_json::json!({"command": command}));
        assert!(is_silent(&output), "{command}: {output:?}");
    }
    // Off, and observing only.
    let off =
        place.ask(&["codex"], &before("Bash", &serde_json::json!({"command": format!("cat {secret}")}), "s"));
    assert!(is_silent(&off), "{off:?}");
    let calls = place.stop();
    assert_eq!(calls.len(), 7);
    for call in &calls[..2] {
        let decision = call.decision.as_ref().unwrap();
        assert_eq!((decision.action, decision.mechanism), (PolicyAction::Block, Mechanism::HookReply));
        assert_eq!(decision.enforced, Some(Enforced::Applied));
        assert_eq!(decision.verdict.rule_ids, ["secret"]);
        let event = call.event.as_ref().unwrap();
        assert_eq!((event.name.as_str(), event.session.as_deref()), ("PreToolUse", Some("s1")));
        assert_eq!(event.tools[0].id.as_deref(), Some("t1"));
        assert!(!event.tools[0].intents.is_empty() && call.caller.pid > 0);
        assert_eq!(call.caller.uid, geteuid().as_raw());
        assert_eq!(call.answer.action, PolicyAction::Block);
        assert!(call.policy.as_ref().is_some_and(|policy| policy.digest.len() == 64));
    }
    for call in &calls[2..6] {
        assert_eq!(call.decision.as_ref().unwrap().action, PolicyAction::Allow);
    }
    assert!(calls[6].decision.is_none());
}

#[test]
fn texts_are_judged_where_the_agent_shows_them_and_secrets_are_kept_nowhere() {
    let place = Place::new();
    place.policy(
        "version: 1\nrules:\n  - {id: corp, effect: [prompt, tool.input, message], match: {patterns: 'CORP-[0-9]+'}, severity: high, reason: no numbers}\n  \
         - {id: token, effect: tool.output, match: {detectors: secrets}, severity: critical, reason: no tokens}\n",
    );
    let place = place.start();
    // Put together here, so that it stands nowhere.
    let token = ["ghp", "aB3dE7gH1jK9mN2pQ4sT6vW8xY0zC5fR1uL3"].join("_");
    let say = |name: &str, rest: serde_json::Value| {
        let mut payload = serde_json::json!({"hook_event_name": name, "session_id": "s", "cwd": "/"});
        payload.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        place.ask(&["claude-code"], payload.to_string().as_bytes())
    };
    let prompt = say("UserPromptSubmit", serde_json::json!({"prompt": format!("CORP-314159 {token}")}));
    assert!(stdout(&prompt).contains(r#""decision":"block""#), "{prompt:?}");
    assert!(is_silent(&say("UserPromptSubmit", serde_json::json!({"prompt": "make the tests pass"}))));
    let input = serde_json::json!({"command": format!("echo CORP-271828 {token}")});
    assert!(is_denied(&place.claude("Bash", &input)));
    let after = |tool: &str| {
        let output = serde_json::json!({"stdout": format!("x {token} y"), "stderr": ""});
        say(
            "PostToolUse",
            serde_json::json!({"tool_name": tool, "tool_input": input, "tool_response": output}),
        )
    };
    let withheld = after("Bash");
    assert!(stdout(&withheld).contains("updatedToolOutput") && stdout(&withheld).contains("no tokens"));
    let told = after("Read");
    assert!(stdout(&told).contains(r#""decision":"block""#), "{told:?}");
    assert!(is_silent(&say("Stop", serde_json::json!({"last_assistant_message": "it is CORP-161803"}))));
    // Nobody judges these, and they are kept.
    say("Notification", serde_json::json!({"prompt": token}));
    place.ask(&["codex"], &before("Bash", &serde_json::json!({"command": token}), "off"));
    let database = place.path("audit.db");
    let (calls, dir) = place.stop_here();
    let seen: Vec<_> = calls
        .iter()
        .map(|call| call.decision.as_ref().map(|decision| (decision.action, decision.enforced)))
        .collect();
    let held = Some((PolicyAction::Block, Some(Enforced::Applied)));
    let late = Some((PolicyAction::Alert, Some(Enforced::TooLate)));
    let alert = Some((PolicyAction::Alert, Some(Enforced::Unsupported)));
    assert_eq!(seen, [held, Some((PolicyAction::Allow, None)), held, held, late, alert, None, None]);
    let found = &calls[0].event.as_ref().unwrap().found;
    assert_eq!(found.iter().map(|found| found.what.as_str()).collect::<Vec<_>>(), ["github-token", "corp"]);
    let bytes = fs::read(&database).unwrap();
    for secret in [token.as_str(), "CORP-314159", "CORP-271828", "CORP-161803"] {
        let there = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!there, "{secret} is in the audit");
    }
    drop(dir);
}

#[test]
fn observing_holds_nothing_and_says_what_would_be() {
    let place = Place::started();
    place.configure("mode: observe\n");
    let reload = b"POST /v1/reload HTTP/1.1\r\nhost: d\r\ncontent-length: 0\r\n\r\n";
    let reply = place.request(reload);
    assert!(reply.starts_with("HTTP/1.1 200") && reply.contains(r#""generation":2"#), "{reply}");
    let secret = place.path("secret/key").display().to_string();
    let read = place.claude("Read", &serde_json::json!({"file_path": secret}));
    assert!(!is_denied(&read), "{read:?}");
    // What cannot be used changes nothing.
    place.policy("version: 1\nrules: 7\n");
    let reply = place.request(reload);
    assert!(reply.starts_with("HTTP/1.1 422") && reply.contains("policy.yaml:2:"), "{reply}");
    assert!(place.request(b"GET /v1/status HTTP/1.1\r\nhost: d\r\n\r\n").contains(r#""generation":2"#));
    let calls = place.stop();
    let decision = calls[0].decision.as_ref().unwrap();
    assert!(decision.would_block && decision.action == PolicyAction::Alert && decision.generation == 2);
}

#[test]
fn without_a_daemon_the_fail_mode_answers() {
    let place = Place::new();
    let payload = before("Bash", &serde_json::json!({"command": "ls"}), "s");
    let silent = UnixListener::bind(place.path("silent.sock")).unwrap();
    for socket in ["absent.sock", "silent.sock"] {
        for (mode, denied) in [("open", false), ("closed", true)] {
            let mut command = program();
            command.args(["hook", "claude-code", "--fail", mode, "--timeout-ms", "300", "--socket"]);
            command.arg(place.path(socket));
            let output = finish(command, &payload);
            assert_eq!((is_denied(&output), is_silent(&output)), (denied, !denied), "{socket} {output:?}");
        }
    }
    drop(silent);
    // A flag of another version does not lose the fail mode.
    let output = place.ask(&["claude-code", "--fail", "closed", "--later", "x"], &payload);
    assert!(is_denied(&output), "{output:?}");
    assert_eq!(place.ask(&["nobody"], &payload).status.code(), Some(1));
}

#[test]
fn what_the_fail_mode_answered_is_told_at_the_next_contact() {
    let place = Place::new();
    let payload = before("Bash", &serde_json::json!({"command": "cat /the/payload"}), "s9");
    // Nobody there, and somebody who is silent.
    for fail in ["open", "closed"] {
        place.ask(&["claude-code", "--fail", fail], &payload);
    }
    let silent = UnixListener::bind(place.path("d.sock")).unwrap();
    let mut command = program();
    command.args(["hook", "codex", "--timeout-ms", "300", "--socket"]).arg(place.path("d.sock"));
    finish(command, b"\xff");
    drop(silent);
    fs::remove_file(place.path("d.sock")).unwrap();
    let spool = place.path("missed");
    let kept = fs::read_to_string(&spool).unwrap();
    assert_eq!(kept.lines().count(), 3);
    assert!(!kept.contains("payload"), "{kept}");
    assert_eq!(fs::metadata(&spool).unwrap().permissions().mode() & 0o777, 0o600);
    // What others wrote there is not taken for more than it is.
    let mut file = fs::OpenOptions::new().append(true).open(&spool).unwrap();
    file.write_all(b"\x1b[2J\ncursor\ncursor\n").unwrap();
    let place = place.start();
    for _ in 0..2 {
        place.claude("Bash", &serde_json::json!({"command": "ls"}));
    }
    assert_eq!(fs::read(&spool).unwrap(), b"");
    assert!(place.request(b"GET /v1/status HTTP/1.1\r\nhost: d\r\n\r\n").contains(r#""missed":4"#));
    let calls = place.stop();
    let told: Vec<_> = calls
        .iter()
        .filter_map(|call| Some((call, call.event.as_ref()?)).filter(|(_, event)| event.late.is_some()))
        .map(|(call, event)| (event.name.as_str(), event.session.as_deref(), call.answer.failed))
        .collect();
    assert_eq!(
        told,
        [
            ("PreToolUse", Some("s9"), Some(FailMode::Open)),
            ("PreToolUse", Some("s9"), Some(FailMode::Closed)),
            ("defenseclaw.missed", None, Some(FailMode::Open)),
            ("defenseclaw.missed", None, Some(FailMode::Open)),
        ]
    );
    assert_eq!(calls.len(), 6);
    assert!(
        calls.iter().filter_map(|call| call.problem.as_deref()).any(|why| why.ends_with(": unreachable"))
    );
}

impl Place {
    /// `connector …` of a user who lives here.
    fn connector(&self, words: &[&str]) -> Output {
        let mut command = program();
        command.arg("connector").args(words).arg("--config").arg(self.path("config.yaml"));
        command.env("HOME", self.path("home")).current_dir(self.dir.path()).output().unwrap()
    }

    fn until(&self, what: &str, fits: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.request(b"GET /v1/status HTTP/1.1\r\nhost: d\r\n\r\n");
            if fits(&status) {
                return;
            }
            assert!(Instant::now() < deadline, "not {what}: {status}");
            thread::yield_now();
        }
    }
}

/// Causes of the daemon's own rows.
fn tampering(calls: &[HookCall]) -> Vec<String> {
    let events = calls.iter().filter_map(|call| call.event.as_ref());
    events
        .filter(|event| event.name == "defenseclaw.tamper")
        .filter_map(|event| event.cause.clone())
        .collect()
}

#[test]
fn a_hook_that_is_taken_out_is_noticed() {
    let place = Place::new();
    fs::create_dir(place.path("home")).unwrap();
    let settings = place.path("home/.claude/settings.json");
    assert!(place.connector(&["install", "claude-code"]).status.success());
    let whole = fs::read_to_string(&settings).unwrap();
    let place = place.start();
    place.until("installed", |status| status.contains(r#""state":"installed""#));
    fs::write(&settings, "{}").unwrap();
    place.until("removed", |status| status.contains(r#""state":"removed""#));
    fs::write(&settings, &whole).unwrap();
    place.until("restored", |status| status.contains(r#""state":"installed""#));
    // In a file of which nothing is ours, made by renaming as editors do.
    let aside = place.path("home/.claude/settings.local.json");
    fs::write(place.path("home/x"), r#"{"disableAllHooks": true}"#).unwrap();
    fs::rename(place.path("home/x"), &aside).unwrap();
    place.until("disabled", |status| status.contains(r#""state":"disabled""#));
    let listed = place.connector(&["verify", "claude-code"]);
    assert_eq!(listed.status.code(), Some(1));
    fs::remove_file(&aside).unwrap();
    place.until("restored", |status| status.contains(r#""state":"installed""#));
    // Not tampering, but said.
    assert!(place.connector(&["remove", "claude-code"]).status.success());
    place.until("forgotten", |status| status.contains(r#""hooks":[]"#));
    assert_eq!(tampering(&place.stop()), ["removed", "restored", "disabled", "restored", "unregistered"]);
}

#[test]
fn a_hook_that_is_taken_out_is_written_back_and_not_for_ever() {
    let place = Place::new();
    place.configure("repair: true\n");
    fs::create_dir(place.path("home")).unwrap();
    let settings = place.path("home/.claude/settings.json");
    fs::create_dir(place.path("home/.claude")).unwrap();
    fs::write(&settings, "{\n  // mine\n  \"model\": \"x\"\n}\n").unwrap();
    assert!(place.connector(&["install", "claude-code"]).status.success());
    let whole = fs::read_to_string(&settings).unwrap();
    // Taken out while nobody watched.
    fs::write(&settings, "{}").unwrap();
    let place = place.start();
    for round in 1..=3 {
        place.until("repaired", |status| status.contains(&format!(r#""repairs":{round}"#)));
        assert!(fs::read_to_string(&settings).unwrap().contains("hook claude-code"));
        // The agent's own change stays: only what is ours is written back.
        fs::write(&settings, r#"{"model": "y"}"#).unwrap();
    }
    place.until("given up", |status| status.contains(r#""state":"removed""#));
    assert_eq!(fs::read_to_string(&settings).unwrap(), r#"{"model": "y"}"#);
    fs::write(&settings, &whole).unwrap();
    place.until("restored", |status| status.contains(r#""state":"installed""#));
    let round = ["removed", "repaired"];
    let want: Vec<_> = round.repeat(3).into_iter().chain(["removed", "given_up", "restored"]).collect();
    assert_eq!(tampering(&place.stop()), want);
}

#[test]
fn input_that_never_ends_is_answered_in_time() {
    let place = Place::new();
    let mut command = program();
    command.args(["hook", "windsurf", "--fail", "closed", "--timeout-ms", "200", "--socket", "/nonexistent"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let input = child.stdin.take();
    assert_eq!(child.wait().unwrap().code(), Some(2));
    drop((input, place));
}

#[test]
fn cut_and_hostile_payloads_are_answered_by_the_fail_mode_and_kept() {
    let place = Place::started();
    let long = before("Bash", &serde_json::json!({"command": "x".repeat(5 << 20)}), "s");
    let long = String::from_utf8(long).unwrap().replace("PreToolUse", "BeforeTool").into_bytes();
    let deep = format!(r#"{{"hook_event_name":"BeforeTool","x":{}"#, "[".repeat(100_000));
    let hostile: [&[u8]; 8] = [
        b"",
        b"\0\xff\xfe",
        b"[]",
        b"{}",
        b"{\"hook_event_name\":\"BeforeTool\"",
        deep.as_bytes(),
        &long,
        b"\x1b[2J",
    ];
    for payload in hostile {
        let open = place.ask(&["claude-code"], payload);
        assert!(is_silent(&open), "{open:?}");
        let closed = place.ask(&["gemini-cli", "--fail", "closed"], payload);
        assert!(!is_silent(&closed), "{closed:?}");
    }
    let calls = place.stop();
    assert_eq!(calls.len(), 16);
    assert!(calls.iter().all(|call| call.problem.is_some() && call.decision.is_none()));
    assert!(calls.iter().step_by(2).all(|call| call.answer.failed == Some(FailMode::Open)));
    assert!(calls.iter().skip(1).step_by(2).all(|call| call.answer.failed == Some(FailMode::Closed)));
}

#[test]
fn sixty_four_at_once_are_all_answered_and_kept() {
    const CALLERS: usize = 64;
    let place = Place::started();
    let secret = place.path("secret/key").display().to_string();
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (place, secret) = (&place, &secret);
            scope.spawn(move || {
                let path = if caller % 2 == 0 { secret } else { "/etc/hostname" };
                let payload = before("Read", &serde_json::json!({"file_path": path}), &format!("s{caller}"));
                let output = place.ask(&["claude-code"], &payload);
                assert_eq!((is_denied(&output), is_silent(&output)), (caller % 2 == 0, caller % 2 != 0));
            });
        }
    });
    let calls = place.stop();
    let mut sessions: Vec<_> =
        calls.iter().map(|call| call.event.as_ref().unwrap().session.clone()).collect();
    sessions.sort();
    sessions.dedup();
    assert_eq!((calls.len(), sessions.len()), (CALLERS, CALLERS));
}

#[test]
fn a_slow_disk_holds_no_answer_and_loses_no_row() {
    const CALLERS: usize = 64;
    let place = Place::started();
    let secret = place.path("secret/key").display().to_string();
    // It answers when it has opened its audit.
    place.request(b"GET /v1/status HTTP/1.1\r\nhost: d\r\n\r\n");
    let database = rusqlite::Connection::open(place.path("audit.db")).unwrap();
    database.busy_timeout(PATIENCE).unwrap();
    // Nobody else can write until this ends.
    database.execute_batch("BEGIN IMMEDIATE").unwrap();
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (place, secret) = (&place, &secret);
            scope.spawn(move || {
                let payload =
                    before("Read", &serde_json::json!({"file_path": secret}), &format!("s{caller}"));
                let length = payload.len();
                let head = format!(
                    "POST /v1/hooks/claude-code HTTP/1.1\r\nhost: d\r\ncontent-length: {length}\r\n\r\n"
                );
                let reply = place.request(&[head.as_bytes(), &payload].concat());
                assert!(reply.contains(r#""permissionDecision":"deny""#), "{reply}");
            });
        }
    });
    let rows: i64 =
        database.query_row("SELECT count(*) FROM log WHERE record = 'hook'", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 0, "the disk was not slow");
    database.execute_batch("ROLLBACK").unwrap();
    drop(database);
    assert_eq!(place.stop().len(), CALLERS);
}

/// Whoever asks while there is no daemon, or while one dies, gets the fail mode; nobody waits for ever, and no protected
/// file is allowed by accident.
#[test]
fn a_daemon_that_is_killed_and_started_again_leaves_nobody_without_an_answer() {
    const CALLERS: usize = 16;
    const CALLS: usize = 12;
    let mut place = Place::started();
    let mut daemon = place.daemon.take().unwrap();
    let secret = place.path("secret/key").display().to_string();
    let answered = AtomicUsize::new(0);
    let wait_for = |number| {
        let deadline = Instant::now() + PATIENCE;
        while answered.load(Ordering::Relaxed) < number {
            assert!(Instant::now() < deadline, "{answered:?} of {number} are answered");
            thread::yield_now();
        }
    };
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let (place, secret, answered) = (&place, &secret, &answered);
            scope.spawn(move || {
                let payload =
                    before("Read", &serde_json::json!({"file_path": secret}), &format!("s{caller}"));
                for _ in 0..CALLS {
                    let output = place.ask(&["claude-code", "--fail", "closed"], &payload);
                    assert!(is_denied(&output), "{output:?}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        wait_for(CALLERS * CALLS / 4);
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        wait_for(CALLERS * CALLS / 2);
        daemon = place.command().spawn().unwrap();
    });
    place.daemon = Some(daemon);
    let place = place.started_again();
    place.ask(&["claude-code"], &before("Read", &serde_json::json!({"file_path": secret}), "last"));
    let (records, _place) = place.stop_with_all();
    let is = |record: &AuditRecord, fits: fn(&HookCall) -> bool| matches!(record, AuditRecord::Hook(call) if fits(call));
    let judged = records.iter().filter(|row| is(row, |call| call.policy.is_some())).count();
    let failed = records.iter().filter(|row| is(row, |call| call.answer.failed.is_some())).count();
    // What was lost with the first one is said.
    assert!(records.iter().any(|row| matches!(row, AuditRecord::Loss(_))), "nothing says that it was killed");
    assert!(judged > CALLERS * CALLS / 8 && failed > 0, "{judged} judged, {failed} by the fail mode");
}

#[test]
fn requests_that_do_not_fit_are_refused() {
    let place = Place::started();
    let many = "x: y\r\n".repeat(40);
    for (request, want) in [
        ("GET / HTTP/1.1\r\nhost: d\r\n\r\n".to_owned(), "404"),
        ("GET /v1/hooks/codex HTTP/1.1\r\nhost: d\r\n\r\n".to_owned(), "405"),
        ("POST /v1/hooks/nobody HTTP/1.1\r\nhost: d\r\ncontent-length: 2\r\n\r\n{}".to_owned(), "404"),
        (
            "POST /v1/hooks/codex HTTP/1.1\r\nhost: d\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_owned(),
            "411",
        ),
        (
            format!("POST /v1/hooks/codex HTTP/1.1\r\nhost: d\r\ncontent-length: {}\r\n\r\n", (4 << 20) + 1),
            "413",
        ),
        (format!("GET /v1/status HTTP/1.1\r\nhost: d\r\n{many}\r\n"), "431"),
        ("nonsense\r\n\r\n".to_owned(), "400"),
    ] {
        let reply = place.request(request.as_bytes());
        assert!(reply.starts_with(&format!("HTTP/1.1 {want}")), "{want}: {reply}");
    }
    assert!(place.stop().is_empty());
}

#[test]
fn a_second_daemon_leaves_the_first_alone() {
    let place = Place::started();
    let output = place.command().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("another daemon answers"), "{output:?}");
    assert!(place.request(b"GET /v1/status HTTP/1.1\r\nhost: d\r\n\r\n").starts_with("HTTP/1.1 200"));
}

/// Not a test: what another user runs, in a process of its own.
#[test]
#[ignore = "started by another test"]
fn reload_as_somebody_else() {
    let mut stream = UnixStream::connect(std::env::var_os("SOCKET").unwrap()).unwrap();
    stream.write_all(b"POST /v1/reload HTTP/1.1\r\nhost: d\r\ncontent-length: 0\r\n\r\n").unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 403"), "{reply}");
}

#[test]
fn others_may_ask_and_not_control() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can be somebody else");
        return;
    }
    let place = Place::started();
    // Where both can be run by anybody.
    let [test, hook] =
        [std::env::current_exe().unwrap(), env!("CARGO_BIN_EXE_defenseclaw").into()].map(|from| {
            let to = place.dir.path().join(from.file_name().unwrap());
            // By another process: a file that this one has open for writing could not be run.
            #[expect(clippy::disallowed_methods, reason = "tests may start processes")]
            let copied = Command::new("cp").arg(from).arg(&to).status().unwrap();
            assert!(copied.success());
            to
        });
    #[expect(clippy::disallowed_methods, reason = "tests may start processes")]
    let mut reload = Command::new(test);
    reload.args(["--exact", "reload_as_somebody_else", "--ignored"]).env("SOCKET", place.path("d.sock"));
    let output = reload.uid(NOBODY).gid(NOBODY).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    #[expect(clippy::disallowed_methods, reason = "tests may start processes")]
    let mut asked = Command::new(hook);
    asked
        .env_clear()
        .args(["hook", "claude-code", "--timeout-ms", "60000", "--socket"])
        .arg(place.path("d.sock"));
    let secret = place.path("secret/key").display().to_string();
    asked.uid(NOBODY).gid(NOBODY);
    let output = finish(asked, &before("Read", &serde_json::json!({"file_path": secret}), "s"));
    assert!(is_denied(&output), "{output:?}");
    assert_eq!(place.stop()[0].caller.uid, NOBODY);
}
