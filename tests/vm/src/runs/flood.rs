//! A million opens against a small ring: nothing is lost without being counted, to the last one.

use std::{collections::BTreeMap, env, ffi::OsStr, fs, os::unix::ffi::OsStrExt, path::Path};

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{AuditRecord, EventKind, LossReason};
use serde::Deserialize;

use super::{Ended, to_its_end};
use crate::check::{
    Setting, records,
    session::{own_program, run_dir, watched},
};

/// What `run --stats-json` writes.
#[derive(Debug, Deserialize)]
struct Stats {
    kernel: BTreeMap<String, Row>,
    received: BTreeMap<String, u64>,
    decode_error: u64,
    stored: u64,
    store_error: u64,
}

/// One row of the kernel's counters.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Row {
    seen: u64,
    submitted: u64,
    ring_full: u64,
    folded: u64,
    oversized: u64,
    unreadable: u64,
    map_full: u64,
}

impl Row {
    fn lost(&self) -> [(LossReason, u64); 5] {
        [
            (LossReason::RingFull, self.ring_full),
            (LossReason::Folded, self.folded),
            (LossReason::Oversized, self.oversized),
            (LossReason::Unreadable, self.unreadable),
            (LossReason::MapFull, self.map_full),
        ]
    }

    fn all_lost(&self) -> u64 {
        self.lost().iter().map(|(_, count)| count).sum()
    }
}

/// What the audit holds of one run.
#[derive(Debug, Default)]
struct Audit {
    /// Opens, and those of the flooded file among them.
    opens: u64,
    of_the_file: u64,
    events: u64,
    rows: u64,
    losses: BTreeMap<(String, LossReason), u64>,
}

fn flood(setting: &Setting, dir: &Path, times: u64) -> Result<(Stats, Audit, Ended)> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join("file"), b"x")?;
    let (db, stats) = (dir.join("audit.db"), dir.join("stats.json"));
    let program = own_program()?;
    let times_text = times.to_string();
    let options = ["--ring-bytes", "65536", "--stats-json"].map(OsStr::new);
    let options: Vec<&OsStr> = options.into_iter().chain([stats.as_os_str()]).collect();
    let command = [program.as_os_str(), OsStr::new("flood"), dir.as_os_str(), OsStr::new(&times_text)];
    let ended = to_its_end(&mut watched(setting, &db, &options, &command))?;
    ensure!(ended.status.success(), "the run ended with {}:\n{}", ended.status, ended.stderr);
    let json = fs::read(&stats).with_context(|| format!("{}", stats.display()))?;
    let stats = serde_json::from_slice(&json).with_context(|| String::from_utf8_lossy(&json).into_owned())?;
    let mut audit = Audit::default();
    let file = dir.join("file");
    records(setting, &db, &["--session", "last"], |row| {
        audit.rows += 1;
        match row.record {
            AuditRecord::Event(event) => {
                audit.events += 1;
                // A creation is an open that made the file.
                if matches!(event.kind(), EventKind::FileOpen | EventKind::FileCreate) {
                    audit.opens += 1;
                    let path = event.action.path().map(|path| &path.text.0[..]);
                    audit.of_the_file += u64::from(path == Some(file.as_os_str().as_bytes()));
                }
            }
            AuditRecord::Loss(loss) => {
                *audit.losses.entry((loss.kind, loss.reason)).or_default() += loss.count;
            }
            AuditRecord::SessionStart(_)
            | AuditRecord::PolicyLoaded(_)
            | AuditRecord::PolicyRefused(_)
            | AuditRecord::Posture(_)
            | AuditRecord::Handover(_)
            | AuditRecord::Asked(_)
            | AuditRecord::Settled(_)
            | AuditRecord::Granted(_)
            | AuditRecord::GrantEnded(_)
            | AuditRecord::Hook(_)
            | AuditRecord::Correlated(_)
            | AuditRecord::Finding(_)
            | AuditRecord::SessionEnd(_) => {}
        }
        Ok(())
    })?;
    Ok((stats, audit, ended))
}

pub(super) fn equations(setting: &Setting) -> Result<()> {
    let times: u64 = env::var("SUITE_FLOOD").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let dir = run_dir()?;
    let base = fs::canonicalize(dir.path())?;
    // The same program without its opens says how many others there are.
    let (quiet, quiet_audit, _) = flood(setting, &base.join("quiet"), 0)?;
    let (stats, audit, _) = flood(setting, &base.join("flood"), times)?;
    balanced(&quiet, &quiet_audit).context("without a flood")?;
    balanced(&stats, &audit).context("in the flood")?;

    let row = |stats: &Stats| stats.kernel.get("file_open").copied().unwrap_or_default();
    let (before, after) = (row(&quiet), row(&stats));
    // `half` is the one file that only the flood makes.
    let expected = before.seen + times + 1;
    ensure!(after.seen == expected, "{expected} opens done, {} seen: {after:?}", after.seen);
    ensure!(after.ring_full > 0, "the ring was never full, so nothing is proven: {after:?}");
    // A lost open can be of any file: the recorded ones and all losses bound the flood from above, and so do the
    // recorded ones and those losses that no other open can have caused from below.
    let (recorded, lost) = (audit.of_the_file, after.all_lost());
    let others = expected - times;
    ensure!(
        recorded + lost >= times && recorded + lost.saturating_sub(others) <= times,
        "{times} opens of the file: {recorded} recorded, {lost} opens lost, {others} opens of other files"
    );
    Ok(())
}

/// Both equations, for every kind, and the same numbers in the audit.
fn balanced(stats: &Stats, audit: &Audit) -> Result<()> {
    for (kind, row) in &stats.kernel {
        ensure!(
            row.seen == row.submitted + row.all_lost(),
            "{kind}: seen is not the sum of the others: {row:?}"
        );
        let received = stats.received.get(kind).copied().unwrap_or(0);
        ensure!(row.submitted == received, "{kind}: {} submitted, {received} received", row.submitted);
        for (reason, count) in row.lost() {
            let told = audit.losses.get(&(kind.clone(), reason)).copied().unwrap_or(0);
            ensure!(told == count, "{kind}: {count} lost as {reason:?}, the audit says {told}");
        }
    }
    let received: u64 = stats.received.values().sum();
    ensure!(stats.decode_error == 0 && stats.store_error == 0, "{stats:?}");
    ensure!(received == audit.events, "{received} received, {} events in the audit", audit.events);
    // Begin, end and losses are rows too.
    ensure!(stats.stored == audit.rows, "{} rows stored, {} in the audit", stats.stored, audit.rows);
    let opens = stats.kernel.get("file_open").copied().unwrap_or_default();
    ensure!(
        opens.submitted == audit.opens,
        "{} opens submitted, {} in the audit",
        opens.submitted,
        audit.opens
    );
    Ok(())
}
