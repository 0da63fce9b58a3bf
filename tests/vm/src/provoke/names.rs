//! One file, many names; and names that are hostile or missing. The path has to be the real one, whatever was asked for.

use std::{
    fs,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use anyhow::{Result, ensure};
use defenseclaw::model::{Access, Action, EventKind, KernelPath};

use super::Stage;
use crate::{
    sys::{self, c, sys},
    truth::{PathRule, kernel_path},
};

/// Each alias opens a file of its own, so that no event can stand for two of them.
pub(crate) fn aliases(stage: &mut Stage) -> Result<()> {
    stage.close(&[EventKind::FileSymlink, EventKind::FileLink, EventKind::DirMake]);
    let dir = stage.make_dir("real")?;
    let base = stage.dir.as_os_str().as_bytes().to_vec();
    std::os::unix::fs::symlink("real", stage.path("link to directory"))?;
    std::os::unix::fs::symlink("link to directory", stage.path("second link"))?;
    let inside = |prefix: &str, name: &str| [&base[..], prefix.as_bytes(), name.as_bytes()].concat();
    let join = |parts: &[&[u8]]| parts.concat();

    let mut open = |step: &str, given: &dyn Fn(&[u8]) -> Vec<u8>| -> Result<()> {
        let name = step.replace('/', "_");
        let path = stage.make(&format!("real/{name}"))?;
        stage.reads(step, given(name.as_bytes()), path.as_os_str().as_bytes())?;
        Ok(())
    };
    open("plain", &|name| join(&[&base, b"/real/", name]))?;
    open("dots", &|name| join(&[&base, b"/real/../real/./", name]))?;
    open("slashes", &|name| join(&[b"//", &base, b"///real//", name]))?;
    open("relative dots", &|name| join(&[b"./real/.././real/", name]))?;
    open("link in the middle", &|name| join(&[&base, b"/link to directory/", name]))?;
    open("link to a link", &|name| join(&[&base, b"/second link/../real/", name]))?;
    open("/proc/self/root", &|name| join(&[b"/proc/self/root", &base, b"/real/", name]))?;
    open("/proc/self/cwd", &|name| join(&[b"/proc/self/cwd/real/", name]))?;
    open("/proc/PID/root of this thread", &|name| {
        let root = format!("/proc/{}/task/{}/root", sys::pid(), sys::tid());
        join(&[root.as_bytes(), &base, b"/real/", name])
    })?;
    let directory: OwnedFd = fs::File::open(&dir)?.into();
    let number = directory.as_raw_fd();
    open("/proc/self/fd of a directory", &|name| {
        join(&[format!("/proc/self/fd/{number}/").as_bytes(), name])
    })?;
    open("/dev/fd of a directory", &|name| {
        join(&[format!("/proc/thread-self/fd/{number}/../real/").as_bytes(), name])
    })?;

    let path = stage.make("real/target")?;
    std::os::unix::fs::symlink("real/target", stage.path("final link"))?;
    stage.reads("link at the end", inside("/", "final link"), path.as_os_str().as_bytes())?;

    // A second name is a name of its own.
    let path = stage.make("real/first")?;
    let second = stage.path("real/second");
    fs::hard_link(path, &second)?;
    stage.reads("hard link", second.as_os_str().as_bytes(), second.as_os_str().as_bytes())?;

    let path = stage.make("real/reopened")?;
    let first = fs::File::open(&path)?;
    let file = Stage::file_behind(&first, kernel_path(path.as_os_str().as_bytes()))?;
    // The plain open above and this one are the same observation, which may be counted as one.
    fs::File::open(format!("/proc/self/fd/{}", first.as_raw_fd()))?;
    stage
        .claim("/proc/self/fd of a file", "openat", Action::FileOpen { file, access: Access::READ })
        .times(crate::truth::Times::AtLeastOnce);
    let file = Stage::file_behind(&directory, kernel_path(dir.as_os_str().as_bytes()))?;
    stage.claim("the directory itself", "openat", Action::FileOpen { file, access: Access::READ });
    Ok(())
}

/// Names as the kernel allows them: every byte but `/` and NUL, up to 255.
pub(crate) fn bytes(stage: &mut Stage) -> Result<()> {
    let longest = "n".repeat(255);
    let names: [(&str, &[u8]); 9] = [
        ("space", b"a b "),
        ("newline", b"a\nb"),
        ("not UTF-8", b"\xff\xfe\x80"),
        ("cut UTF-8", b"\xe2\x82"),
        ("escape sequence", b"\x1b[31mred\x07"),
        ("quotes", b"\"'\\\\x00\\"),
        ("looks deleted", b"file (deleted)"),
        ("control", b"\x01\x7f\r\t"),
        ("255 bytes", longest.as_bytes()),
    ];
    for (step, name) in names {
        let path = stage.path(name);
        fs::write(&path, b"x")?;
        stage.reads(step, name, path.as_os_str().as_bytes())?;
    }
    let long = "m".repeat(300);
    let failed =
        sys!(libc::SYS_openat, libc::AT_FDCWD, c(&long).as_ptr(), libc::O_RDONLY | libc::O_CREAT, 0o600);
    ensure!(sys::errno(&failed) == libc::ENAMETOOLONG, "a name of 300 bytes: {failed:?}");
    for kind in [EventKind::FileOpen, EventKind::FileCreate] {
        stage.never(&format!("300 bytes: {}", kind.as_str()), kind, "mmmmmmmm");
    }
    Ok(())
}

/// Files that have lost their name, or never had one.
pub(crate) fn nameless(stage: &mut Stage) -> Result<()> {
    let path = stage.path("deleted");
    fs::write(&path, b"x")?;
    let held = fs::OpenOptions::new().read(true).write(true).open(&path)?;
    fs::remove_file(&path)?;
    let deleted = KernelPath { deleted: true, ..kernel_path(path.as_os_str().as_bytes()) };
    let file = Stage::file_behind(&held, deleted)?;
    let again = format!("/proc/self/fd/{}", held.as_raw_fd());
    fs::File::open(&again)?;
    stage.claim("deleted file", "openat", Action::FileOpen { file, access: Access::READ });

    // The directory goes while a process is in it.
    let directory = stage.path("removed directory");
    fs::create_dir(&directory)?;
    let held: OwnedFd = fs::File::open(&directory)?.into();
    fs::remove_dir(&directory)?;
    let deleted = KernelPath { deleted: true, ..kernel_path(directory.as_os_str().as_bytes()) };
    let file = Stage::file_behind(&held, deleted)?;
    let fd = sys!(libc::SYS_openat, held.as_raw_fd(), c".".as_ptr(), libc::O_RDONLY | libc::O_DIRECTORY)?;
    drop(sys::owned(fd));
    stage.claim("deleted directory", "openat", Action::FileOpen { file, access: Access::READ });

    let memory = sys::owned(sys!(libc::SYS_memfd_create, c"nameless".as_ptr(), libc::MFD_CLOEXEC)?);
    let pseudo = KernelPath { unresolved: true, ..kernel_path("memfd:nameless") };
    let file = Stage::file_behind(&memory, pseudo)?;
    fs::OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{}", memory.as_raw_fd()))?;
    let access = Access::READ | Access::WRITE;
    stage.claim("memfd", "openat", Action::FileOpen { file, access }).path(PathRule::Pseudo);

    let (read, _write) = nix::unistd::pipe()?;
    let pseudo = KernelPath { unresolved: true, ..KernelPath::default() };
    let file = Stage::file_behind(&read, pseudo)?;
    fs::OpenOptions::new().read(true).open(format!("/proc/self/fd/{}", read.as_raw_fd()))?;
    stage.claim("pipe", "openat", Action::FileOpen { file, access: Access::READ }).path(PathRule::Pseudo);

    // An ordinary file of another file system with a path of its own.
    let status = fs::File::open("/proc/self/status")?;
    let text = format!("/proc/{}/status", sys::pid());
    let file = Stage::file_behind(&status, kernel_path(text))?;
    stage.claim("file of /proc", "openat", Action::FileOpen { file, access: Access::READ });
    Ok(())
}
