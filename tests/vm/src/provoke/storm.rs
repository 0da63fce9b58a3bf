//! Many short processes: each must be in the audit exactly once.

use std::os::unix::ffi::OsStringExt;

use anyhow::{Result, bail, ensure};
use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, fork},
};

use super::{Stage, exec::Start};
use crate::{sys, truth::Storm};

/// Every so many children one executes a program.
const EXEC_EVERY: usize = 20;
const AT_ONCE: usize = 32;

pub(crate) fn short_processes(stage: &mut Stage) -> Result<()> {
    let total: usize = std::env::var("SUITE_STORM").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let program = stage.program().into_os_string().into_vec();
    let mut storm = Storm { parent: stage.pid(), ..Storm::default() };
    let mut running = std::collections::VecDeque::new();
    for turn in 0..total {
        let code = (turn % 256) as u8;
        let execs = turn % EXEC_EVERY == 0;
        let start = Start::new(&program, &[b"prog", b"exit", code.to_string().as_bytes()]);
        // SAFETY: this process has one thread.
        match unsafe { fork() }? {
            ForkResult::Child => sys::exit_now(if execs { start.exec() } else { i32::from(code) }),
            ForkResult::Parent { child } => {
                storm.execs += usize::from(execs);
                running.push_back((child, code));
            }
        }
        if running.len() >= AT_ONCE {
            reap(&mut storm, running.pop_front())?;
        }
    }
    while !running.is_empty() {
        reap(&mut storm, running.pop_front())?;
    }
    ensure!(storm.children.len() == total, "lost a child");
    stage.truth.storms.push(storm);
    Ok(())
}

fn reap(storm: &mut Storm, next: Option<(nix::unistd::Pid, u8)>) -> Result<()> {
    let Some((child, code)) = next else { return Ok(()) };
    match waitpid(child, None)? {
        WaitStatus::Exited(_, status) if status == i32::from(code) => {
            storm.children.push((child.as_raw() as u32, code));
            Ok(())
        }
        other => bail!("child {child} should have exited with {code}: {other:?}"),
    }
}
