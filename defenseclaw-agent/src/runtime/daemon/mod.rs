//! The daemon: answers hooks at its socket, watches the trees of the agents that ask, keeps both in one audit, and reads its
//! configuration again when told to.

mod adopt;
mod answer;
mod asking;
mod bind;
mod force;
mod front;
mod holds;
mod judge;
mod late;
mod questions;
mod queue;
mod read;
mod tamper;
mod view;
mod watch;
mod whose;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::Semaphore,
};

use super::{
    PolicyRejected,
    asking::{Desk, Local},
    clock,
};
use crate::{
    api::{self, ApiError, Limits, Listener},
    config::{self, ConfigError},
    installer::Registry,
    store::{StoreError, Writer, WriterOptions},
};
use answer::Sessions;
use force::InForce;
use holds::Holds;
use queue::Queue;
use view::View;

/// The daemon could not start, or not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// No usable configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No usable policy.
    #[error(transparent)]
    Policy(#[from] PolicyRejected),
    /// Who may control it cannot be told.
    #[error("there is no group {name}; make it, or name another control_group")]
    Group {
        /// Its name.
        name: String,
    },
    /// No audit.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No socket.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The system said no.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// How long hooks that nobody will be asked about have for their answers, when it stops.
const HELD_PATIENCE: Duration = Duration::from_secs(5);

/// Everything that requests share.
pub(super) struct Daemon {
    /// Where the configuration is read from.
    path: Option<PathBuf>,
    in_force: Mutex<Arc<InForce>>,
    sessions: Mutex<Sessions>,
    queue: Queue,
    holds: Holds,
    view: View,
    /// The audit, for who reads.
    database: PathBuf,
    readers: Semaphore,
    answered: AtomicU64,
    failed: AtomicU64,
    /// Rows about hooks that nobody asked about in time.
    missed: AtomicU64,
    hooks: tamper::Hooks,
    /// Where questions are answered.
    desk: Desk,
}

impl Daemon {
    fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.in_force.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts what the files say now in force, or leaves everything as it is.
    fn read_again(&self) -> Result<(), DaemonError> {
        let config = config::load(self.path.as_deref())?;
        let mut in_force = self.in_force.lock().unwrap_or_else(PoisonError::into_inner);
        *in_force = Arc::new(InForce::new(config, in_force.generation + 1)?);
        self.desk.limit(front::limits(&in_force.config));
        Ok(())
    }

    fn count(&self, failed: bool) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.failed.fetch_add(u64::from(failed), Ordering::Relaxed);
    }
}

/// Runs until SIGTERM or SIGINT. SIGHUP reads the configuration again.
pub fn daemon(path: Option<&Path>) -> Result<(), DaemonError> {
    let config = config::load(path)?;
    let own_place = config::default_database().is_ok_and(|place| place == config.audit);
    let (socket, database, watch) = (config.socket.clone(), config.audit.clone(), config.watch);
    let in_force = InForce::new(config, 1)?;
    let failed = |what| move |source| DaemonError::Io { what, source };
    let boot_id = clock::boot_id().map_err(failed("tell which boot this is"))?;
    let options = WriterOptions {
        create_parent: own_place,
        // Small batches; what a hook has led to must not wait for the disk.
        queue: 32,
        ..WriterOptions::new(clock::boot_now(), clock::wall_now(), boot_id.clone())
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed("start the runtime"))?;
    runtime.block_on(async {
        // The socket first: a second daemon must fail before it opens the audit as its writer.
        let listener = Listener::bind(&socket)?;
        let writer = Writer::open(&database, &options)?;
        let view = View::default();
        let holds = Holds::default();
        let (desk, inbox) = Desk::new(Local::beside(&database));
        desk.limit(front::limits(&in_force.config));
        let (queue, mut thread) = Queue::start(writer, boot_id, watch, view.clone(), holds.clone(), inbox)
            .map_err(failed("start the thread that watches"))?;
        let daemon = Arc::new(Daemon {
            path: path.map(Path::to_owned),
            in_force: Mutex::new(Arc::new(in_force)),
            sessions: Mutex::default(),
            queue,
            holds,
            view,
            database,
            readers: Semaphore::new(read::READERS_MAX),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            hooks: tamper::Hooks::default(),
            desk,
        });
        let watcher = tamper::start(&daemon, Registry::beside(&daemon.database))
            .map_err(failed("start the thread that watches hook configurations"))?;
        let mut signals = Signals::new().map_err(failed("wait for signals"))?;
        // Hooks are answered from the first moment on; it is ready when it watches, too.
        let stop = async {
            let ready = async {
                thread.ready().await;
                tell(&[NotifyState::Ready]);
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = signals.until_stop(&daemon) => {}
                () = ready => {}
            }
            // Who waits for a change would keep us waiting.
            daemon.desk.close();
            // Who waits for a person now will not be answered by one.
            daemon.holds.stop();
        };
        api::serve(listener, Arc::clone(&daemon), Limits::default(), stop).await;
        tell(&[NotifyState::Stopping]);
        daemon.holds.drained(HELD_PATIENCE).await;
        daemon.hooks.stop();
        // It may be about to add a row, which needs this thread.
        if let Err(err) = tokio::task::spawn_blocking(move || watcher.join()).await {
            tracing::warn!("the watcher of hook configurations did not end: {err}");
        }
        daemon.queue.end();
        Ok(thread.wait().await?)
    })
}

/// To systemd, if it started us. Without it there is nobody to tell.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(err) = sd_notify::notify(state) {
        tracing::warn!("cannot tell systemd: {err}");
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn until_stop(&mut self, daemon: &Daemon) {
        // Half of what systemd allows, as it asks for. Without a watchdog the tick does nothing.
        let watchdog = sd_notify::watchdog_enabled();
        let pace = watchdog.map_or(Duration::from_hours(1), |limit| limit / 2);
        let mut tick = tokio::time::interval(pace.max(Duration::from_millis(100)));
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    if let Err(err) = daemon.read_again() {
                        tracing::error!("what was in force stays in force: {err}");
                    }
                }
                _ = tick.tick() => {
                    if watchdog.is_some() {
                        tell(&[NotifyState::Watchdog]);
                    }
                }
            }
        }
    }
}
