//! What calls are tied to, what is left unexplained, and what is found, in histories as agents make them.

mod interleaved;

use serde_json::json;

use super::sample::*;
use crate::model::{
    Action, Correlation, Evidence, Intent, McpTool, Phase, PolicyAction, ProcessKey, SessionId, Target,
};

const QUIET: [&str; 0] = [];

#[test]
fn one_call_is_tied_to_its_processes_and_nothing_else() {
    let (mut script, agent) = Script::new();
    let call = bash("toolu_1", "make 'all' > log");
    script.hook(agent, Phase::SessionStart, vec![]).pre(agent, &call).pass(20);
    let shell = script.shell(agent, "make 'all' > log");
    let make = script.spawn(shell, "/usr/bin/make", &["make", "all"]);
    script.write(make, "/p/log").exit(make).exit(shell).pass(3).post(agent, &call);
    script.connect(agent, "203.0.113.5");
    for kernel in [false, true] {
        let outcome = script.run_with(kernel);
        let id = outcome.calls()[0];
        let row = outcome.row(id);
        assert_eq!((row.correlation, row.seen.processes, row.seen.files), (Correlation::Matched, 2, 1));
        assert_eq!(row.attributed.iter().map(|one| one.by).collect::<Vec<_>>(), [Evidence::Text]);
        assert_eq!((outcome.stamps(shell), outcome.stamps(make)), (vec![Some(id)], vec![Some(id)]));
        assert_eq!((outcome.stamps(agent), outcome.rules()), (vec![None], QUIET.to_vec()));
        // While it is the only call, the agent's children are born with it.
        let of_agent: Vec<_> = outcome.labels.iter().filter(|(process, _)| *process == agent).collect();
        assert_eq!(of_agent, [&(agent, Some(id)), &(agent, None)], "kernel: {kernel}");
        // Hooks are not findings.
        let hooks = outcome.rows.iter().find(|row| row.reason.contains("hooks")).unwrap();
        assert_eq!(hooks.seen.processes, 6);
    }
}

#[test]
fn parallel_calls_are_told_apart_by_their_text() {
    let (mut script, agent) = Script::new();
    let (first, second) = (bash("a", "sleep 1; cat x"), bash("b", "sleep 1; cat y"));
    script.pre(agent, &first).pre(agent, &second).pass(10);
    let of_second = script.shell(agent, "sleep 1; cat y");
    let of_first = script.shell(agent, "sleep 1; cat x");
    let child = script.spawn(of_second, "/usr/bin/cat", &["cat", "y"]);
    script.pass(1000).post(agent, &first).post(agent, &second);
    for kernel in [false, true] {
        let outcome = script.run_with(kernel);
        let ids = outcome.calls();
        assert_eq!(outcome.stamps(of_first), [Some(ids[0])]);
        assert_eq!(
            (outcome.stamps(of_second), outcome.stamps(child)),
            (vec![Some(ids[1])], vec![Some(ids[1])])
        );
        // The kernel cannot know whose the agent's next child is, but whose those of the shells are.
        assert!(outcome.labels.contains(&(of_first, Some(ids[0]))), "{:?}", outcome.labels);
        assert!(outcome.labels.contains(&(agent, None)));
        assert!(outcome.row(ids[0]).attributed[0].alternatives.is_empty());
    }
}

#[test]
fn equal_parallel_calls_are_a_guess_that_says_so() {
    let (mut script, agent) = Script::new();
    let (first, second) = (bash("a", "date +%N"), bash("b", "date +%N"));
    script.pre(agent, &first).pre(agent, &second).pass(10);
    let shells = [script.shell(agent, "date +%N"), script.shell(agent, "date +%N")];
    script.post(agent, &second).post(agent, &first);
    let outcome = script.run();
    let ids = outcome.calls();
    assert_eq!(shells.map(|shell| outcome.call_of(shell)), [Some(ids[0]), Some(ids[1])]);
    assert_eq!(outcome.row(ids[0]).attributed[0].alternatives, [ids[1]]);
    assert!(outcome.row(ids[0]).reason.contains("guess"));
}

#[test]
fn background_jobs_and_orphans_keep_the_call_that_started_them() {
    let (mut script, agent) = Script::new();
    let call = bash("a", "setsid server & sleep 0");
    script.pre(agent, &call).pass(10);
    let shell = script.shell(agent, "setsid server & sleep 0");
    let between = script.fork(shell);
    let server = script.spawn(between, "/usr/bin/server", &["server"]);
    // Its parents are gone, and then so is the call.
    script.exit(between).exit(shell).pass(5).post(agent, &call);
    script.pass(60_000).write(server, "/p/late");
    let worker = script.spawn(server, "/usr/bin/worker", &["worker"]);
    script.connect(worker, "127.0.0.1").hook(agent, Phase::Stop, vec![]);
    for kernel in [false, true] {
        let outcome = script.run_with(kernel);
        let id = outcome.calls()[0];
        assert_eq!((outcome.stamps(server), outcome.stamps(worker)), (vec![Some(id)], vec![Some(id)]));
        // The first row came when the call had ended, the second one knows of the rest.
        let rows: Vec<_> = outcome.rows.iter().filter(|row| row.tool_call == Some(id)).collect();
        assert_eq!(rows.iter().map(|row| row.seen.processes).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(outcome.rules(), QUIET);
    }
}

#[test]
fn records_that_come_late_count_by_their_time() {
    let (mut script, agent) = Script::new();
    let (before, after) = (bash("a", "echo one"), bash("b", "echo two"));
    script.pre(agent, &before).pass(5);
    script.late = 1500 * MS;
    let shell = script.shell(agent, "echo one");
    script.write(shell, "/p/one").exit(shell);
    script.late = 0;
    script.post(agent, &before).pass(100).pre(agent, &after).pass(5);
    let other = script.shell(agent, "echo two");
    script.exit(other).pass(5).post(agent, &after);
    let outcome = script.run();
    let ids = outcome.calls();
    assert_eq!((outcome.stamps(shell), outcome.stamps(other)), (vec![Some(ids[0])], vec![Some(ids[1])]));
    assert_eq!(outcome.row(ids[0]).seen.files, 1);
}

#[test]
fn what_the_agent_does_itself_is_tied_by_path_and_time() {
    let (mut script, agent) = Script::new();
    let write = declares("Write", "w", "/p/a.txt", vec![writes("a.txt")]);
    let edit = declares("Edit", "e", "~/b.txt", vec![reads("~/b.txt"), writes("~/b.txt")]);
    let grep = declares("Grep", "g", "/p/src", vec![reads("/p/src")]);
    script.read(agent, "/p/a.txt").pre(agent, &write).pre(agent, &edit).pre(agent, &grep).pass(3);
    script.late = 300 * MS;
    script.write(agent, "/p/a.txt.tmp.77.1");
    script
        .act(agent, Action::FileRename { file: file("/p/a.txt.tmp.77.1"), to: "/p/a.txt".into(), flags: 0 });
    script.read(agent, "/home/u/b.txt").write(agent, "/home/u/b.txt").read(agent, "/p/src/deep/x.rs");
    script.write(agent, "/home/u/.claude/log").read(agent, "/p/other");
    script.late = 0;
    script.post(agent, &write).post(agent, &edit).post(agent, &grep).pass(10).write(agent, "/p/a.txt");
    let outcome = script.run();
    let ids = outcome.calls();
    let of = |call| outcome.events.iter().filter(|event| event.tool_call == Some(call)).count();
    assert_eq!([of(ids[0]), of(ids[1]), of(ids[2])], [2, 2, 1]);
    for id in &ids {
        assert_eq!(outcome.answer(*id), Correlation::Matched);
        assert!(outcome.row(*id).attributed.iter().all(|one| one.by == Evidence::Target));
    }
    assert_eq!(outcome.rules(), QUIET);
    assert!(outcome.rows.iter().any(|row| row.process == Some(agent) && row.seen.files == 3));
}

#[test]
fn servers_and_routine_are_unexplained_without_a_finding() {
    let (mut script, agent) = Script::new();
    script.hook(agent, Phase::SessionStart, vec![]);
    let server = script.spawn(agent, "/usr/bin/node", &["node", "/opt/mcp/server.js"]);
    let mut call = tool("mcp__lab__lookup", json!({"key": "x"}));
    call.mcp =
        Some(McpTool { server: Some("lab".to_owned()), tool: "lookup".to_owned(), ..McpTool::default() });
    call.intents = vec![Intent::Unparsed("up to the server".to_owned())];
    let make = bash("m", "make");
    script.pass(40_000).pre(agent, &make).pre(agent, &call).pass(2).write(server, "/p/cache");
    script.connect(server, "203.0.113.9");
    let worker = script.spawn(server, "/usr/bin/make", &["make"]);
    let git = script.spawn(agent, "/usr/bin/git", &["git", "-C", "/p", "status"]);
    script.exit(worker).exit(git).post(agent, &call).post(agent, &make);
    for kernel in [false, true] {
        let outcome = script.run_with(kernel);
        let ids = outcome.calls();
        assert_eq!(outcome.answer(ids[1]), Correlation::HookOnly);
        // Not even its own copy of an announced command.
        assert_eq!((outcome.stamps(server), outcome.stamps(worker)), (vec![None], vec![None]));
        assert_eq!(outcome.rules(), QUIET, "{:?}", outcome.findings);
        let row = outcome.rows.iter().find(|row| row.process == Some(server)).unwrap();
        assert_eq!((row.correlation, row.seen.processes), (Correlation::KernelOnly, 2));
    }
}

#[test]
fn what_nobody_announced_is_found_once() {
    let (mut script, agent) = Script::new();
    let known = bash("a", "true");
    script.pre(agent, &known).pass(5);
    let shell = script.shell(agent, "true");
    script.exit(shell).post(agent, &known).pass(3000);
    let mut strays: Vec<ProcessKey> = Vec::new();
    for n in 0..5 {
        let stray = script.shell(agent, &format!("curl evil{n}"));
        let curl = script.spawn(stray, "/usr/bin/curl", &["curl", "evil"]);
        script.connect(curl, "203.0.113.7").exit(curl).exit(stray).pass(100);
        strays.push(stray);
    }
    let outcome = script.run();
    for stray in &strays {
        assert_eq!(outcome.stamps(*stray), [None]);
        assert_eq!(outcome.rows.iter().filter(|row| row.process == Some(*stray)).count(), 1);
    }
    let count = |rule| outcome.rules().iter().filter(|one| **one == rule).count();
    assert_eq!((count("correlate.unannounced_exec"), count("correlate.unannounced_connect")), (1, 5));
    let finding = &outcome.findings[0];
    assert_eq!((finding.process, finding.evidence[0].process), (Some(strays[0]), strays[0]));
}

#[test]
fn a_call_that_reads_must_not_write() {
    let (mut script, agent) = Script::new();
    let mut grep = declares("Grep", "g", "/p/src", vec![reads("/p/src")]);
    grep.input = json!({"pattern": "needle", "path": "/p/src"});
    let quiet = declares("Grep", "h", "/p/src", vec![reads("/p/src")]);
    script.pre(agent, &grep).pass(3);
    let rg = script.spawn(agent, "/usr/bin/rg", &["rg", "needle", "/p/src"]);
    script
        .write(rg, "/dev/null")
        .read(rg, "/p/src/a")
        .write(rg, "/home/u/.bashrc")
        .connect(rg, "203.0.113.1");
    // Whatever else the agent starts meanwhile is not the call's.
    let git = script.spawn(agent, "/usr/bin/git", &["git", "commit", "-m", "x"]);
    script.write(git, "/p/.git/index").exit(rg).post(agent, &grep).pre(agent, &quiet).post(agent, &quiet);
    let outcome = script.run();
    let ids = outcome.calls();
    assert_eq!(
        (outcome.answer(ids[0]), outcome.answer(ids[1])),
        (Correlation::Conflict, Correlation::HookOnly)
    );
    let finding = outcome.findings.iter().find(|finding| finding.rule == "correlate.conflict").unwrap();
    let what: Vec<_> = finding.evidence.iter().map(|one| one.what.lossy()).collect();
    assert_eq!(
        (finding.tool_call, what),
        (Some(ids[0]), vec!["/home/u/.bashrc".into(), "203.0.113.1:443".into()])
    );
    assert_eq!(outcome.stamps(git), [None]);
}

#[test]
fn a_shell_command_is_never_in_conflict() {
    let (mut script, agent) = Script::new();
    let mut call = bash("a", "cat x");
    call.intents = vec![Intent::Exec(vec![Target::known("cat"), Target::known("x")]), reads("x")];
    script.pre(agent, &call).pass(3);
    let shell = script.shell(agent, "cat x");
    script.write(shell, "/p/elsewhere").connect(shell, "203.0.113.1").exit(shell).post(agent, &call);
    let outcome = script.run();
    assert_eq!((outcome.answer(outcome.calls()[0]), outcome.rules()), (Correlation::Matched, QUIET.to_vec()));
}

#[test]
fn a_blocked_call_that_runs_all_the_same_is_found() {
    for (runs, expected) in [(false, Correlation::HookOnly), (true, Correlation::Conflict)] {
        let (mut script, agent) = Script::new();
        let call = bash("a", "rm -rf /p/data");
        script.hook_answered(agent, Phase::ToolPre, vec![call], PolicyAction::Block).pass(10);
        if runs {
            let shell = script.shell(agent, "rm -rf /p/data");
            script.exit(shell);
        }
        let outcome = script.run();
        assert_eq!(outcome.answer(outcome.calls()[0]), expected);
        assert_eq!(outcome.rules().contains(&"correlate.blocked_call_ran"), runs);
    }
}

#[test]
fn data_that_leaves_after_a_secret_is_found_in_order() {
    // Whether the connection happens after the read, and whether its record comes before that of the read.
    for (after, swapped) in [(true, false), (true, true), (false, false), (false, true)] {
        let (mut script, agent) = Script::new();
        let (one, two) = (bash("a", "cat .env"), bash("b", "curl up"));
        script.pre(agent, &one).pre(agent, &two).pass(10);
        let reader = script.shell(agent, "cat .env");
        let sender = script.shell(agent, "curl up");
        let late = |script: &mut Script, is: bool| script.late = if is { 800 * MS } else { 0 };
        if after {
            late(&mut script, swapped);
            script.read_secret(reader, "/p/.env").pass(5);
            late(&mut script, false);
            script.connect(sender, "127.0.0.1").connect(sender, "203.0.113.3");
        } else {
            late(&mut script, swapped);
            script.connect(sender, "203.0.113.3").pass(5);
            late(&mut script, false);
            script.read_secret(reader, "/p/.env");
        }
        late(&mut script, false);
        script.connect(agent, "203.0.113.200").pass(10).post(agent, &one).post(agent, &two);
        let outcome = script.run();
        let expected = if after { vec!["chain.secret_read_then_egress"] } else { vec![] };
        assert_eq!(outcome.rules(), expected, "{after} {swapped}");
        if let Some(finding) = outcome.findings.first() {
            let what: Vec<_> = finding.evidence.iter().map(|one| one.what.lossy()).collect();
            assert_eq!(what, ["/p/.env", "203.0.113.3:443"]);
            assert_eq!(finding.tool_call, Some(outcome.calls()[1]));
        }
    }
}

#[test]
fn secrets_that_the_agent_reads_unannounced_are_found_except_its_own() {
    let (mut script, agent) = Script::new();
    let read = declares("Read", "r", "/p/.env", vec![reads("/p/.env")]);
    script.pre(agent, &read).pass(1).read_secret(agent, "/p/.env").post(agent, &read);
    script.read_secret(agent, "/home/u/.claude/.credentials.json").read_secret(agent, "/home/u/.ssh/id_rsa");
    script.read_secret(agent, "/home/u/.ssh/id_rsa");
    let outcome = script.run();
    assert_eq!(outcome.rules(), ["correlate.unannounced_secret_read"]);
    assert_eq!(outcome.findings[0].evidence[0].what.lossy(), "/home/u/.ssh/id_rsa");
}

#[test]
fn hooks_that_fall_silent_are_noticed() {
    for (n, quiet_for, expected) in [(3, 70_000, true), (2, 70_000, false), (3, 20_000, false)] {
        let (mut script, agent) = Script::new();
        let call = bash("a", "true");
        script.pre(agent, &call).pass(2).post(agent, &call).pass(3000);
        for number in 0..n {
            let shell = script.shell(agent, &format!("step {number}"));
            script.exit(shell).pass(quiet_for / n);
        }
        // A hook ends it, before the end of the session does.
        script.hook(agent, Phase::Stop, vec![]);
        let outcome = script.run();
        assert_eq!(outcome.rules().contains(&"correlate.hooks_silent"), expected, "{n} in {quiet_for}");
    }
}

#[test]
fn a_relaunched_agent_and_one_in_the_tree_of_another() {
    let (mut script, wrapper) = Script::new();
    let agent = script.spawn(wrapper, "/usr/bin/node", &["node", "gemini"]);
    let outer = bash("a", "codex exec 'do it'");
    script.pre(agent, &outer).pass(5);
    let shell = script.shell(agent, "codex exec 'do it'");
    let nested = script.spawn(shell, "/usr/bin/codex", &["codex", "exec", "do it"]);
    let inner = bash("b", "ls -la");
    script.pre(nested, &inner).pass(5);
    let ls = script.spawn(nested, "/usr/bin/bash", &["bash", "-c", "ls -la"]);
    let housekeeping = script.spawn(nested, "/usr/bin/id", &["id"]);
    script.exit(ls).post(nested, &inner).exit(nested).exit(shell).post(agent, &outer);
    for kernel in [false, true] {
        let outcome = script.run_with(kernel);
        let ids = outcome.calls();
        assert_eq!((outcome.stamps(shell), outcome.stamps(nested)), (vec![Some(ids[0])], vec![Some(ids[0])]));
        assert_eq!(outcome.stamps(ls), [Some(ids[1])]);
        assert!(outcome.stamps(housekeeping).iter().all(|stamp| *stamp != Some(ids[1]) || kernel));
        assert_eq!(outcome.stamps(wrapper), [None]);
    }
}

#[test]
fn a_persistent_shell_works_for_one_call_after_the_other() {
    let (mut script, agent) = Script::new();
    let shell = script.spawn(agent, "/usr/bin/bash", &["bash", "-i"]);
    script.hook(agent, Phase::SessionStart, vec![]);
    let mut children = Vec::new();
    for command in ["make", "date"] {
        let mut call = bash(command, command);
        call.intents = vec![Intent::Exec(vec![Target::known(command)])];
        script.pre(agent, &call).pass(5);
        let child = script.spawn(shell, &format!("/usr/bin/{command}"), &[command]);
        children.push(child);
        script.exit(child).pass(5).post(agent, &call);
    }
    let outcome = script.run();
    let ids = outcome.calls();
    let found: Vec<_> = children.iter().map(|child| outcome.call_of(*child)).collect();
    assert_eq!(found, [Some(ids[0]), Some(ids[1])]);
    assert_eq!(outcome.stamps(shell), [None]);
}

#[test]
fn codex_names_the_call_in_the_environment() {
    let (mut script, agent) = Script::new();
    let (one, two) = (bash("call_1", "x"), bash("call_2", "x"));
    script.pre(agent, &one).pre(agent, &two).pass(5);
    let second = script.fork(agent);
    let mut program = exec("/usr/bin/codex", &["/proc/self/exe", "--codex-run-as-process-setup"]);
    program.session_env = vec![("CODEX_TOOL_CALL_ID".into(), "call_2".into())];
    script.act(second, Action::ProcessExec(Box::new(program)));
    script.exec(second, "/usr/bin/bash", &["/bin/bash", "-c", "x"]);
    script.post(agent, &one).post(agent, &two);
    let outcome = script.run();
    let ids = outcome.calls();
    assert_eq!(outcome.stamps(second), [Some(ids[1])]);
    assert_eq!(outcome.row(ids[1]).attributed[0].by, Evidence::CallId);
    assert_eq!(outcome.answer(ids[0]), Correlation::HookOnly);
}

#[test]
fn calls_without_ids_are_paired_by_what_they_say() {
    let (mut script, agent) = Script::new();
    let (one, two) = (bash("", "one"), bash("", "two"));
    script.pre(agent, &one).pre(agent, &two).pre(agent, &one).pass(5);
    script.post(agent, &two).post(agent, &one).post(agent, &one);
    // The same call, announced by two events.
    let mut again = bash("id", "three");
    script.pre(agent, &again);
    again.id = None;
    script.hook(agent, Phase::Other, vec![]);
    let outcome = script.run();
    let ids = outcome.calls();
    let ended: Vec<_> = outcome
        .hooks
        .iter()
        .filter(|hook| hook.event.as_ref().unwrap().phase == Phase::ToolPost)
        .flat_map(|hook| hook.calls.clone())
        .collect();
    assert_eq!(ended, [ids[1], ids[0], ids[2]]);
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
}

#[test]
fn a_resumed_run_and_two_sessions_are_never_mixed() {
    let (mut script, first) = Script::new();
    let call = bash("toolu_1", "echo same");
    script.pre(first, &call).pass(3);
    let one = script.shell(first, "echo same");
    // The agent's own session is the same, the watched one is not.
    let other = SessionId(8);
    let second = script.session(other);
    script.pre(second, &call).pass(3);
    let two = script.shell(second, "echo same");
    script.session = SESSION;
    script.exit(one).post(first, &call);
    script.session = other;
    script.exit(two).post(second, &call);
    let outcome = script.run();
    let ids = outcome.calls();
    assert_ne!(ids[0], ids[1]);
    assert_eq!((outcome.stamps(one), outcome.stamps(two)), (vec![Some(ids[0])], vec![Some(ids[1])]));
    assert_eq!((outcome.row(ids[0]).session, outcome.row(ids[1]).session), (SESSION, other));
}

#[test]
fn a_session_without_hooks_costs_and_says_nothing() {
    let (mut script, root) = Script::new();
    let child = script.shell(root, "anything");
    script.read_secret(child, "/p/.env").connect(child, "203.0.113.1");
    let outcome = script.run();
    assert!(outcome.rows.is_empty() && outcome.findings.is_empty() && outcome.labels.is_empty());
}

#[test]
fn memory_is_bounded_and_what_is_given_up_is_said() {
    let (mut script, agent) = Script::new();
    for number in 0..3000 {
        let call = bash(&format!("toolu_{number}"), &format!("echo {number}"));
        script.pre(agent, &call);
    }
    let outcome = script.run();
    let ids = outcome.calls();
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 3000);
    let concluded = outcome.rows.iter().filter(|row| row.tool_call.is_some()).count();
    assert_eq!(concluded, 3000);
}
