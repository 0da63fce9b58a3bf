//! The command of a watched run that trials share: does in its tree what it is told, one order a line, and says in files what
//! became of it. And the programs that it starts where no program of the system will do. Nothing is compared here.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    os::unix::{ffi::OsStrExt, process::CommandExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
};

use serde::{Deserialize, Serialize};

use crate::{
    provoke::uring,
    sys::{self, c, sys},
};

/// What to start. Without any word: the end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) id: u64,
    pub(super) words: Vec<String>,
    /// Becomes its terminal; otherwise its output goes to files.
    pub(super) terminal: Option<PathBuf>,
}

/// Files of an order: `pid`, `out`, `err`, and `end`, which has the status as `wait` gives it, or why it was not started.
pub(super) fn file(dir: &Path, id: u64, what: &str) -> PathBuf {
    dir.join(format!("{what}.{id}"))
}

/// Whoever finds the file finds all of it.
fn say(path: &Path, text: &str) {
    let next = path.with_extension("next");
    let beside = PathBuf::from(format!("{}-{}", next.display(), path.extension().unwrap().display()));
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, path).unwrap();
}

/// `stage DIR`
pub(super) fn main(dir: &Path) -> ExitCode {
    sys::deadline(1800);
    let orders = BufReader::new(File::open(dir.join("orders")).unwrap());
    say(&dir.join("stage.pid"), &sys::pid().to_string());
    for line in orders.lines() {
        let order: Order = serde_json::from_str(&line.unwrap()).unwrap();
        if order.words.is_empty() {
            break;
        }
        match command(dir, &order).spawn() {
            Ok(mut child) => {
                say(&file(dir, order.id, "pid"), &child.id().to_string());
                let end = file(dir, order.id, "end");
                thread::spawn(move || say(&end, &child.wait().unwrap().into_raw().to_string()));
            }
            Err(err) => say(&file(dir, order.id, "end"), &format!("not started: {err}")),
        }
    }
    ExitCode::SUCCESS
}

fn command(dir: &Path, order: &Order) -> Command {
    let mut command = Command::new(&order.words[0]);
    command.args(&order.words[1..]).current_dir(dir).stdin(Stdio::null());
    if let Some(terminal) = &order.terminal {
        let path = c(terminal.as_os_str().as_bytes());
        let seat = move || {
            sys!(libc::SYS_setsid)?;
            let fd = sys!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_RDWR, 0)?;
            sys!(libc::SYS_ioctl, fd, libc::TIOCSCTTY, 0)?;
            for standard in 0..3 {
                sys!(libc::SYS_dup2, fd, standard)?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec it makes system calls only, on memory made before.
        unsafe { command.pre_exec(seat) };
        command.env("PS1", "ready> ").env("TERM", "dumb");
    } else {
        let made = |what| File::create(file(dir, order.id, what)).unwrap();
        command.stdout(made("out")).stderr(made("err"));
    }
    command
}

/// `spawn PROGRAM …`: started with `posix_spawn`, its output printed.
pub(super) fn spawn(words: &[String]) -> ExitCode {
    let ended = Command::new(&words[0]).args(&words[1..]).stderr(Stdio::inherit()).output().unwrap();
    std::io::stdout().write_all(&ended.stdout).unwrap();
    ExitCode::from(ended.status.code().unwrap_or(99) as u8)
}

/// `uring PATH`: opens it through an `io_uring` until that is allowed, and prints what the first and the last try returned.
pub(super) fn uring(path: &str) -> ExitCode {
    let Some(ring) = uring::Ring::setup().unwrap() else {
        println!("no io_uring");
        return ExitCode::SUCCESS;
    };
    let mut all = Vec::new();
    sys::wait_until(60, || {
        all.push(ring.open(path.as_bytes()).unwrap());
        all.last() != Some(&-libc::EPERM)
    });
    println!("{} {}", all[0], all.last().unwrap().min(&0));
    ExitCode::SUCCESS
}

/// `opens PATH NUMBER LOG`: opens and closes it so many times, and writes when each open has returned.
pub(super) fn opens(path: &str, number: u64, log: &str) -> ExitCode {
    let path = c(path);
    let mut times = Vec::new();
    for _ in 0..number {
        let fd = sys!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC, 0)
            .unwrap();
        let now = sys::boottime();
        sys!(libc::SYS_close, fd).unwrap();
        times.push(now.to_string());
    }
    fs::write(log, times.join("\n")).unwrap();
    ExitCode::SUCCESS
}
