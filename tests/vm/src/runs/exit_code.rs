//! `run` is transparent: exit code, signal, standard streams.

use std::{ffi::OsStr, fs, io::Write, os::unix::process::ExitStatusExt, process::Stdio};

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{AuditRecord, MainExit};

use super::{Ended, to_its_end, wait};
use crate::check::{
    Setting, records,
    session::{own_program, run_dir, watched},
};

/// Runs a command under watch; also says how the audit tells its end.
fn ended(setting: &Setting, command: &[&OsStr]) -> Result<(Ended, Option<MainExit>)> {
    let dir = run_dir()?;
    let db = dir.path().join("audit.db");
    let ended = to_its_end(&mut watched(setting, &db, &[], command))?;
    ensure!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    let mut main = None;
    records(setting, &db, &["--session", "last"], |row| {
        if let AuditRecord::SessionEnd(end) = row.record {
            main = Some(end.main);
        }
        Ok(())
    })?;
    Ok((ended, main))
}

fn code(setting: &Setting, code: u8) -> Result<()> {
    let (program, text) = (own_program()?, code.to_string());
    let command = [program.as_os_str(), OsStr::new("exit"), OsStr::new(&text)];
    let (ended, main) = ended(setting, &command)?;
    ensure!(
        ended.status.code() == Some(code.into()),
        "{} instead of {code}:\n{}",
        ended.status,
        ended.stderr
    );
    let expected = MainExit::Ended(defenseclaw::model::ExitStatus::Code(code));
    ensure!(main == Some(expected), "the audit says {main:?}");
    Ok(())
}

pub(super) fn zero(setting: &Setting) -> Result<()> {
    code(setting, 0)
}

pub(super) fn last(setting: &Setting) -> Result<()> {
    code(setting, 255)
}

pub(super) fn signal(setting: &Setting) -> Result<()> {
    let program = own_program()?;
    let command = [program.as_os_str(), OsStr::new("kill-self"), OsStr::new("15")];
    let (ended, main) = ended(setting, &command)?;
    // Like a shell, or by the same signal.
    let told = ended.status.code() == Some(128 + 15) || ended.status.signal() == Some(15);
    ensure!(told, "ended with {} instead of signal 15:\n{}", ended.status, ended.stderr);
    let expected = MainExit::Ended(defenseclaw::model::ExitStatus::Signal(15));
    ensure!(main == Some(expected), "the audit says {main:?}");
    Ok(())
}

pub(super) fn not_found(setting: &Setting) -> Result<()> {
    let dir = run_dir()?;
    let missing = dir.path().join("no such program");
    let db = dir.path().join("audit.db");
    let ended = to_its_end(&mut watched(setting, &db, &[], &[missing.as_os_str()]))?;
    ensure!(!ended.status.success() && !ended.stderr.contains("panicked"), "{ended:?}");
    ensure!(
        ended.stderr.contains("no such program"),
        "the message does not name the command:\n{}",
        ended.stderr
    );
    Ok(())
}

pub(super) fn streams(setting: &Setting) -> Result<()> {
    let dir = run_dir()?;
    let db = dir.path().join("audit.db");
    let text = b"in\0and\xffout\n";
    let output = dir.path().join("out");
    let mut run = watched(setting, &db, &[], &[OsStr::new("cat")]);
    let mut child = run.stdin(Stdio::piped()).stdout(fs::File::create(&output)?).spawn()?;
    child.stdin.take().context("stdin")?.write_all(text)?;
    let status = wait(child)?;
    ensure!(status.success(), "cat ended with {status}");
    let through = fs::read(&output)?;
    ensure!(through == text, "`{}` came through", through.escape_ascii());
    Ok(())
}
