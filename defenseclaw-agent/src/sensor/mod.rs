//! The kernel's half, as the rest of the product sees it: load and attach programs, say what this kernel can do, enrol
//! processes, read records, account for losses. ABI types stay inside this room. Judges nothing, stores nothing.

mod cgroup;
mod counters;
mod decode;
mod dns;
mod hooks;
mod level;
mod load;
mod pin;
mod proc;
mod refusal;
mod ring;
mod running;
mod seat;

use std::{
    fmt, io,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
};

use aya::{
    maps::{HashMap, IterableMap, Map, MapData, MapError},
    programs::{CgroupAttachMode, CgroupSkbAttachType},
};
pub use cgroup::{Otherwise, Questions, Redirects, ResolverPorts};
pub use counters::{Accounted, SensorStats};
pub use decode::{DecodeError, decode_record};
use defenseclaw_ebpf::Label;
pub use level::detect as detect_level;
pub use load::object_digest;
pub use proc::{Parent, ProcFacts, TICK_NS, is_alive, parent_of, process_facts, processes, user_of};
pub use seat::{Seat, is_at_terminal, seat_of, seated};

use crate::model::{BootTime, Event, Loss, ProcessKey, Protection, SessionId};

/// Why watching cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum SensorError {
    /// Not allowed to load BPF.
    #[error("not allowed to load BPF programs: {0}")]
    Privileges(String),
    /// No type information of the kernel.
    #[error("cannot read the kernel's BTF type information at /sys/kernel/btf/vmlinux: {0}")]
    Btf(String),
    /// The object was not embedded.
    #[error("this binary was built without its BPF object")]
    NoObject,
    /// The object as a whole does not load.
    #[error("cannot load the BPF object: {0}")]
    Object(String),
    /// A program without which nothing can be watched.
    #[error("cannot attach `{hook}`, without which no process can be watched: {reason}")]
    Required {
        /// Hook, as in `Capability::name`.
        hook: String,
        /// What the kernel said.
        reason: String,
    },
    /// A map operation.
    #[error("cannot {operation}: {reason}")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// Pinning, or opening what is pinned.
    #[error("cannot {operation} {}: {reason}", path.display())]
    Pin {
        /// What was tried.
        operation: &'static str,
        /// The name in the BPF file system.
        path: PathBuf,
        /// What the kernel said.
        reason: String,
    },
}

impl SensorError {
    /// What the user can do.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Privileges(_) => Some(
                "run with sudo; as root, the host or container forbids it: look at its seccomp profile and at \
                 /sys/kernel/security/lockdown. Without privileges the commands that read an audit work: sessions, \
                 events, tree, report, audit verify",
            ),
            Self::Btf(_) => Some(
                "boot a kernel built with CONFIG_DEBUG_INFO_BTF (Debian, Ubuntu, Fedora and Arch kernels are)",
            ),
            Self::NoObject => Some("run `cargo xtask build-ebpf` and build again"),
            Self::Object(_) | Self::Required { .. } => Some(
                "run `defenseclaw doctor` to see what this kernel offers; Linux 6.1 is the oldest supported",
            ),
            Self::Map { .. } | Self::Pin { .. } => None,
        }
    }
}

/// Sizes of the kernel's half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SensorOptions {
    /// Ring for everything but process events, bytes; a power of two and at least a page.
    pub bulk_ring: u32,
    /// Ring for process events, bytes; likewise.
    pub priority_ring: u32,
    /// Processes that can be enrolled at once.
    pub processes: u32,
    /// Judge, too: a policy will be loaded. Without this none can be, and the programs are smaller.
    pub judge: bool,
}

impl Default for SensorOptions {
    fn default() -> Self {
        Self { bulk_ring: 8 << 20, priority_ring: 4 << 20, processes: 65_536, judge: false }
    }
}

/// Loaded and attached programs. Dropping it detaches and unloads everything that is not pinned; see [`Sensor::pin`].
pub struct Sensor {
    programs: pin::Programs,
    /// What holds them where they are attached.
    links: pin::Links,
    /// Held open, for `load::attach_syscalls`.
    syscalls: Option<MapData>,
    /// By thread group id, which the kernel's half has widened to its word.
    scope: HashMap<MapData, u64, LabelPod>,
    rings: ring::Rings,
    counters: counters::Counting,
    /// Processes that ran already when they were enrolled.
    running: running::Running,
    seed: u64,
    /// Whether the programs look at a policy at all.
    judges: bool,
    protection: Protection,
}

impl fmt::Debug for Sensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sensor").field("protection", &self.protection).finish_non_exhaustive()
    }
}

/// The ABI's label as a map value.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
struct LabelPod(Label);

// SAFETY: `Label` is repr(C), has no padding (asserted in the ABI) and is valid for every bit pattern.
unsafe impl aya::Pod for LabelPod {}

impl LabelPod {
    fn of(session: SessionId) -> Self {
        Self(Label { session: session.0, ..Label::default() })
    }
}

/// What is not there needs not be removed.
fn removed(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn map_error(operation: &'static str) -> impl Fn(MapError) -> SensorError {
    move |error| SensorError::Map { operation, reason: error.to_string() }
}

impl Sensor {
    /// Loads and attaches everything this kernel takes.
    pub fn load(options: &SensorOptions) -> Result<Self, SensorError> {
        load::load(options)
    }

    /// Level and hooks.
    pub fn protection(&self) -> &Protection {
        &self.protection
    }

    /// Watches a process, all its threads and everything it will ever start.
    pub fn enrol(&mut self, tgid: u32, session: SessionId) -> Result<(), SensorError> {
        self.scope.insert(u64::from(tgid), LabelPod::of(session), 0).map_err(map_error("enrol the process"))
    }

    /// Likewise, to be judged by this profile's policy; [`Sensor::enrol`] takes profile 0.
    pub fn enrol_as(&mut self, tgid: u32, session: SessionId, profile: u32) -> Result<(), SensorError> {
        let LabelPod(label) = LabelPod::of(session);
        let label = LabelPod(Label { profile, ..label });
        self.scope.insert(u64::from(tgid), label, 0).map_err(map_error("enrol the process"))
    }

    /// Where the programs' hashes start; whoever writes their maps must start there, too.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Another handle of one of the programs' maps, for who writes it; none if they have no such map, or do not look at it.
    pub fn map(&self, name: &str) -> Option<MapData> {
        if name == "CURRENT" && !self.judges {
            return None;
        }
        if name == "SCOPE" { pin::another(self.scope.map()) } else { self.programs.map(name) }
    }

    /// Stops watching one process; its children stay watched.
    pub fn release(&mut self, tgid: u32) -> Result<(), SensorError> {
        removed(self.scope.remove(&u64::from(tgid))).map_err(map_error("release the process"))
    }

    /// Thread groups that are watched now.
    pub fn enrolled(&self) -> Vec<u32> {
        self.scope.keys().filter_map(Result::ok).filter_map(|tgid| u32::try_from(tgid).ok()).collect()
    }

    /// Processes of one session that are watched now; the start is 0 of one that has done nothing yet.
    pub fn enrolled_in(&self, session: SessionId) -> Vec<ProcessKey> {
        let rows = self.scope.iter().filter_map(Result::ok);
        rows.filter(|(_, LabelPod(label))| label.session == session.0)
            .filter_map(|(tgid, LabelPod(label))| {
                Some(ProcessKey { tgid: u32::try_from(tgid).ok()?, start_ns: label.start_ns })
            })
            .collect()
    }

    /// Reads name server answers of the sockets in a cgroup. What could not be attached is in [`Sensor::protection`].
    pub fn watch_cgroup(&mut self, directory: &Path, id: u64, session: SessionId) {
        let state = self.attach_dns(directory, id, session);
        let capability = refusal::capability(hooks::DNS, state.err());
        self.protection.capabilities.push(capability);
    }

    fn attach_dns(&mut self, directory: &Path, id: u64, session: SessionId) -> Result<(), String> {
        let text = |error: &dyn fmt::Display| error.to_string();
        let map = self.map("CGROUPS").ok_or("the object has no map CGROUPS")?;
        let map = Map::from_map_data(map).map_err(|e| text(&e))?;
        let mut cgroups: HashMap<_, u64, LabelPod> = HashMap::try_from(map).map_err(|e| text(&e))?;
        cgroups.insert(id, LabelPod::of(session), 0).map_err(|e| text(&e))?;
        let program = self.programs.program("dns_answer").ok_or("the object has no program dns_answer")?;
        let program: &mut aya::programs::CgroupSkb = program.try_into().map_err(|e| text(&e))?;
        program.load().map_err(|e| refusal::reason(&e))?;
        let directory = std::fs::File::open(directory).map_err(|e| text(&e))?;
        let link = program
            // A link never displaces another program, and takes no flags that would say so.
            .attach(directory, CgroupSkbAttachType::Ingress, CgroupAttachMode::Single)
            .and_then(|id| program.take_link(id))
            .map_err(|e| refusal::reason(&e))?;
        self.links.hold("dns_answer", link).map_err(|e| text(&e))
    }

    /// States that name server answers are not read, and why.
    pub fn without_cgroup(&mut self, reason: &str) {
        self.protection.capabilities.push(refusal::capability(hooks::DNS, Some(reason.to_owned())));
    }

    /// Moves at most `max` records out of the rings. Process events come first.
    pub fn read(&mut self, events: &mut Vec<Event>, max: usize) -> usize {
        let first = events.len();
        let taken = self.rings.read(events, max, &mut self.counters);
        self.running.rename(events.get_mut(first..).unwrap_or_default());
        taken
    }

    /// Hands the bytes of at most `max` records to `each`, neither decoded nor counted as received. For captures, which
    /// replays and fuzzing start from; nothing that watches may use it.
    #[doc(hidden)]
    pub fn read_raw(&mut self, max: usize, each: impl FnMut(&[u8])) -> usize {
        self.rings.read_raw(max, each)
    }

    /// Whether both rings are empty.
    pub fn is_drained(&mut self) -> io::Result<bool> {
        self.rings.is_empty()
    }

    /// Becomes readable when the kernel wakes us; it does so for few records, so poll as well.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.rings.descriptor()
    }

    /// Losses since the last call.
    pub fn losses(&mut self, now: BootTime) -> Result<Vec<Loss>, SensorError> {
        self.counters.losses(now)
    }

    /// Notes what is in the rings now, for [`Sensor::missed`].
    pub fn note_submitted(&mut self) -> Result<(), SensorError> {
        self.counters.note_submitted()
    }

    /// What a watcher before us took out of the rings and did not store; nothing if there was none. To be asked when all
    /// has been read that [`Sensor::note_submitted`] has noted.
    pub fn missed(&mut self, now: BootTime) -> Vec<Loss> {
        self.counters.missed(now)
    }

    /// Totals since the start, for the loss equations.
    pub fn stats(&mut self) -> Result<SensorStats, SensorError> {
        self.counters.stats()
    }
}

/// Version of what crosses the kernel boundary: programs of another one cannot be taken over.
pub fn abi() -> u16 {
    defenseclaw_ebpf::ABI_VERSION
}

/// Loads everything this kernel takes, small, to see what that is.
pub fn survey() -> Result<Sensor, SensorError> {
    Sensor::load(&SensorOptions { bulk_ring: 64 << 10, priority_ring: 64 << 10, processes: 16, judge: true })
}
