//! The self-test: what is tried from inside a domain before the command runs, and what that says.
//!
//! Whatever is tried is possible outside, which is checked first, and does no harm if it should succeed inside: files
//! are opened and closed, sockets lead to ourselves, a program is only asked whether it could be started. Removing is
//! not tried.

use std::{
    collections::BTreeSet,
    ffi::CString,
    fmt,
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    ptr,
};

use libc::{c_int, sockaddr_in, sockaddr_un};
use nix::{
    errno::Errno,
    unistd::{AccessFlags, access},
};

use super::{
    domain::c_path, files::Class, path::Path, places::Disk, places::Kind, places::Places, plan::LandlockPlan,
};

/// `AT_EXECVE_CHECK`, since Linux 6.14: asks whether a program may be started, and does not start it.
const EXECVE_CHECK: c_int = 0x10000;
/// Entries of a directory that are looked at for something to try.
const LOOK_AT: usize = 64;

/// One attempt of the child.
#[derive(Debug)]
pub(super) struct Attempt {
    row: &'static str,
    text: String,
    act: Act,
}

#[derive(Debug)]
enum Act {
    /// Must fail, with `EACCES`.
    Open(CString, c_int),
    /// Must succeed.
    OpenAllowed(CString, c_int),
    Execute(CString),
    Make(CString),
    Connect(sockaddr_in),
    Bind(sockaddr_in),
    ConnectAbstract(sockaddr_un, libc::socklen_t),
    Signal,
    NoNewPrivs,
}

/// All of them, for the child.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempts<'a>(pub(super) &'a [Attempt]);

/// Attempts, and what must exist outside while they are made.
#[derive(Debug)]
pub(super) struct SelfTest {
    attempts: Vec<Attempt>,
    /// Kept open, not read.
    listeners: Vec<TcpListener>,
    abstract_listener: Option<UnixListener>,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl SelfTest {
    /// Chooses what to try.
    pub(super) fn new(plan: &LandlockPlan) -> Self {
        let mut this = Self { attempts: Vec::new(), listeners: Vec::new(), abstract_listener: None };
        this.add("no_new_privs", "no_new_privs is not set".to_owned(), Act::NoNewPrivs);
        this.files(plan);
        if plan.wanted.connect {
            this.port("connect_tcp", plan.connect.as_ref(), "connected to", Act::Connect);
        }
        if plan.wanted.bind {
            this.port("bind_tcp", plan.bind.as_ref(), "bound", Act::Bind);
        }
        if plan.wanted.scope_abstract {
            this.abstract_socket();
        }
        if plan.wanted.scope_signal {
            this.add("signal", "a process outside could be signalled".to_owned(), Act::Signal);
        }
        this
    }

    pub(super) fn attempts(&self) -> Attempts<'_> {
        Attempts(&self.attempts)
    }

    /// Attempts about one row of the table, and whether they went as they should.
    pub(super) fn of_row(&self, row: &str, as_expected: &[bool]) -> impl Iterator<Item = (&Attempt, bool)> {
        let row = row.strip_prefix("landlock/").unwrap_or(row).to_owned();
        self.attempts.iter().enumerate().filter(move |(_, attempt)| attempt.row == row).map(
            |(index, attempt)| {
                // What was not reported was not seen to be refused.
                (attempt, as_expected.get(index).copied().unwrap_or(false))
            },
        )
    }

    fn add(&mut self, row: &'static str, text: String, act: Act) {
        self.attempts.push(Attempt { row, text, act });
    }

    fn files(&mut self, plan: &LandlockPlan) {
        for (class, row) in [
            (Class::ReadFile, "file_read"),
            (Class::ReadDirectory, "file_read"),
            (Class::Write, "file_write"),
            (Class::Execute, "exec"),
            (Class::Create, "file_create"),
        ] {
            if !plan.files.handled.contains(&class) {
                continue;
            }
            if let Some((path, act)) = closed(plan, class)
                .and_then(|path| Some((c_path(&path)?, path)))
                .map(|(text, path)| (path, act(class, text)))
            {
                self.add(row, format!("{path} could be {}", done(class)), act);
            }
        }
        let reads = [(Class::ReadDirectory, libc::O_DIRECTORY), (Class::ReadFile, 0)];
        for (class, flags) in reads.into_iter().filter(|(class, _)| plan.files.handled.contains(class)) {
            if let Some(path) = open(plan, class)
                && let Some(text) = c_path(&path)
            {
                self.add(
                    "file_read",
                    format!("{path} cannot be opened, although it is allowed"),
                    Act::OpenAllowed(text, libc::O_RDONLY | flags),
                );
            }
        }
    }

    /// The port is ours, so that nobody else is reached, and it cannot be taken.
    fn port(
        &mut self,
        row: &'static str,
        allowed: Option<&BTreeSet<u16>>,
        done: &str,
        act: fn(sockaddr_in) -> Act,
    ) {
        for _ in 0..8 {
            let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)) else { return };
            let Ok(std::net::SocketAddr::V4(address)) = listener.local_addr() else { return };
            self.listeners.push(listener);
            if !allowed.is_some_and(|allowed| allowed.contains(&address.port())) {
                self.add(
                    row,
                    format!("TCP port {} could be {done}", address.port()),
                    act(socket_address(address)),
                );
                return;
            }
        }
    }

    fn abstract_socket(&mut self) {
        let name = format!("defenseclaw-selftest-{}", std::process::id());
        let listener =
            SocketAddr::from_abstract_name(&name).and_then(|address| UnixListener::bind_addr(&address));
        let Ok(listener) = listener else { return };
        // SAFETY: all zero is a valid address.
        let mut address: sockaddr_un = unsafe { std::mem::zeroed() };
        address.sun_family = libc::sa_family_t::try_from(libc::AF_UNIX).unwrap_or_default();
        for (slot, byte) in address.sun_path.iter_mut().skip(1).zip(name.bytes()) {
            *slot = byte.cast_signed();
        }
        let length = std::mem::offset_of!(sockaddr_un, sun_path) + 1 + name.len();
        let length = libc::socklen_t::try_from(length).unwrap_or_default();
        self.abstract_listener = Some(listener);
        let text = "an abstract socket outside could be connected to".to_owned();
        self.add("abstract_unix", text, Act::ConnectAbstract(address, length));
    }
}

fn done(class: Class) -> &'static str {
    match class {
        Class::ReadFile => "read",
        Class::ReadDirectory => "listed",
        Class::Write => "opened for writing",
        Class::Execute => "executed",
        Class::Create => "made",
        Class::Delete => "removed",
    }
}

fn act(class: Class, path: CString) -> Act {
    match class {
        Class::ReadFile => Act::Open(path, libc::O_RDONLY),
        Class::ReadDirectory => Act::Open(path, libc::O_RDONLY | libc::O_DIRECTORY),
        Class::Write => Act::Open(path, libc::O_WRONLY),
        Class::Execute => Act::Execute(path),
        Class::Create | Class::Delete => Act::Make(path),
    }
}

/// Something closed for this class that is open to us.
fn closed(plan: &LandlockPlan, class: Class) -> Option<Path> {
    let disk = Disk { uid: 0 };
    let candidates = plan.closed.iter().flat_map(|path| match disk.kind(path) {
        Kind::Directory if class == Class::Create => {
            vec![path.join(format!(".defenseclaw-selftest-{}", std::process::id()).as_bytes())]
        }
        Kind::Directory if class == Class::ReadDirectory => vec![path.clone()],
        Kind::Directory => {
            let entries = disk.entries(path, usize::MAX).unwrap_or_default();
            let files = entries.into_iter().filter(|(_, kind)| *kind == Kind::File);
            files.take(LOOK_AT).map(|(name, _)| path.join(&name)).collect()
        }
        Kind::File if !class.asks_parent() => vec![path.clone()],
        Kind::File | Kind::Link | Kind::Missing => Vec::new(),
    });
    candidates.filter(|path| !plan.files.grants(class, path)).find(|path| possible(class, path))
}

/// Whether we can do it ourselves.
fn possible(class: Class, path: &Path) -> bool {
    let is = |path: &Path, flags| access(&path.to_os(), flags).is_ok();
    let is_regular = || std::fs::symlink_metadata(path.to_os()).is_ok_and(|metadata| metadata.is_file());
    match class {
        Class::ReadFile => is_regular() && is(path, AccessFlags::R_OK),
        Class::ReadDirectory => is(path, AccessFlags::R_OK),
        Class::Write => is_regular() && is(path, AccessFlags::W_OK),
        Class::Execute => is_regular() && c_path(path).is_some_and(|path| check_execute(&path) == Ok(())),
        Class::Create => is(&path.parent(), AccessFlags::W_OK | AccessFlags::X_OK),
        Class::Delete => false,
    }
}

/// Something the domain leaves open.
fn open(plan: &LandlockPlan, class: Class) -> Option<Path> {
    let disk = Disk { uid: 0 };
    let granted = plan.files.grants.iter().filter(|(_, classes)| classes.contains(&class));
    let kind = if class == Class::ReadDirectory { Kind::Directory } else { Kind::File };
    let mut fitting = granted.map(|(path, _)| path).filter(|path| disk.kind(path) == kind);
    fitting.find(|path| possible(class, path)).cloned()
}

fn socket_address(address: SocketAddrV4) -> sockaddr_in {
    // SAFETY: all zero is a valid address.
    let mut socket: sockaddr_in = unsafe { std::mem::zeroed() };
    socket.sin_family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default();
    socket.sin_port = address.port().to_be();
    socket.sin_addr.s_addr = u32::from(*address.ip()).to_be();
    socket
}

impl Attempt {
    /// Makes it. Called between fork and exec: async-signal-safe, does not allocate.
    pub(super) fn goes_as_expected(&self) -> bool {
        match &self.act {
            Act::Open(path, flags) => open_and_close(path, *flags) == Err(Errno::EACCES),
            Act::OpenAllowed(path, flags) => open_and_close(path, *flags).is_ok(),
            Act::Execute(path) => check_execute(path) == Err(Errno::EACCES),
            Act::Make(path) => make(path) == Err(Errno::EACCES),
            Act::Connect(address) => tcp(address, libc::connect) == Err(Errno::EACCES),
            Act::Bind(address) => tcp(address, libc::bind) == Err(Errno::EACCES),
            Act::ConnectAbstract(address, length) => {
                with_socket(libc::AF_UNIX, |socket| {
                    // SAFETY: `length` is at most the size of the initialised structure.
                    unsafe { libc::connect(socket, ptr::from_ref(address).cast(), *length) }
                }) == Err(Errno::EPERM)
            }
            // SAFETY: numbers only; signal 0 is none.
            Act::Signal => Errno::result(unsafe { libc::kill(libc::getppid(), 0) }) == Err(Errno::EPERM),
            // SAFETY: numbers only.
            Act::NoNewPrivs => unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 },
        }
    }
}

fn open_and_close(path: &CString, flags: c_int) -> Result<(), Errno> {
    let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    // SAFETY: `path` ends in NUL; what was opened is closed.
    unsafe {
        let opened = Errno::result(libc::open(path.as_ptr(), flags))?;
        libc::close(opened);
    }
    Ok(())
}

fn check_execute(path: &CString) -> Result<(), Errno> {
    let argv = [path.as_ptr(), ptr::null()];
    let envp = [ptr::null::<libc::c_char>()];
    // SAFETY: `path` ends in NUL; both arrays end in null. With this flag, and with a kernel that does not know it,
    // the call returns.
    let result = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            libc::AT_FDCWD,
            path.as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            EXECVE_CHECK,
        )
    };
    Errno::result(result).map(drop)
}

fn make(path: &CString) -> Result<(), Errno> {
    // SAFETY: `path` ends in NUL. What was made is removed: it is ours.
    unsafe {
        Errno::result(libc::mkdir(path.as_ptr(), 0o700))?;
        libc::rmdir(path.as_ptr());
    }
    Ok(())
}

type SocketCall = unsafe extern "C" fn(c_int, *const libc::sockaddr, libc::socklen_t) -> c_int;

fn tcp(address: &sockaddr_in, call: SocketCall) -> Result<(), Errno> {
    // 16 bytes, and no more than any socket address.
    let length = libc::socklen_t::try_from(size_of::<sockaddr_in>()).unwrap_or_default();
    // SAFETY: address and length are those of one initialised structure.
    with_socket(libc::AF_INET, |socket| unsafe { call(socket, ptr::from_ref(address).cast(), length) })
}

fn with_socket(family: c_int, work: impl FnOnce(c_int) -> c_int) -> Result<(), Errno> {
    // SAFETY: numbers only; the socket is closed.
    unsafe {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let socket = Errno::result(libc::socket(family, kind, 0))?;
        let result = Errno::result(work(socket)).map(drop);
        libc::close(socket);
        result
    }
}
