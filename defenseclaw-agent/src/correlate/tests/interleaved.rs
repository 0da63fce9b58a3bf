//! Eight calls at once, each with a secret number of its own, in two sessions, with records in any order.

use proptest::prelude::*;

use super::*;
use crate::model::ToolCallId;

#[derive(Clone, Debug)]
struct Plan {
    /// Milliseconds: when it is announced, how long until its shell starts, and how long that runs.
    announced: u64,
    starts: u64,
    runs: u64,
    /// How many programs its shell starts, and whether one of them stays behind.
    children: u8,
    background: bool,
    /// Delays of records, in milliseconds.
    late: Vec<u64>,
    /// Which agent does it.
    second: bool,
    /// Words around the number, which several have in common.
    form: u8,
}

fn plan() -> impl Strategy<Value = Plan> {
    let late = prop::collection::vec(0..1400_u64, 1..6);
    let times = (0..800_u64, 1..120_u64, 1..600_u64);
    (times, 0..4_u8, any::<bool>(), late, any::<bool>(), 0..4_u8).prop_map(
        |((announced, starts, runs), children, background, late, second, form)| Plan {
            announced,
            starts,
            runs,
            children,
            background,
            late,
            second,
            form,
        },
    )
}

struct Run {
    processes: Vec<(ProcessKey, usize)>,
    outcome: Outcome,
    calls: Vec<ToolCallId>,
}

fn play(plans: &[Plan], kernel: bool) -> Run {
    let (mut script, first) = Script::new();
    let second = script.session(SessionId(8));
    let begin = script.now + 100 * MS;
    let mut processes = Vec::new();
    let mut announced: Vec<_> = (0..plans.len()).collect();
    announced.sort_by_key(|n| plans[*n].announced);
    for (n, plan) in plans.iter().enumerate() {
        let nonce = format!("{:08x}", u32::try_from(n + 1).unwrap().wrapping_mul(0x9e37_79b1));
        let command = match plan.form {
            0 => format!("echo {nonce}"),
            1 => format!("echo '{nonce}' > n; cat n"),
            2 => "make test".to_owned() + &" ".repeat(n) + "# " + &nonce,
            _ => nonce.clone(),
        };
        let agent = if plan.second { second } else { first };
        script.session = if plan.second { SessionId(8) } else { SESSION };
        let call = bash(&format!("toolu_{n}"), &command);
        let mut late = plan.late.iter().cycle().copied();
        script.now = begin + plan.announced * MS + n as u64;
        script.late = 0;
        script.pre(agent, &call).pass(plan.starts);
        let mut delay = |script: &mut Script| script.late = late.next().unwrap_or(0) * MS;
        delay(&mut script);
        let shell = script.fork(agent);
        delay(&mut script);
        let quoted = command.replace('\'', r#"'"'"'"#);
        script.exec(
            shell,
            "/usr/bin/bash",
            &["/bin/bash", "-c", &format!("true && eval '{quoted}' < /dev/null")],
        );
        processes.push((shell, n));
        for number in 0..plan.children {
            delay(&mut script);
            let child = script.fork(shell);
            delay(&mut script);
            script.exec(child, "/usr/bin/tool", &["tool", &nonce]);
            delay(&mut script);
            script.write(child, &format!("/p/{nonce}"));
            if !(plan.background && number == 0) {
                delay(&mut script);
                script.exit(child);
            }
            processes.push((child, n));
        }
        script.pass(plan.runs);
        delay(&mut script);
        script.exit(shell);
        script.late = 0;
        script.post(agent, &call);
    }
    let outcome = script.run_with(kernel);
    let mut calls = vec![ToolCallId(0); plans.len()];
    for hook in &outcome.hooks {
        let event = hook.event.as_ref().unwrap();
        if let (Phase::ToolPre, [call], [tool]) = (event.phase, hook.calls.as_slice(), event.tools.as_slice())
        {
            let number: usize = tool.id.as_ref().unwrap().strip_prefix("toolu_").unwrap().parse().unwrap();
            calls[number] = *call;
        }
    }
    Run { processes, outcome, calls }
}

proptest! {
    #[test]
    fn every_process_is_given_to_its_call(
        plans in prop::collection::vec(plan(), 8),
        kernel in any::<bool>(),
    ) {
        let run = play(&plans, kernel);
        for (process, n) in &run.processes {
            prop_assert_eq!(run.outcome.call_of(*process), Some(run.calls[*n]), "process {} of call {}", process, n);
            // What was stored before it was known may be without a call, and is never with another one.
            for stamp in run.outcome.stamps(*process) {
                prop_assert!(stamp.is_none() || stamp == Some(run.calls[*n]));
            }
        }
        for row in run.outcome.rows.iter().filter(|row| row.tool_call.is_some()) {
            let n = run.calls.iter().position(|call| Some(*call) == row.tool_call).unwrap();
            let session = if plans[n].second { SessionId(8) } else { SESSION };
            prop_assert_eq!((row.session, row.correlation), (session, Correlation::Matched));
            prop_assert!(row.attributed.iter().all(|one| one.alternatives.is_empty()));
        }
        prop_assert!(run.outcome.findings.is_empty(), "{:?}", run.outcome.findings);
    }
}

/// How many events have their call in their own row: what came before it could be known has not.
#[test]
fn most_rows_have_their_call() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let (mut right, mut wrong, mut none, mut processes) = (0, 0, 0, 0);
    for _ in 0..100 {
        let plans = prop::collection::vec(plan(), 8).new_tree(&mut runner).unwrap().current();
        let run = play(&plans, false);
        processes += run.processes.len();
        for (process, n) in &run.processes {
            for event in run.outcome.events.iter().filter(|event| event.process == *process) {
                match event.tool_call {
                    None => none += 1,
                    Some(call) if call == run.calls[*n] => right += 1,
                    Some(_) => wrong += 1,
                }
            }
        }
    }
    eprintln!("{processes} processes; events: {right} right, {wrong} wrong, {none} without a call");
    assert_eq!(wrong, 0);
    assert!(right > none);
}
