//! `defenseclaw top`: sessions, questions and findings on the whole screen, and a place to answer the questions. Here is the
//! loop; `top/view.rs` has the state, `top/draw.rs` draws it, `top/poll.rs` asks, `top/screen.rs` has the terminal.

mod ask;
mod detail;
mod draw;
mod message;
mod poll;
mod rows;
mod screen;
mod text;
mod view;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::mpsc::{RecvTimeoutError, TrySendError, sync_channel},
    time::Instant,
};

use self::{
    message::{Act, Message, Now},
    poll::Places,
    screen::Screen,
    view::View,
};
use crate::runtime::clock;

/// Messages that wait to be taken in.
const QUEUE: usize = 256;
/// Answers that wait to be handed on.
const ANSWERS: usize = 8;

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Socket to ask instead of the daemon's and of those of runs; may be given several times
    #[arg(long, value_name = "PATH")]
    socket: Vec<PathBuf>,
}

/// Runs it.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(why) = screen::unusable(std::env::var("TERM").ok().as_deref()) {
        anyhow::bail!(why);
    }
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let start = Instant::now();
    let (send, take) = sync_channel(QUEUE);
    let (hand_on, answers) = sync_channel(ANSWERS);
    screen::signals(&send)?;
    let mut screen = Screen::enter()?;
    let forget = screen::Forget::default();
    screen::keys(start, &forget, &send)?;
    poll::start(Places { named: args.socket.clone() }, &send)?;
    poll::answers(answers, &send)?;
    let now = || Now { since: start.elapsed(), boot: clock::boot_now(), wall: clock::wall_now() };
    let mut view = View::new(colour);
    loop {
        if let Some(drawn) = screen.draw(|frame| view.draw(frame, now()))?
            && view.drawn(drawn, start.elapsed())
        {
            forget.typed();
        }
        let mut next = match take.recv_timeout(view.rest(start.elapsed())) {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return Ok(ExitCode::SUCCESS),
        };
        // What has come together is drawn together, up to a bound.
        for _ in 0..QUEUE {
            let Some(message) = next.take() else { break };
            if matches!(message, Message::Disturbed) {
                screen.redraw()?;
            }
            match view.update(message, now()) {
                Some(Act::Quit) => return Ok(ExitCode::SUCCESS),
                Some(Act::Ask(job)) => {
                    if let Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) =
                        hand_on.try_send(job)
                    {
                        let why = "answers before it are still under way".to_owned();
                        view.update(Message::Unasked { key: job.key().clone(), why }, now());
                    }
                }
                None => {}
            }
            next = take.try_recv().ok();
        }
    }
}
