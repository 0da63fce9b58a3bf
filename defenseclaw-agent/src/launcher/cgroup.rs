//! The cgroup of one session: where network hooks are attached, and nothing else; it has no controllers and no limits.
//!
//! It is made below our own cgroup, so that limits on us hold for the command, too; where that is not permitted, below
//! the root. While a session lives, a lock on the directory says so, and an empty directory without it is what a
//! killed run left: the next run removes it.

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use libc::pid_t;
use nix::{
    fcntl::{Flock, FlockArg},
    sys::statfs::{CGROUP2_SUPER_MAGIC, statfs},
};

use super::mounts;
use crate::model::SessionId;

const PREFIX: &str = "defenseclaw-";

/// Where the command runs.
#[derive(Debug)]
pub enum Placement {
    /// In a cgroup of its own.
    Cgroup(Cgroup),
    /// In ours, with everything else in it: hooks on a cgroup cannot tell the command apart.
    Shared {
        /// Why, in words a user can act on.
        reason: String,
    },
}

/// What became of the cgroup at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CgroupEnd {
    /// There was none.
    None,
    /// Removed.
    Removed,
    /// Processes (or cgroups that the command made) are still in it; the next run removes it when it is empty.
    Left(PathBuf),
}

/// A cgroup of our own making. Dropping it removes it, if it is empty.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    lock: Flock<OwnedFd>,
}

impl Placement {
    /// Removes what killed runs left behind, then makes the cgroup of `session`.
    pub fn create(session: SessionId) -> Self {
        let name = format!("{PREFIX}{session}");
        let mut reasons = Vec::new();
        for parent in mounts::cgroup_parents() {
            let made = parent.and_then(|parent| {
                remove_stale(&parent);
                Cgroup::create(&parent, &name)
            });
            match made {
                Ok(cgroup) => return Self::Cgroup(cgroup),
                Err(reason) => reasons.push(reason),
            }
        }
        Self::Shared { reason: reasons.join("; ") }
    }

    /// Takes over the cgroup that a run before us has made, and waits until nobody else holds it.
    pub fn adopt(path: Option<&Path>) -> Self {
        let Some(path) = path else {
            return Self::Shared { reason: "the run before had none of its own".to_owned() };
        };
        let opened = fs::File::open(path).map(OwnedFd::from);
        let locked = opened.and_then(|directory| {
            Flock::lock(directory, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
        });
        match locked {
            Ok(lock) => Self::Cgroup(Cgroup { path: path.to_owned(), lock }),
            Err(error) => Self::Shared { reason: format!("cannot take over {}: {error}", path.display()) },
        }
    }

    /// Moves a process that was not born in the cgroup into it.
    pub(super) fn admit(&mut self, pid: pid_t) {
        if let Self::Cgroup(cgroup) = self {
            let file = cgroup.path.join("cgroup.procs");
            if let Err(err) = fs::write(&file, pid.to_string()) {
                *self = Self::Shared { reason: format!("cannot write {}: {err}", file.display()) };
            }
        }
    }

    /// Whether this process is in the cgroup, or below it. False where that cannot be told.
    pub(super) fn holds(&self, pid: pid_t) -> bool {
        let Self::Cgroup(cgroup) = self else { return false };
        let (Some(name), Ok(text)) = (cgroup.path.file_name(), fs::read(format!("/proc/{pid}/cgroup")))
        else {
            return false;
        };
        mounts::own_cgroup(&text).is_some_and(|path| path.iter().any(|component| component == name))
    }

    /// The cgroup, if there is one.
    pub fn cgroup(&self) -> Option<&Cgroup> {
        if let Self::Cgroup(cgroup) = self { Some(cgroup) } else { None }
    }

    /// Removes it, if nothing is in it.
    pub(super) fn remove(self) -> CgroupEnd {
        match self {
            Self::Shared { .. } => CgroupEnd::None,
            Self::Cgroup(cgroup) => match fs::remove_dir(&cgroup.path) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => CgroupEnd::Left(cgroup.path.clone()),
                _ => CgroupEnd::Removed,
            },
        }
    }
}

impl Cgroup {
    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its id: what the kernel's events carry.
    pub fn id(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |metadata| metadata.ino())
    }

    fn create(parent: &Path, name: &str) -> Result<Self, String> {
        let path = parent.join(name);
        let failed = |step: &str, err: io::Error| format!("cannot {step} {}: {err}", path.display());
        // Something may be mounted over the place that mountinfo names.
        if statfs(parent).map_err(|errno| failed("examine", errno.into()))?.filesystem_type()
            != CGROUP2_SUPER_MAGIC
        {
            return Err(format!("{} is not a cgroup v2 directory", parent.display()));
        }
        // Twice, because another run may take the new directory for a stale one before it is locked.
        let mut last = String::new();
        for _ in 0..2 {
            fs::create_dir(&path).map_err(|err| failed("make", err))?;
            let Some(lock) = lock(&path) else {
                last = format!("{} was removed by another run", path.display());
                continue;
            };
            let cgroup = Self { path: path.clone(), lock };
            // Below a threaded cgroup, ours could not hold a process.
            let kind = fs::read_to_string(path.join("cgroup.type")).unwrap_or_default();
            if kind.trim() == "domain invalid" {
                return Err(format!("{} is in a threaded cgroup", path.display()));
            }
            return Ok(cgroup);
        }
        Err(last)
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Still in use, or gone already: both are fine here. `Placement::remove` is for who wants to know.
        fs::remove_dir(&self.path).ok();
    }
}

/// Locks the directory; none if someone else has, or if it is no longer there.
fn lock(path: &Path) -> Option<Flock<OwnedFd>> {
    let directory = OwnedFd::from(fs::File::open(path).ok()?);
    let lock = Flock::lock(directory, FlockArg::LockExclusiveNonblock).ok()?;
    let locked = nix::sys::stat::fstat(&*lock).ok()?;
    (fs::metadata(path).ok()?.ino() == locked.st_ino).then_some(lock)
}

/// Removes the cgroups of runs that ended without doing so. Those that still hold processes refuse to go, rightly.
fn remove_stale(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let session = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if session.is_some_and(|id| id.parse::<SessionId>().is_ok())
            && let Some(_lock) = lock(&entry.path())
        {
            fs::remove_dir(entry.path()).ok();
        }
    }
}
