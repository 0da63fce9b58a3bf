//! Whole reports, as they are read, and what must hold for any report at any width.

use proptest::prelude::*;
use unicode_width::UnicodeWidthStr;

use super::*;
use crate::{
    model::{Action, ExitStatus, LossReason, MainExit, MountOp, ProcessKey, Transport, UnixName},
    report::sample::{Sample, any_rows, endpoint, file, report},
};

const ENDED: MainExit = MainExit::Ended(ExitStatus::Code(0));

fn text(sample: &Sample, width: usize, full: bool) -> String {
    joined_lines(&render(&sample.report(), &RenderOptions { width, full, ..RenderOptions::default() }))
}

fn joined_lines(lines: &[Line]) -> String {
    lines.iter().flat_map(|line| [line.to_string(), "\n".to_owned()]).collect()
}

/// An agent that fixes a test: a runtime, shells, git, a package manager, a model endpoint.
fn coding_agent() -> Sample {
    let mut sample = Sample::start(&["claude", "-p", "fix the failing test"], Sample::lsm());
    let root = sample.root;
    sample.exec(
        root,
        "/usr/bin/env",
        &["env", "node", "/usr/local/bin/claude", "-p", "fix the failing test"],
    );
    sample.pass(2).exec(
        root,
        "/usr/bin/node",
        &["node", "/usr/local/bin/claude", "-p", "fix the failing test"],
    );
    for library in ["libc.so.6", "libstdc++.so.6", "libm.so.6"] {
        sample.read(root, &format!("/usr/lib/x86_64-linux-gnu/{library}"));
    }
    sample.read(root, "/etc/ld.so.cache").write(root, "/dev/null");
    sample.read(root, "/home/dev/.claude.json").read(root, "/home/dev/.claude.json");
    sample.create(root, "/home/dev/.claude.json.tmp").rename(
        root,
        "/home/dev/.claude.json.tmp",
        "/home/dev/.claude.json",
    );
    sample.read(root, "/etc/passwd").pass(40);
    let name_server = Action::NetConnect { endpoint: endpoint(Transport::Udp, "127.0.0.53", 53) };
    sample.act(root, name_server);
    sample.answer("api.anthropic.com", 0, &[], &["160.79.104.10", "2607:6bc0::10"]);
    sample.answer("statsig.anthropic.com", 3, &[], &[]);
    for _ in 0..4 {
        sample.pass(700).connect(root, "160.79.104.10", 443, -115);
    }
    sample.connect(root, "2607:6bc0::10", 443, -101);
    for n in 0..12 {
        sample.run(root, 4800 + n, &["git", "status", "--porcelain"], 7, 0);
    }
    let shell = sample.fork(root, 4820);
    sample.exec(shell, "/usr/bin/bash", &["bash", "-c", "npm test -- --reporter dot 2>&1 | tail -n 20"]);
    let npm = sample.fork(shell, 4821);
    sample.exec(npm, "/usr/bin/node", &["node", "/usr/bin/npm", "test", "--", "--reporter", "dot"]);
    let tail = sample.fork(shell, 4822);
    sample.exec(tail, "/usr/bin/tail", &["tail", "-n", "20"]).pass(300);
    let sh = sample.fork(npm, 4830);
    sample.exec(sh, "/usr/bin/dash", &["sh", "-c", "vitest run --reporter dot"]);
    let vitest = sample.fork(sh, 4831);
    sample.exec(vitest, "/usr/bin/node", &["node", "/home/dev/app/node_modules/.bin/vitest", "run"]);
    for n in 0..40 {
        sample.read(vitest, &format!("/home/dev/app/node_modules/vitest/dist/chunk-{n}.js"));
        sample.read(vitest, &format!("/home/dev/app/src/module-{n:02}.ts"));
    }
    sample.create(vitest, "/tmp/vitest-4831/results.json").unlink(vitest, "/tmp/vitest-4831/results.json");
    sample.connect(vitest, "127.0.0.1", 5432, -111).pass(3100);
    sample.exit(vitest, 1).exit(sh, 1).exit(npm, 1).exit(tail, 0).exit(shell, 0);
    sample.write(root, "/home/dev/app/src/module-07.ts").pass(900);
    let curl = sample.fork(root, 4840);
    sample.exec(curl, "/usr/bin/curl", &["curl", "-fsSL", "https://registry.npmjs.org/vitest"]);
    sample.answer("registry.npmjs.org", 0, &["registry.npmjs.org.cdn.cloudflare.net"], &["104.16.3.35"]);
    sample.connect(curl, "104.16.3.35", 443, 0).read(curl, "/home/dev/.netrc").pass(210).exit(curl, 0);
    sample.act(root, Action::IoUringSetup { submission_entries: 64, completion_entries: 128, flags: 0 });
    sample.pass(30).exit(root, 0);
    sample.end(ENDED, 0);
    sample
}

/// Names and arguments that want to look like something else.
fn hostile() -> Sample {
    let mut sample = Sample::start(&["sh", "-c", "\u{1b}]0;owned\u{7}\nexit 0"], Sample::lsm());
    let root = sample.root;
    sample.exec(root, "/usr/bin/dash", &["sh", "-c", "\u{1b}]0;owned\u{7}\nexit 0"]);
    let child = sample.fork(root, 5000);
    sample.exec_bytes(child, b"/tmp/\xff\xfe\x1b[2Jx", vec![b"x".to_vec(), b"\xf0\x28".to_vec(), Vec::new()]);
    let long = format!("/home/dev/{}/end.txt", "very-long-component/".repeat(205));
    sample
        .read(child, &long)
        .create(child, "/home/dev/app/\u{202e}gpj.exe")
        .write(child, "/tmp/a\nb\r\u{9b}31mc");
    sample.read(
        child,
        "/home/dev/漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字.txt",
    );
    let unix = Action::UnixConnect { name: UnixName::Abstract("\u{1b}[31m".into()), datagram: false };
    sample.act(child, unix).answer("\u{1b}[1mevil\u{200b}.example", 2, &[], &[]);
    let mount = Action::Mount {
        operation: MountOp::Mount,
        target: "/mnt/\u{1b}[0m".into(),
        source: "over\nlay".into(),
        filesystem: "overlay".into(),
        flags: 0,
    };
    sample.act_with(child, mount, Some(-1)).pass(5).exit(child, 0).exit(root, 0).end(ENDED, 0);
    sample
}

#[test]
fn coding_agent_at_80_columns() {
    insta::assert_snapshot!(text(&coding_agent(), 80, false));
}

#[test]
fn coding_agent_at_40_columns() {
    insta::assert_snapshot!(text(&coding_agent(), 40, false));
}

#[test]
fn coding_agent_in_full_at_120_columns() {
    insta::assert_snapshot!(text(&coding_agent(), 120, true));
}

#[test]
fn hostile_names() {
    insta::assert_snapshot!(text(&hostile(), 80, false));
}

#[test]
fn empty_session() {
    let mut sample = Sample::start(&["true"], Sample::lsm());
    insta::assert_snapshot!(text(sample.end(ENDED, 0), 80, false));
}

#[test]
fn no_rows() {
    insta::assert_snapshot!(joined_lines(&render(&report(&[]), &RenderOptions::default())));
}

#[test]
fn command_not_found() {
    let mut sample = Sample::start(&["cluade"], Sample::lsm());
    let root = sample.root;
    sample.pass(3).exit(root, 127).end(MainExit::NotStarted(2), 0);
    insta::assert_snapshot!(text(&sample, 80, false));
}

#[test]
fn losses_and_a_session_cut_short() {
    let mut sample = Sample::start(&["agent"], Sample::tracepoint());
    let root = sample.root;
    sample.exec(root, "/usr/bin/agent", &["agent"]).pass(10);
    // Fork and exec of this one were lost.
    let ghost = ProcessKey { tgid: 4999, start_ns: sample.now };
    sample.act(ghost, Action::FileUnlink { file: file("/srv/data") });
    sample.run(root, 5000, &["ls"], 3, 0);
    sample.loss("process_fork", LossReason::RingFull, 12).loss("file_open", LossReason::Folded, 1234);
    sample.loss("all", LossReason::Unclean, 0);
    insta::assert_snapshot!(text(&sample, 80, false));
}

#[test]
fn tracepoint_with_missing_hooks_and_processes_left_running() {
    let mut sample = Sample::start(&["agent", "serve"], Sample::tracepoint());
    let root = sample.root;
    sample.exec(root, "/usr/bin/agent", &["agent", "serve"]);
    let server = sample.fork(root, 5000);
    let bind = Action::NetBind { endpoint: endpoint(Transport::Tcp, "0.0.0.0", 8080) };
    sample.exec(server, "/usr/bin/python3.11", &["python3", "-m", "http.server", "8080"]).act(server, bind);
    sample.act(server, Action::Signal { signal: 9, target: Some(ProcessKey { tgid: 1, start_ns: 0 }) });
    sample.pass(75_000).exit(root, 0).end(ENDED, 1);
    insta::assert_snapshot!(text(&sample, 80, false));
}

#[test]
fn wide_and_deep_trees_are_folded() {
    let mut sample = Sample::start(&["make"], Sample::lsm());
    let root = sample.root;
    sample.exec(root, "/usr/bin/make", &["make", "-j8"]);
    for n in 0..300 {
        let shell = sample.fork(root, 6000 + 2 * n);
        sample.exec(shell, "/usr/bin/dash", &["sh", "-c", "cc"]);
        sample.run(shell, 6001 + 2 * n, &["cc", "-c", &format!("file{}.c", n % 30)], 20, 0);
        sample.exit(shell, 0);
    }
    let mut deep = root;
    for n in 0..40 {
        deep = sample.fork(deep, 9000 + n);
        sample.exec(deep, "/usr/bin/make", &["make", "-C", "sub"]);
    }
    sample.pass(1).exit(root, 0).end(ENDED, 40);
    let options = RenderOptions::default();
    insta::assert_snapshot!(joined_lines(&render_tree(&sample.report(), &options)));
    let full = render_tree(&sample.report(), &RenderOptions { full: true, ..options });
    insta::assert_snapshot!("deep_end_in_full", joined_lines(&full[full.len() - 5..]));
}

#[test]
fn many_files_are_folded_by_directory() {
    let mut sample = Sample::start(&["git", "clone"], Sample::lsm());
    let root = sample.root;
    sample.exec(root, "/usr/bin/git", &["git", "clone"]);
    for n in 0..40 {
        sample.create(root, &format!("/home/dev/app/vendor/{n}.c"));
        sample.read(root, &format!("/home/dev/app/packages/p{n}/node_modules/x/i.js"));
        sample.read(root, &format!("/home/dev/.config/many/{n}/file"));
    }
    sample.read(root, "/usr/lib/a").read(root, "/usr/lib/a");
    sample.write(root, "/home/dev/app/vendor/7.h").end(ENDED, 0);
    insta::assert_snapshot!(text(&sample, 80, false));
}

#[test]
fn a_failed_process_is_not_hidden_among_many() {
    let mut sample = Sample::start(&["make"], Sample::lsm());
    for n in 0..100 {
        sample.run(sample.root, 6000 + n, &["cc", &format!("{n}.c")], 5, u8::from(n == 77));
    }
    let lines = text(&sample, 80, false);
    assert!(lines.contains("cc 77.c") && lines.contains("… 88 more processes"), "{lines}");
}

#[test]
fn a_huge_tree_is_written_in_no_time() {
    let mut sample = Sample::start(&["fork"], Sample::lsm());
    let mut process = sample.root;
    for n in 0..20_000 {
        process = sample.fork(process, 10_000 + n);
    }
    for n in 0..20_000 {
        sample.fork(process, 50_000 + n);
    }
    let report = sample.report();
    assert!(render(&report, &RenderOptions::default()).len() < 60);
    let full = render_tree(&report, &RenderOptions { full: true, ..RenderOptions::default() });
    assert!(full.len() > 40_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_line_is_too_wide_or_unsafe(rows in any_rows(), full: bool) {
        let report = report(&rows);
        for width in [40, 80, 120] {
            let options = RenderOptions { width, full, ..RenderOptions::default() };
            for line in render(&report, &options).iter().chain(&render_tree(&report, &options)) {
                let text = line.to_string();
                prop_assert!(line.width() <= width, "{} > {}: {}", line.width(), width, text);
                prop_assert!(text.width() <= width, "{} > {}: {}", text.width(), width, text);
                let hidden = |c: char| c.is_control() || ('\u{200b}'..='\u{200f}').contains(&c) || c == '\u{202e}';
                prop_assert!(!text.contains(hidden), "{:?}", text);
            }
        }
    }
}
