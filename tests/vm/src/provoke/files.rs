//! Changes of names, modes, owners and lengths, by every system call that makes them.

use std::{
    fs,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::Path,
};

use anyhow::{Result, ensure};
use defenseclaw::model::{Access, Action, FileRef};

use super::Stage;
use crate::{
    sys::{self, c, sys},
    truth::kernel_path,
};

/// Descriptor of the directory of the case, which is not an event below it.
fn directory(stage: &Stage) -> Result<std::os::fd::OwnedFd> {
    Ok(sys::owned(sys!(
        libc::SYS_openat,
        libc::AT_FDCWD,
        c(stage.dir.as_os_str().as_bytes()).as_ptr(),
        libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC
    )?))
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

pub(crate) fn unlink(stage: &mut Stage) -> Result<()> {
    stage.close(&[]);
    let dir = directory(stage)?;
    let removed = |stage: &mut Stage, step: &str, call: &str, file: FileRef, given: &[u8]| {
        stage.claim(step, call, Action::FileUnlink { file }).given(given).result(0);
    };
    let path = stage.make("absolute")?;
    let file = Stage::file_at(&path)?;
    sys!(libc::SYS_unlink, c(bytes(&path)).as_ptr())?;
    removed(stage, "unlink", "unlink", file, bytes(&path));

    let file = Stage::file_at(&stage.make("relative")?)?;
    sys!(libc::SYS_unlink, c"./relative".as_ptr())?;
    removed(stage, "unlink, relative", "unlink", file, b"./relative");

    let file = Stage::file_at(&stage.make("at")?)?;
    sys!(libc::SYS_unlinkat, dir.as_raw_fd(), c"at".as_ptr(), 0)?;
    removed(stage, "unlinkat", "unlinkat", file, b"at");

    // One of two names: the file lives on.
    let path = stage.make("kept")?;
    let second = stage.path("second");
    fs::hard_link(&path, &second)?;
    let file = Stage::file_at(&path)?;
    stage
        .claim("second name", "linkat", Action::FileLink { file, to: kernel_path(bytes(&second)) })
        .given(bytes(&path))
        .given_to(bytes(&second))
        .result(0);
    let file = Stage::file_at(&second)?;
    sys!(libc::SYS_unlink, c(bytes(&second)).as_ptr())?;
    removed(stage, "unlink of a second name", "unlink", file, bytes(&second));

    // The link goes, not what it points to.
    let link = symlink(stage, "pointer", b"kept", "to be removed")?;
    let file = Stage::file_at(&link)?;
    sys!(libc::SYS_unlink, c(bytes(&link)).as_ptr())?;
    removed(stage, "unlink of a symlink", "unlink", file, bytes(&link));
    Ok(())
}

/// Makes a symbolic link in the directory of the case and claims it.
fn symlink(stage: &mut Stage, name: &str, target: &[u8], step: &str) -> Result<std::path::PathBuf> {
    let path = stage.path(name);
    sys!(libc::SYS_symlinkat, c(target).as_ptr(), libc::AT_FDCWD, c(bytes(&path)).as_ptr())?;
    let action = Action::FileSymlink { path: kernel_path(bytes(&path)), target: target.into() };
    stage.claim(&format!("symlink {step}"), "symlinkat", action).given(bytes(&path)).result(0);
    Ok(path)
}

pub(crate) fn rename(stage: &mut Stage) -> Result<()> {
    stage.close(&[]);
    let dir = directory(stage)?;
    let fd = dir.as_raw_fd();
    stage.make_dir("sub")?;
    let mut renamed = |step: &str,
                       call: &str,
                       flags: u32,
                       to: &str,
                       run: &dyn Fn(&str, &str) -> Result<()>|
     -> Result<()> {
        let from = stage.make(step)?;
        let file = Stage::file_at(&from)?;
        run(step, to)?;
        let to_path = kernel_path(bytes(&stage.path(to)));
        stage
            .claim(step, call, Action::FileRename { file, to: to_path, flags })
            .given(step)
            .given_to(to)
            .result(0);
        Ok(())
    };
    renamed("rename", "rename", 0, "renamed", &|from, to| {
        sys!(libc::SYS_rename, c(from).as_ptr(), c(to).as_ptr())?;
        Ok(())
    })?;
    renamed("renameat", "renameat", 0, "sub/moved", &|from, to| {
        sys!(libc::SYS_renameat, fd, c(from).as_ptr(), fd, c(to).as_ptr())?;
        Ok(())
    })?;
    renamed("over another", "rename", 0, "renamed", &|from, to| {
        sys!(libc::SYS_rename, c(from).as_ptr(), c(to).as_ptr())?;
        Ok(())
    })?;
    renamed("NOREPLACE", "renameat2", libc::RENAME_NOREPLACE, "sub/new", &|from, to| {
        sys!(libc::SYS_renameat2, fd, c(from).as_ptr(), fd, c(to).as_ptr(), libc::RENAME_NOREPLACE)?;
        Ok(())
    })?;
    renamed("EXCHANGE", "renameat2", libc::RENAME_EXCHANGE, "sub/moved", &|from, to| {
        sys!(libc::SYS_renameat2, fd, c(from).as_ptr(), fd, c(to).as_ptr(), libc::RENAME_EXCHANGE)?;
        Ok(())
    })?;

    let moved = stage.make_dir("directory")?;
    let file = Stage::file_at(&moved)?;
    sys!(libc::SYS_rename, c"directory".as_ptr(), c"sub/directory".as_ptr())?;
    let to = kernel_path(bytes(&stage.path("sub/directory")));
    stage
        .claim("rename of a directory", "rename", Action::FileRename { file, to, flags: 0 })
        .given("directory")
        .given_to("sub/directory")
        .result(0);
    Ok(())
}

pub(crate) fn link(stage: &mut Stage) -> Result<()> {
    stage.close(&[]);
    let path = stage.make("file")?;
    let file = Stage::file_at(&path)?;
    let linked = |stage: &mut Stage, step: &str, call: &str, given: &[u8], to: &str| {
        let action = Action::FileLink { file: file.clone(), to: kernel_path(bytes(&stage.path(to))) };
        stage.claim(step, call, action).given(given).given_to(to).result(0);
    };
    sys!(libc::SYS_link, c"file".as_ptr(), c"one".as_ptr())?;
    linked(stage, "link", "link", b"file", "one");
    sys!(libc::SYS_linkat, libc::AT_FDCWD, c"./file".as_ptr(), libc::AT_FDCWD, c"two".as_ptr(), 0)?;
    linked(stage, "linkat", "linkat", b"./file", "two");

    let fd = fs::File::open(&path)?;
    stage.claim(
        "open for link",
        "openat",
        Action::FileOpen { file: Stage::file_at(&path)?, access: Access::READ },
    );
    let proc_path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let (at, follow) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
    sys!(libc::SYS_linkat, at, c(&proc_path).as_ptr(), at, c"three".as_ptr(), follow)?;
    linked(stage, "linkat by /proc/self/fd", "linkat", proc_path.as_bytes(), "three");
    sys!(libc::SYS_linkat, fd.as_raw_fd(), c"".as_ptr(), at, c"four".as_ptr(), libc::AT_EMPTY_PATH)?;
    linked(stage, "linkat of a descriptor", "linkat", b"", "four");

    let symbolic = |stage: &mut Stage, step: &str, call: &str, target: &[u8], name: &str| {
        let action =
            Action::FileSymlink { path: kernel_path(bytes(&stage.path(name))), target: target.into() };
        stage.claim(step, call, action).given(name).result(0);
    };
    sys!(libc::SYS_symlink, c"/etc/passwd".as_ptr(), c"five".as_ptr())?;
    symbolic(stage, "symlink", "symlink", b"/etc/passwd", "five");
    let odd = b"../not there\n\xff";
    sys!(libc::SYS_symlinkat, c(odd).as_ptr(), at, c"six".as_ptr())?;
    symbolic(stage, "symlinkat", "symlinkat", odd, "six");
    Ok(())
}

pub(crate) fn mode(stage: &mut Stage) -> Result<()> {
    stage.close(&[]);
    let changed =
        |stage: &mut Stage, step: &str, call: &str, path: &Path, mode: u32, given: &[u8]| -> Result<()> {
            let action = Action::FileChmod { file: Stage::file_at(path)?, mode };
            stage.claim(step, call, action).given(given).result(0);
            Ok(())
        };
    let path = stage.make("chmod")?;
    sys!(libc::SYS_chmod, c"chmod".as_ptr(), 0o640)?;
    changed(stage, "chmod", "chmod", &path, 0o640, b"chmod")?;
    sys!(libc::SYS_chmod, c"chmod".as_ptr(), 0o4755)?;
    changed(stage, "chmod with set-user-id", "chmod", &path, 0o4755, b"chmod")?;

    let path = stage.make("fchmodat")?;
    sys!(libc::SYS_fchmodat, libc::AT_FDCWD, c"fchmodat".as_ptr(), 0o600)?;
    changed(stage, "fchmodat", "fchmodat", &path, 0o600, b"fchmodat")?;

    let path = stage.make("fchmod")?;
    let file = fs::OpenOptions::new().write(true).open(&path)?;
    let opened = Action::FileOpen { file: Stage::file_at(&path)?, access: Access::WRITE };
    stage.claim("open for fchmod", "openat", opened);
    sys!(libc::SYS_fchmod, file.as_raw_fd(), 0o700)?;
    changed(stage, "fchmod", "fchmod", &path, 0o700, b"")?;

    let path = stage.make("fchmodat2")?;
    // Linux 6.6.
    let result = sys!(452, libc::AT_FDCWD, c"fchmodat2".as_ptr(), 0o604, 0);
    if sys::errno(&result) == libc::ENOSYS {
        stage.skip("fchmodat2", "fchmodat2", "this kernel has no fchmodat2");
    } else {
        result?;
        changed(stage, "fchmodat2", "fchmodat2", &path, 0o604, b"fchmodat2")?;
    }

    let path = stage.make_dir("directory")?;
    sys!(libc::SYS_chmod, c(bytes(&path)).as_ptr(), 0o711)?;
    changed(stage, "chmod of a directory", "chmod", &path, 0o711, bytes(&path))?;
    Ok(())
}

pub(crate) fn owner(stage: &mut Stage) -> Result<()> {
    stage.close(&[]);
    let changed = |stage: &mut Stage,
                   call: &str,
                   path: &Path,
                   ids: (Option<u32>, Option<u32>),
                   given: &[u8]|
     -> Result<()> {
        let action = Action::FileChown { file: Stage::file_at(path)?, owner: ids.0, group: ids.1 };
        stage.claim(call, call, action).given(given).result(0);
        Ok(())
    };
    let path = stage.make("chown")?;
    sys!(libc::SYS_chown, c"chown".as_ptr(), 1234, 5678)?;
    changed(stage, "chown", &path, (Some(1234), Some(5678)), b"chown")?;

    let path = stage.make("fchownat")?;
    sys!(libc::SYS_fchownat, libc::AT_FDCWD, c"fchownat".as_ptr(), u32::MAX, 99, 0)?;
    changed(stage, "fchownat", &path, (None, Some(99)), b"fchownat")?;

    let path = stage.make("fchown")?;
    let file = fs::OpenOptions::new().write(true).open(&path)?;
    let opened = Action::FileOpen { file: Stage::file_at(&path)?, access: Access::WRITE };
    stage.claim("open for fchown", "openat", opened);
    sys!(libc::SYS_fchown, file.as_raw_fd(), 77, u32::MAX)?;
    changed(stage, "fchown", &path, (Some(77), None), b"")?;

    let link = symlink(stage, "lchown", b"chown", "to own")?;
    sys!(libc::SYS_lchown, c"lchown".as_ptr(), 55, 66)?;
    changed(stage, "lchown", &link, (Some(55), Some(66)), b"lchown")?;
    Ok(())
}

pub(crate) fn length(stage: &mut Stage) -> Result<()> {
    stage.close(&[]);
    let changed =
        |stage: &mut Stage, step: &str, call: &str, path: &Path, length: u64, given: &[u8]| -> Result<()> {
            let action = Action::FileTruncate { file: Stage::file_at(path)?, length: Some(length) };
            stage.claim(step, call, action).given(given).result(0);
            Ok(())
        };
    let path = stage.make("truncate")?;
    sys!(libc::SYS_truncate, c"truncate".as_ptr(), 3)?;
    changed(stage, "truncate", "truncate", &path, 3, b"truncate")?;

    let path = stage.make("ftruncate")?;
    let file = fs::OpenOptions::new().write(true).open(&path)?;
    let opened = Action::FileOpen { file: Stage::file_at(&path)?, access: Access::WRITE };
    stage.claim("open for ftruncate", "openat", opened);
    sys!(libc::SYS_ftruncate, file.as_raw_fd(), 70_000)?;
    changed(stage, "ftruncate", "ftruncate", &path, 70_000, b"")?;
    Ok(())
}

pub(crate) fn directories(stage: &mut Stage) -> Result<()> {
    stage.close(&[]);
    let dir = directory(stage)?;
    let made = |stage: &mut Stage, step: &str, call: &str, name: &str, mode: u32| {
        let action = Action::DirMake { path: kernel_path(bytes(&stage.path(name))), mode };
        stage.claim(step, call, action).given(name).result(0);
    };
    sys!(libc::SYS_mkdir, c"one".as_ptr(), 0o750)?;
    made(stage, "mkdir", "mkdir", "one", 0o750);
    sys!(libc::SYS_mkdirat, dir.as_raw_fd(), c"two".as_ptr(), 0o700)?;
    made(stage, "mkdirat", "mkdirat", "two", 0o700);
    sys!(libc::SYS_mkdirat, dir.as_raw_fd(), c"two/three".as_ptr(), 0o1777)?;
    made(stage, "mkdirat, sticky", "mkdirat", "two/three", 0o1777);

    let removed = |stage: &mut Stage, step: &str, call: &str, file: FileRef, given: &str| {
        stage.claim(step, call, Action::DirRemove { file }).given(given).result(0);
    };
    let file = Stage::file_at(&stage.path("one"))?;
    sys!(libc::SYS_rmdir, c"one".as_ptr())?;
    removed(stage, "rmdir", "rmdir", file, "one");
    let file = Stage::file_at(&stage.path("two/three"))?;
    sys!(libc::SYS_unlinkat, dir.as_raw_fd(), c"two/three".as_ptr(), libc::AT_REMOVEDIR)?;
    removed(stage, "unlinkat with AT_REMOVEDIR", "unlinkat", file, "two/three");

    let failed = sys!(libc::SYS_mkdir, c"two".as_ptr(), 0o755);
    ensure!(sys::errno(&failed) == libc::EEXIST, "mkdir of what exists: {failed:?}");
    Ok(())
}

pub(crate) fn nodes(stage: &mut Stage) -> Result<()> {
    stage.close(&[]);
    // Made by name alone: whether the vantage point knows the inode of what does not exist yet is its business.
    let nameless =
        |stage: &Stage, name: &str| FileRef { path: kernel_path(bytes(&stage.path(name))), dev: 0, ino: 0 };
    let made = |stage: &mut Stage, step: &str, call: &str, name: &str| {
        let create = Action::FileCreate { file: nameless(stage, name), access: Access::CREATE };
        let bare = Action::FileCreate { file: nameless(stage, name), access: Access::empty() };
        stage.claim(step, call, create).or(bare).given(name).result(0);
    };
    sys!(libc::SYS_mknod, c"fifo".as_ptr(), libc::S_IFIFO | 0o600, 0)?;
    made(stage, "mknod of a fifo", "mknod", "fifo");
    sys!(libc::SYS_mknodat, libc::AT_FDCWD, c"socket".as_ptr(), libc::S_IFSOCK | 0o600, 0)?;
    made(stage, "mknodat of a socket", "mknodat", "socket");
    let null = libc::makedev(1, 3);
    let result = sys!(libc::SYS_mknodat, libc::AT_FDCWD, c"null".as_ptr(), libc::S_IFCHR | 0o666, null);
    if result.is_ok() {
        made(stage, "mknodat of a device", "mknodat", "null");
    } else {
        stage.skip("mknodat of a device", "mknod_device", format!("mknodat: {result:?}"));
    }
    sys!(libc::SYS_mknodat, libc::AT_FDCWD, c"regular".as_ptr(), libc::S_IFREG | 0o600, 0)?;
    made(stage, "mknodat of a regular file", "mknodat", "regular");
    stage.truth.claims.last_mut().expect("just claimed").blind("blind/mknod_regular");
    Ok(())
}
