//! `--detach-after-main`: the run ends with its main process, and what it leaves behind goes on.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt};

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{AuditRecord, ExitStatus, MainExit};

use super::to_its_end;
use crate::{
    check::{
        Setting, records,
        session::{own_program, run_dir, watched},
    },
    sys::{self, c},
};

pub(super) fn after_main(setting: &Setting) -> Result<()> {
    let dir = run_dir()?;
    let (db, program) = (dir.path().join("audit.db"), own_program()?);
    // The child reads this fifo until we let go of it.
    let hold = dir.path().join("hold");
    // SAFETY: the path outlives the call.
    let made = unsafe { libc::mkfifo(c(hold.as_os_str().as_bytes()).as_ptr(), 0o600) };
    ensure!(made == 0, "mkfifo: {}", std::io::Error::last_os_error());
    let held = fs::OpenOptions::new().read(true).write(true).open(&hold)?;
    let command = [program.as_os_str(), OsStr::new("background"), dir.path().as_os_str()];
    let ended = to_its_end(&mut watched(setting, &db, &[OsStr::new("--detach-after-main")], &command))?;
    ensure!(ended.status.success(), "{}:\n{}", ended.status, ended.stderr);
    let child: u32 =
        fs::read_to_string(dir.path().join("background"))?.parse().context("pid of the child")?;
    let lives = sys::alive(child);
    drop(held);
    let gone = sys::wait_until(30, || !sys::alive(child));
    ensure!(lives, "the background child has ended with the run");
    ensure!(gone, "the background child {child} does not end");

    let mut end = None;
    records(setting, &db, &["--session", "last"], |row| {
        if let AuditRecord::SessionEnd(ended) = row.record {
            end = Some(ended);
        }
        Ok(())
    })?;
    let end = end.context("there is no session_end")?;
    ensure!(end.main == MainExit::Ended(ExitStatus::Code(0)) && end.left_running == 1, "{end:?}");
    Ok(())
}
