//! Operations: chosen at random by the suite, done by a worker that is judged.

use std::{
    io,
    net::SocketAddr,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use nix::{
    sys::wait::{WaitStatus, waitpid},
    unistd::{ForkResult, fork},
};
use serde::{Deserialize, Serialize};

use super::{
    generate::Alphabet,
    random::Random,
    tree::{ABSTRACT, DIRECTORIES, NAMES, Tree, words},
};
use crate::{
    policy::effects::{bind, connect, unix_address},
    sys::{self, sys},
};

/// One operation, with paths as they are spelled.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(clippy::unsafe_derive_deserialize, reason = "system calls have nothing to do with its fields")]
pub(super) enum Operation {
    Open { path: PathBuf, flags: i32 },
    Truncate { path: PathBuf },
    MakeDirectory { path: PathBuf },
    MakeLink { path: PathBuf },
    MakeFifo { path: PathBuf },
    MakeDevice { path: PathBuf },
    Unlink { path: PathBuf },
    RemoveDirectory { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf, flags: u32 },
    Link { from: PathBuf, to: PathBuf },
    Mode { path: PathBuf },
    Owner { path: PathBuf },
    Execute { path: PathBuf },
    Map { path: PathBuf },
    UnixConnect { path: PathBuf },
    Abstract { name: String },
    Connect { address: SocketAddr, datagram: bool },
    Bind { address: SocketAddr, datagram: bool },
    Bpf,
    RawSocket,
    Signal { pid: u32 },
}

const ADDRESSES: &[&str] = &[
    "10.1.2.3",
    "10.1.2.4",
    "10.1.2.200",
    "10.1.9.9",
    "10.2.0.1",
    "127.9.1.1",
    "127.9.1.2",
    "127.0.0.1",
    "192.0.2.7",
    "2001:db8::1",
    "2001:db8::2",
    "2001:db8:0:1::1",
    "2001:db8:0:1::8001",
    "2001:db9::1",
    "::1",
    "::ffff:10.1.2.3",
    "::ffff:10.1.2.201",
    "::ffff:127.9.1.1",
];
const PORTS: &[u16] = &[80, 443, 444, 8080, 9000, 9001];

impl Operation {
    pub(super) fn random(alphabet: &Alphabet<'_>, tree: &Tree, random: &mut Random) -> Self {
        let kind = if alphabet.only_addresses { 99 } else { random.below(100) };
        let spelled = |random: &mut Random, directory| spell(alphabet.root, random, directory);
        let path = |random: &mut Random| spelled(random, false);
        match kind {
            0..22 => {
                let flags = [
                    libc::O_RDONLY,
                    libc::O_WRONLY,
                    libc::O_RDWR,
                    libc::O_RDONLY | libc::O_TRUNC,
                    libc::O_WRONLY | libc::O_CREAT,
                    libc::O_RDWR | libc::O_CREAT,
                    libc::O_RDONLY | libc::O_CREAT,
                    libc::O_WRONLY | libc::O_APPEND,
                ][random.below(8)];
                match random.below(12) {
                    // What is deep stays as it is.
                    0 => Self::Open {
                        path: tree.deep[random.below(2)].clone(),
                        flags: flags & !(libc::O_CREAT | libc::O_TRUNC),
                    },
                    _ => Self::Open { path: path(random), flags },
                }
            }
            22..27 => Self::Open { path: spelled(random, true), flags: libc::O_RDONLY | libc::O_DIRECTORY },
            27..30 => Self::Truncate { path: path(random) },
            30..34 => Self::MakeDirectory { path: spelled(random, true) },
            34..37 => Self::MakeLink { path: path(random) },
            37..40 => Self::MakeFifo { path: path(random) },
            40..42 => Self::MakeDevice { path: path(random) },
            42..48 => Self::Unlink { path: path(random) },
            48..52 => Self::RemoveDirectory { path: spelled(random, true) },
            52..64 => {
                let flags = [0, 0, 0, libc::RENAME_NOREPLACE, libc::RENAME_EXCHANGE][random.below(5)];
                let directory = random.percent(30);
                Self::Rename { from: spelled(random, directory), to: spelled(random, directory), flags }
            }
            64..71 => Self::Link { from: path(random), to: path(random) },
            71..74 => Self::Mode { path: path(random) },
            74..77 => Self::Owner { path: path(random) },
            77..81 => Self::Execute { path: path(random) },
            81..84 => Self::Map { path: path(random) },
            84..87 => Self::UnixConnect { path: path(random).with_file_name("s") },
            87..89 => Self::Abstract { name: format!("{}{}", alphabet.prefix, random.of(ABSTRACT)) },
            89 => Self::Bpf,
            90 => Self::RawSocket,
            91 => Self::Signal { pid: sys::pid() },
            _ => {
                let address: std::net::IpAddr = random.of(ADDRESSES).parse().unwrap();
                let address = SocketAddr::new(address, PORTS[random.below(PORTS.len())]);
                // Nothing is sent to where only a datagram socket is led.
                let datagram = !address.ip().to_canonical().is_loopback() || random.percent(50);
                if random.percent(70) {
                    Self::Connect { address, datagram }
                } else {
                    Self::Bind { address, datagram }
                }
            }
        }
    }

    /// Does it; 0 or an errno.
    pub(super) fn act(&self) -> i32 {
        sys::errno(&self.attempt())
    }

    fn attempt(&self) -> io::Result<i64> {
        let here = libc::AT_FDCWD;
        match self {
            Self::Open { path, flags } => open(path, *flags).map(drop).map(|()| 0),
            Self::Truncate { path } => {
                sys!(libc::SYS_truncate, words(path).as_ptr(), crate::policy::kernel::PROGRAM.len())
            }
            Self::MakeDirectory { path } => sys!(libc::SYS_mkdirat, here, words(path).as_ptr(), 0o755),
            Self::MakeLink { path } => sys!(libc::SYS_symlinkat, c"x".as_ptr(), here, words(path).as_ptr()),
            Self::MakeFifo { path } => node(path, libc::S_IFIFO, 0),
            Self::MakeDevice { path } => node(path, libc::S_IFCHR, libc::makedev(1, 3)),
            Self::Unlink { path } => sys!(libc::SYS_unlinkat, here, words(path).as_ptr(), 0),
            Self::RemoveDirectory { path } => {
                sys!(libc::SYS_unlinkat, here, words(path).as_ptr(), libc::AT_REMOVEDIR)
            }
            Self::Rename { from, to, flags } => {
                sys!(libc::SYS_renameat2, here, words(from).as_ptr(), here, words(to).as_ptr(), *flags)
            }
            Self::Link { from, to } => {
                sys!(libc::SYS_linkat, here, words(from).as_ptr(), here, words(to).as_ptr(), 0)
            }
            Self::Mode { path } => sys!(libc::SYS_fchmodat, here, words(path).as_ptr(), 0o755),
            Self::Owner { path } => sys!(libc::SYS_fchownat, here, words(path).as_ptr(), 0, 0, 0),
            Self::Execute { path } => execute(path),
            Self::Map { path } => {
                let file = open(path, libc::O_RDONLY)?;
                let protection = libc::PROT_READ | libc::PROT_EXEC;
                let at = sys!(libc::SYS_mmap, 0, 4096, protection, libc::MAP_PRIVATE, file.as_raw_fd(), 0)?;
                sys!(libc::SYS_munmap, at, 4096)
            }
            Self::UnixConnect { path } => {
                use std::os::unix::ffi::OsStrExt;
                unix_connect(path.as_os_str().as_bytes())
            }
            Self::Abstract { name } => unix_connect(format!("\0{name}").as_bytes()),
            Self::Connect { address, datagram } => connect(kind(*datagram), *address),
            Self::Bind { address, datagram } => bind(kind(*datagram), *address),
            Self::Bpf => {
                let mut attribute = [0_u32; 32];
                attribute[..4].copy_from_slice(&[2, 4, 8, 1]);
                let map = sys!(libc::SYS_bpf, 0, attribute.as_ptr(), 128)?;
                drop(sys::owned(map));
                Ok(0)
            }
            Self::RawSocket => {
                let socket = sys!(libc::SYS_socket, libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)?;
                drop(sys::owned(socket));
                Ok(0)
            }
            Self::Signal { pid } => sys!(libc::SYS_kill, *pid, libc::SIGURG),
        }
    }
}

fn kind(datagram: bool) -> i32 {
    // A connection need not be waited for.
    if datagram { libc::SOCK_DGRAM } else { libc::SOCK_STREAM | libc::SOCK_NONBLOCK }
}

fn open(path: &Path, flags: i32) -> io::Result<std::os::fd::OwnedFd> {
    // Nobody writes to a fifo.
    let flags = flags | libc::O_CLOEXEC | libc::O_NONBLOCK;
    sys!(libc::SYS_openat, libc::AT_FDCWD, words(path).as_ptr(), flags, 0o755).map(sys::owned)
}

fn node(path: &Path, kind: u32, device: u64) -> io::Result<i64> {
    sys!(libc::SYS_mknodat, libc::AT_FDCWD, words(path).as_ptr(), kind | 0o600, device)
}

fn unix_connect(name: &[u8]) -> io::Result<i64> {
    let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let socket = sys::owned(sys!(libc::SYS_socket, libc::AF_UNIX, kind, 0)?);
    let (address, length) = unix_address(name);
    sys!(libc::SYS_connect, socket.as_raw_fd(), &raw const address, length)
}

/// In a child, which becomes the program.
fn execute(path: &Path) -> io::Result<i64> {
    let path = words(path);
    let argv = [path.as_ptr(), std::ptr::null()];
    let environment = [std::ptr::null::<libc::c_char>()];
    // SAFETY: this process has one thread.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let result = sys!(libc::SYS_execve, path.as_ptr(), argv.as_ptr(), environment.as_ptr());
            sys::exit_now(sys::errno(&result));
        }
        ForkResult::Parent { child } => match waitpid(child, None)? {
            WaitStatus::Exited(_, 0) => Ok(0),
            WaitStatus::Exited(_, errno) => Err(io::Error::from_raw_os_error(errno)),
            other => Err(io::Error::other(format!("{other:?}"))),
        },
    }
}

/// A path below the root, in one of the many ways to write it.
fn spell(root: &Path, random: &mut Random, directory: bool) -> PathBuf {
    let mut text = match random.below(10) {
        0 => format!("/proc/self/root{}", root.display()),
        1 | 2 => ".".to_owned(),
        _ => root.display().to_string(),
    };
    for _ in 0..random.below(4) {
        match random.below(30) {
            0 => text.push_str("/b/.."),
            1 => text.push_str("/./"),
            2 => text.push('/'),
            3 => text.push_str("/l"),
            _ => {}
        }
        text.push('/');
        text.push_str(if random.percent(90) { random.of(&["a", "b"]) } else { random.of(DIRECTORIES) });
    }
    text.push('/');
    text.push_str(if directory { random.of(DIRECTORIES) } else { random.of(NAMES) });
    if directory && random.percent(15) {
        text.push('/');
    }
    text.into()
}
