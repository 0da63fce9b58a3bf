//! Programs that are held when they have started.

use std::{fs, time::Instant};

use anyhow::{Context as _, Result, ensure};
use defenseclaw::model::{EventKind, Waiter};
use nix::{sys::signal::Signal, unistd::Pid};

use super::client::{self, Client};
use crate::{check::Setting, sys};

pub(super) fn held(setting: &Setting) -> Result<()> {
    client::with(setting.level, |client| {
        // Runs one program after the other and reports what it thinks is wrong.
        let pid = client.start(&["starts"])?;
        let status = client.end(pid, 120)?;
        ensure!(status.success(), "{status:?}");
        ensure!(client.answered.values().all(|number| *number >= 6), "{:?}", client.answered);
        Ok(())
    })
}

pub(super) fn vfork(setting: &Setting) -> Result<()> {
    client::with(setting.level, |client| {
        let pid = client.start(&["vfork"])?;
        client.wait_late(1)?;
        let asked = client.late[0].clone();
        ensure!(asked.event.kind() == EventKind::ProcessExec, "{asked:?}");
        let Waiter::Held { process } = asked.waiter else { anyhow::bail!("{asked:?}") };
        client.wait_stopped(process)?;
        // The parent counts while its child is held.
        let beat = client.dir.join("beat");
        let number = || fs::read_to_string(&beat).ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        ensure!(client.until(60, |_| number() > 0)?, "the parent does not go on");
        let before = number();
        ensure!(client.until(60, |_| number() > before + 5)?, "the parent stands still");
        ensure!(Client::state(process) == Some('T'), "the child is {:?}", Client::state(process));
        ensure!(client.answer(&asked.waiter, true)?, "no such question");
        let status = client.end(pid, 60)?;
        ensure!(status.success(), "{status:?}");
        Ok(())
    })
}

pub(super) fn woken(setting: &Setting) -> Result<()> {
    client::with(setting.level, |client| {
        for turn in 0..3 {
            let pid = client.start(&["start-late"])?;
            client.wait_late(1)?;
            let asked = client.late.remove(0);
            let Waiter::Held { process } = asked.waiter else { anyhow::bail!("{asked:?}") };
            client.wait_stopped(process).with_context(|| format!("{turn}"))?;
            let started = Instant::now();
            for which in 0..5 {
                nix::sys::signal::kill(Pid::from_raw(process.tgid as i32), Signal::SIGCONT)?;
                client.wait_stopped(process).with_context(|| format!("{turn} wake {which}"))?;
            }
            ensure!(!client.dir.join("started").exists(), "it did something in {:?}", started.elapsed());
            ensure!(client.answer(&asked.waiter, true)?, "no such question");
            let status = client.end(pid, 60)?;
            ensure!(status.success(), "{status:?}");
            ensure!(client.dir.join("started").exists(), "it did nothing");
            ensure!(!sys::alive(process.tgid), "it is still there");
            fs::remove_file(client.dir.join("started"))?;
        }
        Ok(())
    })
}
