//! The command as people call it.

use std::{ffi::OsString, io::Read as _};

use super::*;
use clap::Parser;

#[derive(clap::Parser)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

/// Exit code and output; none if the command failed.
fn policy(args: &[&str]) -> (Option<ExitCode>, String) {
    let args = std::iter::once("policy").chain(args.iter().copied()).map(OsString::from);
    let line = Line::try_parse_from(args).unwrap_or_else(|err| panic!("{err}"));
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let mut out = Out::file(file.reopen().unwrap());
    let code = run(&line.command, None, &mut out).ok();
    out.flush().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    (code, text)
}

fn written(text: &str) -> tempfile::TempPath {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file.into_temp_path()
}

#[test]
fn presets_are_fine_and_their_cases_hold() {
    let (code, text) = policy(&["check", "observe", "default", "strict"]);
    assert_eq!(code, Some(ExitCode::SUCCESS), "{text}");
    let (code, text) = policy(&["test"]);
    assert_eq!(code, Some(ExitCode::SUCCESS), "{text}");
    assert_eq!(text.lines().count(), 7, "{text}");
    let (_, shown) = policy(&["show", "strict"]);
    assert_eq!(shown, crate::policy::preset("strict").unwrap());
}

#[test]
fn mistakes_are_shown_where_they_stand_and_obeyed_by_no_terminal() {
    let file = written("version: 1\nrules:\n  - {id: a, effect: \"exec\\e[2J\", severity: high}\n");
    let (code, text) = policy(&["check", file.to_str().unwrap()]);
    assert_eq!(code, Some(ExitCode::from(1)));
    assert!(!text.contains('\u{1b}'), "{text:?}");
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.iter().any(|line| line.starts_with("3 |   - {id: a, effect: ")), "{text}");
    assert!(lines.contains(&"  |                     ^"), "{text}");
    let (code, json) = policy(&["check", "--json", file.to_str().unwrap()]);
    assert_eq!(code, Some(ExitCode::from(1)));
    let found: serde_json::Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(found["line"], 3);
}

#[test]
fn limits_of_the_kernel_are_mistakes() {
    let rule = |n| {
        format!(
            "  - {{id: r{n}, effect: exec, match: {{paths: /a}}, severity: low, unless: {{executables: /b{n}}}}}\n"
        )
    };
    let rules: Vec<_> = (0..9).map(rule).collect();
    let text = format!("version: 1\nrules:\n{}", rules.concat());
    let file = written(&text);
    let (code, text) = policy(&["check", file.to_str().unwrap()]);
    assert_eq!(code, Some(ExitCode::from(1)));
    assert!(text.contains("more than 8 rules"), "{text}");
}

#[test]
fn an_operation_is_explained() {
    let (code, text) = policy(&["explain", "file.read", "/etc/shadow", "--exe", "/usr/bin/cat"]);
    assert_eq!(code, Some(ExitCode::SUCCESS));
    for want in
        ["PATH-ETC-SHADOW, critical", "observe  alert (would block)", "action   block  could be held by lsm"]
    {
        assert!(text.contains(want), "{want} is not in\n{text}");
    }
    let (_, text) = policy(&["explain", "priv.mount", "--exe", "/usr/bin/bwrap", "--mode", "action"]);
    assert!(text.contains("privilege.file_system spares this program"), "{text}");
    let (_, json) = policy(&["explain", "--json", "net.connect", "169.254.169.254:80"]);
    let found: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(found["modes"][1]["action"], "block");
    assert_eq!(found["modes"][1]["held"]["by"][0], "cgroup");
    assert_eq!(found["modes"][0]["rule_ids"][0], "C2-METADATA-AWS");
    for wrong in [
        &["explain", "file.read"][..],
        &["explain", "net.connect", "x"],
        &["explain", "exec", "/a", "--policy", "/no/such"],
    ] {
        assert_eq!(policy(wrong).0, None, "{wrong:?}");
    }
}

#[test]
fn differences_and_failed_cases_are_findings() {
    let (code, text) = policy(&["diff", "default", "strict"]);
    assert_eq!(code, Some(ExitCode::from(1)));
    assert!(text.contains("rule allow.project: added"), "{text}");
    assert_eq!(policy(&["diff", "default", "default"]).0, Some(ExitCode::SUCCESS));
    let file =
        written("version: 1\npolicy: default\ncases: [{effect: exec, object: /usr/bin/ls, expect: block}]\n");
    let (code, text) = policy(&["test", file.to_str().unwrap()]);
    assert_eq!(code, Some(ExitCode::from(1)));
    assert!(text.contains("allow (no rule), not block"), "{text}");
}
