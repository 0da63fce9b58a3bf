//! An `/etc` that this thread and what it starts see and nobody else: the machine's, with what is written kept aside in
//! memory. Managed hooks are installed there.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

/// To be called on a thread of its own. `aside` is an empty folder.
pub(super) fn of_its_own(aside: &Path) -> Result<()> {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace for the trial")?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot keep the trial's mounts to itself")?;
    mount(Some("tmpfs"), aside, Some("tmpfs"), MsFlags::empty(), none)
        .with_context(|| format!("cannot mount a tmpfs on {}", aside.display()))?;
    let (upper, work) = (aside.join("upper"), aside.join("work"));
    fs::create_dir(&upper)?;
    fs::create_dir(&work)?;
    let options = format!("lowerdir=/etc,upperdir={},workdir={}", upper.display(), work.display());
    mount(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .context("cannot lay a folder of the trial over /etc")?;
    // The overlay keeps what it needs of it.
    umount2(aside, MntFlags::MNT_DETACH).context("cannot let go of the trial's tmpfs")
}
