//! `kill -9` of the watcher at several moments: the kernel is as before, the audit opens, and the next run says what is
//! missing.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{AuditRecord, LossReason};
use nix::{
    sys::signal::{Signal, kill as send},
    unistd::Pid,
};

use super::{RUN_SECONDS, to_its_end, wait};
use crate::{
    check::{
        Setting, records,
        session::{own_program, run_dir, watched},
    },
    sys::{self, sys},
};

/// Opens of the watched command: enough to be in the middle of them.
const OPENS: &str = "100000";

pub(super) fn before_exec(setting: &Setting) -> Result<()> {
    // The database is there before the programs are loaded, and long before the command runs.
    killed(setting, "audit.db")
}

pub(super) fn started(setting: &Setting) -> Result<()> {
    killed(setting, "started")
}

pub(super) fn mid_flood(setting: &Setting) -> Result<()> {
    killed(setting, "half")
}

pub(super) fn at_the_end(setting: &Setting) -> Result<()> {
    killed(setting, "done")
}

/// Ids of all BPF programs of this machine.
pub(super) fn programs() -> Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    // BPF_PROG_GET_NEXT_ID: start id, next id, flags.
    let mut attribute = [0_u32; 32];
    loop {
        let result = sys!(libc::SYS_bpf, 11, attribute.as_mut_ptr(), 12);
        if sys::errno(&result) == libc::ENOENT {
            return Ok(found);
        }
        result.context("BPF_PROG_GET_NEXT_ID")?;
        found.insert(attribute[1]);
        attribute = [attribute[1], 0, 0, 0]
            .into_iter()
            .chain([0; 28])
            .collect::<Vec<_>>()
            .try_into()
            .unwrap_or([0; 32]);
    }
}

/// Every name below the BPF file system.
pub(super) fn pins() -> BTreeSet<PathBuf> {
    fn walk(dir: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            found.insert(entry.path());
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), found);
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(Path::new("/sys/fs/bpf"), &mut found);
    found
}

/// Processes whose parent is `pid`.
fn children(pid: u32) -> Vec<u32> {
    let parent = |child: u32| -> Option<u32> {
        let stat = fs::read_to_string(format!("/proc/{child}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|child| parent(*child) == Some(pid))
        .collect()
}

/// Program that a process runs; none if it has ended.
fn program_of(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// The watched command and the watcher end with this, whatever happens.
struct Running {
    watcher: Option<Child>,
    command: PathBuf,
}

impl Running {
    /// Ends the watched command, if it still runs: its pid is in a file.
    fn end_command(&self) {
        if let Some(pid) = fs::read_to_string(&self.command).ok().and_then(|text| text.parse::<u32>().ok()) {
            // It is ours only as long as it is this program.
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            if sys::alive(pid) && name.starts_with("suite-vm") {
                let _ = send(Pid::from_raw(pid as i32), Signal::SIGKILL);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(watcher) = &mut self.watcher {
            let _ = watcher.kill();
            let _ = watcher.wait();
        }
        self.end_command();
    }
}

/// What is in the kernel: ids of programs, and pins.
pub(crate) struct Traces(BTreeSet<u32>, BTreeSet<PathBuf>);

pub(crate) fn traces() -> Result<Traces> {
    Ok(Traces(programs()?, pins()))
}

/// Fails if more is there than was, and does not go.
pub(crate) fn left_since(Traces(programs_before, pins_before): &Traces) -> Result<()> {
    let mut left = BTreeSet::new();
    let clean = sys::wait_until(60, || {
        left = programs()
            .map_or_else(|_| BTreeSet::new(), |now| now.difference(programs_before).copied().collect());
        left.is_empty()
    });
    ensure!(clean, "BPF programs are left behind: {left:?}");
    let pinned: Vec<PathBuf> = pins().difference(pins_before).cloned().collect();
    ensure!(pinned.is_empty(), "pins are left behind: {pinned:?}");
    Ok(())
}

/// Kills the watcher as soon as `moment` is in the directory of the run.
fn killed(setting: &Setting, moment: &str) -> Result<()> {
    let dir = run_dir()?;
    let base = fs::canonicalize(dir.path())?;
    fs::write(base.join("file"), b"x")?;
    let (db, program) = (base.join("audit.db"), own_program()?);
    let before = traces()?;

    let command = [program.as_os_str(), OsStr::new("flood"), base.as_os_str(), OsStr::new(OPENS)];
    let mut running = Running {
        watcher: Some(
            watched(setting, &db, &[], &command).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?,
        ),
        command: base.join("started"),
    };
    let watcher = running.watcher.as_mut().context("just started")?;
    let mut ended = false;
    let there = sys::wait_until(RUN_SECONDS, || {
        ended = watcher.try_wait().is_ok_and(|status| status.is_some());
        ended || base.join(moment).exists()
    });
    // Between the last open and the end of the run there may be no time at all.
    ensure!(there && (!ended || moment == "done"), "the run ended, or never came to `{moment}`");
    let pid = watcher.id();
    let (own, held) = (program_of(pid), children(pid));
    if !ended {
        send(Pid::from_raw(pid as i32), Signal::SIGKILL)?;
    }
    let watcher = running.watcher.take().context("just started")?;
    let status = wait(watcher)?;
    ensure!(ended || status.signal() == Some(9), "the watcher ended with {status} before it could be killed");

    // A child that was held until the watcher let it go must not wait for ever.
    let mut waiting = Vec::new();
    let released = sys::wait_until(30, || {
        waiting = held.iter().copied().filter(|child| own.is_some() && program_of(*child) == own).collect();
        waiting.is_empty()
    });
    for child in &waiting {
        let _ = send(Pid::from_raw(*child as i32), Signal::SIGKILL);
    }
    ensure!(released, "children of the watcher wait for ever before their first program: {waiting:?}");

    // The command may go on or not; either way nothing of ours is left in the kernel, even while it runs.
    left_since(&before)?;
    running.end_command();
    drop(running);

    // Killed while it made the file, it leaves one in which there is nothing to verify yet.
    let empty = moment == "audit.db"
        && verify(setting, &db).is_err_and(|err| format!("{err:#}").contains("is empty"));
    if !empty {
        verify(setting, &db).context("after the kill")?;
    }
    let open_session = !empty && session_without_end(setting, &db);
    let next = [program.as_os_str(), OsStr::new("exit"), OsStr::new("0")];
    let next = to_its_end(&mut watched(setting, &db, &[], &next))?;
    ensure!(next.status.success(), "the next run ended with {}:\n{}", next.status, next.stderr);
    verify(setting, &db).context("after the next run")?;
    let mut unclean = 0;
    records(setting, &db, &[], |row| {
        if let AuditRecord::Loss(loss) = row.record {
            unclean += u64::from(loss.reason == LossReason::Unclean);
        }
        Ok(())
    })?;
    // Even where no row was committed, the next run has to know that somebody was writing. Only a kill while the file
    // was made may leave no trace of a writer.
    let possible = match (ended, moment) {
        (true, _) => 0..=0,
        (false, "audit.db") => u64::from(open_session)..=1,
        (false, _) => 1..=1,
    };
    ensure!(
        possible.contains(&unclean),
        "{possible:?} losses should say that a writer was killed, {unclean} do"
    );
    Ok(())
}

/// Whether the audit has a session that began and has not ended.
fn session_without_end(setting: &Setting, db: &Path) -> bool {
    let mut open = false;
    let read = records(setting, db, &["--session", "last"], |row| {
        match row.record {
            AuditRecord::SessionStart(_) => open = true,
            AuditRecord::SessionEnd(_) => open = false,
            AuditRecord::Event(_)
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
            | AuditRecord::Loss(_) => {}
        }
        Ok(())
    });
    // An audit without any session is an error of that command.
    read.is_ok() && open
}

pub(crate) fn verify(setting: &Setting, db: &Path) -> Result<()> {
    let ended = to_its_end(Command::new(&setting.binary).arg("--db").arg(db).args(["audit", "verify"]))?;
    ensure!(
        ended.status.success(),
        "`audit verify` ended with {}:\n{}{}",
        ended.status,
        ended.stdout,
        ended.stderr
    );
    Ok(())
}
