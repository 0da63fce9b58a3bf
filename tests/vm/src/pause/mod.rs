//! The pause: operations that wait in the kernel for an answer, and go on as if nothing had happened. Real programs ask by doing;
//! a client answers by what the object is called. What questions look like to people is not tried here.

mod calls;
mod client;
mod operations;
mod program;
mod starts;
mod tasks;

use std::process::ExitCode;

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
    all.into_iter()
        .map(|(name, run)| {
            let setting = setting.clone();
            trial(format!("pause/{name}"), move || {
                if setting.level != defenseclaw::model::Level::Lsm && !name.contains("held before") {
                    return setting.skip(name, "bpf_lsm", "operations wait at level lsm only");
                }
                completed(run(&setting))
            })
        })
        .collect()
}

/// `pause PROGRAM …`: the programs that wait.
pub(crate) fn program_main(arguments: &[&[u8]]) -> ExitCode {
    let words: Vec<String> =
        arguments.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
    program::main(&words)
}

fn completed(result: Result<()>) -> Result<Completion, Failed> {
    match result {
        Ok(()) => Ok(Completion::Completed),
        Err(err) => Err(Failed::from(format!("{err:#}"))),
    }
}
