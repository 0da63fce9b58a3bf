//! Makes all attempts of one process tree, one after the other, each in a process of its own, and writes down what they
//! got. It judges nothing.

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    io::{Read, Seek, Write},
    os::fd::{BorrowedFd, RawFd},
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{
    arena::{Arena, Prepared, Side, Tree, victim},
    cases::{self, Case, Target},
    sys::{self, sys},
};

/// The descriptor that a tree is handed with a file that was opened before policy came.
pub(crate) const HANDED: RawFd = 9;

/// Seconds that one tree waits for the other: as long as an attempt may take, twice.
const SECONDS: u64 = 200;

/// What one attempt got.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Attempt {
    pub(crate) id: String,
    pub(crate) side: Side,
    /// Exit code of the attempt, if it had one.
    pub(crate) code: Option<i32>,
    /// What it printed, and what it complained of.
    pub(crate) evidence: String,
    pub(crate) complaint: String,
    /// Whether a victim of the tree itself was changed.
    pub(crate) victim_changed: bool,
    /// `CLOCK_BOOTTIME`, around it.
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

/// `drive ARENA TREE`.
pub(crate) fn main(arena: &Path, tree: &OsStr) -> ExitCode {
    match drive(arena, if tree == "inside" { Tree::Inside } else { Tree::Outside }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: cannot drive the cases in {}: {error:#}", arena.display());
            ExitCode::from(3)
        }
    }
}

fn drive(root: &Path, tree: Tree) -> Result<()> {
    let arena = Arena::load(root)?;
    // What an attempt leaves behind becomes a child of ours.
    sys!(libc::SYS_prctl, libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)?;
    let mut results = OpenOptions::new().create(true).append(true).open(arena.results(tree))?;
    let sides: &[Side] = match tree {
        Tree::Inside => &[Side::Protected, Side::Open],
        Tree::Outside => &[Side::Protected],
    };
    for (turn, prepared) in arena.cases.iter().enumerate() {
        if tree == Tree::Outside {
            // At the same time, from the first case to the last.
            sys::wait_until(SECONDS, || over(&arena) || attempts(&arena) >= 2 * turn);
        }
        let case = cases::find(&prepared.id).with_context(|| format!("no case {}", prepared.id))?;
        for side in sides {
            let attempt = attempt(&arena, prepared, case, tree, *side)?;
            writeln!(results, "{}", serde_json::to_string(&attempt)?)?;
        }
    }
    Ok(())
}

/// Attempts that the tree inside has made.
fn attempts(arena: &Arena) -> usize {
    fs::read(arena.results(Tree::Inside))
        .map_or(0, |bytes| bytes.split(|byte| *byte == b'\n').count().saturating_sub(1))
}

/// It has ended, whether or not it has made them all.
fn over(arena: &Arena) -> bool {
    arena.over().exists()
}

fn attempt(arena: &Arena, prepared: &Prepared, case: &Case, tree: Tree, side: Side) -> Result<Attempt> {
    let mut own = None;
    let mut victim = None;
    if case.victim {
        if side == Side::Open {
            let objects = arena.objects(case.class, case.id, tree, side);
            let started = victim::start(&arena.program(), &objects, arena.uid)?;
            victim = Some(started.victim.clone());
            own = Some(started);
        } else {
            victim = prepared.victims.iter().find(|(of, _)| *of == tree).map(|(_, victim)| victim.clone());
        }
    }
    let stand_in = victim.as_ref().map_or(0, |victim| victim.pid);
    let mut target = Target::new(arena, case, tree, side, victim);
    let watched = arena.enrolled && tree == Tree::Inside && side == Side::Protected;
    target.daemon = if watched { nix::unistd::getppid().as_raw() as u32 } else { stand_in };

    // The twin of a privileged operation is not another object, but somebody who may.
    let program = if case.privileged && side == Side::Open { arena.owner() } else { arena.program() };
    let (mut output, mut complaints) = (scratch(arena, tree, "out")?, scratch(arena, tree, "err")?);
    let mut command = Command::new(&program);
    command.arg("case").arg(serde_json::to_string(&target)?);
    command.stdin(input(case, &target)?).stdout(output.try_clone()?).stderr(complaints.try_clone()?);
    let began = sys::boottime();
    let started = command.spawn();
    let (code, complaint) = match started {
        Ok(mut child) => (child.wait()?.code(), String::new()),
        Err(error) => (None, format!("cannot start {}: {error}", program.display())),
    };
    end_orphans(own.as_ref().map(|own| own.victim.pid));
    if case.floods && arena.enrolled && tree == Tree::Inside {
        // The next attempt has to leave a record.
        caught_up(nix::unistd::getppid().as_raw());
    }
    let ended = sys::boottime();
    Ok(Attempt {
        id: case.id.to_owned(),
        side,
        code,
        evidence: text(&mut output)?,
        complaint: complaint + &text(&mut complaints)?,
        victim_changed: own.is_some_and(victim::Running::was_changed),
        began,
        ended,
    })
}

/// Waits until the watcher has nothing to do: in a whole second none of its threads has worked much. It looks at the rings
/// many times a second, which is little.
fn caught_up(watcher: i32) {
    const SECOND: u64 = 1_000_000_000;
    let (mut before, mut since) = (processor_time(watcher), sys::boottime());
    sys::wait_until(SECONDS, || {
        let (now, time) = (processor_time(watcher), sys::boottime());
        if time - since < SECOND {
            return false;
        }
        let idle = now - before < (time - since) / 5;
        (before, since) = (now, time);
        idle
    });
}

/// Nanoseconds that all threads of a process have used.
fn processor_time(process: i32) -> u64 {
    const TICK: u64 = 10_000_000;
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    fields.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>()
        * TICK
}

fn input(case: &Case, target: &Target) -> Result<Stdio> {
    Ok(match (case.inherits, target.side) {
        (false, _) => Stdio::null(),
        (true, Side::Protected) => {
            // SAFETY: the descriptor is open for as long as this process lives: it was started with it.
            unsafe { BorrowedFd::borrow_raw(HANDED) }.try_clone_to_owned()?.into()
        }
        (true, Side::Open) => OpenOptions::new().read(true).write(true).open(target.secret())?.into(),
    })
}

/// A file for output, so that whatever an attempt leaves running cannot hold us up.
fn scratch(arena: &Arena, tree: Tree, name: &str) -> Result<File> {
    let path = arena.results(tree).with_extension(name);
    let _ = fs::remove_file(&path);
    Ok(OpenOptions::new().read(true).append(true).create_new(true).open(path)?)
}

fn text(file: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(64 << 10).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Ends and reaps every child but this one.
fn end_orphans(but: Option<u32>) {
    let children = || -> Result<Vec<i32>> {
        let Ok(text) = fs::read_to_string("/proc/thread-self/children") else { bail!("no list of children") };
        let pids = text.split_whitespace().filter_map(|pid| pid.parse().ok());
        Ok(pids.filter(|pid: &i32| but.is_none_or(|but| *pid != but as i32)).collect())
    };
    for pid in children().unwrap_or_default() {
        let pid = nix::unistd::Pid::from_raw(pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        let _ = nix::sys::wait::waitpid(pid, None);
    }
}
