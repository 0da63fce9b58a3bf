//! What a case is, and where it acts: two trees, and in each the protected object and its twin.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use defenseclaw::model::EventKind;
use serde::{Deserialize, Serialize};

use crate::sys::{c, sys};

/// Who acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Tree {
    /// The watched tree.
    Inside,
    /// A process that nobody watches.
    Outside,
}

/// On what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Side {
    Protected,
    Allowed,
}

impl Tree {
    pub(super) const ALL: [Self; 2] = [Self::Inside, Self::Outside];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Inside => "inside",
            Self::Outside => "outside",
        }
    }
}

impl Side {
    pub(super) const ALL: [Self; 2] = [Self::Protected, Self::Allowed];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Protected => "protected",
            Self::Allowed => "allowed",
        }
    }

    pub(super) fn of<T>(self, [protected, allowed]: &[T; 2]) -> &T {
        match self {
            Self::Protected => protected,
            Self::Allowed => allowed,
        }
    }
}

/// What both trees share: the suite made it, and listens there. The protected one first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Shared {
    pub(super) v4: [SocketAddr; 2],
    pub(super) v6: [SocketAddr; 2],
    /// Nobody listens there.
    pub(super) free: [u16; 2],
    /// Processes outside, one for each tree.
    pub(super) targets: [u32; 2],
    /// Beginning of abstract names.
    pub(super) prefix: String,
}

/// Where a case acts.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Directory of the run.
    pub(super) run: PathBuf,
    pub(super) case: &'static str,
    pub(super) tree: Tree,
    pub(super) side: Side,
    pub(super) shared: Shared,
}

impl Place {
    /// Of this case and tree; no rule names what is directly here.
    pub(super) fn base(&self) -> PathBuf {
        // A script's first line cannot name a path with blanks.
        self.run.join(self.tree.word()).join(self.case.replace([' ', ','], "-"))
    }

    /// Of this side, too; patterns of the rule start here.
    pub(super) fn dir(&self) -> PathBuf {
        self.base().join(self.side.word())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    pub(super) fn file(&self) -> PathBuf {
        self.path("file")
    }

    /// A name beside the directory of this side, which no rule speaks of.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.base().join(format!("{name}-{}", self.side.word()))
    }

    pub(super) fn target(&self) -> u32 {
        self.shared.targets[usize::from(self.tree == Tree::Outside)]
    }

    pub(super) fn abstract_name(&self) -> String {
        format!("{}{}-{}-{}", self.shared.prefix, self.tree.word(), self.case, self.side.word())
    }

    /// The program that rules about privileged operations spare.
    pub(super) fn spared(&self) -> PathBuf {
        self.run.join("bin/spared")
    }
}

/// What the rule of a case is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// About paths below the directory of the protected side.
    Paths { effect: &'static str, patterns: &'static [&'static str] },
    /// About sockets there.
    Unix(&'static [&'static str]),
    /// About the abstract name of the protected side.
    Abstract,
    /// About a privileged operation of everybody but the spared program.
    Privilege(&'static str),
    /// One of those that all cases share.
    Shared(&'static str),
}

/// What the audit names.
#[derive(Clone, Debug)]
pub(super) enum Object {
    Path(PathBuf),
    /// Anything below this directory.
    Below(PathBuf),
    /// The second path of a rename or link.
    To(PathBuf),
    Endpoint(SocketAddr),
    /// Port of a bind.
    Port(u16),
    Abstract(String),
    /// A process.
    Target(u32),
    /// The record says nothing but its kind.
    Any,
}

/// One operation.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) rule: Rule,
    /// Made by the suite, before anything is judged.
    pub(super) prepare: fn(&Place) -> Result<()>,
    /// In a process of its own.
    pub(super) act: fn(&Place) -> io::Result<i64>,
    pub(super) kind: EventKind,
    pub(super) object: fn(&Place) -> Object,
    /// Errno of a refusal.
    pub(super) refused: i32,
    /// Errno where nothing is judged; 0 mostly.
    pub(super) natural: &'static [i32],
}

impl Case {
    /// Most of a case.
    pub(super) const fn new(
        name: &'static str,
        rule: Rule,
        prepare: fn(&Place) -> Result<()>,
        act: fn(&Place) -> io::Result<i64>,
        kind: EventKind,
        object: fn(&Place) -> Object,
    ) -> Self {
        Self { name, rule, prepare, act, kind, object, refused: libc::EPERM, natural: &[0] }
    }

    /// Id of its rule.
    pub(super) fn rule_id(&self) -> String {
        match self.rule {
            Rule::Shared(id) => id.to_owned(),
            Rule::Privilege(effect) => format!("proof.{effect}"),
            Rule::Paths { .. } | Rule::Unix(_) | Rule::Abstract => {
                format!("proof.{}", self.name.replace([' ', ','], "-"))
            }
        }
    }

    pub(super) fn is_held_by_cgroup(&self) -> bool {
        matches!(self.rule, Rule::Shared(id) if id.starts_with("proof.net"))
    }

    /// Effect of its rule, if that is about no object.
    pub(super) fn privilege(&self) -> Option<&'static str> {
        if let Rule::Privilege(effect) = self.rule { Some(effect) } else { None }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "every case has this signature")]
pub(super) fn nothing(_: &Place) -> Result<()> {
    Ok(())
}

/// A file for everybody.
pub(super) fn make(path: &Path, content: &[u8]) -> Result<()> {
    fs::write(path, content).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

pub(super) fn a_file(place: &Place) -> Result<()> {
    make(&place.file(), b"content\n")
}

pub(in crate::policy) fn open(path: &Path, flags: i32) -> io::Result<i64> {
    let path = c(path.as_os_str().as_bytes());
    sys!(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags | libc::O_CLOEXEC, 0o644)
}
