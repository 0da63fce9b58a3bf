//! What is judged and what is used must be the same: names that change between the two.

use std::{
    cell::UnsafeCell,
    fs,
    os::{fd::AsRawFd, unix::fs::symlink},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, bail};

use super::{
    Case, Proof, Target, case,
    changes::exchange,
    steps::{or_unsupported, read, read_fd},
};
use crate::{
    arena::{Class::Files, Tree},
    sys::{self, cpath, sys},
};

pub(super) const CASES: &[Case] = &[
    case("race-path-memory", Files, Proof::Secret, memory).floods(),
    case("race-symlink", Files, Proof::Secret, |target| {
        fs::write("harmless", "harmless")?;
        race(
            target,
            |target| {
                for to in [Path::new("harmless"), &target.secret()] {
                    let _ = symlink(to, "next");
                    let _ = fs::rename("next", "link");
                }
            },
            || read("link"),
        )
    })
    .floods(),
    case("race-directory-exchange", Files, Proof::Secret, |target| {
        fs::create_dir("a")?;
        fs::write("a/secret", "harmless")?;
        symlink(&target.dir, "b")?;
        race(target, |_| drop(exchange(Path::new("a"), Path::new("b"))), || read("a/secret"))
    })
    .floods(),
    case("race-userfaultfd", Files, Proof::Secret, fault),
];

/// Seconds of trying: an attempt that is judged rightly fails all of the time, any other has patience.
fn seconds(target: &Target) -> u64 {
    if target.tree == Tree::Inside && !target.is_open() { 5 } else { 30 }
}

/// One thread changes, another acts, until it shows the secret. Only bytes of the secret's own form count.
fn race(
    target: &Target,
    change: impl Fn(&Target) + Send + Sync + 'static,
    act: impl Fn() -> Result<Vec<u8>>,
) -> Result<Vec<u8>> {
    let stop = Arc::new(AtomicBool::new(false));
    let patience = seconds(target);
    let (ends, target) = (stop.clone(), target.clone());
    let changer = thread::spawn(move || {
        while !ends.load(Ordering::Relaxed) {
            change(&target);
        }
    });
    let mut last = String::new();
    let mut won = None;
    sys::retry(patience, || {
        match act() {
            // Long enough for a secret, unlike everything harmless.
            Ok(bytes) if bytes.len() >= 32 => won = Some(bytes),
            Ok(_) => {}
            Err(error) => last = format!("{error:#}"),
        }
        won.is_some()
    });
    stop.store(true, Ordering::Relaxed);
    let _ = changer.join();
    match won {
        Some(bytes) => Ok(bytes),
        None => bail!("never in {patience} seconds: {last}"),
    }
}

/// Memory that one thread reads while another writes it.
struct Shared(UnsafeCell<[u8; 4096]>);

// SAFETY: the race is the purpose; the kernel copies the bytes, whatever they are.
unsafe impl Sync for Shared {}

/// The classic: the path in memory changes between a tracer's look and the kernel's.
fn memory(target: &Target) -> Result<Vec<u8>> {
    static PATH: Shared = Shared(UnsafeCell::new([0; 4096]));
    fs::write("harmless", "harmless")?;
    let harmless = cpath(target.work.join("harmless")).into_bytes_with_nul();
    let secret = cpath(target.secret()).into_bytes_with_nul();
    race(
        target,
        move |_| {
            for path in [&harmless, &secret] {
                // SAFETY: shorter than the buffer; see [`Shared`].
                unsafe { std::ptr::copy_nonoverlapping(path.as_ptr(), PATH.0.get().cast(), path.len()) };
            }
        },
        || {
            let fd =
                sys!(libc::SYS_openat, libc::AT_FDCWD, PATH.0.get(), libc::O_RDONLY | libc::O_CLOEXEC, 0)?;
            read_fd(&sys::owned(fd))
        },
    )
}

const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_COPY: u64 = 0xc028_aa03;
const PAGE: usize = 4096;

/// The path is on a page that does not exist until the kernel asks for it: nobody can have looked before.
fn fault(target: &Target) -> Result<Vec<u8>> {
    let fd = sys!(libc::SYS_userfaultfd, libc::O_CLOEXEC);
    let fd = sys::owned(or_unsupported(
        fd,
        &[libc::ENOSYS, libc::EPERM],
        "userfaultfd for the kernel's own faults",
    )?);
    let mut api = [0xaa_u64, 0, 0];
    sys!(libc::SYS_ioctl, fd.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()).context("UFFDIO_API")?;
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    let page = sys!(libc::SYS_mmap, 0, PAGE, protection, flags, -1, 0)? as u64;
    let mut register = [page, PAGE as u64, 1, 0];
    sys!(libc::SYS_ioctl, fd.as_raw_fd(), UFFDIO_REGISTER, register.as_mut_ptr())
        .context("UFFDIO_REGISTER")?;
    let mut content = vec![0_u8; PAGE];
    let path = cpath(target.secret());
    content[..path.as_bytes().len()].copy_from_slice(path.as_bytes());
    let handler = thread::spawn(move || -> Result<()> {
        let mut message = [0_u8; 32];
        sys!(libc::SYS_read, fd.as_raw_fd(), message.as_mut_ptr(), message.len())?;
        let mut copy = [page, content.as_ptr() as u64, PAGE as u64, 0, 0];
        sys!(libc::SYS_ioctl, fd.as_raw_fd(), UFFDIO_COPY, copy.as_mut_ptr())?;
        Ok(())
    });
    let opened = sys!(libc::SYS_openat, libc::AT_FDCWD, page, libc::O_RDONLY | libc::O_CLOEXEC, 0);
    handler.join().map_err(|panic| anyhow::anyhow!("the handler panicked: {panic:?}"))??;
    read_fd(&sys::owned(opened?))
}
