//! One network namespace: a thread that has entered it, the sockets it listens on, and its end.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{Arc, PoisonError, RwLock, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use tokio::{
    net::{TcpListener, TcpStream, UdpSocket},
    runtime, sync, time,
};
use tracing::debug;

use super::{
    LANES, Listening, Ports, ResolverError,
    exchange::{Arrival, Shared},
    judge::System,
    question,
    upstream::{read_framed, write_framed},
};
use crate::model::Transport;

/// Connections at once; further ones wait in the kernel.
const CONNECTIONS: usize = 64;
/// Datagrams of one port that are being answered at once; further ones wait in the kernel, and are dropped there.
const DATAGRAMS: usize = 256;
/// A connection without a question is closed.
const IDLE: Duration = Duration::from_secs(10);
/// `accept` fails while descriptors are short; trying again at once would only burn time.
const BREATH: Duration = Duration::from_millis(50);

/// A thread that answers in one namespace. Dropping it ends that.
pub(super) struct Namespace {
    stop: Option<sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    system: Arc<RwLock<Arc<System>>>,
    pub(super) listening: Listening,
}

struct Sockets {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    listening: Listening,
}

impl Namespace {
    pub(super) fn enter(
        namespace: OwnedFd,
        system: System,
        shared: Arc<Shared>,
    ) -> Result<Self, ResolverError> {
        let system = Arc::new(RwLock::new(Arc::new(system)));
        let (stop, stopped) = sync::oneshot::channel();
        let (ready, outcome) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("resolver".to_owned())
            .spawn({
                let system = Arc::clone(&system);
                move || run(&namespace, &shared, &system, stopped, &ready)
            })
            .map_err(ResolverError::Thread)?;
        // A thread that ends without a word has panicked.
        let gone = |_: mpsc::RecvError| ResolverError::Thread(io::Error::other("it ended at once"));
        let listening = outcome.recv().map_err(gone)??;
        Ok(Self { stop: Some(stop), thread: Some(thread), system, listening })
    }

    pub(super) fn set_system(&self, system: System) {
        *self.system.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(system);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Nobody listens any more if the thread has ended.
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            debug!("the resolver's thread panicked");
        }
    }
}

fn run(
    namespace: &OwnedFd,
    shared: &Arc<Shared>,
    system: &Arc<RwLock<Arc<System>>>,
    stopped: sync::oneshot::Receiver<()>,
    ready: &mpsc::SyncSender<Result<Listening, ResolverError>>,
) {
    let started = setns(namespace, CloneFlags::CLONE_NEWNET)
        .map_err(|errno| ResolverError::Namespace(errno.into()))
        .and_then(|()| {
            runtime::Builder::new_current_thread().enable_all().build().map_err(ResolverError::Thread)
        });
    let runtime = match started {
        Ok(runtime) => runtime,
        Err(error) => return drop(ready.send(Err(error))),
    };
    runtime.block_on(async {
        let sockets = match Sockets::open().await {
            Ok(sockets) => sockets,
            Err(error) => return drop(ready.send(Err(error))),
        };
        let listening = sockets.listening;
        let udp = sockets.udp.into_iter().map(|socket| {
            tokio::spawn(datagrams(Arc::new(socket), listening.netns, Arc::clone(shared), Arc::clone(system)))
        });
        let tcp = sockets.tcp.into_iter().map(|listener| {
            tokio::spawn(connections(listener, listening.netns, Arc::clone(shared), Arc::clone(system)))
        });
        let tasks: Vec<_> = udp.chain(tcp).collect();
        if ready.send(Ok(listening)).is_ok() {
            // Said or dropped: both mean the end.
            stopped.await.ok();
        }
        for task in tasks {
            task.abort();
        }
    });
}

impl Sockets {
    /// On loopback of the namespace of this thread. Without IPv6 there, IPv4 alone.
    async fn open() -> Result<Self, ResolverError> {
        let (mut udp, mut tcp, mut ports) = (Vec::new(), Vec::new(), Ports::default());
        let failed = |at: SocketAddr| move |source| ResolverError::Listen { at, source };
        for v6 in [false, true] {
            let at =
                SocketAddr::new(if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() }, 0);
            let mut lanes = [0; LANES];
            for lane in &mut lanes {
                match UdpSocket::bind(at).await {
                    Ok(socket) => {
                        *lane = socket.local_addr().map_err(failed(at))?.port();
                        udp.push(socket);
                    }
                    Err(_) if v6 => {}
                    Err(error) => return Err(failed(at)(error)),
                }
            }
            let stream = match TcpListener::bind(at).await {
                Ok(listener) => {
                    let port = listener.local_addr().map_err(failed(at))?.port();
                    tcp.push(listener);
                    port
                }
                Err(_) if v6 => 0,
                Err(error) => return Err(failed(at)(error)),
            };
            if v6 {
                (ports.udp6, ports.tcp6) = (lanes, stream);
            } else {
                (ports.udp4, ports.tcp4) = (lanes, stream);
            }
        }
        let netns = udp
            .first()
            .ok_or_else(|| io::Error::other("no socket"))
            .and_then(cookie)
            .map_err(ResolverError::Cookie)?;
        Ok(Self { udp, tcp, listening: Listening { netns, ports } })
    }
}

/// Cookie of the network namespace of a socket.
fn cookie(socket: impl AsFd) -> io::Result<u64> {
    let (mut cookie, mut len) = (0_u64, 8);
    // SAFETY: both pointers live through the call, and `len` is the size of what the first points to.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if failed == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

fn arrival(
    netns: u64,
    transport: Transport,
    from: SocketAddr,
    lane: u16,
    system: &RwLock<Arc<System>>,
) -> Arrival {
    let system = Arc::clone(&system.read().unwrap_or_else(PoisonError::into_inner));
    Arrival { netns, transport, from, lane, system }
}

async fn datagrams(
    socket: Arc<UdpSocket>,
    netns: u64,
    shared: Arc<Shared>,
    system: Arc<RwLock<Arc<System>>>,
) {
    let Ok(lane) = socket.local_addr().map(|at| at.port()) else { return };
    let places = Arc::new(sync::Semaphore::new(DATAGRAMS));
    // One byte more than is read, so that a longer one is seen to be longer.
    let mut buffer = vec![0; question::LONGEST + 1];
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        // An error is that of an answer we sent earlier: its socket is gone.
        let Ok((len, from)) = socket.recv_from(&mut buffer).await else { continue };
        let message = buffer.get(..len).unwrap_or_default().to_vec();
        let arrival = arrival(netns, Transport::Udp, from, lane, &system);
        let (socket, shared) = (Arc::clone(&socket), Arc::clone(&shared));
        tokio::spawn(async move {
            if let Some(answer) = shared.answer(&arrival, &message).await
                && let Err(error) = socket.send_to(&answer, from).await
            {
                debug!(%from, %error, "an answer was not taken");
            }
            drop(place);
        });
    }
}

async fn connections(
    listener: TcpListener,
    netns: u64,
    shared: Arc<Shared>,
    system: Arc<RwLock<Arc<System>>>,
) {
    let Ok(lane) = listener.local_addr().map(|at| at.port()) else { return };
    let places = Arc::new(sync::Semaphore::new(CONNECTIONS));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Ok((stream, from)) = listener.accept().await else {
            time::sleep(BREATH).await;
            continue;
        };
        let (shared, system) = (Arc::clone(&shared), Arc::clone(&system));
        tokio::spawn(async move {
            connection(stream, &shared, || arrival(netns, Transport::Tcp, from, lane, &system)).await;
            drop(place);
        });
    }
}

/// Questions of one connection, one after the other.
async fn connection(mut stream: TcpStream, shared: &Shared, arrival: impl Fn() -> Arrival) {
    loop {
        let Ok(Ok(message)) = time::timeout(IDLE, read_framed(&mut stream)).await else { return };
        let Some(answer) = shared.answer(&arrival(), &message).await else { return };
        let Ok(Ok(())) = time::timeout(IDLE, write_framed(&mut stream, &answer)).await else { return };
    }
}
