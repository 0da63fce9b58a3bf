//! The differential oracle: one execution of real work, seen by `strace` and by us at the same time. What both saw must be
//! the same, but for differences that `explain` knows by kind.

mod explain;
mod strace;
pub(crate) mod work;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsStr,
    fs,
};

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{AuditRecord, Event, Level};
use libtest_mimic::{Completion, Failed, Trial};

use crate::{
    check::{
        Setting, records,
        session::{own_program, run_dir, watched},
        trial,
    },
    runs::to_its_end,
};

/// Something one observer saw: a program start, an opened file, a connect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Seen {
    Exec { pid: u32, filename: Vec<u8> },
    Open { pid: u32, path: Vec<u8> },
    Connect { pid: u32, to: String },
}

pub(crate) fn trials(setting: &Setting) -> Vec<Trial> {
    let setting = setting.clone();
    vec![trial("oracle/strace", move || {
        if setting.level != Level::Lsm {
            return setting.skip("oracle/strace", "oracle", "only level lsm is held to be complete");
        }
        // Whoever promises the tools gets the comparison.
        let promised = setting.expect.iter().any(|name| name == "tools" || name == "oracle");
        if !promised && env::var_os("SUITE_ORACLE").is_none_or(|value| value != "1") {
            return setting.skip(
                "oracle/strace",
                "oracle",
                "neither SUITE_ORACLE=1 nor `tools` among the expectations",
            );
        }
        compare(&setting).map(|()| Completion::Completed).map_err(|err| Failed::from(format!("{err:#}")))
    })]
}

fn compare(setting: &Setting) -> Result<()> {
    let dir = run_dir()?;
    let base = fs::canonicalize(dir.path())?;
    let (db, program) = (base.join("audit.db"), own_program()?);
    let mut failures = Vec::new();
    for work in work::WORKS {
        let place = base.join(work);
        fs::create_dir(&place)?;
        work::prepare(work, &place).with_context(|| format!("{work}: preparation"))?;
        let log = base.join(format!("{work}.strace"));
        let trace = "trace=execve,execveat,open,openat,openat2,creat,open_by_handle_at,connect";
        let mut command: Vec<&OsStr> =
            ["strace", "-f", "-y", "-xx", "-s", "8192", "-qq", "-e", trace, "-e", "signal=none", "-o"]
                .map(OsStr::new)
                .to_vec();
        command.extend([
            log.as_os_str(),
            program.as_os_str(),
            OsStr::new("work"),
            OsStr::new(work),
            place.as_os_str(),
        ]);
        let ended = to_its_end(&mut watched(setting, &db, &[], &command))?;
        ensure!(
            ended.status.success(),
            "{work}: ended with {}:\n{}{}",
            ended.status,
            ended.stdout,
            ended.stderr
        );

        let mut events: Vec<Event> = Vec::new();
        let mut losses = Vec::new();
        records(setting, &db, &["--session", "last"], |row| {
            match row.record {
                AuditRecord::Event(event) => events.push(*event),
                AuditRecord::Loss(loss) => losses.push(loss),
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
        ensure!(
            losses.is_empty(),
            "{work}: observations are missing, so nothing can be compared: {losses:?}"
        );
        let log = fs::read(&log)?;
        let traced = strace::parse(&log).with_context(|| format!("{work}: strace output"))?;
        ensure!(traced.len() > 50, "{work}: strace has seen {} things only", traced.len());
        let ours: BTreeSet<Seen> = events.iter().filter_map(explain::seen).collect();
        let context = explain::Context::new(&events);
        let missed: Vec<&Seen> = traced.difference(&ours).collect();
        let mut explained: BTreeMap<&str, usize> = BTreeMap::new();
        let mut invented = Vec::new();
        for seen in ours.difference(&traced) {
            match explain::only_ours(&context, seen) {
                Some(reason) => *explained.entry(reason).or_default() += 1,
                None => invented.push(seen),
            }
        }
        println!(
            "oracle: {work}: strace has seen {} things, we {}; unexplained {} and {}; explained {explained:?}",
            traced.len(),
            ours.len(),
            missed.len(),
            invented.len()
        );
        for (who, list) in [("only strace has seen", missed), ("only we have seen", invented)] {
            failures
                .extend(list.iter().take(20).map(|seen| format!("{work}: {who} {}", explain::shown(seen))));
        }
    }
    ensure!(failures.is_empty(), "{} unexplained differences:\n{}", failures.len(), failures.join("\n"));
    Ok(())
}
