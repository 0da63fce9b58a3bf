//! The commands that read the audit, run as a user runs them: whole output, both forms, and exit codes.
#![cfg(test)]

mod records;

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use defenseclaw::{
    model::{AuditRecord, BootTime, PolicyAction, PolicyRefused},
    store::{Writer, verify},
};
use insta::assert_snapshot;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use records::{OTHER, SESSION};
use tempfile::TempDir;

struct Audit {
    dir: TempDir,
}

impl Audit {
    fn empty_place() -> Self {
        Self { dir: TempDir::new().unwrap() }
    }

    /// One session of everything, and one whose writer went away.
    fn new() -> Self {
        let audit = Self::empty_place();
        let writer = audit.writer();
        writer.append(records::session_of_everything(SESSION)).unwrap();
        writer.append(vec![records::start(OTHER), records::opened(OTHER, 1)]).unwrap();
        writer.close().unwrap();
        audit
    }

    fn db(&self) -> PathBuf {
        self.dir.path().join("audit.db")
    }

    fn writer(&self) -> Writer {
        Writer::open(&self.db(), &records::options()).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        #[expect(clippy::disallowed_methods, reason = "tests may start processes")]
        let mut command = Command::new(env!("CARGO_BIN_EXE_defenseclaw"));
        command.args(args).env_clear().env("TZ", "UTC").env("DEFENSECLAW_DB", self.db()).stdin(Stdio::null());
        command
    }

    /// Exit code, stdout and stderr as one text, with what differs from run to run made equal.
    fn run(&self, args: &[&str]) -> String {
        self.finish(&mut self.command(args))
    }

    fn finish(&self, command: &mut Command) -> String {
        let output = command.output().unwrap();
        let mut text = format!("exit code: {:?}\n", output.status.code());
        for (name, bytes) in [("stdout", output.stdout), ("stderr", output.stderr)] {
            if !bytes.is_empty() {
                write!(text, "--- {name}\n{}", String::from_utf8(bytes).expect("output is UTF-8")).unwrap();
            }
        }
        text.replace(self.dir.path().to_str().unwrap(), "[DIR]")
    }
}

fn settings() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"\b[0-9a-f]{64}\b", "[HASH]");
    settings.set_omit_expression(true);
    settings
}

macro_rules! snapshot {
    ($name:literal, $text:expr) => {
        settings().bind(|| assert_snapshot!($name, $text))
    };
}

#[test]
fn help() {
    let audit = Audit::empty_place();
    for (name, args) in [
        ("help", &["--help"][..]),
        ("help_events", &["events", "--help"]),
        ("help_audit_verify", &["audit", "verify", "--help"]),
    ] {
        settings().bind(|| assert_snapshot!(name, audit.run(args)));
    }
}

#[test]
fn sessions() {
    let audit = Audit::new();
    snapshot!("sessions", audit.run(&["sessions"]));
    snapshot!("sessions_json", audit.run(&["sessions", "--json"]));
    let none = Audit::empty_place();
    none.writer().close().unwrap();
    snapshot!("sessions_none", none.run(&["sessions"]));
}

#[test]
fn a_session_that_runs_is_called_running() {
    let audit = Audit::empty_place();
    let writer = audit.writer();
    writer.append(vec![records::start(SESSION)]).unwrap();
    writer.flush().unwrap();
    let text = audit.run(&["sessions", "--json"]);
    assert!(text.contains(r#""state":"running""#), "{text}");
    writer.close().unwrap();
}

#[test]
fn events() {
    let audit = Audit::new();
    snapshot!("events", audit.run(&["events", "--session", "19abcdef012"]));
    snapshot!("events_json", audit.run(&["events", "--json", "--session", "19abcdef012"]));
    snapshot!("events_all_sessions", audit.run(&["events", "--kind", "file_open", "--kind", "bpf"]));
    snapshot!(
        "events_path",
        audit.run(&["events", "--path", "/etc/*", "--limit", "1", "--session", "19abcdef012"])
    );
}

#[test]
fn audit_verify() {
    let audit = Audit::new();
    snapshot!("verify", audit.run(&["audit", "verify"]));
    snapshot!("verify_json", audit.run(&["audit", "verify", "--json"]));
    let head = verify(&audit.db(), None).unwrap().head.to_string();
    assert!(audit.run(&["audit", "verify", "--head", &head]).starts_with("exit code: Some(0)"));
    let other = format!("35:{}", head.split_once(':').unwrap().1);
    snapshot!("verify_other_head", audit.run(&["audit", "verify", "--head", &other]));
    let tampered = rusqlite::Connection::open(audit.db()).unwrap();
    tampered.execute("UPDATE log SET path = '/etc/hostname' WHERE seq = 6", []).unwrap();
    drop(tampered);
    snapshot!("verify_broken", audit.run(&["audit", "verify"]));
    snapshot!("verify_broken_json", audit.run(&["audit", "verify", "--json"]));
}

#[test]
fn what_cannot_be_done_is_said_with_a_hint() {
    let audit = Audit::new();
    std::fs::write(audit.dir.path().join("diary"), "dear diary ".repeat(100)).unwrap();
    let mut text = String::new();
    for args in [
        &["events", "--session", "ffff"][..],
        &["events", "--session", "19abcdef01"],
        &["events", "--kind", "file_opened"],
        &["events", "--path", "/a/{b"],
        &["audit", "verify", "--head", "7"],
        &["--db", "/nowhere/\u{1b}[2Jaudit.db", "sessions"],
        &["sessions", "--db", "."],
        &["frobnicate"],
        &["--db", "", "sessions"],
    ] {
        write!(text, "$ {}\n{}\n", args.join(" ").escape_debug(), audit.run(args)).unwrap();
    }
    for name in ["diary", "absent"] {
        let mut command = audit.command(&["audit", "verify"]);
        write!(
            text,
            "$ {name}\n{}\n",
            audit.finish(command.env("DEFENSECLAW_DB", audit.dir.path().join(name)))
        )
        .unwrap();
    }
    snapshot!("errors", text);
}

/// Lines of a running command, each waited for.
struct Following {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Following {
    fn new(audit: &Audit, args: &[&str]) -> Self {
        let mut child = audit.command(args).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn next(&mut self) -> String {
        self.lines.next().expect("there is a line").unwrap()
    }

    fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn following_shows_rows_as_they_come_and_ends_on_a_signal() {
    let audit = Audit::empty_place();
    let writer = audit.writer();
    writer.append(vec![records::start(SESSION)]).unwrap();
    writer.flush().unwrap();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut following = Following::new(&audit, &["events", "--follow", "--json", "--session", "last"]);
        assert!(following.next().contains("session_start"));
        let mut seen = 1;
        for number in 0..3 {
            writer.append(vec![records::opened(SESSION, number)]).unwrap();
            // Rows of the round before come first.
            loop {
                seen += 1;
                if following.next().contains(&format!("file_{number}.rs")) {
                    break;
                }
            }
        }
        assert!(seen >= 4);
        kill(Pid::from_raw(following.child.id().cast_signed()), signal).unwrap();
        assert_eq!(following.exit_code(), Some(0), "{signal}");
    }
    writer.close().unwrap();
}

#[test]
fn following_ends_when_nobody_reads_any_more() {
    let audit = Audit::new();
    let mut following = Following::new(&audit, &["events", "--follow"]);
    following.next();
    // The pipe closes with its reader; nothing more is ever written.
    let mut version = audit.command(&["--version"]).stdout(Stdio::piped()).spawn().unwrap();
    let replacement = BufReader::new(version.stdout.take().unwrap()).lines();
    drop(std::mem::replace(&mut following.lines, replacement));
    version.wait().unwrap();
    assert_eq!(following.exit_code(), Some(0));
}

#[test]
fn a_limit_ends_following() {
    let audit = Audit::new();
    let mut following = Following::new(&audit, &["events", "--follow", "--limit", "2"]);
    following.next();
    following.next();
    assert_eq!(following.exit_code(), Some(0));
}

#[test]
fn a_reader_that_stops_early_is_no_error() {
    let audit = Audit::empty_place();
    let writer = audit.writer();
    writer.append((0..5000).map(|number| records::opened(SESSION, number)).collect()).unwrap();
    writer.close().unwrap();
    let mut child = audit.command(&["events"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn colour_is_for_terminals() {
    let audit = Audit::new();
    for args in [&["events"][..], &["sessions"], &["audit", "verify"], &["nonsense"]] {
        let output = audit.command(args).output().unwrap();
        assert!(!output.stdout.contains(&0x1b) && !output.stderr.contains(&0x1b), "{args:?}");
    }
}

#[test]
fn without_a_name_the_audit_is_the_users_own() {
    let audit = Audit::empty_place();
    let text = audit.finish(
        audit.command(&["sessions"]).env_remove("DEFENSECLAW_DB").env("XDG_STATE_HOME", audit.dir.path()),
    );
    let root = nix::unistd::geteuid().is_root();
    let place = if root { Path::new("/var/lib") } else { Path::new("[DIR]") };
    // Whether it exists is not ours to decide when the test runs as root.
    assert!(text.contains(place.join("defenseclaw/audit.db").to_str().unwrap()) || root, "{text}");
}

#[test]
fn what_policy_blocked_stands_first() {
    let audit = Audit::empty_place();
    let writer = audit.writer();
    let refused = AuditRecord::PolicyRefused(PolicyRefused {
        session: SESSION,
        boot: BootTime(records::BEGIN + 8_000_000_000),
        name: "mine.yaml".to_owned(),
        problems: vec!["mine.yaml:3:5: \u{1b}[31mno such effect".to_owned()],
    });
    let rows = [
        records::start(SESSION),
        records::policy_loaded(),
        records::opened(SESSION, 1),
        records::judged(PolicyAction::Alert),
        records::judged(PolicyAction::Block),
        refused,
        records::degraded(),
        records::end(SESSION),
    ];
    writer.append(rows.to_vec()).unwrap();
    writer.close().unwrap();
    settings().bind(|| {
        assert_snapshot!("blocked_events", audit.run(&["events", "--session", "last", "--blocked"]));
        assert_snapshot!("judged_events", audit.run(&["events", "--session", "last"]));
        assert_snapshot!("judged_report", audit.run(&["report"]));
        let json = audit.run(&["report", "--json"]);
        let (_, json) = json.split_once("--- stdout\n").unwrap();
        let report: serde_json::Value = serde_json::from_str(json).unwrap();
        insta::assert_json_snapshot!("judged_json", report["policy"]);
    });
}

#[test]
fn calls_and_findings_are_shown() {
    let audit = Audit::empty_place();
    let writer = audit.writer();
    let rows = [vec![records::start(SESSION)], records::joined(records::CALL, "toolu_\u{1b}[31m1")].concat();
    writer.append(rows).unwrap();
    writer.close().unwrap();
    snapshot!("tree_of_calls", audit.run(&["tree"]));
    snapshot!("findings", audit.run(&["findings"]));
    snapshot!("findings_json", audit.run(&["findings", "--session", "last", "--json"]));
    snapshot!("explained_call", audit.run(&["explain", "t123456"]));
    snapshot!("explained_event", audit.run(&["explain", "3"]));
    snapshot!("events_of_calls", audit.run(&["events"]));
    let json = audit.run(&["tree", "--json"]);
    assert!(json.contains(r#""correlation":"matched""#), "{json}");
    for (subject, code) in [("toolu_1", 2), ("t1", 2), ("99", 2), ("1", 2), ("2", 0), ("4", 0), ("5", 2)] {
        let text = audit.run(&["explain", subject, "--json"]);
        assert!(text.starts_with(&format!("exit code: Some({code})")), "{subject}: {text}");
    }
}
