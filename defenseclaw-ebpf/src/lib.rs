//! The ABI: every type that crosses the kernel boundary, and nothing else.
//!
//! `no_std`, `repr(C)`, built for the host and for BPF from the same source. It holds no logic: the programs
//! (`main.rs`) write these records, `sensor::decode` of the agent turns them into its own model.
//!
//! A record is [`Header`], then [`Body`], then up to [`STRINGS`] byte strings back to back, whose lengths stand in
//! [`Body::string_len`]. What the arguments and strings mean depends on the kind; see [`Kind`].
#![no_std]

pub mod asking;
pub mod image;
pub mod redirect;

/// Changes with every incompatible change of a record or map. The loader writes it, the programs echo it. Programs that a
/// killed watcher has left behind are taken over by this number alone, perhaps by another version.
pub const ABI_VERSION: u16 = 3;

/// Slots for byte strings in a record.
pub const STRINGS: usize = 6;
/// Longest string of a record, in bytes, so that a 12 bit mask bounds it for the verifier. Longer paths keep their
/// tail, other strings their head; both are flagged.
pub const STRING_MAX: usize = 4095;
/// Room for the environment strings that may name an agent session, in bytes.
pub const ENV_MAX: usize = 1024;
/// Longest DNS message that is copied, in bytes.
pub const DNS_MAX: usize = 1472;
/// Upper bound of a record, in bytes. A string that would start past 16 KiB is left out and flagged as truncated.
pub const RECORD_MAX: usize = 20 * 1024;

/// What happened. Numbers are grouped with gaps and never reused.
///
/// `a0..a5` are [`Body::args`], `s0..s5` the strings. `dev` is the kernel's `dev_t` (20 bit minor), `pair(x, y)` is
/// `x << 32 | y`.
///
/// Where a path is the text the process passed ([`flags::AS_GIVEN`]), another string is the directory it starts from,
/// empty if the text is absolute: for s0 it is s2 ([`Kind::Mount`]: s3), for s1 it is s3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Kind {
    /// Header: the parent. a0 child tgid, a1 child start, a2 changed namespaces (`CLONE_NEW*` bits). a0 0: the child was
    /// refused, because there was no room to watch it.
    ProcessFork = 1,
    /// a0 pair(euid, egid), a1 dev, a2 inode, a3 pair(gid, ppid), a4 start of the parent, a5 argv length in the task.
    /// s0 exe, s1 cwd, s2 file name as given, s3 script interpreter as given (empty if none), s4 argv
    /// (NUL separated), s5 environment candidates (NUL separated `NAME=value`).
    ProcessExec = 2,
    /// a0 wait status as `wait(2)` returns it.
    ProcessExit = 3,

    /// a0 [`access`] bits, a1 dev, a2 inode, a3 open flags, a4 mode of the inode. s0 path.
    FileOpen = 16,
    /// a1 dev, a2 inode. s0 path.
    FileUnlink = 17,
    /// a0 `RENAME_*` flags, a1 dev, a2 inode of the old name. s0 old path, s1 new path.
    FileRename = 18,
    /// a1 dev, a2 inode. s0 existing path, s1 new path.
    FileLink = 19,
    /// s0 path of the new link, s1 its text.
    FileSymlink = 20,
    /// a0 mode, a1 dev, a2 inode. s0 path.
    FileChmod = 21,
    /// a0 pair(uid, gid), `u32::MAX` = unchanged, a1 dev, a2 inode. s0 path.
    FileChown = 22,
    /// a0 length if known (`u64::MAX` otherwise), a1 dev, a2 inode. s0 path.
    FileTruncate = 23,
    /// a0 mode. s0 path.
    DirMake = 24,
    /// a1 dev, a2 inode. s0 path.
    DirRemove = 25,
    /// A node that is not a regular file: a0 mode with type, a3 device number. s0 path.
    FileMknod = 26,

    /// a0 pair(protocol << 16 | type, family), a1 port, a2..a3 address (IPv4 in the first four bytes), a4 scope id.
    NetConnect = 32,
    /// As [`Kind::NetConnect`].
    NetBind = 33,
    /// A datagram or fast-open send to an explicit address. As [`Kind::NetConnect`], a5 bytes.
    NetSend = 34,
    /// Answer from port 53 over UDP that reached a socket of the agents' cgroup. As [`Kind::NetConnect`] with the
    /// server's address, a5 length of the message before truncation. s0 the DNS message. No process is known.
    DnsAnswer = 35,
    /// a0 pair(protocol << 16 | type, family), a1 = 1 for a datagram. s0 socket path, or abstract name after a NUL.
    UnixConnect = 36,
    /// Recorded only where policy speaks of it. a0 pair(protocol << 16 | type, family).
    SocketCreate = 37,

    /// a0 [`ptrace`] operation, a1 target tgid, a2 target start, a3 mode or request.
    Ptrace = 48,
    /// a0 signal, a1 target tgid (0: a group or unknown), a2 target start (0: unknown).
    Signal = 49,
    /// a0 [`mount`] operation, a1 flags. s0 target, s1 source, s2 file system type.
    Mount = 50,
    /// a0 [`namespace`] operation, a1 changed namespaces (`CLONE_NEW*` bits, 0: unknown).
    Namespace = 51,
    /// a0 command, a1 size of the attribute.
    Bpf = 52,
    /// a0 [`module`] operation. s0 file or module name.
    ModuleLoad = 53,
    /// a0 submission entries, a1 completion entries, a2 flags.
    IoUringSetup = 54,
    /// a0 [`cred`] operation, a1 pair(old real, old effective), a2 pair(new real, new effective),
    /// a3 pair(old saved, new saved).
    CredChange = 55,
    /// Recorded only where policy speaks of it. a0 type (`PERF_TYPE_*`), a1 configuration.
    PerfOpen = 56,

    /// No record, counters only: a system call of a 32-bit program, which level `tracepoint` does not read.
    CompatSyscall = 62,
}

impl Kind {
    /// Every kind, in numeric order.
    pub const ALL: [Kind; 30] = [
        Kind::ProcessFork,
        Kind::ProcessExec,
        Kind::ProcessExit,
        Kind::FileOpen,
        Kind::FileUnlink,
        Kind::FileRename,
        Kind::FileLink,
        Kind::FileSymlink,
        Kind::FileChmod,
        Kind::FileChown,
        Kind::FileTruncate,
        Kind::DirMake,
        Kind::DirRemove,
        Kind::FileMknod,
        Kind::NetConnect,
        Kind::NetBind,
        Kind::NetSend,
        Kind::DnsAnswer,
        Kind::UnixConnect,
        Kind::SocketCreate,
        Kind::Ptrace,
        Kind::Signal,
        Kind::Mount,
        Kind::Namespace,
        Kind::Bpf,
        Kind::ModuleLoad,
        Kind::IoUringSetup,
        Kind::CredChange,
        Kind::PerfOpen,
        Kind::CompatSyscall,
    ];

    /// The kind with this number.
    pub fn from_u16(value: u16) -> Option<Kind> {
        Self::ALL.into_iter().find(|kind| *kind as u16 == value)
    }
}

/// Rows of the counter map for each processor: one per kind number.
pub const KINDS: usize = 64;

/// Buffers in which records are made, for each processor. BPF programs can be preempted by others on the same processor,
/// so one would be overwritten; a task, the one that preempts it and a network interrupt make three.
pub const SCRATCH_SLOTS: usize = 4;

/// What became of an observation. `seen` is the sum of all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Count {
    /// The program ran for an enrolled task.
    Seen = 0,
    /// The record is in the ring.
    Submitted = 1,
    /// The ring had no room.
    RingFull = 2,
    /// Counted instead of recorded, because an identical observation was recorded just before.
    Folded = 3,
    /// The record would have been larger than [`RECORD_MAX`].
    Oversized = 4,
    /// Kernel or user memory could not be read.
    Unreadable = 5,
    /// No scratch buffer or no room in a map.
    MapFull = 6,
}

/// Columns of the counter map.
pub const COUNTS: usize = 7;

impl Count {
    /// Every column.
    pub const ALL: [Count; COUNTS] = [
        Count::Seen,
        Count::Submitted,
        Count::RingFull,
        Count::Folded,
        Count::Oversized,
        Count::Unreadable,
        Count::MapFull,
    ];
}

/// Bits of [`Header::flags`]. The string flags stand for s0; for string `n` they are shifted left by `4 * n`.
pub mod flags {
    /// The string was longer than its bound: a path keeps its tail, other strings their head.
    pub const TRUNCATED: u32 = 1;
    /// The walk did not end at the root of a mount tree: pseudo file, detached mount or unreadable dentry.
    pub const UNRESOLVED: u32 = 1 << 1;
    /// The file had no name any more.
    pub const DELETED: u32 = 1 << 2;
    /// The text the process passed, not a path the kernel resolved.
    pub const AS_GIVEN: u32 = 1 << 3;
    /// Shift between the flags of two neighbouring strings.
    pub const PER_STRING: u32 = 4;

    /// [`super::Body::result`] holds the result of the system call.
    pub const HAS_RESULT: u32 = 1 << 30;
    /// Taken at system call exit (level `tracepoint`).
    pub const AT_SYSCALL_EXIT: u32 = 1 << 31;
}

/// What a file was opened for.
pub mod access {
    /// `O_RDONLY` or `O_RDWR`.
    pub const READ: u64 = 1;
    /// `O_WRONLY` or `O_RDWR`.
    pub const WRITE: u64 = 1 << 1;
    /// This open made the file.
    pub const CREATE: u64 = 1 << 2;
    /// `O_TRUNC`.
    pub const TRUNCATE: u64 = 1 << 3;
    /// `O_APPEND`.
    pub const APPEND: u64 = 1 << 4;
    /// Opened by execve.
    pub const EXECUTE: u64 = 1 << 5;
    /// Mapped with `PROT_EXEC`.
    pub const MAP_EXECUTE: u64 = 1 << 6;
    /// Only a reference (`O_PATH`); seen at level `tracepoint` only.
    pub const REFERENCE: u64 = 1 << 7;
}

/// Operations of [`Kind::Ptrace`].
pub mod ptrace {
    /// Access with attach rights: `PTRACE_ATTACH`/`SEIZE`, `process_vm_*`, `/proc/PID/mem`.
    pub const ACCESS: u64 = 0;
    /// `PTRACE_TRACEME`: the target is the tracer.
    pub const TRACEME: u64 = 1;
    /// `process_vm_readv`.
    pub const VM_READ: u64 = 2;
    /// `process_vm_writev`.
    pub const VM_WRITE: u64 = 3;
}

/// Operations of [`Kind::Mount`].
pub mod mount {
    /// `mount(2)`.
    pub const MOUNT: u64 = 0;
    /// `umount2(2)`.
    pub const UMOUNT: u64 = 1;
    /// `move_mount(2)`, also the last step of `fsopen`/`fsmount`.
    pub const MOVE: u64 = 2;
    /// `pivot_root(2)`.
    pub const PIVOT_ROOT: u64 = 3;
    /// `chroot(2)`.
    pub const CHROOT: u64 = 4;
}

/// Operations of [`Kind::Namespace`].
pub mod namespace {
    /// `unshare(2)` or `setns(2)`: the task changed its namespaces.
    pub const SWITCH: u64 = 0;
    /// A user namespace is created (`clone` or `unshare`).
    pub const USER_CREATE: u64 = 1;
    /// `unshare(2)`, seen at system call exit, or refused.
    pub const UNSHARE: u64 = 2;
    /// `setns(2)`, seen at system call exit, or refused.
    pub const SETNS: u64 = 3;
    /// `clone(2)`. Only refused ones: others are part of [`super::Kind::ProcessFork`].
    pub const CLONE: u64 = 4;
}

/// Operations of [`Kind::ModuleLoad`].
pub mod module {
    /// The kernel asks user space for a module by name.
    pub const REQUEST: u64 = 0;
    /// `finit_module(2)`.
    pub const FILE: u64 = 1;
    /// `init_module(2)`.
    pub const MEMORY: u64 = 2;
}

/// Operations of [`Kind::CredChange`].
pub mod cred {
    /// User ids: `setuid`, `setreuid`, `setresuid`, `setfsuid`.
    pub const UID: u64 = 0;
    /// Group ids.
    pub const GID: u64 = 1;
}

/// First part of each record. Times are nanoseconds of `CLOCK_BOOTTIME`.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
#[repr(C)]
pub struct Header {
    /// [`ABI_VERSION`].
    pub abi: u16,
    /// A [`Kind`].
    pub kind: u16,
    /// See [`flags`].
    pub flags: u32,
    /// Whole record, in bytes.
    pub len: u32,
    /// Thread that acted.
    pub tid: u32,
    /// When.
    pub time_ns: u64,
    /// Start of the process: with `tgid` its identity.
    pub start_ns: u64,
    /// Process that acted, in the initial pid namespace.
    pub tgid: u32,
    /// Its real user id, in the initial user namespace.
    pub uid: u32,
    /// Its cgroup v2 id.
    pub cgroup: u64,
    /// From the label of the task.
    pub session: u64,
    /// From the label of the task; 0: none.
    pub tool_call: u64,
}

/// Second part of each record; the strings follow it.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(
    feature = "user",
    derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::KnownLayout, zerocopy::Immutable)
)]
#[repr(C)]
pub struct Body {
    /// Meaning depends on the kind.
    pub args: [u64; 6],
    /// Result of the system call, if [`flags::HAS_RESULT`] is set: 0 or more, or a negative errno.
    pub result: i64,
    /// Lengths of the strings, in bytes.
    pub string_len: [u16; STRINGS],
    /// What policy said: [`image::VerdictWord`].
    pub verdict: u32,
}

/// Bit of a key of the scope map: not a process but room that a thread, whose id is the rest, has taken for the child it is
/// about to make.
pub const RESERVED: u64 = 1 << 32;

/// Value of the scope map: what an enrolled process carries. Inherited at fork.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Label {
    /// Session the process belongs to.
    pub session: u64,
    /// Tool call that caused it; 0: none known.
    pub tool_call: u64,
    /// Start of the process, nanoseconds of `CLOCK_BOOTTIME`; 0: the first program that needs it fills it in.
    pub start_ns: u64,
    /// Which policy image judges it.
    pub profile: u32,
    /// Not 0: its program may be held before its first instruction; see [`asking`].
    pub held: u32,
    /// Sets of executables that its program belongs to.
    pub owner: u64,
    /// Those of the program that its parent ran when it was made.
    pub parent_owner: u64,
    /// Which mount was seen to stand on the root of the task's mount namespace, and in which state of that namespace: a sum
    /// that the kernel side makes and compares. 0: none yet.
    pub top: u64,
}

/// One row of the counter map, per CPU.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Counters {
    /// Indexed by [`Count`].
    pub counts: [u64; 8],
}

const _: () = assert!(size_of::<Header>() == 64);
const _: () = assert!(size_of::<Body>() == 72);
const _: () = assert!(size_of::<Label>() == 56);
const _: () = assert!(size_of::<Counters>() == 64);
const _: () = assert!(COUNTS <= 8 && STRINGS * flags::PER_STRING as usize <= 30);
// A per-CPU map value, which the scratch buffer around a record is, may not exceed 32 KiB.
const _: () = assert!(RECORD_MAX + STRING_MAX + 1024 <= 32 * 1024);
