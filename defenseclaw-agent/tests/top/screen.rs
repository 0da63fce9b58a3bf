//! A terminal with the real program in it, as a person has one: a pseudo terminal, and a parser of what is drawn on it.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use nix::{
    pty::{Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, tcgetattr},
    },
    unistd::{Pid, setsid},
};

/// Long enough for a busy machine; nothing that works waits for it.
const PATIENCE: Duration = Duration::from_mins(1);

struct Shown {
    parser: vt100::Parser,
    bytes: Vec<u8>,
    closed: bool,
}

pub(crate) struct Screen {
    master: File,
    /// Kept open, so that the terminal's settings can be read when the program is gone.
    slave: OwnedFd,
    shown: Arc<(Mutex<Shown>, Condvar)>,
    child: Child,
}

/// The program without a terminal, in a directory of its own.
#[expect(clippy::disallowed_methods, reason = "tests may start processes")]
pub(crate) fn program(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_defenseclaw"));
    command.env_clear().env("HOME", "/nonexistent").env("TERM", "xterm-256color").current_dir(directory);
    command
}

impl Screen {
    /// `top`, asking the sockets `d.sock` and so on of a directory.
    pub(crate) fn top(directory: &Path, sockets: &[&str], (rows, columns): (u16, u16)) -> Self {
        let mut command = program(directory);
        command.arg("top");
        for socket in sockets {
            command.args(["--socket", socket]);
        }
        Self::start(command, (rows, columns))
    }

    pub(crate) fn start(mut command: Command, (rows, columns): (u16, u16)) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        command.stdin(end()).stdout(end()).stderr(end());
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
        let child = command.spawn().unwrap();
        let master = File::from(pty.master);
        let parser = vt100::Parser::new(cells(rows), cells(columns), 0);
        let shown =
            Arc::new((Mutex::new(Shown { parser, bytes: Vec::new(), closed: false }), Condvar::new()));
        let (mut reader, shared) = (master.try_clone().unwrap(), shown.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            let mut pending = Vec::new();
            loop {
                let read = reader.read(&mut buffer).unwrap_or(0);
                pending.extend_from_slice(&buffer[..read]);
                // A screen that is being drawn is none that a person sees.
                let whole = if read == 0 { pending.len() } else { whole(&pending) };
                let rest = pending.split_off(whole);
                let mut shown = shared.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                shown.parser.process(&pending);
                shown.bytes.append(&mut pending);
                pending = rest;
                shown.closed = read == 0;
                shared.1.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        Self { master, slave: pty.slave, shown, child }
    }

    /// Waits for something on the screen.
    pub(crate) fn wait(&self, what: &str, mut done: impl FnMut(&vt100::Screen) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut shown = self.shown.0.lock().unwrap();
        loop {
            if done(shown.parser.screen()) {
                return shown.parser.screen().contents();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && !shown.closed,
                "waited for {what}:\n{}",
                shown.parser.screen().contents()
            );
            shown = self.shown.1.wait_timeout(shown, left).unwrap().0;
        }
    }

    /// Waits for a text on the screen.
    pub(crate) fn see(&self, text: &str) -> String {
        self.wait(text, |screen| screen.contents().contains(text))
    }

    pub(crate) fn contents(&self) -> String {
        self.shown.0.lock().unwrap().parser.screen().contents()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.shown.0.lock().unwrap().bytes.clone()
    }

    /// Each row, as wide as the screen.
    pub(crate) fn rows(&self) -> Vec<String> {
        let shown = self.shown.0.lock().unwrap();
        let screen = shown.parser.screen();
        screen.rows(0, screen.size().1.get()).collect()
    }

    pub(crate) fn typed(&self, keys: &str) {
        (&self.master).write_all(keys.as_bytes()).unwrap();
    }

    pub(crate) fn resize(&self, (rows, columns): (u16, u16)) {
        self.shown.0.lock().unwrap().parser.screen_mut().set_size(cells(rows), cells(columns));
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the descriptor is open and the size lives through the call.
        let done = unsafe { libc::ioctl(self.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        assert_eq!(done, 0);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    /// Whether keys are shown and lines are edited, as when the program was started.
    pub(crate) fn is_cooked(&self) -> bool {
        let flags = tcgetattr(&self.slave).unwrap().local_flags;
        flags.contains(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG)
    }

    /// Waits for the end of the program, and for its last words.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.contents());
            thread::yield_now();
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if thread::panicking() {
            let shown = self.shown.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            println!("{}", shown.parser.screen().contents());
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Bytes up to an update of the screen that has not ended.
fn whole(bytes: &[u8]) -> usize {
    let last = |mark: &[u8]| bytes.windows(mark.len()).rposition(|window| window == mark);
    match (last(b"\x1b[?2026h"), last(b"\x1b[?2026l")) {
        (Some(begin), None) => begin,
        (Some(begin), Some(end)) if begin > end => begin,
        _ => bytes.len(),
    }
}

fn cells(count: u16) -> std::num::NonZero<u16> {
    std::num::NonZero::new(count).unwrap()
}
