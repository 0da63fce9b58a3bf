//! One run: an arena, the enrolled tree and the other one at the same time, and what became of both.

use std::{
    fs,
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};

use super::{
    Setting, audit,
    judge::{self, Facts},
};
use crate::{
    arena::{
        Tree,
        build::{self, Built, Plan},
    },
    cases::Case,
    catalogue::Entry,
    driver::{Attempt, HANDED},
    sys,
};

/// Seconds a run may take under emulation.
const SECONDS: u64 = 1800;
/// As whom ordinary users act.
const USER: (&str, u32) = ("nobody", 65534);

pub(super) fn run(
    setting: &Setting,
    root: bool,
    privileged: bool,
    chosen: &[(&'static Case, Entry)],
) -> Result<Facts> {
    let plan = Plan {
        uid: if root { 0 } else { USER.1 },
        enrolled: !setting.unconfined,
        privileged,
        own_machine: setting.own_machine,
    };
    let cases: Vec<&'static Case> = chosen.iter().map(|(case, _)| *case).collect();
    let built = build::build(plan, &cases)?;
    let database = built.arena.root.join("state/audit.db");

    let inside = if setting.unconfined {
        driver(&built, Tree::Inside)
    } else {
        let mut command = Command::new(&setting.binary);
        command.arg("--db").arg(&database).args(["run", "--report", "none", "--mode", "action", "--policy"]);
        command.arg(built.arena.root.join("state/policy.yaml"));
        if !root {
            command.args(["--user", USER.0]);
        }
        if !setting.lsm {
            command.arg("--allow-degraded");
        }
        // What Landlock refuses, it refuses without a record: here the programs have to hold by themselves.
        command.args(["--landlock", "off"]).args(&setting.options).arg("--");
        command.arg(built.arena.program()).arg("drive").arg(&built.arena.root).arg("inside");
        command
    };
    let outside = start(&built, Tree::Outside, driver(&built, Tree::Outside))?;
    let inside = start(&built, Tree::Inside, inside)?;
    let mut trouble = Vec::new();
    for (mut child, tree) in [(inside, Tree::Inside), (outside, Tree::Outside)] {
        let mut ended = None;
        sys::wait_until(SECONDS, || {
            ended = child.try_wait().ok().flatten();
            ended.is_some()
        });
        match ended {
            Some(status) if status.success() => {}
            Some(status) => trouble.push(format!("the tree {} ended with {status}", tree.name())),
            None => {
                child.kill()?;
                child.wait()?;
                trouble.push(format!("the tree {} had not ended after {SECONDS} seconds", tree.name()));
            }
        }
        fs::write(built.arena.over(), "")?;
    }
    let mut attempts = Vec::new();
    for tree in [Tree::Inside, Tree::Outside] {
        let results = fs::read_to_string(built.arena.results(tree)).unwrap_or_default();
        for line in results.lines() {
            attempts.push((tree, serde_json::from_str::<Attempt>(line).context("a result")?));
        }
    }
    let records = if setting.unconfined { Vec::new() } else { audit::decisions(&setting.binary, &database)? };
    let mut facts = judge::judge(built, attempts);
    facts.records = records;
    facts.trouble = (!trouble.is_empty()).then(|| trouble.join("; "));
    Ok(facts)
}

/// The tree without anything in between.
fn driver(built: &Built, tree: Tree) -> Command {
    let mut command = Command::new(built.arena.program());
    command.arg("drive").arg(&built.arena.root).arg(tree.name());
    if built.arena.uid != 0 {
        command.uid(built.arena.uid).gid(built.arena.uid);
    }
    command
}

fn start(built: &Built, tree: Tree, mut command: Command) -> Result<Child> {
    let handed = built.handed(tree)?;
    if let Some(file) = &handed {
        let from = file.as_raw_fd();
        // SAFETY: a system call that takes two numbers.
        unsafe {
            command.pre_exec(move || match libc::dup2(from, HANDED) {
                -1 => Err(std::io::Error::last_os_error()),
                _ => Ok(()),
            });
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).current_dir(&built.arena.root);
    command.spawn().with_context(|| format!("cannot start {command:?}"))
}
