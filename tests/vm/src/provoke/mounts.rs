//! The mount tree, in mount namespaces of their own: the changes themselves, and the paths of what lies behind them.

use std::{
    fs,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::Path,
};

use anyhow::{Context, Result};
use defenseclaw::model::{Access, Action, KernelPath, MountOp, NamespaceOp, Namespaces, Text};
use nix::sched::{CloneFlags, unshare};

use super::Stage;
use crate::{
    sys::{self, c, sys},
    truth::{Claim, PathRule, kernel_path, switched},
};

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// Calls mount(2) and claims it for the mount point `target`.
fn mount(
    stage: &mut Stage,
    step: &str,
    source: Option<&str>,
    target: &Path,
    filesystem: Option<&str>,
    flags: libc::c_ulong,
) -> Result<()> {
    let text = |text: Option<&str>| text.map(c);
    let (source_text, filesystem_text) = (text(source), text(filesystem));
    let pointer =
        |text: &Option<std::ffi::CString>| text.as_ref().map_or(std::ptr::null(), |text| text.as_ptr());
    sys!(
        libc::SYS_mount,
        pointer(&source_text),
        c(bytes(target)).as_ptr(),
        pointer(&filesystem_text),
        flags,
        std::ptr::null::<u8>()
    )
    .with_context(|| format!("mount for {step}"))?;
    changed(stage, step, "mount", MountOp::Mount, bytes(target), source, filesystem, flags)
        .given(bytes(target));
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "one for each field of the event")]
fn changed<'a>(
    stage: &'a mut Stage,
    step: &str,
    call: &str,
    operation: MountOp,
    target: &[u8],
    source: Option<&str>,
    filesystem: Option<&str>,
    flags: libc::c_ulong,
) -> &'a mut Claim {
    let text = |text: Option<&str>| text.map(Text::from).unwrap_or_default();
    let action = Action::Mount {
        operation,
        target: kernel_path(target),
        source: text(source),
        filesystem: text(filesystem),
        flags,
    };
    stage.claim(step, call, action).result(0)
}

/// A mount namespace whose changes stay in it.
fn own_namespace(stage: &mut Stage) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let [first, second] = switched(Namespaces::MOUNT, NamespaceOp::Unshare);
    stage.claim("own mount namespace", "unshare", first).or(second).result(0);
    mount(stage, "private propagation", None, Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE)
}

pub(crate) fn mounts(stage: &mut Stage) -> Result<()> {
    stage.make_dir("m")?;
    stage.make_dir("bind")?;
    stage.make_dir("real")?;
    let real = stage.make("real/file")?;
    let other = stage.make("real/other")?;
    let single = stage.make("single")?;
    let (m, bind) = (stage.path("m"), stage.path("bind"));
    own_namespace(stage)?;

    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    mount(stage, "tmpfs", Some("source of m"), &m, Some("tmpfs"), flags)?;
    let inside = stage.make("m/file")?;
    stage.reads("file on a tmpfs", bytes(&inside), bytes(&inside))?;

    // Three mounts deep, two of them at the root of another.
    let (second, third) = (stage.make_dir("m/second")?, stage.path("m/second/third"));
    mount(stage, "tmpfs in a tmpfs", Some("2"), &second, Some("tmpfs"), 0)?;
    stage.make_dir("m/second/third")?;
    mount(stage, "third tmpfs", Some("3"), &third, Some("tmpfs"), 0)?;
    let deep = stage.make("m/second/third/file")?;
    stage.reads("three mounts deep", bytes(&deep), bytes(&deep))?;
    let up = [bytes(&third), b"/../../second/third/file"].concat();
    stage.reads("up across mounts", up, bytes(&deep))?;

    let source = stage.path("real");
    mount(stage, "bind", source.to_str(), &bind, None, libc::MS_BIND)?;
    stage.reads("through a bind mount", bytes(&bind.join("file")), bytes(&bind.join("file")))?;
    stage.reads("beside the bind mount", bytes(&real), bytes(&real))?;
    mount(stage, "bind of a file", other.to_str(), &single, None, libc::MS_BIND)?;
    stage.reads("through a bind mount of a file", bytes(&single), bytes(&single))?;

    // Covered: what lies below is not reachable by name, but by descriptor.
    let below = fs::File::open(&source)?;
    mount(stage, "cover", Some("cover"), &source, Some("tmpfs"), 0)?;
    let fd = sys::owned(sys!(libc::SYS_openat, below.as_raw_fd(), c"other".as_ptr(), libc::O_RDONLY)?);
    let file = Stage::file_behind(&fd, kernel_path(bytes(&other)))?;
    stage.claim("below a mount", "openat", Action::FileOpen { file, access: Access::READ });

    // Unmounted while in use: there is no path any more.
    let held = fs::File::open(&third)?;
    let umount = |stage: &mut Stage, step: &str, path: &Path, flags: i32| -> Result<()> {
        sys!(libc::SYS_umount2, c(bytes(path)).as_ptr(), flags)
            .with_context(|| format!("umount for {step}"))?;
        changed(stage, step, "umount2", MountOp::Umount, bytes(path), None, None, flags as libc::c_ulong)
            .given(bytes(path));
        Ok(())
    };
    umount(stage, "lazy umount", &third, libc::MNT_DETACH)?;
    let fd = sys::owned(sys!(libc::SYS_openat, held.as_raw_fd(), c"file".as_ptr(), libc::O_RDONLY)?);
    let file = Stage::file_behind(&fd, KernelPath { unresolved: true, ..kernel_path("file") })?;
    stage
        .claim("file of a detached mount", "openat", Action::FileOpen { file, access: Access::READ })
        .path(PathRule::Pseudo);
    umount(stage, "umount", &second, 0)?;

    let target = stage.path("bind");
    umount(stage, "umount of the bind", &target, 0)?;
    // move_mount(2), first of a mount that has a place, then of one that has none yet.
    sys!(
        libc::SYS_move_mount,
        libc::AT_FDCWD,
        c(bytes(&m)).as_ptr(),
        libc::AT_FDCWD,
        c(bytes(&target)).as_ptr(),
        0
    )?;
    let source = m.to_str();
    changed(stage, "move_mount", "move_mount", MountOp::Move, bytes(&target), source, None, 0)
        .given(bytes(&target));
    let moved = target.join("file");
    stage.reads("file on the moved mount", bytes(&moved), bytes(&moved))?;

    let clone = sys::owned(sys!(
        libc::SYS_open_tree,
        libc::AT_FDCWD,
        c(bytes(&target)).as_ptr(),
        libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC
    )?);
    let fd = sys::owned(sys!(libc::SYS_openat, clone.as_raw_fd(), c"file".as_ptr(), libc::O_RDONLY)?);
    let file = Stage::file_behind(&fd, KernelPath { unresolved: true, ..kernel_path("file") })?;
    stage
        .claim("file of a mount without place", "openat", Action::FileOpen { file, access: Access::READ })
        .path(PathRule::Pseudo);
    drop(fd);
    sys!(
        libc::SYS_move_mount,
        clone.as_raw_fd(),
        c"".as_ptr(),
        libc::AT_FDCWD,
        c(bytes(&m)).as_ptr(),
        // MOVE_MOUNT_F_EMPTY_PATH
        4
    )?;
    changed(stage, "move_mount of a detached tree", "move_mount", MountOp::Move, bytes(&m), None, None, 0)
        .given(bytes(&m));
    Ok(())
}

pub(crate) fn roots(stage: &mut Stage) -> Result<()> {
    stage.make_dir("jail")?;
    let inside = stage.make("jail/file")?;
    let second = stage.make("jail/second")?;
    let jail = stage.path("jail");
    stage.in_child("chroot", |stage| {
        nix::unistd::chroot(&jail)?;
        changed(stage, "chroot", "chroot", MountOp::Chroot, bytes(&jail), None, None, 0).given(bytes(&jail));
        std::env::set_current_dir("/")?;
        stage.reads("file in a chroot", "/file", bytes(&inside))?;
        stage.reads("up from a chroot", "/../../second", bytes(&second))?;
        Ok(())
    })?;

    stage.make_dir("new-root")?;
    let root = stage.path("new-root");
    stage
        .in_child("pivot_root", |stage| {
            own_namespace(stage)?;
            mount(stage, "new root", Some("new root"), &root, Some("tmpfs"), 0)?;
            stage.make_dir("new-root/old")?;
            stage.make("new-root/file")?;
            let old = root.join("old");
            sys!(libc::SYS_pivot_root, c(bytes(&root)).as_ptr(), c(bytes(&old)).as_ptr())?;
            changed(
                stage,
                "pivot_root",
                "pivot_root",
                MountOp::PivotRoot,
                bytes(&root),
                old.to_str(),
                None,
                0,
            )
            .given(bytes(&root));
            std::env::set_current_dir("/")?;
            // The tree now begins at the tmpfs, and what was everything is below it.
            stage.reads("file in the new root", "/file", "/file")?;
            let below = [b"/old", bytes(&inside)].concat();
            stage.reads("file of the old root", &below, &below)?;
            Ok(())
        })
        .or_else(|error| {
            // The root of an initramfs cannot be pivoted.
            let text = format!("{error:#}");
            if text.contains("Invalid argument") || text.contains("EINVAL") {
                stage.skip("pivot_root", "pivot_root", text);
                return Ok(0);
            }
            Err(error)
        })?;
    Ok(())
}
