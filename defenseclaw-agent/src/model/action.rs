//! What a process can be seen to do. Words are those of the kernel; wire names are stable.

use std::net::IpAddr;

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use super::{KernelPath, ProcessKey, Text};

macro_rules! event_kinds {
    ($($(#[$doc:meta])* $name:ident = $wire:literal,)*) => {
        /// Wire name of an [`Action`]; what `events --kind` takes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum EventKind { $($(#[$doc])* #[serde(rename = $wire)] $name,)* }

        impl EventKind {
            /// Every kind, in the order of the documentation.
            pub const ALL: &[EventKind] = &[$(EventKind::$name,)*];

            /// The stable name.
            pub fn as_str(self) -> &'static str {
                match self { $(EventKind::$name => $wire,)* }
            }

            /// The kind with this name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($wire => Some(EventKind::$name),)* _ => None }
            }
        }
    };
}

event_kinds! {
    /// A process was made.
    ProcessFork = "process_fork",
    /// A program was started.
    ProcessExec = "process_exec",
    /// A process ended.
    ProcessExit = "process_exit",
    /// An existing file was opened.
    FileOpen = "file_open",
    /// An open or mknod made a file.
    FileCreate = "file_create",
    /// A name was removed.
    FileUnlink = "file_unlink",
    /// A name was changed.
    FileRename = "file_rename",
    /// A second name was made.
    FileLink = "file_link",
    /// A symbolic link was made.
    FileSymlink = "file_symlink",
    /// The mode was changed.
    FileChmod = "file_chmod",
    /// The owner was changed.
    FileChown = "file_chown",
    /// The length was set.
    FileTruncate = "file_truncate",
    /// A directory was made.
    DirMake = "dir_make",
    /// A directory was removed.
    DirRemove = "dir_remove",
    /// A socket was connected.
    NetConnect = "net_connect",
    /// A socket was bound.
    NetBind = "net_bind",
    /// A socket was made, of a kind that policy speaks of.
    SocketCreate = "socket_create",
    /// Data was sent to an explicit address.
    NetSend = "net_send",
    /// A name server answered.
    DnsAnswer = "dns_answer",
    /// A unix socket was connected or written to.
    UnixConnect = "unix_connect",
    /// Memory or control of another process.
    Ptrace = "ptrace",
    /// A signal to a process outside the tree.
    Signal = "signal",
    /// The mount tree was changed.
    Mount = "mount",
    /// Namespaces were changed.
    Namespace = "namespace",
    /// The bpf system call.
    Bpf = "bpf",
    /// Kernel code was loaded.
    ModuleLoad = "module_load",
    /// An io_uring was set up.
    IoUringSetup = "io_uring_setup",
    /// User or group ids were changed.
    CredChange = "cred_change",
    /// Performance events of the kernel were asked for, and policy speaks of it.
    PerfOpen = "perf_open",
}

/// What happened, with the objects it happened to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Action {
    /// `namespaces` are those the child does not share with its parent. A child with `tgid` 0 was refused: there was no room
    /// to watch it.
    ProcessFork {
        child: ProcessKey,
        #[serde(default, skip_serializing_if = "Namespaces::is_empty")]
        namespaces: Namespaces,
    },
    ProcessExec(Box<Exec>),
    ProcessExit {
        status: ExitStatus,
    },
    FileOpen {
        file: FileRef,
        access: Access,
    },
    FileCreate {
        file: FileRef,
        access: Access,
    },
    FileUnlink {
        file: FileRef,
    },
    FileRename {
        file: FileRef,
        to: KernelPath,
        flags: u32,
    },
    FileLink {
        file: FileRef,
        to: KernelPath,
    },
    FileSymlink {
        path: KernelPath,
        target: Text,
    },
    FileChmod {
        file: FileRef,
        mode: u32,
    },
    FileChown {
        file: FileRef,
        #[serde(default)]
        owner: Option<u32>,
        #[serde(default)]
        group: Option<u32>,
    },
    FileTruncate {
        file: FileRef,
        #[serde(default)]
        length: Option<u64>,
    },
    DirMake {
        path: KernelPath,
        mode: u32,
    },
    DirRemove {
        file: FileRef,
    },
    NetConnect {
        endpoint: NetEndpoint,
    },
    NetBind {
        endpoint: NetEndpoint,
    },
    /// Address and port are empty.
    SocketCreate {
        endpoint: NetEndpoint,
    },
    NetSend {
        endpoint: NetEndpoint,
        bytes: u64,
    },
    /// `name` as asked; `aliases` the CNAME chain; `code` the response code (0: no error).
    DnsAnswer {
        server: NetEndpoint,
        name: Text,
        code: u16,
        aliases: Vec<Text>,
        addresses: Vec<IpAddr>,
        truncated: bool,
    },
    UnixConnect {
        name: UnixName,
        datagram: bool,
    },
    /// `target.start_ns` is 0 where the vantage point cannot know it (system call exit): no process has it.
    Ptrace {
        operation: PtraceOp,
        target: ProcessKey,
        mode: u64,
    },
    /// `target` is none for a process group or a process that could not be identified; `start_ns` as for `Ptrace`.
    Signal {
        signal: u32,
        #[serde(default)]
        target: Option<ProcessKey>,
    },
    Mount {
        operation: MountOp,
        target: KernelPath,
        source: Text,
        filesystem: Text,
        flags: u64,
    },
    Namespace {
        operation: NamespaceOp,
        namespaces: Namespaces,
    },
    Bpf {
        command: u32,
    },
    ModuleLoad {
        operation: ModuleOp,
        module: KernelPath,
    },
    IoUringSetup {
        submission_entries: u32,
        completion_entries: u32,
        flags: u32,
    },
    CredChange(CredChange),
    /// Numbers of `PERF_TYPE_*`, and what each type makes of the configuration.
    PerfOpen {
        event_type: u32,
        config: u64,
    },
}

impl Action {
    /// The wire name of this action.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::ProcessFork { .. } => EventKind::ProcessFork,
            Self::ProcessExec(_) => EventKind::ProcessExec,
            Self::ProcessExit { .. } => EventKind::ProcessExit,
            Self::FileOpen { .. } => EventKind::FileOpen,
            Self::FileCreate { .. } => EventKind::FileCreate,
            Self::FileUnlink { .. } => EventKind::FileUnlink,
            Self::FileRename { .. } => EventKind::FileRename,
            Self::FileLink { .. } => EventKind::FileLink,
            Self::FileSymlink { .. } => EventKind::FileSymlink,
            Self::FileChmod { .. } => EventKind::FileChmod,
            Self::FileChown { .. } => EventKind::FileChown,
            Self::FileTruncate { .. } => EventKind::FileTruncate,
            Self::DirMake { .. } => EventKind::DirMake,
            Self::DirRemove { .. } => EventKind::DirRemove,
            Self::NetConnect { .. } => EventKind::NetConnect,
            Self::SocketCreate { .. } => EventKind::SocketCreate,
            Self::NetBind { .. } => EventKind::NetBind,
            Self::NetSend { .. } => EventKind::NetSend,
            Self::DnsAnswer { .. } => EventKind::DnsAnswer,
            Self::UnixConnect { .. } => EventKind::UnixConnect,
            Self::Ptrace { .. } => EventKind::Ptrace,
            Self::Signal { .. } => EventKind::Signal,
            Self::Mount { .. } => EventKind::Mount,
            Self::Namespace { .. } => EventKind::Namespace,
            Self::Bpf { .. } => EventKind::Bpf,
            Self::ModuleLoad { .. } => EventKind::ModuleLoad,
            Self::IoUringSetup { .. } => EventKind::IoUringSetup,
            Self::CredChange(_) => EventKind::CredChange,
            Self::PerfOpen { .. } => EventKind::PerfOpen,
        }
    }

    /// The path this action is about, if it has one: what `events --path` matches, together with [`Action::other_path`].
    pub fn path(&self) -> Option<&KernelPath> {
        match self {
            Self::FileOpen { file, .. }
            | Self::FileCreate { file, .. }
            | Self::FileUnlink { file }
            | Self::FileRename { file, .. }
            | Self::FileLink { file, .. }
            | Self::FileChmod { file, .. }
            | Self::FileChown { file, .. }
            | Self::FileTruncate { file, .. }
            | Self::DirRemove { file } => Some(&file.path),
            Self::FileSymlink { path, .. }
            | Self::DirMake { path, .. }
            | Self::UnixConnect { name: UnixName::Path(path), .. } => Some(path),
            Self::ProcessExec(exec) => Some(&exec.exe.path),
            Self::Mount { target, .. } => Some(target),
            Self::ModuleLoad { module, .. } => Some(module),
            Self::ProcessFork { .. }
            | Self::ProcessExit { .. }
            | Self::NetConnect { .. }
            | Self::SocketCreate { .. }
            | Self::NetBind { .. }
            | Self::NetSend { .. }
            | Self::DnsAnswer { .. }
            | Self::UnixConnect { .. }
            | Self::Ptrace { .. }
            | Self::Signal { .. }
            | Self::Namespace { .. }
            | Self::Bpf { .. }
            | Self::IoUringSetup { .. }
            | Self::CredChange(_)
            | Self::PerfOpen { .. } => None,
        }
    }

    /// The second path of a rename or link.
    pub fn other_path(&self) -> Option<&KernelPath> {
        if let Self::FileRename { to, .. } | Self::FileLink { to, .. } = self { Some(to) } else { None }
    }
}

/// A program start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The file that runs; for a script its interpreter.
    pub exe: FileRef,
    /// What execve was asked to run: for a script the script.
    pub filename: Text,
    /// Interpreter of a script, as its first line names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interpreter: Option<Text>,
    /// Working directory.
    pub cwd: KernelPath,
    /// Argument vector, the first 4 KiB of it.
    pub argv: Vec<Text>,
    /// There was more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub argv_truncated: bool,
    /// Environment variables that name an agent's session or call; nothing else of the environment is kept.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub session_env: Vec<(Text, Text)>,
    /// Effective user id.
    pub euid: u32,
    /// Real group id.
    pub gid: u32,
    /// Effective group id.
    pub egid: u32,
    /// Parent at this moment.
    pub parent: ProcessKey,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited with this code.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
}

/// A file, by name and by identity.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Its path.
    pub path: KernelPath,
    /// Device number (kernel encoding, 20 bit minor); 0: not known.
    #[serde(default)]
    pub dev: u64,
    /// Inode number; 0: not known.
    #[serde(default)]
    pub ino: u64,
}

bitflags! {
    /// What a file was opened for.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Access: u32 {
        /// Read.
        const READ = 1;
        /// Write.
        const WRITE = 1 << 1;
        /// This open made the file.
        const CREATE = 1 << 2;
        /// The length was set to 0.
        const TRUNCATE = 1 << 3;
        /// Append.
        const APPEND = 1 << 4;
        /// Opened by execve.
        const EXECUTE = 1 << 5;
        /// Mapped as code.
        const MAP_EXECUTE = 1 << 6;
        /// Only a reference (`O_PATH`).
        const REFERENCE = 1 << 7;
    }

    /// A set of namespaces, with the bits of `CLONE_NEW*`.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Namespaces: u64 {
        /// `CLONE_NEWTIME`.
        const TIME = 0x80;
        /// `CLONE_NEWNS`.
        const MOUNT = 0x0002_0000;
        /// `CLONE_NEWCGROUP`.
        const CGROUP = 0x0200_0000;
        /// `CLONE_NEWUTS`.
        const UTS = 0x0400_0000;
        /// `CLONE_NEWIPC`.
        const IPC = 0x0800_0000;
        /// `CLONE_NEWUSER`.
        const USER = 0x1000_0000;
        /// `CLONE_NEWPID`.
        const PID = 0x2000_0000;
        /// `CLONE_NEWNET`.
        const NET = 0x4000_0000;
    }
}

macro_rules! names_in_json {
    ($($flags:ident)*) => {$(
        impl Serialize for $flags {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_seq(self.iter_names().map(|(name, _)| name.to_ascii_lowercase()))
            }
        }

        impl<'de> Deserialize<'de> for $flags {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let names = Vec::<String>::deserialize(deserializer)?;
                names.iter().try_fold(Self::empty(), |set, name| {
                    Self::from_name(&name.to_ascii_uppercase())
                        .map(|bit| set | bit)
                        .ok_or_else(|| serde::de::Error::custom(format!("unknown name `{name}`")))
                })
            }
        }
    )*};
}
names_in_json!(Access Namespaces);

/// How data travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// TCP, also multipath TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Anything else, with the IP protocol number.
    Other(u16),
}

/// Type of a socket, numbers of `SOCK_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SocketKind(pub u16);

/// Where a socket points. An IPv4 address mapped into IPv6 is the IPv4 address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetEndpoint {
    /// Protocol.
    pub transport: Transport,
    /// Address; none for `AF_UNSPEC` (a disconnect) and families other than IP.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// Port.
    pub port: u16,
    /// Address family, numbers of `AF_*`.
    pub family: u16,
}

/// Name of a unix socket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnixName {
    /// In the file system.
    Path(KernelPath),
    /// Abstract, without the leading NUL.
    Abstract(Text),
    /// None: the other end of a socket pair, or never bound.
    Unnamed,
}

/// How another process was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PtraceOp {
    /// With attach rights, by any means.
    Access,
    /// The target was made the tracer.
    Traceme,
    /// `process_vm_readv`.
    VmRead,
    /// `process_vm_writev`.
    VmWrite,
}

/// Change of the mount tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountOp {
    /// `mount`.
    Mount,
    /// `umount2`.
    Umount,
    /// `move_mount`.
    Move,
    /// `pivot_root`.
    PivotRoot,
    /// `chroot`.
    Chroot,
}

/// Change of namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamespaceOp {
    /// `unshare` or `setns`.
    Switch,
    /// A user namespace is made.
    UserCreate,
    /// `unshare`.
    Unshare,
    /// `setns`.
    Setns,
    /// `clone`, refused; permitted ones are part of the fork.
    Clone,
}

/// Way of loading kernel code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModuleOp {
    /// The kernel asked for it by name.
    Request,
    /// From a file.
    File,
    /// From memory.
    Memory,
}

/// Change of user or group ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CredChange {
    /// Group ids rather than user ids.
    pub group: bool,
    /// Real, effective and saved id before; `u32::MAX` where the vantage point cannot know them (system call exit).
    pub old: [u32; 3],
    /// Real, effective and saved id after.
    pub new: [u32; 3],
}
