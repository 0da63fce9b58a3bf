//! The terminal: taken over for the view and given back however that ends, and the threads that read keys and signals.

use std::{
    io::{self, IsTerminal as _, Stdout},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::SyncSender,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use crossterm::{
    cursor::{Hide, Show},
    event::{self, DisableBracketedPaste, EnableBracketedPaste, Event},
    execute, queue,
    terminal::{
        BeginSynchronizedUpdate, Clear, ClearType, DisableLineWrap, EnableLineWrap, EndSynchronizedUpdate,
        EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
    },
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, raise},
        signalfd::{SfdFlags, SignalFd},
        termios::{FlushArg, tcflush},
    },
};
use ratatui::{Terminal, TerminalOptions, Viewport, backend::CrosstermBackend, layout::Rect};

use super::message::Message;

/// Signals that end the view.
const ENDING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
/// How often the size is looked at, in milliseconds.
const GLANCE: u16 = 100;
/// A view that cannot draw its last is ended after this long, in milliseconds.
const LAST_WORDS: u16 = 2000;

/// Some thread has panicked, and the terminal is already given back.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// The terminal, while it is ours.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    area: Rect,
}

/// Why there is nothing to draw on, if so.
pub(super) fn unusable(term: Option<&str>) -> Option<&'static str> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Some(
            "top needs a terminal for input and output; without one use `defenseclaw status` and `defenseclaw events`",
        );
    }
    match term {
        None | Some("" | "dumb") => Some(
            "top draws on the whole screen, which TERM=dumb cannot; set TERM to what your terminal is, or use `defenseclaw status` and `defenseclaw events`",
        ),
        Some(_) => None,
    }
}

/// The signals that end the view are read by a thread. Comes first: other threads inherit that they are not hit.
pub(super) fn signals(send: &SyncSender<Message>) -> anyhow::Result<()> {
    let ending = SigSet::from_iter(ENDING);
    let all: SigSet = ENDING.into_iter().chain([Signal::SIGCONT]).collect();
    all.thread_block().context("blocking signals")?;
    let fd = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC).context("reading signals")?;
    let send = send.clone();
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            while let Ok(Some(info)) = fd.read_signal() {
                let which =
                    i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok());
                if which == Some(Signal::SIGCONT) {
                    // Who stopped us may have used the terminal.
                    drop(enter());
                    drop(send.send(Message::Disturbed));
                    continue;
                }
                drop(send.try_send(Message::End));
                let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, LAST_WORDS).ok();
                // Still here: a terminal that takes nothing, or a second signal. No more words.
                drop(disable_raw_mode());
                ending.thread_unblock().ok();
                raise(which.unwrap_or(Signal::SIGTERM)).ok();
            }
        })
        .context("starting to read signals")
        .map(drop)
}

impl Screen {
    /// Takes the terminal over.
    pub(super) fn enter() -> anyhow::Result<Self> {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            leave();
            PANICKED.store(true, Ordering::SeqCst);
            before(info);
        }));
        enter().context("taking over the terminal")?;
        // From here on it is given back whatever happens.
        let (terminal, area) = fresh().inspect_err(|_| leave())?;
        Ok(Self { terminal, area })
    }

    /// Draws.
    pub(super) fn draw<R>(
        &mut self,
        draw: impl FnOnce(&mut ratatui::Frame<'_>) -> R,
    ) -> io::Result<Option<R>> {
        if PANICKED.load(Ordering::SeqCst) {
            return Err(io::Error::other("a part of the view has failed, see above"));
        }
        if area()? != self.area {
            self.redraw()?;
        }
        let mut drawn = None;
        // Shown as a whole, where the terminal can do that.
        queue!(io::stdout(), BeginSynchronizedUpdate)?;
        self.terminal.draw(|frame| drawn = Some(draw(frame)))?;
        execute!(io::stdout(), EndSynchronizedUpdate)?;
        Ok(drawn)
    }

    /// What was on it may be gone: draws all of it the next time.
    pub(super) fn redraw(&mut self) -> io::Result<()> {
        (self.terminal, self.area) = fresh()?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if !PANICKED.load(Ordering::SeqCst) {
            leave();
        }
    }
}

fn area() -> io::Result<Rect> {
    let (width, height) = size()?;
    Ok(Rect::new(0, 0, width, height))
}

/// An empty screen. A terminal of a fixed size: one that follows the screen asks where the cursor is, and the answer comes
/// among the keys.
fn fresh() -> io::Result<(Terminal<CrosstermBackend<Stdout>>, Rect)> {
    let area = area()?;
    execute!(io::stdout(), Clear(ClearType::All))?;
    let options = TerminalOptions { viewport: Viewport::Fixed(area) };
    Ok((Terminal::with_options(CrosstermBackend::new(io::stdout()), options)?, area))
}

fn enter() -> io::Result<()> {
    enable_raw_mode()?;
    // Without line wrap no row that is wider than we think becomes two.
    execute!(io::stdout(), EnterAlternateScreen, DisableLineWrap, EnableBracketedPaste, Hide)
}

/// Best effort: the terminal may be gone.
fn leave() {
    drop(execute!(io::stdout(), DisableBracketedPaste, EnableLineWrap, LeaveAlternateScreen, Show));
    drop(disable_raw_mode());
}

/// Keys that were typed and not read yet are not meant for what is on the screen now.
#[derive(Clone, Debug, Default)]
pub(super) struct Forget(Arc<AtomicBool>);

impl Forget {
    pub(super) fn typed(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Starts to read keys.
pub(super) fn keys(start: Instant, forget: &Forget, send: &SyncSender<Message>) -> anyhow::Result<()> {
    let forget = forget.clone();
    let send = send.clone();
    thread::Builder::new()
        .name("keys".to_owned())
        .spawn(move || {
            while let Ok(read) = next(start, &forget) {
                for message in read {
                    if send.send(message).is_err() {
                        return;
                    }
                }
            }
            // The terminal is gone.
            drop(send.send(Message::End));
        })
        .context("starting to read keys")
        .map(drop)
}

fn next(start: Instant, forget: &Forget) -> io::Result<Vec<Message>> {
    let stdin = io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::from(GLANCE)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(err) => return Err(err.into()),
    }
    let [fd] = fds;
    // Reading from a terminal that was hung up returns at once, for ever.
    if fd.revents().is_some_and(|events| {
        events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL)
    }) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // By the thread that reads: a read of what somebody else takes away would wait for the next key.
    if forget.0.swap(false, Ordering::SeqCst) {
        // If there is no terminal any more there are no keys either.
        tcflush(&stdin, FlushArg::TCIFLUSH).ok();
    }
    let mut read = Vec::new();
    while event::poll(Duration::ZERO)? {
        match event::read()? {
            Event::Key(key) if key.is_press() => read.push(Message::Key(key, start.elapsed())),
            Event::Paste(text) => read.push(Message::Paste(text)),
            Event::Resize(..) => read.push(Message::Disturbed),
            Event::Key(_) | Event::Mouse(_) | Event::FocusGained | Event::FocusLost => {}
        }
    }
    Ok(read)
}
