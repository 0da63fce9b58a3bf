//! Programs as they are found on machines, with a read in them that waits: shells with and without job control, `timeout`,
//! event loops that watch their children, `make`, a ring. The result is right, or what is different is in docs/approvals.md.

use std::{
    fs,
    io::{Read, Write},
    os::{fd::AsRawFd, unix::process::ExitStatusExt},
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{Ruling, Waiter};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::scene::{self, OPEN_SECONDS, Scene};
use crate::{
    check::{Setting, session::own_program},
    runs::Ended,
    sys,
};

/// Where a program is, if this machine has it.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|path| path.is_file())
}

fn is(ended: &Ended, out: &str) -> Result<()> {
    ensure!(ended.status.success() && ended.stdout == out && ended.stderr.is_empty(), "{ended:?}");
    Ok(())
}

/// Does it, and allows whatever it asks about one file.
fn through(
    setting: &Setting,
    name: &str,
    words: impl FnOnce(&Scene, &str) -> Result<Vec<String>>,
) -> Result<(Ended, usize)> {
    scene::with(setting, |scene| {
        let path = scene.file(&format!("ask/{name}"))?;
        let words = words(scene, &path)?;
        let job = scene.start_job(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        scene.allow_all(job, &path)
    })
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

pub(super) fn pipeline(setting: &Setting) -> Result<()> {
    let script = "cat $1 | tr a-z A-Z | wc -c; cat <$1 | cat; x=$(cat $1); echo; echo got $x";
    let (ended, answers) = through(setting, "piped", |_, path| Ok(owned(&["sh", "-c", script, "sh", path])))?;
    ensure!(answers == 3, "{answers}: {ended:?}");
    is(&ended, "7\ncontent\ngot content\n")
}

/// A script with job control takes the pause for a stop: it goes on, and when it ends, the kernel ends what is stopped.
pub(super) fn job_control(setting: &Setting) -> Result<()> {
    scene::with(setting, |scene| {
        let path = scene.file("ask/controlled")?;
        let script = "set -m; cat $1; echo $?";
        let job = scene.start_job(&["bash", "-c", script, "bash", &path])?;
        // The question may be over before anybody sees it.
        let ended = scene.end_within(job, OPEN_SECONDS - 5)?;
        let stopped = 128 + libc::SIGSTOP;
        ensure!(ended.status.success() && ended.stdout == format!("{stopped}\n"), "{ended:?}");
        ensure!(ended.stderr.contains("Stopped"), "{ended:?}");
        let gone = sys::wait_until(OPEN_SECONDS - 5, || {
            let open = scene.open().unwrap_or_default();
            open.iter().all(|one| one.approval.subject.object.0 != path.as_bytes())
        });
        ensure!(gone, "somebody still waits");
        // Nothing of that for who did not ask for it.
        let job = scene.start_job(&["bash", "-c", "cat $1; echo $?", "bash", &path])?;
        let (ended, answers) = scene.allow_all(job, &path)?;
        ensure!(answers == 1, "{answers}: {ended:?}");
        is(&ended, "content0\n")
    })
}

/// A terminal, seen from the side of the person.
struct Terminal {
    master: fs::File,
    path: PathBuf,
    seen: String,
    _slave: std::os::fd::OwnedFd,
}

impl Terminal {
    fn open() -> Result<Self> {
        let pair = nix::pty::openpty(None, None)?;
        let path = fs::read_link(format!("/proc/self/fd/{}", pair.slave.as_raw_fd()))?;
        fcntl(&pair.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { master: pair.master.into(), path, seen: String::new(), _slave: pair.slave })
    }

    fn type_line(&mut self, line: &str) -> Result<()> {
        self.seen.clear();
        Ok(self.master.write_all(format!("{line}\n").as_bytes())?)
    }

    /// Waits until that was shown since the last line that was typed.
    fn shows(&mut self, wanted: &str) -> Result<()> {
        let there = sys::wait_until(30, || {
            let mut bytes = [0; 1024];
            while let Ok(len @ 1..) = self.master.read(&mut bytes) {
                self.seen.push_str(&String::from_utf8_lossy(&bytes[..len]));
            }
            self.seen.contains(wanted)
        });
        ensure!(there, "{wanted:?} is not shown: {:?}", self.seen);
        Ok(())
    }
}

pub(super) fn interactive(setting: &Setting) -> Result<()> {
    scene::with(setting, |scene| {
        let path = scene.file("ask/typed")?;
        let mut terminal = Terminal::open()?;
        let shell = scene.start_at(&["bash", "--norc", "-i"], &terminal.path.clone())?;
        terminal.shows("ready> ")?;
        terminal.type_line(&format!("cat {path}"))?;
        // A stop is a stop.
        let asked = scene.asked(&path)?.approval;
        terminal.shows("Stopped")?;
        terminal.shows("ready> ")?;
        // To the foreground: it waits again.
        terminal.type_line("fg")?;
        terminal.shows("Stopped")?;
        ensure!(scene.client.question(asked.id)?.settled.is_none(), "it was settled by that");
        // The shell is there, and the answer lets it go on behind the prompt.
        terminal.type_line("echo $((6*7))")?;
        terminal.shows("42")?;
        terminal.type_line("")?;
        scene.rule(asked.id, Ruling::Once)?;
        terminal.shows("content")?;
        terminal.type_line("wait; echo waited")?;
        terminal.shows("waited\r\n")?;
        terminal.type_line("exit 5")?;
        let ended = scene.end(shell)?;
        ensure!(ended.status.code() == Some(5), "{ended:?}: {}", terminal.seen);
        Ok(())
    })
}

pub(super) fn timeout(setting: &Setting) -> Result<()> {
    let (ended, answers) = through(setting, "timed", |_, path| Ok(owned(&["timeout", "60", "cat", path])))?;
    ensure!(answers == 1, "{answers}: {ended:?}");
    is(&ended, "content")?;
    scene::with(setting, |scene| {
        // Nobody answers: its time is over before that of the question.
        let path = scene.file("ask/timed-out")?;
        let job = scene.start_job(&["timeout", "2", "cat", &path])?;
        let id = scene.asked(&path)?.approval.id;
        let ended = scene.end_within(job, OPEN_SECONDS - 5)?;
        // That of Busybox becomes the command, and ends as it does.
        let timed_out = ended.status.code() == Some(124) || ended.status.signal() == Some(nix::libc::SIGTERM);
        ensure!(timed_out && ended.stdout.is_empty(), "{ended:?}");
        let settled = scene.settled(id)?.settled.context("settled")?;
        ensure!(!settled.allowed, "{settled:?}");
        Ok(())
    })
}

const PYTHON: &str = r#"
import asyncio, os, signal, subprocess, sys
path, seen, alarms = sys.argv[1], [], []
def watch(*_):
    try:
        seen.append(os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT))
    except ChildProcessError:
        pass  # The event loop has taken it already.
signal.signal(signal.SIGCHLD, watch)
child = subprocess.Popen(["cat", path], stdout=subprocess.PIPE)
out, _ = child.communicate()
print(out.decode(), child.returncode, len(seen) > 0)
signal.signal(signal.SIGALRM, lambda *_: alarms.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
print(open(path).read())
signal.setitimer(signal.ITIMER_REAL, 0)
async def main():
    child = await asyncio.create_subprocess_exec("cat", path, stdout=asyncio.subprocess.PIPE)
    out, _ = await asyncio.wait_for(child.communicate(), 60)
    print(out.decode(), child.returncode)
asyncio.run(main())
"#;

pub(super) fn python(setting: &Setting) -> Result<()> {
    let (ended, answers) = through(setting, "python", |scene, path| script(scene, "python3", PYTHON, path))?;
    ensure!(answers == 3, "{answers}: {ended:?}");
    is(&ended, "content 0 True\ncontent\ncontent 0\n")
}

const NODE: &str = r"
const { execFile, spawnSync } = require('child_process');
const fs = require('fs');
const path = process.argv[2];
let stops = 0, ticks = 0;
process.on('SIGCHLD', () => { stops += 1; });
const beat = setInterval(() => { ticks += 1; }, 5);
execFile('cat', [path], (failed, out) => {
  console.log(String(failed), out, ticks > 0, stops > 0);
  fs.readFile(path, 'utf8', (failed, text) => {
    clearInterval(beat);
    const sync = spawnSync('cat', [path]);
    console.log(String(failed), text, sync.status, String(sync.stdout));
  });
});
";

pub(super) fn node(setting: &Setting) -> Result<()> {
    let (ended, answers) = through(setting, "node", |scene, path| script(scene, "node", NODE, path))?;
    ensure!(answers == 3, "{answers}: {ended:?}");
    is(&ended, "null content true true\nnull content 0 content\n")
}

fn script(scene: &Scene, program: &str, text: &str, path: &str) -> Result<Vec<String>> {
    let file = scene.base.join(format!("{program}.js"));
    fs::write(&file, text)?;
    Ok(owned(&[program, file.to_str().context("a name of ours")?, path]))
}

pub(super) fn make(setting: &Setting) -> Result<()> {
    let (ended, answers) = through(setting, "made", |scene, path| {
        let file = scene.base.join("Makefile");
        let rules = "all: one two\n\t@cat one two\none two:\n\t@cat $(from) >$@\n";
        fs::write(&file, rules)?;
        let file = file.to_str().context("a name of ours")?;
        Ok(owned(&["make", "-s", "-j2", "-f", file, &format!("from={path}")]))
    })?;
    // Equal questions at the same time are one.
    ensure!((1..=2).contains(&answers), "{answers}: {ended:?}");
    is(&ended, "contentcontent")
}

fn own(words: &[&str]) -> Result<Vec<String>> {
    let program = own_program()?;
    let mut all = owned(&[program.to_str().context("its name")?, "pause"]);
    all.extend(owned(words));
    Ok(all)
}

pub(super) fn spawn(setting: &Setting) -> Result<()> {
    let (ended, answers) = through(setting, "spawned", |_, path| own(&["spawn", "cat", path]))?;
    ensure!(answers == 1, "{answers}: {ended:?}");
    is(&ended, "content")
}

pub(super) fn ring(setting: &Setting) -> Result<()> {
    scene::with(setting, |scene| {
        let path = scene.file("ask/ring")?;
        let words = own(&["uring", &path])?;
        let job = scene.start_job(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
        // It cannot wait: nobody stops it, and an answer lets a later try pass.
        let mut asked = None;
        sys::wait_until(60, || {
            let open = scene.open().unwrap_or_default();
            asked = open.into_iter().find(|one| one.approval.subject.object.0 == path.as_bytes());
            asked.is_some() || matches!(scene.ended(job), Ok(Some(_)))
        });
        let Some(asked) = asked else {
            let ended = scene.end(job)?;
            ensure!(ended.stdout == "no io_uring\n", "{ended:?}");
            println!("skipped: there is no io_uring");
            return Ok(());
        };
        ensure!(matches!(asked.approval.waiter, Waiter::Retry { .. }), "{asked:?}");
        scene.rule(asked.approval.id, Ruling::Once)?;
        is(&scene.end(job)?, "-1 0\n")
    })
}
