//! `approvals watch`: follows every watcher at once, each from a thread of its own, and at a terminal asks what is asked.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, IsTerminal as _},
    path::Path,
    process::ExitCode,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

use super::{
    ask::{Watcher, Watchers},
    dialog::{Dialog, Step},
    words,
};
use crate::{
    cli::output::{self, Out},
    model::ApprovalId,
    runtime::{Client, ClientError, Open, Pending, Since},
};

/// How often new watchers are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a watcher lets us wait for a change.
const WAIT: Duration = Duration::from_secs(10);

/// What happens.
enum Happened {
    /// What is open at a watcher now.
    Open(usize, Open),
    /// A watcher is gone, or cannot be understood.
    Gone(usize, ClientError),
    /// Somebody typed a line.
    Line(String),
    /// Nobody will type any more.
    Closed,
}

/// A watcher that is followed.
struct Followed {
    client: Client,
    open: BTreeMap<ApprovalId, Pending>,
}

struct Watch<'a> {
    followed: BTreeMap<usize, Followed>,
    dialog: Option<Dialog>,
    json: bool,
    sender: SyncSender<Happened>,
    out: &'a mut Out,
}

/// Runs until it is interrupted, or until nobody reads or types any more.
pub(super) fn run(socket: Option<&Path>, json: bool, out: &mut Out) -> anyhow::Result<ExitCode> {
    let (sender, happens) = sync_channel(64);
    let asks = !json && io::stdin().is_terminal();
    if asks {
        type_in(sender.clone())?;
    }
    let dialog = asks.then(Dialog::new);
    let mut watch = Watch { followed: BTreeMap::new(), dialog, json, sender, out };
    watch.follow(socket, &happens)
}

impl Watch<'_> {
    fn follow(&mut self, socket: Option<&Path>, happens: &Receiver<Happened>) -> anyhow::Result<ExitCode> {
        let (mut next_look, mut number) = (Instant::now(), 0);
        loop {
            if Instant::now() >= next_look {
                for Watcher(client) in Watchers::find(socket).all() {
                    if !self.followed.values().any(|known| known.client.socket() == client.socket()) {
                        poll(number, client.clone(), self.sender.clone())?;
                        self.followed
                            .insert(number, Followed { client: client.clone(), open: BTreeMap::new() });
                        number += 1;
                    }
                }
                if self.followed.is_empty() && number == 0 {
                    output::note("no daemon answers, and no run asks; waiting for one");
                    number = 1;
                }
                next_look = Instant::now() + LOOK_EVERY;
            }
            match happens.recv_timeout(next_look.saturating_duration_since(Instant::now())) {
                Ok(Happened::Open(at, open)) => self.open(at, open.approvals)?,
                Ok(Happened::Gone(at, error)) => {
                    self.open(at, Vec::new())?;
                    if let Some(gone) = self.followed.remove(&at)
                        && !matches!(error, ClientError::Unreachable { .. } | ClientError::Broken(_))
                    {
                        output::note(&format!("{}: {error}", gone.client.socket().display()));
                    }
                }
                Ok(Happened::Line(line)) => {
                    let steps = self.dialog.as_mut().map(|dialog| dialog.line(&line)).unwrap_or_default();
                    self.carry_out(steps)?;
                }
                Ok(Happened::Closed) | Err(RecvTimeoutError::Disconnected) => return Ok(ExitCode::SUCCESS),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.out.flush()?;
        }
    }

    fn open(&mut self, at: usize, open: Vec<Pending>) -> anyhow::Result<()> {
        if let Some(dialog) = &mut self.dialog {
            let steps = dialog.open(at, open);
            return self.carry_out(steps);
        }
        let Some(known) = self.followed.get_mut(&at) else { return Ok(()) };
        let now: BTreeMap<_, _> = open.into_iter().map(|pending| (pending.approval.id, pending)).collect();
        let before = std::mem::replace(&mut known.open, now.clone());
        let client = known.client.clone();
        for (id, pending) in &before {
            if now.contains_key(id) {
                continue;
            }
            // How it ended, if its watcher still knows.
            let end = client.question(*id).ok().and_then(|question| question.settled);
            if self.json {
                self.out.json(&serde_json::json!({ "settled": end, "approval": pending.approval }))?;
            } else {
                let how = end.as_ref().map_or_else(|| "is not asked any more".to_owned(), words::settled);
                self.out.line(&format!("{} {how}", words::name(&pending.approval, true)))?;
            }
        }
        for (id, pending) in &now {
            if before.contains_key(id) {
                continue;
            }
            if self.json {
                self.out.json(&serde_json::json!({ "asked": pending }))?;
            } else {
                self.out.line(&words::line(pending, true))?;
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, steps: Vec<Step>) -> anyhow::Result<()> {
        for step in steps {
            match step {
                Step::Print(line) => self.out.line(&line)?,
                Step::Prompt(text) => self.out.prompt(&text)?,
                Step::Answer((at, id), said) => {
                    let Some(watcher) = self.followed.get(&at) else { continue };
                    let line = match watcher.client.rule(id, &said) {
                        Ok(()) => format!("{id}: {}", said.ruling),
                        Err(ClientError::Refused { said, .. }) => {
                            format!("{id}: not taken: {}", output::escape(said.as_bytes()))
                        }
                        Err(error) => {
                            format!("{id}: not taken: {}", output::escape(error.to_string().as_bytes()))
                        }
                    };
                    self.out.line(&line)?;
                }
                Step::Preview((at, id)) => {
                    let preview = match self.followed.get(&at) {
                        Some(watcher) => watcher.client.lasting(id).map_err(reason),
                        None => Err("who asked is gone".to_owned()),
                    };
                    let steps = self.dialog.as_mut().map(|dialog| dialog.preview(preview));
                    self.carry_out(steps.unwrap_or_default())?;
                }
            }
        }
        Ok(())
    }
}

/// Why something was not taken.
fn reason(error: ClientError) -> String {
    if let ClientError::Refused { said, .. } = error { said } else { error.to_string() }
}

/// Asks a watcher again and again what is open, until it is gone. The thread ends with the process.
fn poll(number: usize, client: Client, sender: SyncSender<Happened>) -> io::Result<()> {
    let work = move || {
        let mut since = Since::default();
        loop {
            match client.open(since) {
                Ok(open) => {
                    since = Since { after: Some(open.version), wait: WAIT };
                    if sender.send(Happened::Open(number, open)).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    sender.send(Happened::Gone(number, error)).ok();
                    return;
                }
            }
        }
    };
    thread::Builder::new().name("poll".to_owned()).spawn(work).map(drop)
}

/// Reads what is typed.
fn type_in(sender: SyncSender<Happened>) -> io::Result<()> {
    let work = move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            if sender.send(Happened::Line(line)).is_err() {
                return;
            }
        }
        sender.send(Happened::Closed).ok();
    };
    thread::Builder::new().name("type".to_owned()).spawn(work).map(drop)
}
