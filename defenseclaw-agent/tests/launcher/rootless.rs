//! `defenseclaw run` by an ordinary user: Landlock alone. Where the tests run as root, the program is started as a user
//! that owns nothing else.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, chown},
        process::CommandExt,
    },
    path::PathBuf,
    process::{Command, Output},
};

use defenseclaw::launcher::landlock::Abi;
use libtest_mimic::Trial;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{is_root, trial_if};

/// In nobody's use.
const USER: u32 = 61234;

pub(crate) fn trials() -> Vec<Trial> {
    let here = Abi::of_this_kernel() >= Abi(7);
    vec![
        trial_if(here, "rootless_holds_what_it_says", holds_what_it_says),
        trial_if(here, "rootless_refuses_to_promise_more", refuses_to_promise_more),
        trial_if(here, "rootless_carves_if_asked", carves_if_asked),
        trial_if(here, "rootless_text_names_rules", text_names_rules),
        trial_if(here, "rootless_levels", levels),
        trial_if(true, "rootless_needs_a_policy", needs_a_policy),
        trial_if(here, "rootless_commands_that_do_not_start", commands_that_do_not_start),
    ]
}

struct User {
    place: TempDir,
}

impl User {
    fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let user = Self { place };
        for name in ["home", "home/.ssh", "project"] {
            fs::create_dir(user.path(name)).unwrap();
        }
        fs::write(user.path("home/.ssh/id"), "key").unwrap();
        fs::write(user.path("home/note"), "note").unwrap();
        if is_root() {
            for name in ["home", "home/.ssh", "home/.ssh/id", "home/note", "project"] {
                chown(user.path(name), Some(USER), Some(USER)).unwrap();
            }
        }
        user
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().canonicalize().unwrap().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_defenseclaw"));
        command
            .args(args)
            .env_clear()
            .env("HOME", self.path("home"))
            .env("PATH", "/usr/bin:/bin")
            .env("TZ", "UTC");
        command.env("DEFENSECLAW_DB", self.path("home/audit.db")).current_dir(self.path("project"));
        if is_root() {
            command.uid(USER).gid(USER);
        }
        command
    }

    fn run(&self, args: &[&str], script: &str) -> Output {
        let policy = self.path("policy.yaml");
        let mut all = vec!["run", "--policy", policy.to_str().unwrap()];
        all.extend(args);
        all.extend(["--", "sh", "-c", script]);
        self.command(&all).output().unwrap()
    }

    fn policy(&self, text: &str) {
        fs::write(self.path("policy.yaml"), format!("version: 1\nsettings: {{unresolved: alert}}\n{text}"))
            .unwrap();
    }

    fn report(&self) -> Value {
        let output = self.command(&["report", "--json"]).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|err| panic!("{err}: {output:?}"))
    }
}

const WRITES: &str = "defaults: {file.write: block, file.create: block, file.delete: block}
rules:
  - {id: project, effect: [file.write, file.create, file.delete], match: {paths: ['${project}/**', '/dev/**']}, severity: info, action: allow}
";
const KEYS: &str =
    "rules:\n  - {id: keys, effect: file.read, match: {paths: ['~/.ssh/**']}, severity: high, reason: r}\n";

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn holds_what_it_says() {
    let user = User::new();
    user.policy(WRITES);
    let script = "echo in > new; cat new; echo out > ../home/note; cat ../home/.ssh/id; exit 7";
    let output = user.run(&["--mode", "action", "--report", "none"], script);
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "in\nkey");
    assert!(stderr(&output).contains("Permission denied"), "{output:?}");
    assert_eq!(fs::read_to_string(user.path("home/note")).unwrap(), "note");

    let report = user.report();
    let protection = &report["session"]["protection"];
    assert_eq!(protection["level"], "none");
    let row = |name: &str| {
        let table = protection["table"].as_array().unwrap();
        table.iter().find(|row| row["name"] == format!("landlock/{name}")).unwrap().clone()
    };
    assert_eq!(
        (&row("file_write")["state"], &row("file_write")["verified"]),
        (&"enforced".into(), &true.into())
    );
    assert_eq!(row("signal")["state"], "off");
    for rule in protection["rules"].as_array().unwrap() {
        assert_eq!((&rule["held"], &rule["mechanism"]), (&"whole".into(), &"landlock".into()), "{rule}");
    }
    // It did not see anything, and does not say that nothing happened.
    assert_eq!(
        (&report["end"]["main"]["ended"]["code"], &report["end"]["left_running"]),
        (&7.into(), &0.into()),
        "{report}"
    );
    assert_eq!((&report["exact"], &report["events"]), (&false.into(), &0.into()));
    let verified = user.command(&["audit", "verify"]).output().unwrap();
    assert!(verified.status.success(), "{verified:?}");
}

fn refuses_to_promise_more() {
    let user = User::new();
    user.policy(KEYS);
    let output = user.run(&["--mode", "action"], "echo ran");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(125), &b""[..]), "{output:?}");
    let said = stderr(&output);
    assert!(said.contains("keys is held not at all") && said.contains("--allow-degraded"), "{said}");
    // Nothing was started, so nothing is on record.
    assert!(!user.path("home/audit.db").exists());
    // Observing promises nothing.
    for args in [&["--mode", "observe"][..], &["--mode", "action", "--allow-degraded"]] {
        let output = user.run(args, "echo ran");
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"ran\n"[..]), "{output:?}");
    }
    let rule = user.report()["session"]["protection"]["rules"][0].clone();
    assert_eq!(
        (&rule["rule"], &rule["held"], &rule["mechanism"]),
        (&"keys".into(), &"nothing".into(), &"none".into())
    );
}

fn carves_if_asked() {
    let user = User::new();
    user.policy(KEYS);
    let script =
        "cat ../home/.ssh/id; cat ../home/note; ls ../home/.ssh; echo x > ../home/new; cat ../home/new";
    let output =
        user.run(&["--mode", "action", "--allow-degraded", "--landlock-carve", "--report", "none"], script);
    // What is made beside it later is the price.
    assert_eq!(String::from_utf8_lossy(&output.stdout), "noteid\n", "{output:?}");
    assert_eq!(stderr(&output).matches("Permission denied").count(), 2, "{output:?}");
    let protection = user.report()["session"]["protection"].clone();
    assert_eq!(protection["rules"][0]["held"], "part");
    let row = &protection["table"][0];
    assert_eq!(
        (&row["name"], &row["verified"]),
        (&"landlock/file_read".into(), &true.into()),
        "{protection}"
    );
}

fn text_names_rules() {
    let user = User::new();
    user.policy(&format!("{WRITES}{}", KEYS.trim_start_matches("rules:\n")));
    let output = user.run(&["--mode", "action", "--allow-degraded"], "true");
    let said = stderr(&output);
    for words in [
        "not root",
        "Not watched",
        "landlock/file_write: enforced, tried",
        "Rules held: default:file.write, default:file.create, default:file.delete.",
        "Rule not held: keys:",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

fn levels() {
    let user = User::new();
    user.policy(WRITES);
    for (level, code) in [("auto", 1), ("full", 1), ("scopes", 0), ("off", 0)] {
        let args = ["--mode", "action", "--allow-degraded", "--report", "none", "--landlock", level];
        let output = user.run(&args, "echo x >> ../home/note || exit 1");
        assert_eq!(output.status.code(), Some(code), "{level}: {output:?}");
    }
}

fn needs_a_policy() {
    let user = User::new();
    let output = user.command(&["run", "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(!stderr(&output).is_empty());
    let output = user.command(&["run", "--allow-degraded", "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let missing = user.command(&["run", "--policy", "/nowhere", "--", "true"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(125));
    assert!(stderr(&missing).contains("/nowhere") && stderr(&missing).contains("presets"), "{missing:?}");
}

fn commands_that_do_not_start() {
    let user = User::new();
    user.policy(WRITES);
    let policy = user.path("policy.yaml");
    let output = user
        .command(&["run", "--policy", policy.to_str().unwrap(), "--", "no-such-command"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(127), "{output:?}");
    assert_eq!(user.report()["end"]["main"]["not_started"], 2);
}
