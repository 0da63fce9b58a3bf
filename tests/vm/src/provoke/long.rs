//! Paths at and beyond the bounds of a resolver: 4,000 bytes, more than 4,096, hundreds of levels.

use std::{fs, os::unix::ffi::OsStrExt};

use anyhow::{Result, ensure};
use defenseclaw::model::{Access, Action, EventKind, KernelPath};

use super::Stage;
use crate::{
    sys::{self, c, sys},
    truth::{PathRule, kernel_path},
};

/// Goes down into a new directory of this name.
fn descend(name: &str) -> Result<()> {
    sys!(libc::SYS_mkdirat, libc::AT_FDCWD, c(name).as_ptr(), 0o755)?;
    std::env::set_current_dir(name)?;
    Ok(())
}

/// Makes `name` here, opens it for reading, and claims it as `full`.
fn open_here(stage: &mut Stage, step: &str, name: &str, full: &[u8], rule: PathRule) -> Result<()> {
    fs::write(name, b"x")?;
    let fd = sys::owned(sys!(libc::SYS_openat, libc::AT_FDCWD, c(name).as_ptr(), libc::O_RDONLY)?);
    let truncated = rule == PathRule::Tail;
    let file = Stage::file_behind(&fd, KernelPath { truncated, ..kernel_path(full) })?;
    stage.claim(step, "openat", Action::FileOpen { file, access: Access::READ }).path(rule);
    Ok(())
}

pub(crate) fn paths(stage: &mut Stage) -> Result<()> {
    let mut full = stage.dir.as_os_str().as_bytes().to_vec();
    for (step, total, rule) in [
        ("1,000 bytes", 1000, PathRule::Exact),
        ("4,000 bytes", 4000, PathRule::Exact),
        ("4,090 bytes", 4090, PathRule::Exact),
        ("4,500 bytes", 4500, PathRule::Tail),
        ("9,000 bytes", 9000, PathRule::Tail),
    ] {
        // Room for a last component of at least one byte behind its slash.
        while full.len() + 202 < total {
            let name = "p".repeat(199);
            descend(&name)?;
            full.push(b'/');
            full.extend_from_slice(name.as_bytes());
        }
        let name = "f".repeat(total - full.len() - 1);
        let path = [&full[..], b"/", name.as_bytes()].concat();
        ensure!(path.len() == total, "{step}: made {} bytes", path.len());
        open_here(stage, step, &name, &path, rule)?;
    }
    Ok(())
}

pub(crate) fn depth(stage: &mut Stage) -> Result<()> {
    stage.close(&[EventKind::DirMake, EventKind::FileCreate]);
    let mut full = stage.dir.as_os_str().as_bytes().to_vec();
    for level in 1..=600 {
        let name = format!("{}", level % 10);
        descend(&name)?;
        full.push(b'/');
        full.extend_from_slice(name.as_bytes());
        if [30, 100, 600].contains(&level) {
            let path = [&full[..], b"/file"].concat();
            let rule = if level == 600 { PathRule::ExactOrTail } else { PathRule::Exact };
            open_here(stage, &format!("{level} levels"), "file", &path, rule)?;
        }
    }
    Ok(())
}
