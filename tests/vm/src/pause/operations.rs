//! Calls that hooks can pause. Each is done on something called `yes` or `no` and puts back what it changed.

use std::{
    fs, io,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::Path,
};

use crate::sys::{self, c, sys};

/// A call, and what it returns when it happens: an errno, or 0.
pub(super) struct Operation {
    pub(super) name: &'static str,
    act: fn(&Path, &str) -> io::Result<i64>,
    usual: i32,
    /// There is nothing in it that could be called `no`.
    always: bool,
}

const fn of(name: &'static str, act: fn(&Path, &str) -> io::Result<i64>) -> Operation {
    Operation { name, act, usual: 0, always: false }
}

const fn always(name: &'static str, act: fn(&Path, &str) -> io::Result<i64>) -> Operation {
    Operation { always: true, ..of(name, act) }
}

/// Of [`OPERATIONS`], those that several threads can do at once.
pub(super) const SHARED: usize = 9;

pub(super) const OPERATIONS: &[Operation] = &[
    of("open to read", |dir, who| read(dir, who, libc::SYS_openat)),
    of("open(2)", |dir, who| {
        let path = at(dir, who, "file");
        closed(sys!(libc::SYS_open, path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC))
    }),
    of("openat2", |dir, who| {
        let path = at(dir, who, "file");
        let how = [libc::O_RDONLY as u64 | libc::O_CLOEXEC as u64, 0, 0];
        closed(sys!(libc::SYS_openat2, libc::AT_FDCWD, path.as_ptr(), how.as_ptr(), size_of_val(&how)))
    }),
    of("open to write", |dir, who| closed(open(dir, who, "file", libc::O_WRONLY))),
    of("open to append and read", |dir, who| closed(open(dir, who, "file", libc::O_RDWR | libc::O_APPEND))),
    of("chmod", |dir, who| sys!(libc::SYS_chmod, at(dir, who, "file").as_ptr(), 0o600)),
    of("connect UDP", |_, who| connect(who, libc::SOCK_DGRAM)),
    Operation { usual: libc::ECONNREFUSED, ..of("connect TCP", |_, who| connect(who, libc::SOCK_STREAM)) },
    of("sendto", |_, who| {
        let socket = socket(libc::AF_INET, libc::SOCK_DGRAM)?;
        let to = address(number(who), 9);
        sys!(libc::SYS_sendto, socket.as_raw_fd(), c"x".as_ptr(), 1, 0, &raw const to, size_of_val(&to))
            .map(|sent| sent - 1)
    }),
    of("open to truncate", |dir, who| closed(open(dir, who, "cut", libc::O_WRONLY | libc::O_TRUNC))),
    of("make a file", |dir, who| made(dir, who, libc::O_WRONLY)),
    of("make a file that must be new", |dir, who| made(dir, who, libc::O_RDWR | libc::O_EXCL)),
    of("creat", |dir, who| {
        let path = at(dir, who, "made");
        closed(sys!(libc::SYS_creat, path.as_ptr(), 0o644))?;
        sys!(libc::SYS_unlink, path.as_ptr())
    }),
    of("truncate", |dir, who| sys!(libc::SYS_truncate, at(dir, who, "cut").as_ptr(), 1)),
    of("unlink", |dir, who| {
        sys!(libc::SYS_unlink, at(dir, who, "gone").as_ptr())?;
        closed(open(dir, who, "gone", libc::O_WRONLY | libc::O_CREAT))
    }),
    of("unlinkat", |dir, who| {
        sys!(libc::SYS_unlinkat, libc::AT_FDCWD, at(dir, who, "gone").as_ptr(), 0)?;
        closed(open(dir, who, "gone", libc::O_WRONLY | libc::O_CREAT))
    }),
    of("mkdir and rmdir", |dir, who| {
        let path = at(dir, who, "dir");
        sys!(libc::SYS_mkdir, path.as_ptr(), 0o755)?;
        sys!(libc::SYS_rmdir, path.as_ptr())
    }),
    of("mkdirat", |dir, who| {
        let path = at(dir, who, "dir");
        sys!(libc::SYS_mkdirat, libc::AT_FDCWD, path.as_ptr(), 0o755)?;
        sys!(libc::SYS_unlinkat, libc::AT_FDCWD, path.as_ptr(), libc::AT_REMOVEDIR)
    }),
    of("rename", |dir, who| {
        let (old, new) = (at(dir, who, "gone"), at(dir, who, "new"));
        sys!(libc::SYS_rename, old.as_ptr(), new.as_ptr())?;
        sys!(libc::SYS_rename, new.as_ptr(), old.as_ptr())
    }),
    of("exchange", |dir, who| {
        let (one, other) = (at(dir, who, "gone"), at(dir, who, "cut"));
        let here = libc::AT_FDCWD;
        sys!(libc::SYS_renameat2, here, one.as_ptr(), here, other.as_ptr(), libc::RENAME_EXCHANGE)
    }),
    of("link", |dir, who| {
        let (old, new) = (at(dir, who, "file"), at(dir, who, "new"));
        sys!(libc::SYS_link, old.as_ptr(), new.as_ptr())?;
        sys!(libc::SYS_unlink, new.as_ptr())
    }),
    of("symlink", |dir, who| {
        let new = at(dir, who, "new");
        sys!(libc::SYS_symlink, c"/nowhere".as_ptr(), new.as_ptr())?;
        sys!(libc::SYS_unlink, new.as_ptr())
    }),
    of("mknod", |dir, who| {
        let new = at(dir, who, "new");
        sys!(libc::SYS_mknodat, libc::AT_FDCWD, new.as_ptr(), libc::S_IFIFO | 0o644, 0)?;
        sys!(libc::SYS_unlink, new.as_ptr())
    }),
    of("chown", |dir, who| sys!(libc::SYS_chown, at(dir, who, "file").as_ptr(), 0, 0)),
    of("fchmodat", |dir, who| sys!(libc::SYS_fchmodat, libc::AT_FDCWD, at(dir, who, "file").as_ptr(), 0o644)),
    of("bind", |_, who| {
        let socket = socket(libc::AF_INET, libc::SOCK_DGRAM)?;
        let here = address([127, 0, 0, 1], if who == "yes" { 7701 } else { 7702 });
        sys!(libc::SYS_bind, socket.as_raw_fd(), &raw const here, size_of_val(&here))
    }),
    of("connect to a unix socket", |dir, who| {
        let socket = socket(libc::AF_UNIX, libc::SOCK_STREAM)?;
        let to = unix(dir, who, "listens");
        sys!(libc::SYS_connect, socket.as_raw_fd(), &raw const to, size_of_val(&to))
    }),
    of("send to a unix socket", |dir, who| {
        let socket = socket(libc::AF_UNIX, libc::SOCK_DGRAM)?;
        let to = unix(dir, who, "hears");
        sys!(
            libc::SYS_sendto,
            socket.as_raw_fd(),
            c"x".as_ptr(),
            1,
            libc::MSG_DONTWAIT,
            &raw const to,
            size_of_val(&to)
        )
        .map(|sent| sent - 1)
        .or_else(|err| if err.raw_os_error() == Some(libc::EAGAIN) { Ok(0) } else { Err(err) })
    }),
    of("make a unix socket", |dir, who| {
        let socket = socket(libc::AF_UNIX, libc::SOCK_STREAM)?;
        let here = unix(dir, who, "new");
        sys!(libc::SYS_bind, socket.as_raw_fd(), &raw const here, size_of_val(&here))?;
        sys!(libc::SYS_unlink, at(dir, who, "new").as_ptr())
    }),
    of("renameat", |dir, who| {
        let (old, new, here) = (at(dir, who, "gone"), at(dir, who, "new"), libc::AT_FDCWD);
        sys!(libc::SYS_renameat, here, old.as_ptr(), here, new.as_ptr())?;
        sys!(libc::SYS_renameat, here, new.as_ptr(), here, old.as_ptr())
    }),
    of("linkat", |dir, who| {
        let (old, new, here) = (at(dir, who, "file"), at(dir, who, "new"), libc::AT_FDCWD);
        sys!(libc::SYS_linkat, here, old.as_ptr(), here, new.as_ptr(), 0)?;
        sys!(libc::SYS_unlink, new.as_ptr())
    }),
    of("symlinkat", |dir, who| {
        let new = at(dir, who, "new");
        sys!(libc::SYS_symlinkat, c"/nowhere".as_ptr(), libc::AT_FDCWD, new.as_ptr())?;
        sys!(libc::SYS_unlink, new.as_ptr())
    }),
    of("mknod of a file", |dir, who| {
        let new = at(dir, who, "new");
        sys!(libc::SYS_mknod, new.as_ptr(), libc::S_IFREG | 0o644, 0)?;
        sys!(libc::SYS_unlink, new.as_ptr())
    }),
    of("mknodat of a file", |dir, who| {
        let new = at(dir, who, "new");
        sys!(libc::SYS_mknodat, libc::AT_FDCWD, new.as_ptr(), libc::S_IFREG | 0o644, 0)?;
        sys!(libc::SYS_unlink, new.as_ptr())
    }),
    of("mknod of a pipe", |dir, who| {
        let new = at(dir, who, "new");
        sys!(libc::SYS_mknod, new.as_ptr(), libc::S_IFIFO | 0o644, 0)?;
        sys!(libc::SYS_unlink, new.as_ptr())
    }),
    of("lchown", |dir, who| sys!(libc::SYS_lchown, at(dir, who, "file").as_ptr(), 0, 0)),
    of("fchownat", |dir, who| {
        sys!(libc::SYS_fchownat, libc::AT_FDCWD, at(dir, who, "file").as_ptr(), 0, 0, 0)
    }),
    of("ftruncate", |dir, who| {
        let fd = sys::owned(open(dir, who, "cut", libc::O_WRONLY)?);
        sys!(libc::SYS_ftruncate, fd.as_raw_fd(), 1)
    }),
    of("fchmod", |dir, who| {
        let fd = sys::owned(open(dir, who, "file", libc::O_RDONLY)?);
        sys!(libc::SYS_fchmod, fd.as_raw_fd(), 0o644)
    }),
    of("fchown", |dir, who| {
        let fd = sys::owned(open(dir, who, "file", libc::O_RDONLY)?);
        sys!(libc::SYS_fchown, fd.as_raw_fd(), 0, 0)
    }),
    of("sendmsg", |_, who| {
        let socket = socket(libc::AF_INET, libc::SOCK_DGRAM)?;
        let to = address(number(who), 9);
        let mut text = *b"x";
        let mut part = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: 1 };
        // SAFETY: zeroes are a valid header.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = (&raw const to).cast_mut().cast();
        message.msg_namelen = size_of_val(&to) as u32;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        sys!(libc::SYS_sendmsg, socket.as_raw_fd(), &raw const message, 0).map(|sent| sent - 1)
    }),
    always("tgkill", |_, _| {
        let parent = nix::unistd::getppid().as_raw();
        sys!(libc::SYS_tgkill, parent, parent, libc::SIGCONT)
    }),
    always("setgid", |_, _| sys!(libc::SYS_setgid, 0)),
    always("setreuid", |_, _| sys!(libc::SYS_setreuid, 0, 0)),
    always("setregid", |_, _| sys!(libc::SYS_setregid, 0, 0)),
    always("setresuid", |_, _| sys!(libc::SYS_setresuid, 0, 0, 0)),
    always("kill", |_, _| sys!(libc::SYS_kill, nix::unistd::getppid().as_raw(), libc::SIGCONT)),
    always("raw socket", |_, _| {
        closed(sys!(libc::SYS_socket, libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_ICMP))
    }),
    always("setuid", |_, _| sys!(libc::SYS_setuid, 0)),
    always("setresgid", |_, _| sys!(libc::SYS_setresgid, 0, 0, 0)),
    always("chroot", |_, _| sys!(libc::SYS_chroot, c"/".as_ptr())),
];

/// Does it and compares.
pub(super) fn check(operation: &Operation, dir: &Path, who: &str) -> Result<(), String> {
    let wanted = if who == "yes" || operation.always { operation.usual } else { libc::EPERM };
    let result = (operation.act)(dir, who);
    let (found, value) = (sys::errno(&result), sys::raw(&result));
    if found == wanted && (found != 0 || value == 0) {
        return Ok(());
    }
    Err(format!("{} of {who}: {value} instead of {}", operation.name, -wanted))
}

/// What they are done on. For somebody who is not asked.
pub(super) fn prepare(dir: &Path) -> io::Result<Vec<Box<dyn Send>>> {
    let mut open: Vec<Box<dyn Send>> = Vec::new();
    for who in ["yes", "no"] {
        for name in ["file", "cut", "gone"] {
            fs::write(dir.join(format!("ask/{who}-{name}")), "content")?;
        }
        let path = dir.join(format!("ask/{who}-listens"));
        let listener = std::os::unix::net::UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        // Its queue is never emptied, so somebody takes what comes.
        std::thread::spawn({
            let listener = listener.try_clone()?;
            move || {
                listener.set_nonblocking(false).ok();
                while listener.accept().is_ok() {}
            }
        });
        open.push(Box::new(listener));
        open.push(Box::new(std::os::unix::net::UnixDatagram::bind(dir.join(format!("ask/{who}-hears")))?));
    }
    fs::write(dir.join("ask/late-file"), "content")?;
    Ok(open)
}

fn at(dir: &Path, who: &str, name: &str) -> std::ffi::CString {
    c(dir.join(format!("ask/{who}-{name}")).as_os_str().as_bytes())
}

fn open(dir: &Path, who: &str, name: &str, flags: i32) -> io::Result<i64> {
    sys!(libc::SYS_openat, libc::AT_FDCWD, at(dir, who, name).as_ptr(), flags | libc::O_CLOEXEC, 0o644)
}

fn read(dir: &Path, who: &str, call: i64) -> io::Result<i64> {
    let path = at(dir, who, "file");
    let fd = sys::owned(sys!(call, libc::AT_FDCWD, path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC)?);
    let mut text = [0_u8; 16];
    let len = sys!(libc::SYS_read, fd.as_raw_fd(), text.as_mut_ptr(), text.len())?;
    Ok(if &text[..len as usize] == b"content" { 0 } else { -1000 })
}

fn made(dir: &Path, who: &str, flags: i32) -> io::Result<i64> {
    closed(open(dir, who, "made", flags | libc::O_CREAT))?;
    sys!(libc::SYS_unlink, at(dir, who, "made").as_ptr())
}

fn closed(fd: io::Result<i64>) -> io::Result<i64> {
    drop(sys::owned(fd?));
    Ok(0)
}

fn socket(family: i32, kind: i32) -> io::Result<std::os::fd::OwnedFd> {
    Ok(sys::owned(sys!(libc::SYS_socket, family, kind | libc::SOCK_CLOEXEC, 0)?))
}

fn number(who: &str) -> [u8; 4] {
    [127, 77, if who == "yes" { 1 } else { 2 }, 1]
}

fn connect(who: &str, kind: i32) -> io::Result<i64> {
    let socket = socket(libc::AF_INET, kind)?;
    let to = address(number(who), 9);
    sys!(libc::SYS_connect, socket.as_raw_fd(), &raw const to, size_of_val(&to))
}

pub(super) fn address(octets: [u8; 4], port: u16) -> libc::sockaddr_in {
    // SAFETY: zeroes are a valid address.
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    address.sin_family = libc::AF_INET as u16;
    address.sin_port = port.to_be();
    address.sin_addr.s_addr = u32::from_ne_bytes(octets);
    address
}

fn unix(dir: &Path, who: &str, name: &str) -> libc::sockaddr_un {
    // SAFETY: zeroes are a valid address.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    for (to, from) in address.sun_path.iter_mut().zip(at(dir, who, name).as_bytes()) {
        *to = *from as libc::c_char;
    }
    address
}
