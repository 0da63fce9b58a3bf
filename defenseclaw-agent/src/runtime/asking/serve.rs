//! The socket of an embedded run: a thread of its own that serves questions and grants, and nothing else, for as long as the
//! run lasts.

use std::{
    fs, io,
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use tokio::sync::oneshot;

use super::{Desk, Inbox, Local, Rights};
use crate::{
    api::{
        self, ApiError, Asks, Granted, Lasting, Limits, Listener, Open, Peer, Question, Said, Since, Untaken,
    },
    config::RUNS,
    model::{ApprovalId, GrantId, SessionId, Via},
    pipeline,
};

/// Questions cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskingError {
    /// The socket.
    #[error("questions cannot be asked; use mode action, or repair this: {0}")]
    Socket(#[from] ApiError),
    /// Its thread, or its directory.
    #[error("questions cannot be asked: cannot {step}")]
    System {
        /// What was tried.
        step: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A socket that is served. It goes when this is dropped.
#[derive(Debug)]
pub(in super::super) struct Served {
    desk: Desk,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// Of one run: root and whoever runs it.
struct Run(Desk);

impl Served {
    /// Serves the questions of a session, whose commands run as `owner` if that is known.
    pub(in super::super) fn start(
        session: SessionId,
        owner: Option<u32>,
        local: Local,
    ) -> Result<(Self, Inbox), AskingError> {
        let system = |step| move |source| AskingError::System { step, source };
        directory().map_err(system("make the directory of sockets"))?;
        clear(Path::new(RUNS));
        let (desk, inbox) = Desk::new(local);
        desk.own(owner.map(|owner| (session, owner)).into_iter().collect());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(system("start the runtime of the socket"))?;
        let listener = {
            let _entered = runtime.enter();
            Listener::bind(&path(session))?
        };
        let (stop, stopped) = oneshot::channel();
        let run = Arc::new(Run(desk.clone()));
        let limits = Limits { connections: 128, ..Limits::default() };
        let thread = thread::Builder::new()
            .name("answers".to_owned())
            .spawn(move || {
                runtime.block_on(api::serve_asks(listener, run, limits, async {
                    // An error says that nobody can ask us to stop any more: the run is over.
                    stopped.await.ok();
                }));
                // A look at /proc may be going on; it is not waited for.
                runtime.shutdown_background();
            })
            .map_err(system("start the thread of the socket"))?;
        Ok((Self { desk, stop: Some(stop), thread: Some(thread) }, inbox))
    }
}

impl Served {
    /// Bounds questions from now on.
    pub(in super::super) fn limit(&self, limits: pipeline::Limits) {
        self.desk.limit(limits);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.desk.close();
        self.stop.take().map(|stop| stop.send(()).ok());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the socket's thread failed");
        }
    }
}

/// What the person at the terminal has to know before the command has it.
pub(in super::super) fn how_to_answer(session: SessionId) -> String {
    format!(
        "what session {session} has to ask is answered in another terminal: `defenseclaw approvals watch`"
    )
}

/// The socket of a session.
fn path(session: SessionId) -> PathBuf {
    Path::new(RUNS).join(format!("{session}.sock"))
}

/// Everybody may look for sockets there: the kernel says who asks.
fn directory() -> io::Result<()> {
    for part in [Path::new(RUNS).parent().unwrap_or(Path::new("/")), Path::new(RUNS)] {
        match fs::DirBuilder::new().mode(0o755).create(part) {
            // Whatever the umask says.
            Ok(()) => fs::set_permissions(part, fs::Permissions::from_mode(0o755))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Takes away what runs that were killed have left.
fn clear(directory: &Path) {
    let Ok(all) = fs::read_dir(directory) else { return };
    for entry in all.flatten() {
        let path = entry.path();
        let is_socket = path.extension().is_some_and(|extension| extension == "sock");
        let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        if is_socket && UnixStream::connect(&path).is_err_and(refused) {
            fs::remove_file(&path).ok();
        }
    }
}

impl Run {
    fn rights(peer: &Peer) -> Rights {
        Rights { all: peer.caller.uid == 0, own: true }
    }
}

impl Asks for Run {
    async fn open(&self, peer: &Peer, since: Since) -> Open {
        self.0.open(peer, Self::rights(peer), since).await
    }

    fn question(&self, peer: &Peer, id: ApprovalId) -> Option<Question> {
        self.0.question(peer, Self::rights(peer), id)
    }

    async fn lasting(&self, peer: &Peer, id: ApprovalId) -> Result<Lasting, Untaken> {
        self.0.lasting(peer, Self::rights(peer), id).await
    }

    async fn rule(&self, peer: &Peer, id: ApprovalId, said: Said) -> Result<(), Untaken> {
        self.0.rule(peer, Self::rights(peer), id, said).await
    }

    fn grants(&self, peer: &Peer) -> Granted {
        self.0.grants(peer, Self::rights(peer))
    }

    async fn revoke(&self, peer: &Peer, id: GrantId, via: Via) -> Result<(), Untaken> {
        self.0.revoke(peer, Self::rights(peer), id, via).await
    }
}
