//! `kill -9` of a run that has processes paused: its guardian gives each of them the fallback and takes everything off, and the
//! audit says so.

use std::{collections::BTreeMap, fs, os::unix::process::ExitStatusExt};

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{AuditRecord, Outcome};

use super::scene;
use crate::{
    check::{Setting, records},
    runs::kill::{left_since, verify},
    sys,
};

/// The longest that somebody may stay stopped, in seconds.
const STOPPED_MOST: u64 = 10;

pub(super) fn with_pauses_open(setting: &Setting) -> Result<()> {
    scene::last(setting, |mut scene| {
        let held = scene.base.join("bin/held").to_str().context("name")?.to_owned();
        let ran = scene.base.join("ran").to_str().context("name")?.to_owned();
        let mut waiting = BTreeMap::new();
        for number in 0..3 {
            let path = scene.file(&format!("ask/orphan-{number}"))?;
            let job = scene.start_job(&["cat", &path])?;
            waiting.insert(scene.asked(&path)?.approval.id, job);
        }
        let job = scene.start_job(&[&held, "touch", &ran])?;
        let first = scene.asked(&held)?.approval.id;
        // Of questions that are not in the audit when it is killed nobody can say how they ended.
        let written = sys::wait_until(30, || {
            let mut asked = 0;
            let read = records(setting, &scene.db, &["--session", "last"], |row| {
                if let AuditRecord::Asked(asked_row) = row.record {
                    asked += usize::from(asked_row.id == first || waiting.contains_key(&asked_row.id));
                }
                Ok(())
            });
            read.is_ok() && asked == 4
        });
        ensure!(written, "the questions are not in the audit");
        ensure!(
            scene.ended(job)?.is_none()
                && waiting.values().all(|job| scene.ended(*job).is_ok_and(|end| end.is_none()))
        );
        scene.watcher.kill()?;
        let start = sys::boottime();
        for job in waiting.values() {
            let ended = scene.end_within(*job, STOPPED_MOST)?;
            ensure!(ended.status.code() == Some(1) && ended.stdout.is_empty(), "{ended:?}");
            ensure!(ended.stderr.contains("Operation not permitted"), "{ended:?}");
        }
        let ended = scene.end_within(job, STOPPED_MOST)?;
        ensure!(ended.status.signal() == Some(9), "{ended:?}");
        println!("settled {} ms after the kill", (sys::boottime() - start) / 1_000_000);
        ensure!(!fs::exists(&ran)?, "the held program ran");
        let status = scene.watcher.wait()?;
        ensure!(status.signal() == Some(9), "{status:?}");
        left_since(&scene.before)?;
        println!("everything is off {} ms after the kill", (sys::boottime() - start) / 1_000_000);

        verify(setting, &scene.db).context("after the kill")?;
        waiting.insert(first, job);
        let (mut orphaned, mut ends) = (0, 0);
        records(setting, &scene.db, &["--session", "last"], |row| {
            match row.record {
                AuditRecord::Settled(end) if waiting.contains_key(&end.id) => {
                    ensure!(matches!(end.outcome, Outcome::Orphaned) && !end.allowed, "{end:?}");
                    orphaned += 1;
                }
                AuditRecord::SessionEnd(_) => ends += 1,
                _ => {}
            }
            Ok(())
        })?;
        ensure!((orphaned, ends) == (4, 1), "{orphaned} questions and {ends} sessions have an end");
        Ok(())
    })
}
