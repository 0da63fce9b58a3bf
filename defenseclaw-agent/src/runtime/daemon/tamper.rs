//! Watches what `connector install` has written: a hook that is taken out, changed or switched off is a row, a line of
//! the log and part of the status, and is written back where the configuration says so. Looks when a file changes and
//! twice a minute. Who changed it is for the kernel's records to say; here it is only seen that it has changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor},
    unistd::{getegid, geteuid},
};
use tokio::runtime::Handle;

use super::Daemon;
use crate::{
    installer::{self, Condition, Registry, Request, Whole},
    model::{
        Answer, Caller, Decision, HookCall, HookEvent, HookOutput, Mechanism, Phase, PolicyAction, Severity,
        Verdict,
    },
    runtime::clock,
};

/// Between looks at everything: what inotify does not tell, such as a file on another machine.
const PERIOD: Duration = Duration::from_secs(30);
/// An editor or installer writes several files: one look for all of them.
const QUIET: Duration = Duration::from_millis(250);
/// How soon a stop is noticed.
const STEP: Duration = Duration::from_millis(200);
/// Repairs of one installation in [`REPAIR_WINDOW`]: who writes against us for ever is reported, not fought for ever.
const REPAIRS_MAX: usize = 3;
const REPAIR_WINDOW: Duration = Duration::from_mins(10);
/// Name of the event in rows.
const EVENT: &str = "defenseclaw.tamper";
/// Rule that the rows name; its id is that of the established packs for changes of our own configuration.
const RULE: &str = "tamper.hook_configuration";

/// What the watcher knows, for the status.
#[derive(Default)]
pub(super) struct Hooks {
    seen: Mutex<Vec<Seen>>,
    stop: AtomicBool,
}

#[derive(Clone, serde::Serialize)]
struct Seen {
    connector: String,
    scope: String,
    #[serde(flatten)]
    condition: Condition,
    repairs: u64,
}

impl Hooks {
    pub(super) fn status(&self) -> serde_json::Value {
        serde_json::json!(*self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One installation, and what became of it.
struct Watched {
    request: Request,
    condition: Condition,
    repairs: u64,
    /// When it was repaired lately.
    recent: Vec<Instant>,
    /// It was said that it is not repaired any more.
    given_up: bool,
}

/// Starts the watcher. It ends when it is told to, or when the daemon is gone.
pub(super) fn start(daemon: &Arc<Daemon>, registry: Registry) -> io::Result<thread::JoinHandle<()>> {
    let daemon = Arc::downgrade(daemon);
    let runtime = Handle::current();
    thread::Builder::new().name("hook files".to_owned()).spawn(move || {
        let watcher = Watcher { daemon, runtime, registry, watched: Vec::new(), complained: None };
        if let Err(err) = watcher.run() {
            tracing::error!("hook configurations are not watched any more: {err}");
        }
    })
}

struct Watcher {
    daemon: Weak<Daemon>,
    runtime: Handle,
    registry: Registry,
    watched: Vec<Watched>,
    /// What was wrong with the registry, said once.
    complained: Option<String>,
}

impl Watcher {
    fn run(mut self) -> io::Result<()> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let mut marks = Marks::default();
        loop {
            let Some(daemon) = self.daemon.upgrade().filter(|daemon| !stopped(daemon)) else { return Ok(()) };
            // Before looking: what changes after it is looked at again.
            let files = self.files();
            marks.set(&inotify, &files);
            self.look(&daemon);
            drop(daemon);
            // Others than were marked: what changed before they are is seen in another look.
            if self.files() != files {
                continue;
            }
            let next = Instant::now() + PERIOD;
            while Instant::now() < next {
                if self.daemon.upgrade().is_none_or(|daemon| stopped(&daemon)) {
                    return Ok(());
                }
                if waited(&inotify, STEP)? && marks.changed(&inotify) {
                    while waited(&inotify, QUIET)? && marks.changed(&inotify) {}
                    break;
                }
            }
        }
    }

    /// Files whose change is worth a look.
    fn files(&self) -> Vec<PathBuf> {
        let known =
            self.watched.iter().flat_map(|watched| installer::places(&watched.request).unwrap_or_default());
        std::iter::once(self.registry.path().to_owned()).chain(known).collect()
    }

    fn look(&mut self, daemon: &Daemon) {
        match self.registry.read() {
            Ok(requests) => {
                self.complained = None;
                self.follow(requests, daemon);
            }
            // What is known stays watched.
            Err(err) => {
                let said = err.to_string();
                if self.complained.as_ref() != Some(&said) {
                    tracing::warn!("what is installed cannot be read: {said}");
                    self.complained = Some(said);
                }
            }
        }
        let repair = daemon.in_force().config.repair;
        for watched in &mut self.watched {
            for row in watched.look(repair) {
                daemon_row(&self.runtime, daemon, row);
            }
        }
        let seen = self.watched.iter().map(|watched| Seen {
            connector: watched.request.connector.to_string(),
            scope: watched.request.scope.to_string(),
            condition: watched.condition.clone(),
            repairs: watched.repairs,
        });
        *daemon.hooks.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen.collect();
    }

    /// Watches what is written down now.
    fn follow(&mut self, requests: Vec<Request>, daemon: &Daemon) {
        let gone =
            |watched: &Watched| !requests.iter().any(|known| installer::same_place(known, &watched.request));
        for watched in self.watched.extract_if(.., |watched| gone(watched)) {
            // A user may do this, and so may an agent that runs as the user.
            daemon_row(&self.runtime, daemon, row(&watched.request, "unregistered", "connector remove"));
        }
        for request in requests {
            match self.watched.iter_mut().find(|known| installer::same_place(&known.request, &request)) {
                Some(known) => known.request = request,
                None => self.watched.push(Watched::new(request)),
            }
        }
    }
}

fn stopped(daemon: &Daemon) -> bool {
    daemon.hooks.stop.load(Ordering::Relaxed)
}

fn daemon_row(runtime: &Handle, daemon: &Daemon, row: HookCall) {
    let event = row.event.as_ref();
    let text = |field: fn(&HookEvent) -> &Option<String>| event.and_then(|event| field(event).clone());
    let (cause, what) = (text(|event| &event.cause), text(|event| &event.text));
    tracing::warn!(
        "the hook of {} is {}: {}",
        row.connector,
        cause.unwrap_or_default(),
        what.unwrap_or_default()
    );
    runtime.block_on(daemon.queue.keep(row));
}

impl Watched {
    fn new(request: Request) -> Self {
        let condition = Condition { state: Whole::Installed, what: Vec::new() };
        Self { request, condition, repairs: 0, recent: Vec::new(), given_up: false }
    }

    /// Looks, repairs if that is wanted, and says what is new.
    fn look(&mut self, repair: bool) -> Vec<HookCall> {
        let mut rows = Vec::new();
        let condition = installer::condition(&self.request);
        if condition != self.condition {
            let cause = match condition.state {
                Whole::Installed => "restored",
                Whole::Changed | Whole::Disabled | Whole::Removed => condition.state.as_str(),
            };
            rows.push(row(&self.request, cause, &condition.what.join(", ")));
            self.condition = condition;
        }
        if self.condition.state != Whole::Installed && repair {
            rows.extend(self.repair());
        }
        rows
    }

    fn repair(&mut self) -> Option<HookCall> {
        let now = Instant::now();
        self.recent.retain(|at| now.duration_since(*at) < REPAIR_WINDOW);
        if self.recent.len() >= REPAIRS_MAX {
            let said = std::mem::replace(&mut self.given_up, true);
            let why = "somebody writes against us; it is left as it is for now";
            return (!said).then(|| row(&self.request, "given_up", why));
        }
        self.given_up = false;
        self.recent.push(now);
        let done = installer::install(&self.request);
        let what = self.condition.what.join(", ");
        let condition = installer::condition(&self.request);
        let whole = condition.state == Whole::Installed;
        self.condition = condition;
        match done {
            Ok(_) if whole => {
                self.repairs += 1;
                Some(row(&self.request, "repaired", &what))
            }
            // A switch in a file that is not ours to change.
            Ok(_) => Some(row(&self.request, "repair_failed", &self.condition.what.join(", "))),
            Err(err) => Some(row(&self.request, "repair_failed", &err.to_string())),
        }
    }
}

/// A row of our own: no agent has asked for it.
fn row(request: &Request, cause: &str, what: &str) -> HookCall {
    let boot = clock::boot_now();
    let bad = !matches!(cause, "restored" | "repaired");
    let mut event = HookEvent::new(request.connector, Phase::Other, EVENT);
    event.cause = Some(cause.to_owned());
    event.text = Some(format!("{} ({})", what, request.scope));
    event.cut();
    let reason = format!("the hook of {} is {cause}", request.connector);
    HookCall {
        session: None,
        wall: clock::wall_now(),
        boot,
        caller: Caller {
            pid: std::process::id(),
            start_ticks: 0,
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
        },
        connector: request.connector,
        event: Some(event),
        calls: Vec::new(),
        cut: false,
        problem: None,
        policy: None,
        decision: bad.then(|| Decision {
            verdict: Verdict {
                raw_action: PolicyAction::Alert,
                severity: Some(Severity::High),
                rule_ids: vec![RULE.to_owned()],
                reason,
            },
            action: PolicyAction::Alert,
            would_block: false,
            mechanism: Mechanism::None,
            enforced: None,
            generation: 0,
        }),
        answer: Answer::new(PolicyAction::Allow, None, &HookOutput::default()),
        latency_ns: 0,
    }
}

/// Directories that are watched, and the names in them that matter.
#[derive(Default)]
struct Marks {
    by_directory: BTreeMap<PathBuf, (WatchDescriptor, BTreeSet<OsString>)>,
}

impl Marks {
    fn set(&mut self, inotify: &Inotify, files: &[PathBuf]) {
        let mut wanted: BTreeMap<PathBuf, BTreeSet<OsString>> = BTreeMap::new();
        for (directory, name) in files.iter().filter_map(|file| nearest(file)) {
            wanted.entry(directory).or_default().insert(name);
        }
        let gone: Vec<PathBuf> =
            self.by_directory.keys().filter(|known| !wanted.contains_key(*known)).cloned().collect();
        for directory in gone {
            if let Some((mark, _)) = self.by_directory.remove(&directory) {
                // A directory that is gone has lost its mark already.
                inotify.rm_watch(mark).ok();
            }
        }
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        for (directory, names) in wanted {
            // Again each time: the directory may be another one of the same name. Where it fails the period is left.
            match inotify.add_watch(&directory, flags) {
                Ok(mark) => drop(self.by_directory.insert(directory, (mark, names))),
                Err(err) => tracing::debug!("cannot watch {}: {err}", directory.display()),
            }
        }
    }

    /// Reads what there is; whether anything of it matters.
    fn changed(&self, inotify: &Inotify) -> bool {
        let mut changed = false;
        while let Ok(events) = inotify.read_events() {
            for event in events {
                // Without a name it is about a directory itself, or says that some were lost.
                let Some(name) = event.name else {
                    changed = true;
                    continue;
                };
                changed |= self
                    .by_directory
                    .values()
                    .any(|(mark, names)| *mark == event.wd && names.contains(&name));
            }
        }
        changed
    }
}

/// The nearest directory above that exists, and what is looked for in it.
fn nearest(file: &Path) -> Option<(PathBuf, OsString)> {
    let mut below = file;
    for directory in file.ancestors().skip(1) {
        let name = below.file_name()?.to_owned();
        if directory.is_dir() {
            return Some((directory.to_owned(), name));
        }
        below = directory;
    }
    None
}

fn waited(inotify: &Inotify, time: Duration) -> io::Result<bool> {
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(nix::errno::Errno::EINTR) => Ok(false),
        Err(err) => Err(err.into()),
    }
}
