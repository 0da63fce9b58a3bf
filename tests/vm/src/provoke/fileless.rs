//! Programs without a name: started from memory, from a descriptor, from a deleted file.

use std::{
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
};

use anyhow::{Result, ensure};
use defenseclaw::model::{Access, Action, ExitStatus, FileRef, KernelPath, Text};

use super::{
    Stage,
    exec::{self, Start},
};
use crate::{
    sys::{self, c, sys},
    truth::{PathRule, kernel_path},
};

const EXIT: &[&[u8]] = &[b"prog", b"exit", b"0"];

pub(crate) fn memfd(stage: &mut Stage) -> Result<()> {
    let memory = sys::owned(sys!(libc::SYS_memfd_create, c"payload".as_ptr(), 0)?);
    fs::write(format!("/proc/self/fd/{}", memory.as_raw_fd()), fs::read(stage.program())?)?;
    let fd = memory.as_raw_fd();
    let pseudo = KernelPath { unresolved: true, ..kernel_path("memfd:payload") };
    let exe = Stage::file_behind(&memory, pseudo)?;

    let start = Start { at: Some((fd, libc::AT_EMPTY_PATH)), ..Start::new("", EXIT) };
    nameless(stage, "memfd by execveat", &start, exe.clone(), &format!("/dev/fd/{fd}"))?;

    let path = format!("/proc/self/fd/{fd}");
    nameless(stage, "memfd by /proc/self/fd", &Start::new(&path, EXIT), exe.clone(), &path)?;

    // The same file opened, not executed.
    let opened = sys::owned(sys!(libc::SYS_openat, libc::AT_FDCWD, c(&path).as_ptr(), libc::O_RDONLY, 0)?);
    ensure!(sys::fd_identity(&opened)? == (exe.dev, exe.ino), "another file behind {path}");
    stage
        .claim("memfd opened", "openat", Action::FileOpen { file: exe, access: Access::READ })
        .path(PathRule::Pseudo);
    Ok(())
}

fn nameless(stage: &mut Stage, step: &str, start: &Start, exe: FileRef, filename: &str) -> Result<()> {
    let mut expected = exec::expected(stage, start, exe)?;
    expected.filename = Text::from(filename);
    let pid = stage.spawn(step, || start.exec())?;
    ensure!(stage.reap(step, pid)? == ExitStatus::Code(0), "{step}: exec failed");
    exec::claim(stage, step, start.call(), pid, expected).path(PathRule::Pseudo);
    Ok(())
}

pub(crate) fn descriptor(stage: &mut Stage) -> Result<()> {
    let program = stage.program();
    let file: OwnedFd = fs::File::open(&program)?.into();
    let fd = file.as_raw_fd();
    sys!(libc::SYS_fcntl, fd, libc::F_SETFD, 0)?;

    let path = format!("/proc/self/fd/{fd}");
    exec::run(stage, "exec of /proc/self/fd", &Start::new(&path, EXIT), |_| ())?;

    let start = Start { at: Some((fd, libc::AT_EMPTY_PATH)), ..Start::new("", EXIT) };
    exec::run(stage, "execveat of a descriptor", &start, |exec| {
        exec.filename = Text::from(format!("/dev/fd/{fd}").as_str());
    })?;

    let directory: OwnedFd = fs::File::open(program.parent().unwrap())?.into();
    let dir = directory.as_raw_fd();
    let start = Start { at: Some((dir, 0)), ..Start::new("prog", EXIT) };
    exec::run(stage, "execveat below a directory", &start, |exec| {
        exec.filename = Text::from(format!("/dev/fd/{dir}/prog").as_str());
    })?;

    let gone = stage.path("gone");
    fs::copy(&program, &gone)?;
    let deleted: OwnedFd = fs::File::open(&gone)?.into();
    let fd = deleted.as_raw_fd();
    fs::remove_file(&gone)?;
    let text = KernelPath { deleted: true, ..kernel_path(gone.clone().into_os_string().into_vec()) };
    let exe = Stage::file_behind(&deleted, text)?;
    let start = Start { at: Some((fd, libc::AT_EMPTY_PATH)), ..Start::new("", EXIT) };
    let mut expected = exec::expected(stage, &start, exe)?;
    expected.filename = Text::from(format!("/dev/fd/{fd}").as_str());
    let pid = stage.spawn("deleted program", || start.exec())?;
    ensure!(stage.reap("deleted program", pid)? == ExitStatus::Code(0), "exec of a deleted program failed");
    exec::claim(stage, "deleted program", "execveat", pid, expected);

    // A failed exec is no program start.
    let missing = c(stage.path("missing").as_os_str().as_bytes());
    let failed = sys!(libc::SYS_execve, missing.as_ptr(), std::ptr::null::<u8>(), std::ptr::null::<u8>());
    ensure!(sys::errno(&failed) == libc::ENOENT, "exec of a missing file: {failed:?}");
    stage.never("failed exec", defenseclaw::model::EventKind::ProcessExec, "missing");
    Ok(())
}
