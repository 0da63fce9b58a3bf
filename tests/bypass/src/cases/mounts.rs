//! Other places for the same file: bind mounts, detached trees, overlays, changed roots. Under this policy mounting is
//! allowed, so that the object itself must be recognised.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use anyhow::{Context, Result};

use super::{
    Case, Proof, Target, case,
    steps::{mount, or_unsupported, own_mounts, read, read_at, unsupported},
};
use crate::{
    arena::Class::Files,
    sys::{self, c, cpath, sys},
};

pub(super) const CASES: &[Case] = &[
    case("bind-mount-file", Files, Proof::Secret, |target| {
        own_mounts()?;
        fs::write("alias", "")?;
        mount(&target.secret(), Path::new("alias"), "none", libc::MS_BIND, "")?;
        read("alias")
    }),
    case("bind-mount-directory", Files, Proof::Secret, |target| {
        own_mounts()?;
        fs::create_dir("alias")?;
        mount(&target.dir, Path::new("alias"), "none", libc::MS_BIND | libc::MS_REC, "")?;
        read("alias/secret")
    }),
    case("bind-mount-earlier", Files, Proof::Secret, |target| read(target.work.join("alias/secret"))).set_up(
        |target| {
            on_own_machine(target)?;
            let alias = target.work.join("alias");
            fs::create_dir(&alias)?;
            Ok(mount(&target.dir, &alias, "none", libc::MS_BIND, "")?)
        },
    ),
    case("move-mount", Files, Proof::Secret, |target| {
        own_mounts()?;
        fs::create_dir("alias")?;
        move_to(&tree(&target.dir)?, &target.work.join("alias"))?;
        read("alias/secret")
    }),
    case("detached-mount", Files, Proof::Secret, |target| {
        own_mounts()?;
        read_at(&tree(&target.dir)?, "secret")
    })
    .nameless(),
    case("overlay-mount", Files, Proof::Secret, |target| {
        own_mounts()?;
        for name in ["upper", "scratch", "merged"] {
            fs::create_dir(name)?;
        }
        let here = target.work.display();
        let layers = format!(
            "lowerdir={},upperdir={here}/upper,workdir={here}/scratch,userxattr",
            target.dir.display()
        );
        let mounted = mount(Path::new("overlay"), Path::new("merged"), "overlay", 0, &layers);
        or_unsupported(mounted, &[libc::ENODEV, libc::EINVAL], "overlay")?;
        read("merged/secret")
    }),
    case("overlay-copy-up", Files, Proof::Secret, |target| {
        // What policy lets through copies the file to the upper layer, where it is another one.
        let merged = target.dir.join("merged");
        let _ = fs::OpenOptions::new().append(true).open(merged.join("neighbour")).map(drop);
        let _ = filetime(&merged.join("secret"));
        read(merged.join("secret"))
    })
    .set_up(overlay),
    case("overlay-lower-layer", Files, Proof::Secret, |target| {
        read(target.arena.root.join("layers").join(&target.id).join(place(target)).join("lower/secret"))
    })
    .set_up(overlay),
    case("chroot", Files, Proof::Secret, |target| {
        if !nix::unistd::geteuid().is_root() {
            super::steps::user_namespace()?;
        }
        nix::unistd::chroot(&target.dir)?;
        std::env::set_current_dir("/")?;
        read("/secret")
    }),
    case("pivot-root", Files, Proof::Secret, |target| {
        own_mounts()?;
        fs::create_dir("alias")?;
        mount(&target.dir, Path::new("alias"), "none", libc::MS_BIND, "")?;
        std::env::set_current_dir("alias")?;
        let here = c(".");
        // Both roots at one place: the old one is below the new one and can be left there.
        sys!(libc::SYS_pivot_root, here.as_ptr(), here.as_ptr()).context("pivot_root")?;
        read("/secret").or_else(|_| read("secret"))
    }),
    case("umount", Files, Proof::Secret, |target| {
        // Whoever hides a file under a mount can be answered by taking the mount away.
        own_mounts()?;
        mount(Path::new("none"), &target.dir, "tmpfs", 0, "")?;
        let dir = cpath(&target.dir);
        sys!(libc::SYS_umount2, dir.as_ptr(), libc::MNT_DETACH)?;
        read(target.secret())
    }),
];

fn on_own_machine(target: &Target) -> Result<()> {
    if target.arena.own_machine {
        return Ok(());
    }
    unsupported("mounts a file system, and this machine is not the suite's own")
}

/// A copy of a mount that stands nowhere.
fn tree(path: &Path) -> Result<OwnedFd> {
    let (path, flags) = (cpath(path), 1 | libc::O_CLOEXEC | libc::AT_RECURSIVE);
    let fd = sys!(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags);
    Ok(sys::owned(or_unsupported(fd, &[libc::ENOSYS], "open_tree")?))
}

fn move_to(tree: &OwnedFd, path: &Path) -> Result<()> {
    let (empty, path, from_empty) = (c(""), cpath(path), 4);
    let at = libc::AT_FDCWD;
    sys!(libc::SYS_move_mount, tree.as_raw_fd(), empty.as_ptr(), at, path.as_ptr(), from_empty)
        .context("move_mount")?;
    Ok(())
}

fn filetime(path: &Path) -> std::io::Result<i64> {
    let (path, times) = (cpath(path), [[1_i64, 1], [1, 1]]);
    sys!(libc::SYS_utimensat, libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), 0)
}

fn place(target: &Target) -> String {
    format!("{}{}", target.tree.name(), target.side.suffix())
}

/// An overlay at `merged` of this directory, made before the session.
fn overlay_at(merged: &Path, layers: &Path, secret: &Path) -> Result<()> {
    for directory in [merged, &layers.join("lower"), &layers.join("upper"), &layers.join("scratch")] {
        fs::create_dir_all(directory)?;
    }
    fs::copy(secret, layers.join("lower/secret"))?;
    fs::write(layers.join("lower/neighbour"), "neighbour")?;
    let layers = layers.display();
    let data = format!("lowerdir={layers}/lower,upperdir={layers}/upper,workdir={layers}/scratch");
    or_unsupported(mount(Path::new("overlay"), merged, "overlay", 0, &data), &[libc::ENODEV], "overlay")
}

fn overlay(target: &Target) -> Result<()> {
    on_own_machine(target)?;
    let layers = target.arena.root.join("layers").join(&target.id).join(place(target));
    overlay_at(&target.dir.join("merged"), &layers, &target.secret())
}
