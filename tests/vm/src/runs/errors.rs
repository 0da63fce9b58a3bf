//! Everything that can be wrong with the place of the database or with our rights: a clear message, no panic, no success.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::{Ended, to_its_end};
use crate::check::{
    Setting,
    session::{own_program, run_dir, watched},
};

/// Runs `exit 0` with this database, which must fail and say why.
fn refused(setting: &Setting, db: &Path, adjust: impl FnOnce(&mut Command)) -> Result<Ended> {
    let program = own_program()?;
    let mut run = watched(setting, db, &[], &[program.as_os_str(), OsStr::new("exit"), OsStr::new("0")]);
    adjust(&mut run);
    let ended = to_its_end(&mut run)?;
    no_panic(&ended)?;
    ensure!(!ended.status.success(), "it succeeded, and said:\n{}", ended.stderr);
    ensure!(ended.status.code().is_some(), "it was ended by a signal: {}", ended.status);
    Ok(ended)
}

fn no_panic(ended: &Ended) -> Result<()> {
    ensure!(!ended.stderr.contains("panicked"), "a panic:\n{}", ended.stderr);
    Ok(())
}

/// The message has to name what it is about.
fn names(ended: &Ended, words: &[&str]) -> Result<()> {
    let text = ended.stderr.to_lowercase();
    ensure!(
        words.iter().any(|word| text.contains(word)),
        "none of {words:?} in the message:\n{}",
        ended.stderr
    );
    Ok(())
}

pub(super) fn missing_directory(setting: &Setting) -> Result<()> {
    let dir = run_dir()?;
    // Below a file nothing can be made, so this cannot be mended by making directories.
    fs::write(dir.path().join("file"), b"x")?;
    let ended = refused(setting, &dir.path().join("file/audit.db"), |_| ())?;
    names(&ended, &["audit.db", "file"])
}

pub(super) fn directory(setting: &Setting) -> Result<()> {
    let dir = run_dir()?;
    let db = dir.path().join("a-directory");
    fs::create_dir(&db)?;
    names(&refused(setting, &db, |_| ())?, &["a-directory"])
}

/// Gives the child a mount namespace in which `dir` is a tmpfs of this kind.
fn with_tmpfs(command: &mut Command, dir: PathBuf, flags: MsFlags, data: &'static str) {
    let enter = move || -> std::io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("tmpfs"), &dir, Some("tmpfs"), flags, Some(data))?;
        Ok(())
    };
    // SAFETY: system calls only; the small buffers that nix makes are on the stack.
    unsafe { command.pre_exec(enter) };
}

pub(super) fn read_only(setting: &Setting) -> Result<()> {
    let dir = run_dir()?;
    let place = dir.path().join("read-only");
    fs::create_dir(&place)?;
    let ended = refused(setting, &place.join("audit.db"), |command| {
        with_tmpfs(command, place.clone(), MsFlags::MS_RDONLY, "size=1m");
    })?;
    names(&ended, &["audit.db", "read-only", "readonly"])
}

pub(super) fn corrupt(setting: &Setting) -> Result<()> {
    let dir = run_dir()?;
    let db = dir.path().join("audit.db");
    let junk: Vec<u8> = (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(&db, &junk)?;
    names(&refused(setting, &db, |_| ())?, &["audit.db"])?;
    ensure!(fs::read(&db)? == junk, "the file was changed");
    for command in [&["audit", "verify"][..], &["events", "--json"], &["sessions"]] {
        let ended = to_its_end(Command::new(&setting.binary).arg("--db").arg(&db).args(command))?;
        no_panic(&ended)?;
        ensure!(!ended.status.success(), "{command:?} succeeded on junk:\n{}", ended.stdout);
    }

    // The header is right, what follows is not.
    let mut half = b"SQLite format 3\0".to_vec();
    half.extend_from_slice(&junk);
    fs::write(&db, &half)?;
    names(&refused(setting, &db, |_| ())?, &["audit.db"])
}

pub(super) fn full_at_start(setting: &Setting) -> Result<()> {
    let dir = run_dir()?;
    let place = dir.path().join("full");
    fs::create_dir(&place)?;
    let ended = refused(setting, &place.join("audit.db"), |command| {
        with_tmpfs(command, place.clone(), MsFlags::empty(), "size=8k");
    })?;
    names(&ended, &["audit.db", "full", "space"])
}

pub(super) fn full_meanwhile(setting: &Setting) -> Result<()> {
    let dir = run_dir()?;
    let (place, work) = (dir.path().join("full"), dir.path().join("work"));
    fs::create_dir(&place)?;
    fs::create_dir(&work)?;
    fs::write(work.join("file"), b"x")?;
    let program = own_program()?;
    let command = [program.as_os_str(), OsStr::new("flood"), work.as_os_str(), OsStr::new("30000")];
    let mut run = watched(setting, &place.join("audit.db"), &[], &command);
    with_tmpfs(&mut run, place, MsFlags::empty(), "size=1m");
    let ended = to_its_end(&mut run)?;
    no_panic(&ended)?;
    // What is watched does not suffer from it, and what was not kept is not passed over in silence.
    ensure!(work.join("done").exists(), "the command did not come to its end: {ended:?}");
    names(&ended, &["full", "space", "could not be stored", "not stored", "lost"])
}

pub(super) fn unprivileged(setting: &Setting) -> Result<()> {
    let dir = run_dir()?;
    let place = dir.path().join("open to all");
    fs::create_dir(&place)?;
    fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    // Both programs have to be where this user can reach them.
    let own = dir.path().join("defenseclaw");
    fs::copy(find(&setting.binary)?, &own)?;
    fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let nobody = Setting { binary: own, ..setting.clone() };
    let ended = refused(&nobody, &place.join("audit.db"), |command| {
        command.uid(65534).gid(65534).current_dir("/");
    })?;
    names(&ended, &["root", "privilege", "cap_", "permission"])
}

/// The program that a name stands for.
fn find(program: &Path) -> Result<PathBuf> {
    if program.as_os_str().as_bytes().contains(&b'/') {
        return Ok(program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
        .with_context(|| format!("{} is not on the PATH", program.display()))
}
