//! Descriptors that nobody in the tree has opened: inherited from before the policy, passed over a socket, taken from
//! another process, made from a handle; and every call that reads from one.

use std::{
    io::{IoSliceMut, Read, Write},
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg},
    unistd::pipe,
};

use super::{
    Case, Proof, Target, case,
    steps::{bytes, or_unsupported, read_fd, unsupported},
};
use crate::{
    arena::Class::Files,
    sys::{self, cpath, sys},
};

pub(super) const CASES: &[Case] = &[
    case("open-before-policy", Files, Proof::Secret, |_| read_fd(&INPUT)).inherits(),
    case("inherited-readv", Files, Proof::Secret, |_| readv()).inherits(),
    case("inherited-mmap", Files, Proof::Secret, |_| mapped()).inherits(),
    case("inherited-sendfile", Files, Proof::Secret, |_| through_pipe(sendfile)).inherits(),
    case("inherited-splice", Files, Proof::Secret, |_| through_pipe(splice)).inherits(),
    case("inherited-copy-file-range", Files, Proof::Secret, |_| copied()).inherits(),
    case("inherited-reopen", Files, Proof::Secret, |_| super::steps::read("/proc/self/fd/0")).inherits(),
    case("scm-rights", Files, Proof::Secret, |target| read_fd(&passed(target, "pass", &target.secret())?)),
    case("scm-rights-mmap", Files, Proof::Secret, |target| {
        let fd = passed(target, "pass", &target.secret())?;
        sys!(libc::SYS_dup2, fd.as_raw_fd(), 0)?;
        mapped()
    }),
    case("pidfd-getfd", Files, Proof::Secret, |target| {
        let victim = target.victim()?;
        let process = sys::owned(sys!(libc::SYS_pidfd_open, victim.pid, 0).context("pidfd_open")?);
        let fd = sys!(libc::SYS_pidfd_getfd, process.as_raw_fd(), victim.file, 0).context("pidfd_getfd")?;
        read_fd(&sys::owned(fd))
    })
    .victim(),
    case("open-by-handle", Files, Proof::Secret, by_handle),
    case("fanotify-descriptor", Files, Proof::Secret, fanotify),
];

/// Standard input, with which the whole tree was started.
const INPUT: BorrowedFd<'static> = {
    // SAFETY: nothing closes it.
    unsafe { BorrowedFd::borrow_raw(0) }
};

fn readv() -> Result<Vec<u8>> {
    let mut text = vec![0_u8; 4096];
    let part = libc::iovec { iov_base: text.as_mut_ptr().cast(), iov_len: text.len() };
    let length = sys!(libc::SYS_preadv2, 0, &raw const part, 1, 0, 0, 0).context("preadv2")?;
    text.truncate(length as usize);
    Ok(text)
}

fn mapped() -> Result<Vec<u8>> {
    let length = 32;
    let at = sys!(libc::SYS_mmap, 0, length, libc::PROT_READ, libc::MAP_SHARED, 0, 0).context("mmap")?
        as *const u8;
    // SAFETY: the mapping is as long as every secret.
    Ok(unsafe { std::slice::from_raw_parts(at, length) }.to_vec())
}

fn sendfile(pipe: i32) -> std::io::Result<i64> {
    let mut offset = 0_i64;
    sys!(libc::SYS_sendfile, pipe, 0, &raw mut offset, 4096)
}

fn splice(pipe: i32) -> std::io::Result<i64> {
    let mut offset = 0_i64;
    sys!(libc::SYS_splice, 0, &raw mut offset, pipe, 0, 4096, 0)
}

/// Moves the file into a pipe without reading it, then reads the pipe.
fn through_pipe(step: fn(i32) -> std::io::Result<i64>) -> Result<Vec<u8>> {
    let (output, input) = pipe()?;
    let length = step(input.as_raw_fd())?;
    let mut text = vec![0_u8; length as usize];
    std::fs::File::from(output).read_exact(&mut text)?;
    Ok(text)
}

fn copied() -> Result<Vec<u8>> {
    let (mut offset, copy) = (0_i64, sys::open("copy", libc::O_RDWR | libc::O_CREAT)?);
    let none = std::ptr::null_mut::<i64>();
    let done = sys!(libc::SYS_copy_file_range, 0, &raw mut offset, copy.as_raw_fd(), none, 4096, 0);
    or_unsupported(done, &[libc::EXDEV, libc::EOPNOTSUPP], "copy_file_range")?;
    read_fd(&copy)
}

/// Asks a broker outside of the tree for a descriptor. The broker's own socket is an open one.
pub(super) fn passed(target: &Target, what: &str, of: &Path) -> Result<OwnedFd> {
    let socket = target.arena.root.join("sockets-open/run/docker.sock");
    let mut stream = UnixStream::connect(socket).context("the open broker")?;
    stream.write_all(&[what.as_bytes(), b" ", bytes(of), b"\n"].concat())?;
    received(&stream)
}

/// The descriptor of the next message.
pub(super) fn received(stream: &UnixStream) -> Result<OwnedFd> {
    let mut payload = [0_u8; 16];
    let mut parts = [IoSliceMut::new(&mut payload)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            let fd = *fds.first().context("no descriptor in the message")?;
            // SAFETY: the kernel has just given it to us.
            return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
    bail!("the message carries no descriptor")
}

/// A handle needs no path at all.
fn by_handle(target: &Target) -> Result<Vec<u8>> {
    let mut handle = [0_u32; 34];
    handle[0] = 128;
    let (path, mut mount) = (cpath(target.secret()), 0_i32);
    let found = sys!(
        libc::SYS_name_to_handle_at,
        libc::AT_FDCWD,
        path.as_ptr(),
        handle.as_mut_ptr(),
        &raw mut mount,
        0
    );
    or_unsupported(found, &[libc::EOPNOTSUPP], "name_to_handle_at")?;
    let anywhere = sys::open(&target.work, libc::O_RDONLY | libc::O_DIRECTORY)?;
    let fd = sys!(libc::SYS_open_by_handle_at, anywhere.as_raw_fd(), handle.as_ptr(), libc::O_RDONLY)
        .context("open_by_handle_at")?;
    read_fd(&sys::owned(fd))
}

/// A watch on the file: the kernel opens it for us when somebody else does.
fn fanotify(target: &Target) -> Result<Vec<u8>> {
    let fd = sys!(libc::SYS_fanotify_init, libc::FAN_CLASS_NOTIF | libc::FAN_NONBLOCK, libc::O_RDONLY);
    let fd = sys::owned(or_unsupported(fd, &[libc::ENOSYS], "fanotify_init")?);
    let path = cpath(target.secret());
    sys!(
        libc::SYS_fanotify_mark,
        fd.as_raw_fd(),
        libc::FAN_MARK_ADD,
        libc::FAN_OPEN,
        libc::AT_FDCWD,
        path.as_ptr()
    )
    .context("fanotify_mark")?;
    // Somebody outside opens it.
    let mut stream = UnixStream::connect(target.arena.root.join("sockets-open/run/docker.sock"))?;
    stream.write_all(&[b"cat ", bytes(&target.secret()), b"\n"].concat())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    drop(answer);
    let mut events = [0_u8; 256];
    let mut got = 0;
    sys::wait_until(10, || {
        got = sys!(libc::SYS_read, fd.as_raw_fd(), events.as_mut_ptr(), events.len()).unwrap_or(0);
        got > 0
    });
    ensure!(got >= 24, "no event");
    let passed = i32::from_ne_bytes(events[16..20].try_into()?);
    if passed < 0 {
        return unsupported("the event carries no descriptor");
    }
    read_fd(&sys::owned(passed.into()))
}
