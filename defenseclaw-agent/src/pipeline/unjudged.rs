//! What policy says of operations that the kernel's programs did not judge: at level `tracepoint`, through a hook that is
//! missing, or by a pattern that the kernel cannot look up. All that is known is the event and the process tree; nothing is
//! held any more.

use std::{
    borrow::Cow,
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use bitflags::bitflags;

use crate::{
    model::{
        Access, Action, BootTime, Capability, CapabilityState, Effect, Event, KernelPath, Level, ModuleOp,
        MountOp, NamespaceOp, Namespaces, Privilege, Protection, Text, UnixName, Vantage,
    },
    policy::{self, Actor, Object, image::Entry},
    tree::{Process, ProcessTree},
};

/// `RENAME_EXCHANGE`.
const EXCHANGE: u32 = 2;
const EPERM: i64 = 1;
/// Addresses whose name is remembered; more are not.
const NAMES_MAX: usize = 4096;

bitflags! {
    /// What the programs of a session judge, as far as it depends on the machine.
    #[derive(Clone, Copy, Debug, Default)]
    pub(super) struct InKernel: u8 {
        /// At its cgroup: they say nothing of what they permit.
        const CONNECT = 1;
        /// Likewise.
        const BIND = 1 << 1;
        /// Starts of programs.
        const EXEC = 1 << 2;
        /// User namespaces, however they are made.
        const USERNS = 1 << 3;
        /// Nothing at all: its policy was never given to them.
        const UNJUDGED = 1 << 4;
    }
}

impl InKernel {
    pub(super) fn of(protection: &Protection) -> Self {
        let works = |name: &&str| {
            let works = |one: &Capability| one.name == *name && one.state != CapabilityState::Missing;
            let attached = protection.level == Level::Lsm || !name.starts_with("lsm/");
            attached && protection.capabilities.iter().any(works)
        };
        let connect = ["cgroup/connect4", "cgroup/connect6", "cgroup/sendmsg4", "cgroup/sendmsg6"];
        let hooks: [(Self, &[&str]); 4] = [
            (Self::CONNECT, &connect),
            (Self::BIND, &["cgroup/bind4", "cgroup/bind6"]),
            (Self::EXEC, &["lsm/bprm_check_security"]),
            (Self::USERNS, &["lsm/userns_create"]),
        ];
        hooks.into_iter().filter(|(_, hooks)| hooks.iter().all(works)).map(|(judged, _)| judged).collect()
    }

    /// Whether a program judged this operation, and wrote down what it said.
    pub(super) fn said(self, event: &Event) -> bool {
        if event.verdict.is_some() || event.decision.is_some() {
            return true;
        }
        if self.contains(Self::UNJUDGED) {
            return false;
        }
        match event.vantage {
            // Refused by the cgroup's programs, which have written that down.
            Vantage::SyscallExit => self.let_pass(&event.action) && event.result == Some(-EPERM),
            Vantage::Kernel if matches!(event.action, Action::ProcessExec(_)) => self.contains(Self::EXEC),
            Vantage::Kernel => !is_seen_only(&event.action),
            Vantage::Handed => true,
        }
    }

    /// Whether the cgroup's programs are asked about this address: what they let pass and policy blocks has a name that they
    /// know better.
    pub(super) fn let_pass(self, action: &Action) -> bool {
        if matches!(action, Action::NetBind { .. }) {
            return self.contains(Self::BIND);
        }
        matches!(action, Action::NetConnect { .. } | Action::NetSend { .. }) && self.contains(Self::CONNECT)
    }
}

/// Of these a program tells that does not judge.
fn is_seen_only(action: &Action) -> bool {
    matches!(
        action,
        Action::ProcessFork { .. }
            | Action::Namespace { operation: NamespaceOp::Switch, .. }
            | Action::IoUringSetup { .. }
            | Action::DnsAnswer { .. }
    )
}

/// Names that name servers gave to addresses, as their answers said.
#[derive(Debug, Default)]
pub(super) struct Names(HashMap<IpAddr, String>);

impl Names {
    pub(super) fn learn(&mut self, action: &Action) {
        let Self(names) = self;
        let Action::DnsAnswer { name, addresses, .. } = action else { return };
        let Ok(name) = std::str::from_utf8(&name.0) else { return };
        for address in addresses {
            if names.len() < NAMES_MAX || names.contains_key(address) {
                names.insert(*address, name.to_owned());
            }
        }
    }

    fn of(&self, address: IpAddr) -> Option<&str> {
        self.0.get(&address).map(String::as_str)
    }
}

/// The strictest of what a policy says of all that an event does. To be asked before the tree knows the event: a program
/// start is judged by who starts it.
pub(super) fn judge(
    session: &policy::Session,
    tree: &ProcessTree,
    names: &Names,
    in_kernel: InKernel,
    event: &Event,
) -> Option<Entry> {
    let mut ask = Ask { session, tree, names, in_kernel, event, actor: None, answer: None };
    ask.all();
    ask.answer
}

struct Ask<'a> {
    session: &'a policy::Session,
    tree: &'a ProcessTree,
    names: &'a Names,
    in_kernel: InKernel,
    event: &'a Event,
    /// Looked for once, when it is needed.
    actor: Option<Actor<'a>>,
    answer: Option<Entry>,
}

impl Ask<'_> {
    fn all(&mut self) {
        use Effect::{FileAttr, FileCreate, FileDelete, FileLink, FileRead, FileWrite};
        let event = self.event;
        match &event.action {
            Action::ProcessFork { namespaces, .. } => {
                self.namespaces(*namespaces);
            }
            Action::ProcessExec(exec) => {
                self.path(Effect::Exec, &exec.exe.path);
                if exec.interpreter.is_some() {
                    self.path(Effect::Exec, &script(&exec.filename.0, &exec.cwd));
                }
            }
            Action::FileOpen { file, access } | Action::FileCreate { file, access } => {
                for (bits, effect) in [
                    (Access::CREATE, FileCreate),
                    (Access::READ, FileRead),
                    (Access::WRITE | Access::TRUNCATE | Access::APPEND, FileWrite),
                    (Access::MAP_EXECUTE, Effect::Exec),
                ] {
                    // execve opens the file to start it, which is an event of its own.
                    if access.intersects(bits) && !access.contains(Access::EXECUTE) {
                        self.path(effect, &file.path);
                    }
                }
            }
            Action::FileUnlink { file } | Action::DirRemove { file } => self.path(FileDelete, &file.path),
            Action::FileRename { file, to, flags } => {
                self.path(FileDelete, &file.path);
                if flags & EXCHANGE != 0 {
                    self.path(FileWrite, &file.path);
                    self.path(FileDelete, to);
                } else {
                    self.path(FileCreate, to);
                }
                // Whether something was there is not known any more.
                self.path(FileWrite, to);
            }
            Action::FileLink { file, to } => {
                self.path(FileLink, &file.path);
                self.path(FileRead, &file.path);
                self.path(FileCreate, to);
            }
            Action::FileSymlink { path, .. } | Action::DirMake { path, .. } => self.path(FileCreate, path),
            Action::FileChmod { file, .. } | Action::FileChown { file, .. } => {
                self.path(FileAttr, &file.path);
            }
            Action::FileTruncate { file, .. } => self.path(FileWrite, &file.path),
            Action::NetConnect { endpoint } | Action::NetSend { endpoint, .. } => {
                self.address(Effect::NetConnect, endpoint.address, endpoint.port);
            }
            Action::NetBind { endpoint } => self.address(Effect::NetBind, endpoint.address, endpoint.port),
            Action::DnsAnswer { name, .. } => self.name(&name.0),
            Action::UnixConnect { name, .. } => match name {
                UnixName::Path(path) => self.path(Effect::Unix, path),
                UnixName::Abstract(name) => self.object(&Object::Abstract(&name.0)),
                UnixName::Unnamed => {}
            },
            // Of an unknown target nobody can say that it is outside.
            Action::Ptrace { target, .. } => {
                if target.tgid != 0 && !self.tree.is_live_pid(target.tgid) {
                    self.privilege(Privilege::Ptrace);
                }
            }
            Action::Signal { target, .. } => {
                if target.is_some_and(|target| !self.tree.is_live_pid(target.tgid)) {
                    self.privilege(Privilege::Signal);
                }
            }
            Action::Mount { operation, .. } => self.privilege(match operation {
                MountOp::Chroot => Privilege::Chroot,
                MountOp::Mount | MountOp::Umount | MountOp::Move | MountOp::PivotRoot => Privilege::Mount,
            }),
            Action::Namespace { operation, namespaces } => match operation {
                NamespaceOp::UserCreate => self.privilege(Privilege::UserNamespace),
                NamespaceOp::Setns => self.privilege(Privilege::Namespace),
                NamespaceOp::Switch | NamespaceOp::Unshare | NamespaceOp::Clone => {
                    self.namespaces(*namespaces);
                }
            },
            Action::Bpf { .. } => self.privilege(Privilege::Bpf),
            Action::ModuleLoad { operation, .. } => {
                if *operation != ModuleOp::Request {
                    self.privilege(Privilege::Module);
                }
            }
            Action::IoUringSetup { .. } => self.privilege(Privilege::IoUring),
            Action::CredChange(_) => self.privilege(Privilege::SetId),
            Action::PerfOpen { .. } => self.privilege(Privilege::Perf),
            // No address describes these sockets, and which of two privileges they take only the hook knows.
            Action::SocketCreate { .. } | Action::ProcessExit { .. } => {}
        }
    }

    /// Who acts, as the tree knows it. Nobody is spared on suspicion: what is not known is none.
    fn actor(&mut self) -> Actor<'_> {
        let (tree, event) = (self.tree, self.event);
        *self.actor.get_or_insert_with(|| {
            let key = event.process;
            let parent = tree.get(key).and_then(Process::parent);
            Actor {
                executable: tree.executable_at(key, event.time),
                // As it was when it made the process, which is what the kernel asks, too.
                parent: parent.and_then(|parent| tree.executable_at(parent, BootTime(key.start_ns))),
            }
        })
    }

    fn object(&mut self, object: &Object<'_>) {
        let session = self.session;
        let said = session.judge(self.actor(), object);
        self.answer = policy::stricter(self.answer, said);
    }

    fn path(&mut self, effect: Effect, path: &KernelPath) {
        if is_pseudo(path) && effect != Effect::Exec {
            return;
        }
        if path.truncated || path.unresolved {
            self.object(&Object::Unresolved(effect));
        } else {
            let path = if path.as_given { without_dots(&path.text.0) } else { (&*path.text.0).into() };
            self.object(&Object::Path(effect, &path));
        }
    }

    fn address(&mut self, effect: Effect, address: Option<IpAddr>, port: u16) {
        let Some(address) = address else { return };
        let address = match address {
            // To no address means to this machine.
            IpAddr::V4(any) if effect == Effect::NetConnect && any.is_unspecified() => {
                Ipv4Addr::LOCALHOST.into()
            }
            IpAddr::V6(any) if effect == Effect::NetConnect && any.is_unspecified() => {
                Ipv6Addr::LOCALHOST.into()
            }
            IpAddr::V4(_) | IpAddr::V6(_) => address,
        };
        let name = self.names.of(address);
        self.object(&Object::Address { effect, address, port, name });
    }

    /// Which process asked is not known, so a rule that spares some may mean none of them.
    fn name(&mut self, name: &[u8]) {
        let Ok(name) = std::str::from_utf8(name) else { return };
        let said = self.session.judge(Actor::default(), &Object::Name(name));
        self.answer = policy::stricter(self.answer, said.filter(|entry| entry.unless.is_none()));
    }

    fn privilege(&mut self, privilege: Privilege) {
        self.object(&Object::Privilege(privilege));
    }

    fn namespaces(&mut self, namespaces: Namespaces) {
        if namespaces.contains(Namespaces::USER) && !self.in_kernel.contains(InKernel::USERNS) {
            self.privilege(Privilege::UserNamespace);
        }
        if !(namespaces - Namespaces::USER).is_empty() {
            self.privilege(Privilege::Namespace);
        }
    }
}

/// Whether a path without a place in any tree names an object that never had one: a pipe, a socket, memory. Policy has
/// nothing to say of these, except that they are no programs.
fn is_pseudo(path: &KernelPath) -> bool {
    let KernelPath { text, truncated, unresolved, as_given, .. } = path;
    let name = text.0.strip_prefix(b"/").unwrap_or(&text.0);
    *unresolved && !truncated && !as_given && !name.contains(&b'/')
}

/// The text of a process with `..` taken at its word. Symbolic links are not followed: nobody knows any more where they led.
fn without_dots(path: &[u8]) -> Cow<'_, [u8]> {
    if !path.windows(2).any(|pair| pair == b"..") {
        return path.into();
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b".." => drop(kept.pop()),
            b"" | b"." => {}
            name => kept.push(name),
        }
    }
    // What is relative to an unknown directory stays so, and cannot be judged.
    let root: &[u8] = if path.starts_with(b"/") { b"/" } else { b"" };
    [root, &kept.join(&b'/')].concat().into()
}

/// The script that was to be started, as the process named it.
fn script(name: &[u8], directory: &KernelPath) -> KernelPath {
    if name.starts_with(b"/") {
        return KernelPath { text: Text(name.to_vec()), as_given: true, ..KernelPath::default() };
    }
    let text = Text([&directory.text.0, &b"/"[..], name].concat());
    KernelPath { text, as_given: true, ..directory.clone() }
}

#[cfg(test)]
pub(super) mod tests;
