//! System calls that wait: one by one, at random, many at once, and those that cannot.

use anyhow::{Result, ensure};
use defenseclaw::model::{EventKind, Settlement, Waiter};

use super::client;
use crate::{check::Setting, sys};

pub(super) fn each(setting: &Setting) -> Result<()> {
    client::with(setting.level, |client| {
        let pid = client.start(&["each"])?;
        let status = client.end(pid, 60)?;
        ensure!(status.success(), "{status:?}");
        println!("answered: {:?}", client.answered);
        ensure!(client.refused.is_empty(), "{:?}", client.refused);
        ensure!(client.answered.values().all(|number| *number >= 25), "{:?}", client.answered);
        Ok(())
    })
}

pub(super) fn random(setting: &Setting) -> Result<()> {
    let calls = std::env::var("SUITE_PAUSES").unwrap_or_else(|_| "1500".to_owned());
    let wanted: usize = calls.parse()?;
    client::with(setting.level, |client| {
        let seed = sys::boottime().to_string();
        println!("seed {seed}");
        let pid = client.start(&["random", &seed, &calls])?;
        let status = client.end(pid, 60 + wanted as u64 / 10)?;
        ensure!(status.success(), "{status:?}");
        println!("answered: {:?}", client.answered);
        let answered: usize = client.answered.values().sum();
        ensure!(answered >= wanted, "{answered} answers for {wanted} calls");
        Ok(())
    })
}

pub(super) fn many(setting: &Setting) -> Result<()> {
    const NUMBER: usize = 200;
    client::with(setting.level, |client| {
        let pids: Vec<_> = (0..NUMBER).map(|_| client.start(&["late"])).collect::<Result<_>>()?;
        client.wait_late(NUMBER)?;
        let waiting = client.pauses.waiting()?;
        ensure!(waiting.len() == NUMBER, "{} wait", waiting.len());
        for (at, asked) in std::mem::take(&mut client.late).into_iter().enumerate() {
            ensure!(client.answer(&asked.waiter, at % 2 == 0)?, "{asked:?}");
            // The second answer finds nothing.
            ensure!(!client.answer(&asked.waiter, at % 2 == 1)?, "answered twice: {asked:?}");
        }
        let mut codes = [0, 0];
        for pid in pids {
            let code = client.end(pid, 120)?.code();
            ensure!(matches!(code, Some(0 | 1)), "{code:?}");
            codes[usize::from(code == Some(1))] += 1;
        }
        ensure!(codes == [NUMBER / 2, NUMBER / 2], "{codes:?}");
        Ok(())
    })
}

pub(super) fn retry(setting: &Setting) -> Result<()> {
    client::with(setting.level, |client| {
        let pid = client.start(&["many-messages"])?;
        let there = client.until(60, |client| !client.refused.is_empty() || !sys::alive(pid))?;
        ensure!(there, "nothing was refused");
        if let Some(asked) = client.refused.first().cloned() {
            ensure!(asked.event.kind() == EventKind::NetSend, "{asked:?}");
            ensure!(matches!(asked.waiter, Waiter::Retry { .. }), "{asked:?}");
            ensure!(client.answer(&asked.waiter, true)?, "no place for the grant");
        }
        let status = client.end(pid, 60)?;
        ensure!(status.success(), "{status:?}");
        ensure!(client.refused.len() == 1, "{:?}", client.refused);
        Ok(())
    })
}

pub(super) fn fallback(setting: &Setting) -> Result<()> {
    client::with(setting.level, |client| {
        client.pauses.stop_asking()?;
        let pid = client.start(&["late"])?;
        ensure!(client.end(pid, 60)?.code() == Some(1), "it was not refused");
        ensure!(client.late.is_empty() && client.refused.is_empty(), "somebody was asked");
        Ok(())
    })
}

pub(super) fn orphans(setting: &Setting) -> Result<()> {
    client::with(setting.level, |client| {
        let pids: Vec<_> = (0..5).map(|_| client.start(&["late"])).collect::<Result<_>>()?;
        client.wait_late(5)?;
        client.pauses.stop_asking()?;
        let settled = client.pauses.settle_all()?;
        ensure!(
            settled.len() == 5 && settled.iter().all(|one| one.fallback == Settlement::Block),
            "{settled:?}"
        );
        for pid in pids {
            ensure!(client.end(pid, 60)?.code() == Some(1), "it was not refused");
        }
        Ok(())
    })
}
