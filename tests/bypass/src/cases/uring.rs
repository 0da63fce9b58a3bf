//! Operations that no system call of their own makes: through an io_uring, in the caller, in a worker, in a kernel thread.

use std::{
    fs,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};
use io_uring::{IoUring, opcode, squeue, types::Fd};

use super::{
    Case, Proof, Target, case,
    steps::{read, read_fd, unsupported},
};
use crate::{
    arena::Class::Files,
    sys::{c, cpath},
};

pub(super) const CASES: &[Case] = &[
    case("uring-open", Files, Proof::Secret, |target| {
        opened(&mut ring(None)?, target, squeue::Flags::empty())
    }),
    case("uring-open-worker", Files, Proof::Secret, |target| {
        opened(&mut ring(None)?, target, squeue::Flags::ASYNC)
    }),
    case("uring-open-kernel-thread", Files, Proof::Secret, |target| {
        opened(&mut ring(Some(2000))?, target, squeue::Flags::empty())
    }),
    case("uring-read-inherited", Files, Proof::Secret, |_| {
        let mut bytes = vec![0_u8; 4096];
        let entry = opcode::Read::new(Fd(0), bytes.as_mut_ptr(), bytes.len() as u32).offset(0).build();
        let length = submit(&mut ring(None)?, &entry)?;
        bytes.truncate(length as usize);
        Ok(bytes)
    })
    .inherits(),
    case("uring-rename", Files, Proof::Secret, |target| {
        let (from, to) = (cpath(target.secret()), c("moved"));
        let here = Fd(libc::AT_FDCWD);
        submit(&mut ring(None)?, &opcode::RenameAt::new(here, from.as_ptr(), here, to.as_ptr()).build())?;
        read("moved")
    }),
    case("uring-link", Files, Proof::Secret, |target| {
        let (from, to) = (cpath(target.secret()), c("link"));
        let here = Fd(libc::AT_FDCWD);
        submit(&mut ring(None)?, &opcode::LinkAt::new(here, from.as_ptr(), here, to.as_ptr()).build())?;
        read("link")
    }),
    case("uring-unlink", Files, Proof::Changed, |target| {
        let path = cpath(target.secret());
        submit(&mut ring(None)?, &opcode::UnlinkAt::new(Fd(libc::AT_FDCWD), path.as_ptr()).build())?;
        ensure!(fs::symlink_metadata(target.secret()).is_err(), "it is still there");
        Ok(b"done".to_vec())
    }),
    case("uring-connect", Files, Proof::Service, |target| {
        let fd = super::net::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        let (address, length) = super::net::kernel_address(target.endpoints().v4);
        let entry = opcode::Connect::new(Fd(fd.as_raw_fd()), address.as_ptr().cast(), length as u32).build();
        submit(&mut ring(None)?, &entry)?;
        super::net::ask(&fd)
    }),
];

/// A ring; with a time, one whose requests a kernel thread takes.
fn ring(idle: Option<u32>) -> Result<IoUring> {
    let mut builder = IoUring::builder();
    if let Some(idle) = idle {
        builder.setup_sqpoll(idle);
    }
    match builder.build(8) {
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => unsupported("no io_uring"),
        other => other.context("io_uring_setup"),
    }
}

/// Submits one request and waits for its result.
fn submit(ring: &mut IoUring, entry: &squeue::Entry) -> Result<i32> {
    // SAFETY: everything the request points to lives until its result is here.
    unsafe { ring.submission().push(entry) }.context("a full ring")?;
    ring.submit_and_wait(1).context("io_uring_enter")?;
    let result = ring.completion().next().context("no result")?.result();
    if result < 0 {
        return Err(std::io::Error::from_raw_os_error(-result).into());
    }
    Ok(result)
}

fn opened(ring: &mut IoUring, target: &Target, flags: squeue::Flags) -> Result<Vec<u8>> {
    let path = cpath(target.secret());
    let entry =
        opcode::OpenAt::new(Fd(libc::AT_FDCWD), path.as_ptr()).flags(libc::O_RDONLY).build().flags(flags);
    let fd = submit(ring, &entry)?;
    // SAFETY: the ring has just opened it for us.
    read_fd(&unsafe { OwnedFd::from_raw_fd(fd) })
}
