//! `defenseclaw top` as a person has it: in a pseudo terminal of its own, with what it draws parsed, and keys typed.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    num::NonZero,
    os::{fd::OwnedFd, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    pty::{Winsize, openpty},
    unistd::{Pid, setsid},
};

const ROWS: u16 = 24;
const COLUMNS: u16 = 80;
/// What stands below a question when answers count.
const ARMED: &str = "y once  s this session  n deny";
/// How often it is looked whether all is over.
const GLANCE: Duration = Duration::from_millis(200);
/// Above the list of questions.
const NONE: &str = "approvals 0";
const ONE: &str = "approvals 1";

struct Shown {
    parser: vt100::Parser,
    closed: bool,
}

/// The view, ended when dropped.
pub(crate) struct View {
    keys: File,
    shown: Arc<(Mutex<Shown>, Condvar)>,
    child: Child,
    patience: Duration,
    /// Where its screen is kept when something is waited for in vain.
    log: PathBuf,
    /// Without it, the view's end would be told by an error.
    _slave: OwnedFd,
}

impl View {
    /// Starts the view, asking this socket only if one is named.
    pub(crate) fn start(
        program: &Path,
        socket: Option<&Path>,
        patience: Duration,
        log: &Path,
    ) -> Result<Self> {
        let size = Winsize { ws_row: ROWS, ws_col: COLUMNS, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).context("cannot open a pseudo terminal")?;
        let mut command = Command::new(program);
        command.arg("top").env_clear().env("HOME", "/nonexistent").env("TERM", "xterm-256color");
        command.args(socket.map(|path| format!("--socket={}", path.display())));
        command.stdin(pty.slave.try_clone()?).stdout(pty.slave.try_clone()?).stderr(Stdio::null());
        // SAFETY: only system calls, which are safe between fork and exec.
        unsafe {
            command.pre_exec(|| {
                setsid()?;
                if libc::ioctl(0, libc::TIOCSCTTY, 0) == -1 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().context("cannot start the view")?;
        let keys = File::from(pty.master);
        let cells = |count| NonZero::new(count).context("a terminal has cells");
        let parser = vt100::Parser::new(cells(ROWS)?, cells(COLUMNS)?, 0);
        let shown = Arc::new((Mutex::new(Shown { parser, closed: false }), Condvar::new()));
        let (reader, shared) = (keys.try_clone()?, Arc::clone(&shown));
        thread::spawn(move || draw(reader, &shared));
        Ok(Self { keys, shown, child, patience, log: log.to_owned(), _slave: pty.slave })
    }

    pub(crate) fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id())?))
    }

    /// Waits until all of these texts are on the screen.
    pub(crate) fn see(&self, texts: &[&str]) -> Result<String> {
        let deadline = Instant::now() + self.patience;
        let mut shown = lock(&self.shown.0);
        loop {
            let contents = shown.parser.screen().contents();
            // What does not fit into its column goes on in the next row.
            let joined = without_layout(&contents);
            if texts.iter().all(|text| joined.contains(&without_layout(text))) {
                return Ok(contents);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || shown.closed {
                bail!("waited for {texts:?} on this screen:\n{contents}");
            }
            shown = self.shown.1.wait_timeout(shown, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Opens the only question when it comes, which must be about this, and types an answer.
    pub(crate) fn answer(&mut self, about: &[&str], keys: &str) -> Result<()> {
        // What is shown of it in the list may be cut.
        self.see(&[ONE])?;
        self.typed("\r")?;
        self.give(about, keys)
    }

    /// Types an answer to the question that is open.
    fn give(&mut self, about: &[&str], keys: &str) -> Result<()> {
        let mut expected = about.to_vec();
        expected.push(ARMED);
        let screen = self.see(&expected)?;
        let mut log = File::options().create(true).append(true).open(&self.log)?;
        log.write_all(format!("{screen}\n──── {}\n", keys.escape_debug()).as_bytes())?;
        let (answer, message) = keys.split_at_checked(1).context("nothing to type")?;
        self.typed(answer)?;
        if !message.is_empty() {
            self.see(&["deny, and tell the agent"])?;
            self.typed(message)?;
            self.see(&[message, "Enter sends"])?;
            self.typed("\r")?;
        }
        self.see(&[NONE])?;
        Ok(())
    }

    /// Answers each question that comes until it is over: with the keys of those texts that its screen has.
    pub(crate) fn answer_all(&mut self, answers: &[(Vec<&str>, String)], over: &AtomicBool) -> Result<()> {
        while self.is_asked(over) {
            self.typed("\r")?;
            let screen = without_layout(&self.see(&[ARMED])?);
            let fits = |texts: &[&str]| texts.iter().all(|text| screen.contains(&without_layout(text)));
            let Some((about, keys)) = answers.iter().find(|(about, _)| fits(about)) else {
                bail!("nobody knows what to answer to this:\n{}", self.see(&[ARMED])?)
            };
            self.give(about, keys)?;
        }
        Ok(())
    }

    /// False: it is over.
    fn is_asked(&self, over: &AtomicBool) -> bool {
        let mut shown = lock(&self.shown.0);
        while !over.load(Ordering::SeqCst) && !shown.closed {
            if without_layout(&shown.parser.screen().contents()).contains(&without_layout(ONE)) {
                return true;
            }
            // The end of what is waited for shows on no screen.
            shown = self.shown.1.wait_timeout(shown, GLANCE).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    /// Ends the view as a person does.
    pub(crate) fn quit(mut self) -> Result<()> {
        self.typed("q")?;
        let status = self.child.wait()?;
        ensure!(status.success(), "the view ended with {status}");
        Ok(())
    }

    fn typed(&mut self, keys: &str) -> Result<()> {
        self.keys.write_all(keys.as_bytes()).context("the view's terminal is gone")
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn draw(mut reader: File, shared: &(Mutex<Shown>, Condvar)) {
    let mut buffer = [0; 4096];
    loop {
        let read = reader.read(&mut buffer).unwrap_or(0);
        let mut shown = lock(&shared.0);
        shown.parser.process(buffer.get(..read).unwrap_or_default());
        shown.closed = read == 0;
        shared.1.notify_all();
        if read == 0 {
            return;
        }
    }
}

fn without_layout(text: &str) -> String {
    text.chars().filter(|character| !character.is_whitespace() && *character != '│').collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
