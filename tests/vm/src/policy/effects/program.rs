//! The program that acts: each attempt in a process of its own, with the outcome in a file. It expects nothing.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, fork},
};
use serde::{Deserialize, Serialize};

use super::{
    files,
    place::{Case, Place, Shared, Side, Tree, open},
};
use crate::sys;

/// What became of one attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Outcome {
    pub(super) case: String,
    pub(super) side: Side,
    /// 0, an errno, or a negative signal.
    pub(super) status: i32,
    pub(super) pid: u32,
}

/// Seconds an attempt, or the wait for the other tree, may take under emulation.
const SECONDS: u32 = 300;
/// Of a child that could not even begin.
const BROKEN: i32 = 254;

pub(super) fn results(run: &Path, tree: Tree) -> PathBuf {
    run.join(format!("{}.results", tree.word()))
}

pub(super) fn shared(run: &Path) -> Result<Shared> {
    Ok(serde_json::from_slice(&fs::read(run.join("shared.json"))?)?)
}

fn tree_of(word: &str) -> Option<Tree> {
    Tree::ALL.into_iter().find(|tree| tree.word() == word)
}

/// `DIR TREE CASE…`
pub(in crate::policy) fn main(words: &[&str]) -> ExitCode {
    match run(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::from(3)
        }
    }
}

fn run(words: &[&str]) -> Result<()> {
    let [run, tree, cases @ ..] = words else { anyhow::bail!("DIR TREE CASE…") };
    let (run, tree) = (Path::new(run), tree_of(tree).context("which tree")?);
    let shared = shared(run)?;
    let mut results = OpenOptions::new().create(true).append(true).open(results(run, tree))?;
    // Both trees act at the same time.
    let ready = |tree: Tree| run.join(format!("{}.ready", tree.word()));
    File::create(ready(tree))?;
    let both = sys::wait_until(SECONDS.into(), || Tree::ALL.into_iter().all(|tree| ready(tree).exists()));
    ensure!(both, "the other tree does not begin");
    for case in cases {
        let case = super::find(case).with_context(|| format!("no case {case}"))?;
        for side in Side::ALL {
            let place = Place { run: run.to_owned(), case: case.name, tree, side, shared: shared.clone() };
            let (status, pid) = attempt(case, &place)?;
            let outcome = Outcome { case: case.name.to_owned(), side, status, pid };
            let mut line = serde_json::to_vec(&outcome)?;
            line.push(b'\n');
            results.write_all(&line)?;
        }
    }
    Ok(())
}

fn attempt(case: &Case, place: &Place) -> Result<(i32, u32)> {
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            sys::deadline(SECONDS);
            if case.privilege().is_some() && place.side == Side::Allowed {
                let run = place.run.to_string_lossy();
                let _ = files::exec(&place.spared(), &["policy", "act", &run, place.tree.word(), case.name]);
                sys::exit_now(BROKEN);
            }
            sys::exit_now(sys::errno(&(case.act)(place)));
        }
        ForkResult::Parent { child } => {
            let status = match waitpid(child, None)? {
                WaitStatus::Exited(_, code) => code,
                WaitStatus::Signaled(_, signal, _) => -(signal as i32),
                other => anyhow::bail!("{}: {other:?}", case.name),
            };
            ensure!(status != BROKEN, "{}: the attempt could not begin", case.name);
            Ok((status, child.as_raw() as u32))
        }
    }
}

/// `DIR TREE CASE`: one attempt on the twin, by the program that is spared.
pub(in crate::policy) fn act_main(words: &[&str]) -> ExitCode {
    let [run, tree, case] = words else { return ExitCode::from(BROKEN as u8) };
    let (Some(tree), Some(case), Ok(shared)) = (tree_of(tree), super::find(case), shared(Path::new(run)))
    else {
        return ExitCode::from(BROKEN as u8);
    };
    let place = Place { run: run.into(), case: case.name, tree, side: Side::Allowed, shared };
    sys::exit_now(sys::errno(&(case.act)(&place)))
}

/// `SCRIPT FILE`: what a script does.
pub(in crate::policy) fn read_main(words: &[&[u8]]) -> ExitCode {
    let [_, file] = words else { return ExitCode::from(BROKEN as u8) };
    ExitCode::from(sys::errno(&open(Path::new(OsStr::from_bytes(file)), libc::O_RDONLY)) as u8)
}
