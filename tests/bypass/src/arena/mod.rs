//! Where the cases act: a directory with protected objects and their allowed twins, services behind sockets, processes to
//! attack. One arena serves one enrolled tree and the tree outside that does the same meanwhile.

pub(crate) mod build;
mod nonce;
mod policy;
pub(crate) mod service;
pub(crate) mod snapshot;
pub(crate) mod victim;
mod zone;

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Which process tree acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Tree {
    /// The enrolled one.
    Inside,
    /// One that nobody enrolled.
    Outside,
}

/// On what it acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Side {
    /// On an object that policy protects.
    Protected,
    /// On its twin, of which policy says nothing.
    Open,
}

impl Tree {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Inside => "inside",
            Self::Outside => "outside",
        }
    }
}

impl Side {
    /// What directories of twins end in. That makes each of them a sibling whose name begins like the protected one's.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::Protected => "",
            Self::Open => "-open",
        }
    }
}

/// Kinds of objects; each kind has a directory and rules of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    /// Nothing may be done to them.
    Files,
    /// They may be read, not executed.
    Programs,
    /// Only one executable may read them.
    Owned,
    /// Everything is allowed and raises an alert.
    Watched,
    /// Directories in which some names are protected wherever they stand.
    Projects,
    /// What protects them names a directory below the object.
    Ancestors,
}

impl Class {
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::Files => "protected",
            Self::Programs => "programs",
            Self::Owned => "owned",
            Self::Watched => "watched",
            Self::Projects => "projects",
            Self::Ancestors => "ancestors",
        }
    }
}

/// Addresses of one side's services.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Endpoints {
    pub(crate) v4: SocketAddr,
    /// None without IPv6.
    pub(crate) v6: Option<SocketAddr>,
}

/// What every process of a run knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Arena {
    pub(crate) root: PathBuf,
    /// As whom the trees act.
    pub(crate) uid: u32,
    /// The tree inside is enrolled; otherwise this run shows what the cases can do unhindered.
    pub(crate) enrolled: bool,
    /// Cases with privileged operations: another policy, another run.
    pub(crate) privileged: bool,
    /// The machine is there for this suite alone: mounts and settings of it may change.
    pub(crate) own_machine: bool,
    /// Cases to run, with what was set up for each.
    pub(crate) cases: Vec<Prepared>,
    pub(crate) protected: Endpoints,
    pub(crate) open: Endpoints,
    /// Relays to any address; itself on an open one.
    pub(crate) proxy: SocketAddr,
    /// Name server that everybody may ask, and the same zone at a port that is not the usual one.
    pub(crate) dns: Option<SocketAddr>,
    pub(crate) dns_elsewhere: SocketAddr,
    /// Ports that may not and may be bound.
    pub(crate) bind_ports: (u16, u16),
    /// Id of a kernel map that is not the trees' own.
    pub(crate) map: Option<u32>,
}

/// A case whose objects exist.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Prepared {
    pub(crate) id: String,
    /// Outside processes to attack, by the tree that does it.
    pub(crate) victims: Vec<(Tree, victim::Victim)>,
}

impl Arena {
    /// Directory of the objects of one attempt.
    pub(crate) fn objects(&self, class: Class, id: &str, tree: Tree, side: Side) -> PathBuf {
        let base = self.root.join(format!("{}{}", class.directory(), side.suffix()));
        base.join(id).join(tree.name())
    }

    /// Directory in which an attempt may do what it likes.
    pub(crate) fn work(&self, id: &str, tree: Tree, side: Side) -> PathBuf {
        self.root.join("work").join(format!("{id}{}", side.suffix())).join(tree.name())
    }

    /// This program, and the executable that some rules spare.
    pub(crate) fn program(&self) -> PathBuf {
        self.root.join("bin/suite")
    }

    pub(crate) fn owner(&self) -> PathBuf {
        self.root.join("bin/owner")
    }

    pub(crate) fn results(&self, tree: Tree) -> PathBuf {
        self.root.join("results").join(format!("{}.jsonl", tree.name()))
    }

    /// Exists when the tree inside has ended.
    pub(crate) fn over(&self) -> PathBuf {
        self.root.join("results/over")
    }

    pub(crate) fn load(root: &Path) -> Result<Self> {
        let path = root.join("arena.json");
        serde_json::from_slice(&fs::read(&path)?).with_context(|| format!("{}", path.display()))
    }

    pub(crate) fn save(&self) -> Result<()> {
        let path = self.root.join("arena.json");
        fs::write(&path, serde_json::to_vec(self)?)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        Ok(())
    }
}

/// Makes a directory, and gives it and all that is in it to a user.
pub(crate) fn directory(path: &Path, mode: u32, uid: u32) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("{}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    give(path, uid)
}

pub(crate) fn give(path: &Path, uid: u32) -> Result<()> {
    match std::os::unix::fs::lchown(path, Some(uid), Some(uid)) {
        // Some cases make paths that no system call takes.
        Err(error) if error.raw_os_error() == Some(libc::ENAMETOOLONG) => return Ok(()),
        other => other.with_context(|| format!("{}", path.display()))?,
    }
    if path.symlink_metadata()?.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), uid)?;
        }
    }
    Ok(())
}
