//! How long it takes from an answer until the system call of the paused task returns. A figure, not a judgement.

use anyhow::{Context, Result, ensure};
use defenseclaw::model::Ruling;

use super::scene;
use crate::{check::Setting, sys};

/// `SUITE_LATENCY` says how many pauses are measured.
pub(super) fn latency(setting: &Setting) -> Result<()> {
    let number = std::env::var("SUITE_LATENCY").unwrap_or_else(|_| "20".to_owned());
    scene::with(setting, |scene| {
        let path = scene.file("ask/measured")?;
        let log = scene.base.join("returned");
        let program = crate::check::session::own_program()?;
        let (program, log) = (program.to_str().context("name")?.to_owned(), log.to_str().context("name")?);
        let job = scene.start_job(&[&program, "pause", "opens", &path, &number, log])?;
        let (mut known, mut sent, mut taken) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..number.parse()? {
            let id = scene.asked_anew(&path, &known)?.approval.id;
            sent.push(sys::boottime());
            scene.rule(id, Ruling::Once)?;
            taken.push(scene.settled(id)?.settled.context("settled")?.boot.0);
            known = vec![id];
        }
        let ended = scene.end(job)?;
        ensure!(ended.status.success(), "{ended:?}");
        let text = std::fs::read_to_string(log)?;
        let returned: Vec<u64> = text.lines().map(str::parse).collect::<Result<_, _>>()?;
        ensure!(returned.len() == sent.len());
        for (what, since) in [("the answer is sent", sent), ("it is taken", taken)] {
            let mut spans: Vec<u64> =
                returned.iter().zip(&since).map(|(end, start)| (end - start) / 1000).collect();
            spans.sort_unstable();
            let at = |percent: usize| spans[(spans.len() - 1) * percent / 100];
            println!(
                "from when {what} to the return, {} pauses: p50 {} us, p99 {} us, most {} us",
                spans.len(),
                at(50),
                at(99),
                at(100)
            );
        }
        Ok(())
    })
}
