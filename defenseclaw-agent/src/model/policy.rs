//! Words of policy: what can be judged, how severe it is, and what follows. Rules and their meaning are in `policy`.

use std::fmt;

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident = $wire:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$word_doc])* #[serde(rename = $wire)] $word,)* }

        impl $name {
            /// Every one, in order.
            pub const ALL: &[$name] = &[$($name::$word,)*];

            /// The word in policies and on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$word => $wire,)* }
            }

            /// The one with this word.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($wire => Some($name::$word),)* _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

pub(crate) use words;

words! {
    /// What a process does to an object, as policy sees it.
    Effect {
        /// Open for reading.
        FileRead = "file.read",
        /// Open for writing, truncate.
        FileWrite = "file.write",
        /// Make a file, directory, link, symbolic link or node.
        FileCreate = "file.create",
        /// Remove a name; rename takes the old one away.
        FileDelete = "file.delete",
        /// Make a second name of an existing file.
        FileLink = "file.link",
        /// Mode, owner.
        FileAttr = "file.attr",
        /// Start a program, or map a file as code.
        Exec = "exec",
        /// Connect or send to a unix socket.
        Unix = "unix",
        /// Connect or send to an internet address.
        NetConnect = "net.connect",
        /// Bind to an internet address.
        NetBind = "net.bind",
        /// Resolve a name.
        Dns = "dns",
    }
}

bitflags! {
    /// A set of [`Effect`]s.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Effects: u16 {
        const FILE_READ = 1;
        const FILE_WRITE = 1 << 1;
        const FILE_CREATE = 1 << 2;
        const FILE_DELETE = 1 << 3;
        const FILE_LINK = 1 << 4;
        const FILE_ATTR = 1 << 5;
        const EXEC = 1 << 6;
        const UNIX = 1 << 7;
        const NET_CONNECT = 1 << 8;
        const NET_BIND = 1 << 9;
        const DNS = 1 << 10;
    }
}

impl From<Effect> for Effects {
    fn from(effect: Effect) -> Self {
        Self::from_bits_truncate(1 << effect as u16)
    }
}

words! {
    /// Operations that need or change privileges: effects `priv.*`.
    Privilege {
        /// Attach to a process outside the tree, or write its memory.
        Ptrace = "priv.ptrace",
        /// Read what `/proc` says of a process outside the tree, beyond what everybody may: environment, memory map, root.
        Inspect = "priv.inspect",
        /// A signal to a process outside the tree.
        Signal = "priv.signal",
        /// Mount, unmount, move a mount, pivot_root.
        Mount = "priv.mount",
        /// chroot.
        Chroot = "priv.chroot",
        /// Make a user namespace.
        UserNamespace = "priv.userns",
        /// Make or enter any other namespace.
        Namespace = "priv.namespace",
        /// The bpf system call.
        Bpf = "priv.bpf",
        /// Load kernel code.
        Module = "priv.module",
        /// Set up an io_uring.
        IoUring = "priv.io_uring",
        /// Change user or group ids.
        SetId = "priv.setid",
        /// A raw or packet socket.
        RawSocket = "priv.raw_socket",
        /// A socket of a family that no other effect covers: vsock, netlink beyond routes, alg, bluetooth, ...
        OtherSocket = "priv.other_socket",
        /// Make a device node.
        Device = "priv.device",
        /// performance events and other kernel tracing.
        Perf = "priv.perf",
    }
}

words! {
    /// Texts that a policy looks into: what hooks of agents tell us of a conversation.
    Content {
        /// What is submitted to the model: the user's words, or another program's.
        Prompt = "prompt",
        /// What the model passes to a tool, as raw text.
        ToolInput = "tool.input",
        /// What a tool returned.
        ToolOutput = "tool.output",
        /// The last message of a turn or of a subagent.
        Message = "message",
    }
}

words! {
    /// How bad it is.
    Severity {
        /// For the record.
        Info = "info",
        /// Unusual.
        Low = "low",
        /// Worth knowing.
        Medium = "medium",
        /// Blocked in action mode.
        High = "high",
        /// Blocked wherever anything is.
        Critical = "critical",
    }
}

words! {
    /// What follows from severity.
    Mode {
        /// Record everything, block nothing.
        Observe = "observe",
        /// Block high and critical.
        Action = "action",
        /// A person decides about high; critical is blocked.
        Hitl = "hitl",
    }
}

words! {
    /// What policy says. The order is that of strictness.
    PolicyAction {
        /// Nothing.
        Allow = "allow",
        /// A finding.
        Alert = "alert",
        /// A person decides.
        Confirm = "confirm",
        /// It does not happen.
        Block = "block",
    }
}

/// What policy says about one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Before mode and capability.
    pub raw_action: PolicyAction,
    /// How bad it is; none if no rule spoke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<Severity>,
    /// Rules that spoke, the decisive one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rule_ids: Vec<String>,
    /// Why, and what to do instead; for the agent.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

words! {
    /// What holds a decision.
    Mechanism {
        /// The agent's hook was answered.
        HookReply = "hook_reply",
        /// BPF LSM.
        Lsm = "lsm",
        /// BPF LSM, and a stop: the operation waits in the kernel for a person.
        Pause = "pause",
        /// Landlock.
        Landlock = "landlock",
        /// BPF at the cgroup.
        Cgroup = "cgroup",
        /// A signal.
        Signal = "signal",
        /// The launcher did not hand it over.
        Launcher = "launcher",
        /// The name server refused.
        Resolver = "resolver",
        /// Nothing.
        None = "none",
    }
}

words! {
    /// What became of a decision to block.
    Enforced {
        /// It was carried out.
        Applied = "applied",
        /// The operation was done when the mechanism could act.
        TooLate = "too_late",
        /// Nothing here could hold it: it was detected, not prevented.
        Unsupported = "unsupported",
    }
}

/// What we answer, after mode and capability, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// What policy said.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// What was done.
    pub action: PolicyAction,
    /// It would have been blocked in another mode, or where something can hold it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub would_block: bool,
    /// What did it.
    pub mechanism: Mechanism,
    /// What became of it, where policy in its mode wanted it blocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<Enforced>,
    /// Generation of the policy that was in force.
    pub generation: u64,
}
