//! Names: a resolver that answers watched tasks in their own network namespace. The kernel's half leads port 53 here
//! (`sensor`); this room forwards what policy permits to the server that was meant, and tells the kernel whose the
//! addresses are before the task learns them, so that a connect right after it is judged by name.
//!
//! It refuses names that policy blocks and private addresses of public names. It keeps no cache, follows no delegation
//! and judges no connect. `name`, `names`, `private`, `question`, `answer`, `resolved` and `judge` are pure.

mod answer;
mod exchange;
mod judge;
mod name;
mod names;
mod namespace;
mod private;
mod question;
mod resolved;
mod upstream;

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

pub use judge::{REBINDING, Rules, System};
pub use resolved::{ENTRIES, Permit};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::model::{Asker, Decision, Event, Transport};

/// Ports for datagrams per address family: so many servers can be told apart by one socket.
pub const LANES: usize = 4;

/// What the resolver needs of the kernel's half.
pub trait Kernel: Send + Sync + 'static {
    /// Whose question it is that came from `from` to port `lane` of the resolver in the network namespace with this
    /// cookie; none if nobody we watch has sent it.
    fn asker(&self, netns: u64, transport: Transport, from: SocketAddr, lane: u16) -> Option<Asker>;

    /// From now on connects of `profile` to `address` are judged by these entries, as long as the policy that they are
    /// from is in force. What others say of the address stands beside it.
    fn permit(&self, profile: u32, address: IpAddr, permit: &Permit, rules: &Rules) -> Result<(), String>;

    /// What the policy of this generation said of the address is not needed any more, so that its place is free. It may
    /// never have been said.
    fn forget(&self, profile: u32, address: IpAddr, generation: u64);
}

/// A question that was answered, one way or the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// A `dns_answer`, with the process that asked.
    pub event: Event,
    /// What policy said of it, if anything.
    pub decision: Option<Decision>,
}

/// Where a resolver listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// On its loopback.
    pub ports: Ports,
}

/// Ports on loopback; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Datagrams on 127.0.0.1.
    pub udp4: [u16; LANES],
    /// Datagrams on ::1.
    pub udp6: [u16; LANES],
    /// Connections on 127.0.0.1.
    pub tcp4: u16,
    /// Connections on ::1.
    pub tcp6: u16,
}

/// Totals since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ResolverStats {
    /// Messages that arrived.
    pub asked: u64,
    /// Of them refused.
    pub refused: u64,
    /// Permitted, but without an answer that could be passed on.
    pub failed: u64,
    /// Answers that could not be reported: losses of kind `dns_answer`.
    pub unreported: u64,
}

/// Why names cannot be resolved in a namespace.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// No thread, or one without a runtime.
    #[error("cannot start the resolver's thread: {0}")]
    Thread(#[source] io::Error),
    /// The namespace cannot be entered.
    #[error("cannot enter the network namespace of the command: {0}; this needs CAP_SYS_ADMIN")]
    Namespace(#[source] io::Error),
    /// The sockets cannot be made.
    #[error("cannot listen on {at} in the network namespace of the command: {source}; is its loopback up?")]
    Listen {
        /// Where.
        at: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The namespace cannot be named to the kernel's half.
    #[error("cannot read the cookie of the network namespace: {0}")]
    Cookie(#[source] io::Error),
    /// A verdict could not be handed to the kernel.
    #[error("cannot hand resolved addresses to the kernel: {0}")]
    Kernel(String),
}

/// All resolvers of this daemon: one thread for each network namespace, one policy for each profile. Dropping it ends
/// them; what watched tasks then ask is answered by nobody.
pub struct Resolver {
    shared: Arc<exchange::Shared>,
    namespaces: Mutex<HashMap<u64, namespace::Namespace>>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Resolver {
    /// None listens yet. Each answer is reported to `report`: one that policy speaks of waits for room there, so it has
    /// to be read; others are counted if there is none.
    pub fn new(kernel: Arc<dyn Kernel>, report: mpsc::Sender<Answered>) -> Self {
        Self { shared: Arc::new(exchange::Shared::new(kernel, report)), namespaces: Mutex::default() }
    }

    /// Puts a policy in force for a profile. Until a profile has one its questions are refused.
    pub fn set_rules(&self, profile: u32, rules: &Rules) -> Result<(), ResolverError> {
        self.stage(profile, rules)?;
        self.commit(profile);
        Ok(())
    }

    /// Makes a policy ready that the kernel will soon have in force: what was resolved before is judged by it and handed
    /// to the kernel, as is what is resolved from now on, beside what the policy before says. [`Resolver::commit`] or
    /// [`Resolver::discard`] has to follow.
    pub fn stage(&self, profile: u32, rules: &Rules) -> Result<(), ResolverError> {
        self.shared.stage(profile, judge::Judge::new(rules)).map_err(ResolverError::Kernel)
    }

    /// The kernel has the staged policy in force, and no program is left that asks the one before.
    pub fn commit(&self, profile: u32) {
        self.shared.commit(profile);
    }

    /// The staged policy does not come into force.
    pub fn discard(&self, profile: u32) {
        self.shared.discard(profile);
    }

    /// Forgets a profile: its questions are refused, and what was resolved for it is forgotten.
    pub fn remove_rules(&self, profile: u32) {
        self.shared.remove(profile);
    }

    /// Listens in a network namespace, given as its file (`/proc/PID/ns/net`). One that is served already only gets the
    /// new `system`. The namespace lives as long as it is served.
    pub fn serve(&self, namespace: OwnedFd, system: System) -> Result<Listening, ResolverError> {
        let entered = namespace::Namespace::enter(namespace, system.clone(), Arc::clone(&self.shared))?;
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = namespaces.get(&entered.listening.netns) {
            known.set_system(system);
            return Ok(known.listening);
        }
        let listening = entered.listening;
        namespaces.insert(listening.netns, entered);
        Ok(listening)
    }

    /// Stops listening in the namespace with this cookie.
    pub fn leave(&self, netns: u64) {
        let left = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner).remove(&netns);
        // Waits for the thread, so not under the lock.
        drop(left);
    }

    /// Totals.
    pub fn stats(&self) -> ResolverStats {
        self.shared.stats()
    }
}
