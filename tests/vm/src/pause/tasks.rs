//! What else happens to a process while one of its threads waits: threads, signals, job control, tracers.

use anyhow::{Context, Result, bail, ensure};
use defenseclaw::model::{ProcessKey, Waiter};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::os::unix::process::ExitStatusExt;

use super::client::{self, Asked};
use crate::check::Setting;

fn send(process: ProcessKey, signal: Signal) -> Result<()> {
    Ok(kill(Pid::from_raw(process.tgid as i32), signal)?)
}

fn paused(asked: &Asked) -> Result<ProcessKey> {
    match asked.waiter {
        Waiter::Paused { process, .. } => Ok(process),
        _ => bail!("{asked:?}"),
    }
}

pub(super) fn threads(setting: &Setting) -> Result<()> {
    client::with(setting.level, |client| {
        let pid = client.start(&["threads"])?;
        let status = client.end(pid, 60)?;
        ensure!(status.success(), "{status:?}");
        Ok(())
    })
}

pub(super) fn ended(setting: &Setting) -> Result<()> {
    client::with(setting.level, |client| {
        for signal in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGINT, Signal::SIGHUP] {
            let pid = client.start(&["late"])?;
            client.wait_late(1)?;
            let asked = client.late.remove(0);
            let process = paused(&asked)?;
            client.wait_stopped(process)?;
            send(process, signal)?;
            let status = client.end(pid, 60).with_context(|| signal.to_string())?;
            ensure!(status.signal() == Some(signal as i32), "{signal}: {status:?}");
            ensure!(
                client.until(10, |client| client.pauses.waiting().is_ok_and(|all| all.is_empty()))?,
                "it still waits"
            );
            ensure!(!client.answer(&asked.waiter, true)?, "an answer to nobody");
        }
        Ok(())
    })
}

pub(super) fn handled(setting: &Setting) -> Result<()> {
    client::with(setting.level, |client| {
        // A timer that fires all the time, with a handler and SA_RESTART or without.
        for way in ["timer", "timer-interrupting"] {
            let pid = client.start(&[way])?;
            client.wait_late(1)?;
            let asked = client.late.remove(0);
            let beat = client.dir.join(format!("handled-{pid}"));
            let number = || std::fs::metadata(&beat).map_or(0, |found| found.len());
            ensure!(client.until(60, |_| number() >= 5)?, "{way}: the handler ran {} times", number());
            ensure!(client.answer(&asked.waiter, true)?, "no such question");
            let status = client.end(pid, 60)?;
            ensure!(status.success(), "{way}: {status:?}");
            // The handler's own calls asked nobody.
            ensure!(client.late.is_empty(), "{:?}", client.late);
        }
        Ok(())
    })
}

pub(super) fn woken(setting: &Setting) -> Result<()> {
    client::with(setting.level, |client| {
        for allow in [true, false] {
            let pid = client.start(&["late"])?;
            client.wait_late(1)?;
            let asked = client.late.remove(0);
            let process = paused(&asked)?;
            for _ in 0..5 {
                client.wait_stopped(process)?;
                send(process, Signal::SIGCONT)?;
            }
            client.wait_stopped(process)?;
            ensure!(client.late.is_empty(), "asked again: {:?}", client.late);
            ensure!(client.answer(&asked.waiter, allow)?, "no such question");
            let status = client.end(pid, 60)?;
            ensure!(status.code() == Some(i32::from(!allow)), "{status:?}");
        }
        Ok(())
    })
}

pub(super) fn stopped(setting: &Setting) -> Result<()> {
    client::with(setting.level, |client| {
        let pid = client.start(&["late"])?;
        client.wait_late(1)?;
        let asked = client.late.remove(0);
        let process = paused(&asked)?;
        client.wait_stopped(process)?;
        send(process, Signal::SIGSTOP)?;
        ensure!(client.answer(&asked.waiter, true)?, "no such question");
        // Whatever we do, it stays stopped until who stopped it lets it go on.
        client.until(1, |_| false)?;
        client.wait_stopped(process)?;
        send(process, Signal::SIGCONT)?;
        let status = client.end(pid, 60)?;
        ensure!(status.success(), "{status:?}");
        Ok(())
    })
}

pub(super) fn traced(setting: &Setting) -> Result<()> {
    client::with(setting.level, |client| {
        let pid = client.start(&["traced"])?;
        let status = client.end(pid, 60)?;
        ensure!(status.success(), "{status:?}");
        ensure!(client.late.is_empty(), "{:?}", client.late);
        ensure!(client.refused.len() == 1, "{:?}", client.refused);
        Ok(())
    })
}

pub(super) fn vfork_child(setting: &Setting) -> Result<()> {
    client::with(setting.level, |client| {
        let pid = client.start(&["vfork-open"])?;
        let status = client.end(pid, 60)?;
        ensure!(status.success(), "{status:?}");
        ensure!(client.refused.len() == 1, "{:?}", client.refused);
        Ok(())
    })
}
