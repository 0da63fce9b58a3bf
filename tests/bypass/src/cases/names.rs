//! The same file by other names: relative, through links, through `/proc`, with odd bytes, at odd depths.

use std::{
    ffi::OsStr,
    fs,
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStrExt, fs::symlink},
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{
    Case, Proof, Target, case,
    steps::{in_child, read, read_at, read_fd, unsupported},
};
use crate::{
    arena::Class::{Ancestors, Files},
    sys::{self, cpath, sys},
};

pub(super) const CASES: &[Case] = &[
    case("open", Files, Proof::Secret, |target| read(target.secret())),
    case("open-relative", Files, Proof::Secret, relative),
    case("open-dotdot", Files, Proof::Secret, |target| {
        let (dir, name) = (target.dir.display(), target.dir.file_name().unwrap_or_default().display());
        read(format!("{dir}/../{name}/.//../{name}//secret"))
    }),
    case("open-at", Files, Proof::Secret, |target| {
        read_at(&sys::open(&target.dir, libc::O_PATH | libc::O_DIRECTORY)?, "secret")
    }),
    case("openat2", Files, Proof::Secret, openat2),
    case("o-path-reopen", Files, Proof::Secret, |target| {
        let fd = sys::open(target.secret(), libc::O_PATH)?;
        read(format!("/proc/self/fd/{}", fd.as_raw_fd()))
    }),
    case("dev-fd-reopen", Files, Proof::Secret, |target| {
        let fd = sys::open(target.secret(), libc::O_PATH)?;
        sys!(libc::SYS_dup2, fd.as_raw_fd(), 0)?;
        read("/dev/stdin").or_else(|_| read("/proc/thread-self/fd/0"))
    }),
    case("directory-listing", Files, Proof::Secret, listing).set_up(|target| {
        let secret = fs::read_to_string(target.secret())?;
        Ok(fs::write(target.dir.join(secret), "")?)
    }),
    case("symlink-file", Files, Proof::Secret, |target| {
        symlink(target.secret(), "link")?;
        read("link")
    }),
    case("symlink-directory", Files, Proof::Secret, |target| {
        symlink(&target.dir, "link")?;
        read("link/secret")
    }),
    case("symlink-chain", Files, Proof::Secret, |target| {
        symlink(target.secret(), "0")?;
        for at in 1..40 {
            symlink(format!("{}", at - 1), format!("{at}"))?;
        }
        read("39")
    }),
    case("symlink-bytes", Files, Proof::Secret, |target| {
        let name = OsStr::from_bytes(b"\xff\n\x1b[2Jharmless");
        symlink(target.secret(), name)?;
        read(name)
    }),
    case("proc-self-root", Files, Proof::Secret, |target| read(in_proc("/proc/self/root", &target.secret()))),
    case("proc-self-cwd", Files, Proof::Secret, |target| {
        std::env::set_current_dir(&target.dir)?;
        read("/proc/self/cwd/secret")
    }),
    case("proc-self-fd-directory", Files, Proof::Secret, |target| {
        let fd = sys::open(&target.dir, libc::O_PATH)?;
        read(format!("/proc/thread-self/fd/{}/secret", fd.as_raw_fd()))
    }),
    case("proc-pid-root", Files, Proof::Secret, |target| {
        read(in_proc(&format!("/proc/{}/root", target.victim()?.pid), &target.secret()))
    })
    .victim(),
    case("proc-pid-cwd", Files, Proof::Secret, |target| {
        read(format!("/proc/{}/cwd/secret", target.victim()?.pid))
    })
    .victim(),
    case("proc-pid-fd", Files, Proof::Secret, |target| {
        let victim = target.victim()?;
        read(format!("/proc/{}/fd/{}", victim.pid, victim.file))
    })
    .victim(),
    case("proc-pid-fd-deleted", Files, Proof::Secret, |target| {
        let victim = target.victim()?;
        read(format!("/proc/{}/fd/{}", victim.pid, victim.deleted))
    })
    .victim(),
    case("name-bytes", Files, Proof::Secret, |target| read(target.dir.join(ODD)))
        .set_up(|target| Ok(fs::copy(target.secret(), target.dir.join(ODD)).map(drop)?)),
    case("name-deleted-suffix", Files, Proof::Secret, |target| read(target.dir.join("secret (deleted)")))
        .set_up(|target| Ok(fs::rename(target.secret(), target.dir.join("secret (deleted)"))?)),
    case("name-casefold", Files, Proof::Secret, |target| read(target.dir.join("folded/SECRET")))
        .set_up(folded),
    case("name-unicode", Files, Proof::Secret, |target| {
        // The same letter in its two encodings: one character, and a letter with a combining accent.
        read(target.dir.join("folded/cle\u{301}"))
    })
    .set_up(folded),
    case("path-long", Files, Proof::Secret, |target| read(long(target))).set_up(|target| {
        fs::create_dir_all(long(target).parent().context("parent")?)?;
        Ok(fs::copy(target.secret(), long(target)).map(drop)?)
    }),
    case("path-deep", Files, Proof::Secret, |target| read(deep(target))).set_up(|target| {
        fs::create_dir_all(deep(target).parent().context("parent")?)?;
        Ok(fs::copy(target.secret(), deep(target)).map(drop)?)
    }),
    case("path-beyond-limit", Files, Proof::Secret, |target| {
        descend(target)?;
        read("secret")
    })
    .set_up(|target| {
        let secret = fs::read(target.secret())?;
        in_child(|| {
            std::env::set_current_dir(&target.dir)?;
            for _ in 0..beyond(target) {
                let name = "n".repeat(200);
                fs::create_dir(&name)?;
                std::env::set_current_dir(&name)?;
            }
            fs::write("secret", &secret)?;
            Ok(Vec::new())
        })
        .map(drop)
    }),
    case("parent-rename", Ancestors, Proof::Secret, |target| {
        let moved = target.dir.join("moved");
        fs::rename(target.dir.join("keep"), &moved).and_then(|()| fs::rename(&moved, "moved"))?;
        read("moved/secret")
    })
    .set_up(keep),
    case("grandparent-rename", Ancestors, Proof::Secret, |target| {
        let moved = target.dir.with_extension("moved");
        fs::rename(&target.dir, &moved)?;
        read(moved.join("keep/secret"))
    })
    .set_up(keep),
];

/// A name that breaks lines, terminals and UTF-8.
const ODD: &str = "line\nbreak \u{202e}reversed\u{1b}[2J";

fn relative(target: &Target) -> Result<Vec<u8>> {
    std::env::set_current_dir(&target.dir)?;
    read("secret")
}

/// A path below another root.
fn in_proc(root: &str, path: &Path) -> PathBuf {
    Path::new(root).join(path.strip_prefix("/").unwrap_or(path))
}

/// How a path is resolved, as openat2(2) takes it.
const RESOLVE_IN_ROOT: u64 = 0x10;
const RESOLVE_BENEATH: u64 = 0x08;
const RESOLVE_NO_MAGICLINKS: u64 = 0x02;

fn openat2(target: &Target) -> Result<Vec<u8>> {
    let directory = sys::open(target.dir.parent().context("parent")?, libc::O_PATH)?;
    let name = target.dir.file_name().unwrap_or_default();
    let attempts = [
        (RESOLVE_IN_ROOT, format!("/../{}/secret", name.display())),
        (RESOLVE_BENEATH, format!("{}/secret", name.display())),
        (RESOLVE_NO_MAGICLINKS, format!("./{}//secret", name.display())),
    ];
    let mut got = Vec::new();
    for (resolve, path) in attempts {
        let (path, how) = (cpath(path), [libc::O_RDONLY as u64, 0, resolve]);
        let opened =
            sys!(libc::SYS_openat2, directory.as_raw_fd(), path.as_ptr(), how.as_ptr(), size_of_val(&how));
        got.extend(read_fd(&sys::owned(opened.context("openat2")?))?);
    }
    Ok(got)
}

/// Names in a directory, with each spelling of it.
fn listing(target: &Target) -> Result<Vec<u8>> {
    let mut names = Vec::new();
    for suffix in ["", "/", "//.", "/./"] {
        for entry in fs::read_dir(format!("{}{suffix}", target.dir.display()))? {
            names.extend(entry?.file_name().as_encoded_bytes());
        }
    }
    Ok(names)
}

/// A directory that ignores case and the encoding of letters, if the kernel has such a file system.
fn folded(target: &Target) -> Result<()> {
    if !target.arena.own_machine {
        return unsupported("mounts a file system, and this machine is not the suite's own");
    }
    let directory = target.dir.join("folded");
    fs::create_dir(&directory)?;
    if let Err(error) = super::steps::mount(Path::new("none"), &directory, "tmpfs", 0, "casefold") {
        return unsupported(format!("no file system that ignores case: {error}"));
    }
    let inner = directory.join("inner");
    fs::create_dir(&inner)?;
    let (fd, flags) = (sys::open(&directory, libc::O_RDONLY)?, 0x4000_0000_u32);
    // FS_IOC_SETFLAGS with FS_CASEFOLD_FL works on an empty directory only.
    fs::remove_dir(&inner)?;
    sys!(libc::SYS_ioctl, fd.as_raw_fd(), 0x4008_6602_u64, &raw const flags).context("casefold")?;
    fs::copy(target.secret(), directory.join("secret"))?;
    fs::copy(target.secret(), directory.join("cl\u{e9}"))?;
    Ok(())
}

/// More than 256 bytes, the length at which others cut.
fn long(target: &Target) -> PathBuf {
    target.dir.join("l".repeat(200)).join("m".repeat(200)).join("secret")
}

/// More components than the kernel side follows; the twin stays below that.
fn deep(target: &Target) -> PathBuf {
    let mut path = target.dir.clone();
    path.extend(std::iter::repeat_n("d", if target.is_open() { 40 } else { 80 }));
    path.join("secret")
}

/// So many directories with long names that no buffer for paths is long enough; fewer for the twin.
fn beyond(target: &Target) -> usize {
    if target.is_open() { 10 } else { 30 }
}

fn descend(target: &Target) -> Result<()> {
    std::env::set_current_dir(&target.dir)?;
    for _ in 0..beyond(target) {
        std::env::set_current_dir("n".repeat(200))?;
    }
    Ok(())
}

/// Puts the secret where the rule is: one directory below.
fn keep(target: &Target) -> Result<()> {
    fs::create_dir(target.dir.join("keep"))?;
    Ok(fs::rename(target.secret(), target.dir.join("keep/secret"))?)
}
