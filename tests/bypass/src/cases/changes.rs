//! Changing a protected object, or putting something in its place, by every call that does.

use std::{
    fs,
    io::Write,
    os::{
        fd::AsRawFd,
        unix::{
            ffi::OsStrExt,
            fs::{PermissionsExt, symlink},
            net::UnixListener,
        },
    },
    path::Path,
};

use anyhow::{Context, Result, ensure};

use super::{
    Case, Proof, Target, case,
    steps::{or_unsupported, read},
};
use crate::{
    arena::Class::Files,
    sys::{self, c, cpath, sys},
};

pub(super) const CASES: &[Case] = &[
    case("write", Files, Proof::Changed, |target| {
        got(fs::OpenOptions::new().append(true).open(target.secret())?.write_all(b"more"))
    }),
    case("write-mmap", Files, Proof::Changed, mapped),
    case("truncate", Files, Proof::Changed, |target| {
        let path = cpath(target.secret());
        got(sys!(libc::SYS_truncate, path.as_ptr(), 3))
    }),
    case("open-truncate", Files, Proof::Changed, |target| {
        got(sys::open(target.secret(), libc::O_RDONLY | libc::O_TRUNC))
    }),
    case("chmod", Files, Proof::Changed, |target| {
        got(fs::set_permissions(target.secret(), fs::Permissions::from_mode(0o666)))
    }),
    case("chmod-o-path", Files, Proof::Changed, |target| {
        let fd = sys::open(target.secret(), libc::O_PATH)?;
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        got(fs::set_permissions(path, fs::Permissions::from_mode(0o666)))
    }),
    case("chown", Files, Proof::Changed, |target| {
        got(std::os::unix::fs::lchown(target.secret(), Some(12345), Some(12345)))
    }),
    case("utimes", Files, Proof::Changed, |target| {
        let (path, times) = (cpath(target.secret()), [[1_i64, 1], [1, 1]]);
        got(sys!(libc::SYS_utimensat, libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), 0))
    }),
    case("setxattr", Files, Proof::Changed, attribute),
    case("unlink", Files, Proof::Changed, |target| got(fs::remove_file(target.secret()))),
    case("rmdir", Files, Proof::Changed, |target| got(fs::remove_dir(target.dir.join("empty"))))
        .set_up(|target| Ok(fs::create_dir(target.dir.join("empty"))?)),
    case("rename-away", Files, Proof::Secret, |target| {
        fs::rename(target.secret(), "moved")?;
        read("moved")
    }),
    case("rename-into-place", Files, Proof::Changed, |target| {
        fs::write("mine", "mine")?;
        got(fs::rename("mine", target.secret()))
    }),
    case("rename-exchange", Files, Proof::Secret, |target| {
        fs::write("mine", "mine")?;
        exchange(Path::new("mine"), &target.secret())?;
        read("mine")
    }),
    case("create", Files, Proof::Changed, |target| got(fs::write(target.dir.join("new"), "new"))),
    case("create-directory", Files, Proof::Changed, |target| got(fs::create_dir(target.dir.join("new")))),
    case("create-symlink", Files, Proof::Changed, |target| got(symlink("/tmp", target.dir.join("new")))),
    case("create-fifo", Files, Proof::Changed, |target| {
        let path = cpath(target.dir.join("new"));
        got(sys!(libc::SYS_mknod, path.as_ptr(), libc::S_IFIFO | 0o600, 0))
    }),
    case("create-socket", Files, Proof::Changed, |target| got(UnixListener::bind(target.dir.join("new")))),
    case("create-link", Files, Proof::Changed, |target| {
        fs::write("mine", "mine")?;
        got(fs::hard_link("mine", target.dir.join("new")))
    }),
    case("create-nameless", Files, Proof::Changed, nameless),
    case("create-dangling-symlink", Files, Proof::Changed, |target| {
        symlink(target.dir.join("new"), "link")?;
        got(fs::write("link", "through a link to nothing"))
    }),
    case("hard-link", Files, Proof::Secret, |target| {
        fs::hard_link(target.secret(), "link")?;
        read("link")
    }),
    case("hard-link-descriptor", Files, Proof::Secret, |target| {
        let fd = sys::open(target.secret(), libc::O_PATH)?;
        let from = c(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let to = c("link");
        sys!(
            libc::SYS_linkat,
            libc::AT_FDCWD,
            from.as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::AT_SYMLINK_FOLLOW
        )?;
        read("link")
    }),
    case("hard-link-earlier", Files, Proof::Secret, |target| read(target.work.join("older")))
        .set_up(|target| Ok(fs::hard_link(target.secret(), target.work.join("older"))?)),
];

/// What counts is what became of the object.
fn got<T>(result: std::io::Result<T>) -> Result<Vec<u8>> {
    result?;
    Ok(b"done".to_vec())
}

pub(super) fn exchange(one: &Path, other: &Path) -> std::io::Result<()> {
    let (one, other) = (cpath(one), cpath(other));
    let (at, flags) = (libc::AT_FDCWD, libc::RENAME_EXCHANGE);
    sys!(libc::SYS_renameat2, at, one.as_ptr(), at, other.as_ptr(), flags).map(drop)
}

fn mapped(target: &Target) -> Result<Vec<u8>> {
    let file = sys::open(target.secret(), libc::O_RDWR)?;
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let at = sys!(libc::SYS_mmap, 0, 16, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)? as *mut u8;
    // SAFETY: the mapping is writable and as long as this text.
    unsafe { std::ptr::copy_nonoverlapping(b"through a mapping".as_ptr(), at, 16) };
    sys!(libc::SYS_msync, at, 16, libc::MS_SYNC)?;
    Ok(b"done".to_vec())
}

fn attribute(target: &Target) -> Result<Vec<u8>> {
    let (path, value) = (cpath(target.secret()), b"mine");
    let name = if nix::unistd::geteuid().is_root() { c("trusted.mine") } else { c("user.mine") };
    let set = sys!(
        libc::SYS_setxattr,
        path.as_ptr(),
        name.as_ptr(),
        value.as_ptr(),
        value.len(),
        libc::XATTR_CREATE
    );
    or_unsupported(set, &[libc::ENOTSUP], "setxattr")?;
    Ok(b"done".to_vec())
}

/// A file that gets its name in the protected directory only at the end.
fn nameless(target: &Target) -> Result<Vec<u8>> {
    let work = sys::cpath(&target.work);
    let flags = libc::O_TMPFILE | libc::O_WRONLY;
    let fd =
        sys::owned(sys!(libc::SYS_openat, libc::AT_FDCWD, work.as_ptr(), flags, 0o600).context("O_TMPFILE")?);
    ensure!(sys!(libc::SYS_write, fd.as_raw_fd(), b"mine".as_ptr(), 4)? == 4);
    let from = c(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    let new = target.dir.join("new");
    let to = c(new.as_os_str().as_bytes());
    let (at, follow) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
    got(sys!(libc::SYS_linkat, at, from.as_ptr(), at, to.as_ptr(), follow))
}
