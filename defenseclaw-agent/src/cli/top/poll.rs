//! The threads that ask: one looks for who can be asked, and for each of those one waits for questions and one asks how
//! things are. Whoever is gone is forgotten and looked for again.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::{Arc, mpsc::SyncSender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use nix::unistd::{Uid, User};
use serde_json::Value;

use super::{
    super::source,
    ask,
    message::{Answer, From, Job, Live, Message},
};
use crate::{
    model::{Origin, SessionId, WallTime},
    runtime::{Client, ClientError, Since, Wanted},
    store::{SessionState, SessionSummary, Stored},
};

/// Where runs that can be asked have their sockets.
const RUNS: &str = "/run/defenseclaw/runs";
/// Runs that are asked at once.
const RUNS_MAX: usize = 64;
/// How often is asked.
const INTERVAL: Duration = Duration::from_secs(1);
/// How often all sessions are listed, if those that are watched stay the same.
const LIST_INTERVAL: Duration = Duration::from_secs(10);
/// How long a list of questions waits for a change.
const WAIT: Duration = Duration::from_secs(10);
/// Pages of rows between two looks at everything else.
const PAGES: usize = 16;

/// Whoever reads has gone: so does the thread.
struct Gone;

/// Where to look.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// Sockets that somebody named. None: the usual ones.
    pub(super) named: Vec<PathBuf>,
}

impl Places {
    fn all(&self) -> Vec<PathBuf> {
        if !self.named.is_empty() {
            return self.named.clone();
        }
        let mut runs: Vec<_> = std::fs::read_dir(RUNS)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension() == Some(OsStr::new("sock")))
            .collect();
        runs.sort();
        runs.truncate(RUNS_MAX);
        source::daemon().ok().map(|client| client.socket().to_owned()).into_iter().chain(runs).collect()
    }

    /// What was tried, for who asks why there is nothing.
    fn looked(&self) -> Vec<String> {
        if self.named.is_empty() {
            let why = source::daemon().err().map(|err| said(&err));
            why.into_iter().chain([format!("no run that asks has a socket in {RUNS}")]).collect()
        } else {
            let tried = self.named.iter().filter_map(|path| Client::connect(path).err());
            tried.map(|err| said(&err)).collect()
        }
    }
}

fn said(err: &ClientError) -> String {
    match std::error::Error::source(err) {
        Some(cause) => format!("{err}: {cause}"),
        None => err.to_string(),
    }
}

/// Starts asking.
pub(super) fn start(places: Places, send: &SyncSender<Message>) -> anyhow::Result<()> {
    let send = send.clone();
    named("look", move || {
        let mut asked: HashMap<PathBuf, Vec<JoinHandle<()>>> = HashMap::new();
        loop {
            asked.retain(|_, threads| threads.iter().any(|thread| !thread.is_finished()));
            for path in places.all() {
                if !asked.contains_key(&path) && Client::connect(&path).is_ok() {
                    let threads = both(Arc::from(&*path), &send);
                    asked.insert(path, threads);
                }
            }
            if asked.is_empty() && send.send(Message::Absent { looked: places.looked() }).is_err() {
                return;
            }
            thread::sleep(INTERVAL);
        }
    })
    .context("starting to look for a daemon")
    .map(drop)
}

/// Starts to ask about single questions.
pub(super) fn answers(
    take: std::sync::mpsc::Receiver<Box<Job>>,
    send: &SyncSender<Message>,
) -> anyhow::Result<()> {
    let send = send.clone();
    named("answer", move || {
        for job in take {
            let message = match *job {
                Job::Answer(answer) => {
                    let refused = ask::answer(&answer).err();
                    let Answer { key, ruling, .. } = answer;
                    Message::Answered { key, ruling, refused }
                }
                Job::Lasting { key, approval } => {
                    let rule = ask::lasting(&key, &approval);
                    Message::Lasting { key, rule }
                }
            };
            if send.send(message).is_err() {
                return;
            }
        }
    })
    .context("starting to answer")
    .map(drop)
}

fn named(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// No thread, no answers: then the next look tries again.
fn both(from: From, send: &SyncSender<Message>) -> Vec<JoinHandle<()>> {
    let (one, other) = ((from.clone(), send.clone()), (from, send.clone()));
    let asking = named("questions", move || drop(questions(&one.0, &one.1)));
    let news = named("news", move || drop(News::new(other.0, other.1).run()));
    [asking, news].into_iter().flatten().collect()
}

fn give(send: &SyncSender<Message>, message: Message) -> Result<(), Gone> {
    send.send(message).map_err(|_closed| Gone)
}

/// Whether nobody is there any more.
fn is_lost(err: &ClientError) -> bool {
    matches!(err, ClientError::Unreachable { .. } | ClientError::Impostor { .. } | ClientError::Broken(_))
}

fn questions(from: &From, send: &SyncSender<Message>) -> Result<(), Gone> {
    let mut since = Since::default();
    loop {
        match Client::connect(from).and_then(|client| client.open(since)) {
            Ok(found) => {
                since = Since { after: Some(found.version), wait: WAIT };
                give(send, Message::Approvals { from: from.clone(), open: found.approvals })?;
            }
            Err(err) if is_lost(&err) => return give(send, Message::Lost { from: from.clone() }),
            Err(err) => {
                let why = if matches!(err, ClientError::Refused { status: 404, .. }) {
                    "it asks nobody".to_owned()
                } else {
                    said(&err)
                };
                since = Since::default();
                // What was open before may not be any more.
                give(send, Message::Approvals { from: from.clone(), open: Vec::new() })?;
                give(send, Message::Trouble { from: from.clone(), why: format!("approvals: {why}") })?;
                thread::sleep(INTERVAL);
            }
        }
    }
}

/// What is asked again and again.
struct News {
    from: From,
    send: SyncSender<Message>,
    client: Option<Client>,
    users: HashMap<u32, String>,
    watched: HashSet<SessionId>,
    listed: Option<Instant>,
    summaries: Vec<SessionSummary>,
    /// Rows about policy, and the other ones, are read up to here.
    after: Option<[u64; 2]>,
}

impl News {
    fn new(from: From, send: SyncSender<Message>) -> Self {
        Self {
            from,
            send,
            client: None,
            users: HashMap::new(),
            watched: HashSet::new(),
            listed: None,
            summaries: Vec::new(),
            after: None,
        }
    }

    fn run(mut self) -> Result<(), Gone> {
        self.give(|from| Message::Begin { from })?;
        loop {
            let asked = match self.client.clone() {
                Some(client) => self.look(&client),
                None => Client::connect(&self.from).map(|client| {
                    self.client = Some(client);
                    true
                }),
            };
            match asked {
                Ok(true) => continue,
                Ok(false) => {}
                Err(err) if is_lost(&err) => {
                    return give(&self.send, Message::Lost { from: self.from.clone() });
                }
                Err(err) => self.give(|from| Message::Trouble { from, why: said(&err) })?,
            }
            thread::sleep(INTERVAL);
        }
    }

    fn give(&self, message: impl FnOnce(From) -> Message) -> Result<(), Gone> {
        give(&self.send, message(self.from.clone()))
    }

    /// True if there is more to read at once.
    fn look(&mut self, client: &Client) -> Result<bool, ClientError> {
        let status = served(client.status())?.unwrap_or(Value::Null);
        let watched =
            status.pointer("/watch/sessions").and_then(Value::as_array).cloned().unwrap_or_default();
        let ids = watched.iter().filter_map(session_of).collect();
        if self.watched != ids || self.listed.is_none_or(|at| at.elapsed() >= LIST_INTERVAL) {
            self.summaries = match served(client.sessions())? {
                Some(all) => {
                    let all = all.as_array().cloned().unwrap_or_default();
                    all.into_iter().filter_map(|one| serde_json::from_value(one).ok()).collect()
                }
                None => Vec::new(),
            };
            self.watched = ids;
            self.listed = Some(Instant::now());
        }
        let live = self.live(&watched);
        let shown = self
            .give(|from| Message::Status { from, status })
            .and_then(|()| self.give(|from| Message::Sessions { from, live }));
        if shown.is_err() {
            return Ok(false);
        }
        self.rows(client)
    }

    fn user(&mut self, uid: u32) -> String {
        let known = self.users.entry(uid).or_insert_with(|| {
            let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
            user.map_or_else(|| uid.to_string(), |user| user.name)
        });
        known.clone()
    }

    fn live(&mut self, watched: &[Value]) -> Vec<Live> {
        let mut live = Vec::new();
        for one in watched {
            let Some(session) = session_of(one) else { continue };
            let number = |name: &str| one.get(name).and_then(Value::as_u64);
            let agent = one.get("connector").and_then(Value::as_str).unwrap_or_default().to_owned();
            let uid = number("uid").and_then(|uid| u32::try_from(uid).ok());
            live.push(Live {
                session,
                agent,
                user: uid.map(|uid| self.user(uid)).unwrap_or_default(),
                pid: number("pid").and_then(|pid| u32::try_from(pid).ok()),
                since: one.get("since").and_then(|since| serde_json::from_value(since.clone()).ok()),
                events: number("events"),
                adopted: true,
            });
        }
        let running: Vec<_> = self
            .summaries
            .iter()
            .filter(|one| one.state == SessionState::Running)
            .filter(|one| !live.iter().any(|live| live.session == one.session))
            // What the daemon watched and does not watch any more has ended.
            .filter(|one| one.start.origin.is_launched())
            .cloned()
            .collect();
        for one in running {
            let start = one.start;
            let command = start.command.first().map(|text| text.0.clone()).unwrap_or_default();
            let (agent, user) = match &start.origin {
                Origin::Launched => (String::from_utf8_lossy(&command).into_owned(), String::new()),
                Origin::Adopted { connector, uid, .. } => (connector.to_string(), self.user(*uid)),
            };
            let agent = agent.rsplit('/').next().unwrap_or_default().to_owned();
            live.push(Live {
                session: one.session,
                agent,
                user,
                pid: Some(start.root.tgid),
                since: Some(start.wall),
                events: Some(one.events),
                adopted: false,
            });
        }
        // The socket of a run that says nothing of itself has its session's name.
        let named = self.from.file_stem().and_then(OsStr::to_str).and_then(|name| name.parse().ok());
        if let Some(session) = named.filter(|_| live.is_empty()) {
            let since = std::fs::metadata(Path::new(&*self.from)).and_then(|meta| meta.modified()).ok();
            let since = since.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
            live.push(Live {
                session,
                agent: "run".to_owned(),
                user: String::new(),
                pid: None,
                since: since.and_then(|at| i64::try_from(at.as_nanos()).ok()).map(WallTime),
                events: None,
                adopted: false,
            });
        }
        live
    }

    /// From where the oldest session began that goes on; otherwise from where the last one did.
    fn begin(&self) -> u64 {
        let firsts = self
            .summaries
            .iter()
            .filter(|one| self.watched.contains(&one.session) || one.state == SessionState::Running);
        let first = firsts.map(|one| one.first_seq).min();
        first
            .or_else(|| self.summaries.last().map(|one| one.first_seq))
            .map_or(0, |seq| seq.saturating_sub(1))
    }

    fn rows(&mut self, client: &Client) -> Result<bool, ClientError> {
        let begin = self.begin();
        let mut after = *self.after.get_or_insert([begin; 2]);
        let mut more = false;
        let decided = Wanted { blocked: true, alerts: true, ..Wanted::default() };
        let records = ["finding", "posture", "asked", "settled", "session_end"];
        let told = Wanted { records: records.to_vec(), ..Wanted::default() };
        for (mut wanted, after) in [decided, told].into_iter().zip(&mut after) {
            let mut moved = false;
            for _ in 0..PAGES {
                wanted.after = *after;
                let Some(page) = served(client.events(&wanted))? else { break };
                let lines = page.lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                let rows: Vec<Stored> = lines.filter_map(|line| serde_json::from_slice(line).ok()).collect();
                moved = page.after != *after;
                *after = page.after;
                if !rows.is_empty() && self.give(|from| Message::Rows { from, rows }).is_err() {
                    return Ok(false);
                }
                if !moved {
                    break;
                }
            }
            more |= moved;
        }
        self.after = Some(after);
        Ok(more)
    }
}

/// Not everybody serves everything.
fn served<T>(asked: Result<T, ClientError>) -> Result<Option<T>, ClientError> {
    match asked {
        Ok(said) => Ok(Some(said)),
        Err(ClientError::Refused { status: 400 | 404 | 405, .. }) => Ok(None),
        Err(err) => Err(err),
    }
}

fn session_of(value: &Value) -> Option<SessionId> {
    value.get("session").and_then(Value::as_str).and_then(|id| id.parse().ok())
}
