//! The pause: operations that wait in the kernel for an answer, and go on as if nothing had happened. Real programs ask by doing;
//! a client answers by what the object is called. What questions look like to people is not tried here.

mod asked;
mod calls;
mod client;
mod killed;
mod latency;
mod operations;
mod program;
mod real;
mod scene;
mod stage;
mod starts;
mod tasks;

use std::{path::Path, process::ExitCode};

use anyhow::Result;
use libtest_mimic::{Completion, Failed, Trial};

use crate::check::{Setting, trial};

type Act = fn(&Setting) -> Result<()>;

pub(crate) fn trials(setting: &Setting) -> Vec<Trial> {
    let all: [(&str, Act); 16] = [
        ("every call waits and goes on, allowed or refused", calls::each),
        ("calls at random, answered at random", calls::random),
        ("two hundred at once", calls::many),
        ("threads of one process", tasks::threads),
        ("a program is held before its first instruction", starts::held),
        ("a parent in vfork goes on while its child is held", starts::vfork),
        ("a held program that is woken by somebody else stays held", starts::woken),
        ("SIGTERM and SIGKILL end who waits", tasks::ended),
        ("a handler runs, and the call goes on after it", tasks::handled),
        ("woken by somebody else, it waits again", tasks::woken),
        ("stopped by somebody else, it stays so", tasks::stopped),
        ("a traced process is not stopped", tasks::traced),
        ("a child in vfork is not stopped", tasks::vfork_child),
        ("calls that cannot wait are refused, and a retry passes", calls::retry),
        ("without anybody who answers the fallback applies", calls::fallback),
        ("who waits when nobody answers any more gets the fallback", calls::orphans),
    ];
    let mut trials: Vec<_> = all
        .into_iter()
        .map(|(name, run)| {
            let setting = setting.clone();
            trial(format!("pause/{name}"), move || {
                if setting.level != defenseclaw::model::Level::Lsm && !name.contains("held before") {
                    return setting.skip(name, "bpf_lsm", "operations wait at level lsm only");
                }
                completed(run(&setting))
            })
        })
        .collect();
    trials.extend(of_a_run(setting));
    trials
}

/// Trials of `defenseclaw run`, which share one: the last one kills it.
fn of_a_run(setting: &Setting) -> Vec<Trial> {
    // With the program that a trial needs besides those every machine has, and who promises it.
    let all: [(&str, &str, &str, Act); 19] = [
        ("approved by a command", "", "", asked::approve),
        ("denied with a word", "", "", asked::deny),
        ("two answers at once", "", "", asked::two_at_once),
        ("an answer from inside the tree", "", "", asked::inside),
        ("who asks is killed", "", "", asked::killed),
        ("for the session, and taken back", "", "", asked::session),
        ("pipelines", "", "", real::pipeline),
        ("a script with job control", "bash", "tools", real::job_control),
        ("a shell at a terminal", "bash", "tools", real::interactive),
        ("timeout", "timeout", "tools", real::timeout),
        ("Python and its children", "python3", "tools", real::python),
        ("Node and its children", "node", "node", real::node),
        ("make", "make", "tools", real::make),
        ("posix_spawn", "", "", real::spawn),
        ("an io_uring", "", "", real::ring),
        // The question from the start of the run: a policy that is replaced would ask it anew.
        ("an answer after the deadline", "", "", asked::too_late),
        ("another policy with questions open", "", "", asked::reload),
        ("from the answer to the return", "", "", latency::latency),
        ("killed with questions open", "", "", killed::with_pauses_open),
    ];
    let of = |&(name, program, needs, run): &(&'static str, &'static str, &'static str, Act)| {
        let setting = setting.clone();
        trial(format!("pause/run, {name}"), move || {
            if setting.level != defenseclaw::model::Level::Lsm {
                return setting.skip(name, "bpf_lsm", "operations wait at level lsm only");
            }
            if !program.is_empty() && real::find(program).is_none() {
                return setting.skip(name, needs, &format!("there is no {program}"));
            }
            completed(run(&setting))
        })
    };
    all.iter().map(of).collect()
}

/// Ends what trials share.
pub(crate) fn finish() {
    scene::finish();
}

/// `pause PROGRAM …`: the programs that wait.
pub(crate) fn program_main(arguments: &[&[u8]]) -> ExitCode {
    let words: Vec<String> =
        arguments.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    let number = |at: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(0);
    match words[0].as_str() {
        "stage" => stage::main(Path::new(&words[1])),
        "spawn" => stage::spawn(&words[1..]),
        "uring" => stage::uring(&words[1]),
        "opens" => stage::opens(&words[1], number(2), &words[3]),
        _ => program::main(&words),
    }
}

fn completed(result: Result<()>) -> Result<Completion, Failed> {
    match result {
        Ok(()) => Ok(Completion::Completed),
        Err(err) => Err(Failed::from(format!("{err:#}"))),
    }
}
