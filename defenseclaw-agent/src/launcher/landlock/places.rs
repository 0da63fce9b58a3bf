//! What the planner asks of the file system. Answers are of this moment: Landlock's rules are, too.

use std::{collections::BTreeMap, fs, os::unix::ffi::OsStrExt, os::unix::fs::MetadataExt};

use super::path::Path;

/// What is at a path, without following symbolic links anywhere in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// Anything else that a rule can be about.
    File,
    /// A symbolic link, or something behind one. Rules are about what it leads to.
    Link,
    /// Nothing.
    Missing,
}

/// A file system, as far as the planner has to know it.
pub trait Places {
    /// What is there. Directories above are known to be directories.
    fn kind(&self, path: &Path) -> Kind;
    /// Names in a directory and what they are; none if there are more than `at_most`, or if it cannot be read.
    fn entries(&self, path: &Path, at_most: usize) -> Option<BTreeMap<Vec<u8>, Kind>>;
    /// Whether the command cannot make, remove or replace names in this directory. False in doubt.
    fn stable(&self, path: &Path) -> bool;
}

/// The real one, seen by a command that runs as `uid`.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    /// As whom the command runs.
    pub uid: u32,
}

impl Places for Disk {
    fn kind(&self, path: &Path) -> Kind {
        fs::symlink_metadata(path.to_os()).map_or(Kind::Missing, |metadata| kind(metadata.file_type()))
    }

    fn entries(&self, path: &Path, at_most: usize) -> Option<BTreeMap<Vec<u8>, Kind>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(path.to_os()).ok()? {
            let entry = entry.ok()?;
            if found.len() == at_most {
                return None;
            }
            let kind = entry.file_type().map_or(Kind::Missing, kind);
            found.insert(entry.file_name().as_bytes().to_vec(), kind);
        }
        Some(found)
    }

    /// By owner and mode. A right for a group counts whoever is in it, which covers access lists, too: their mask
    /// stands in the group's place. The owner may change the mode, so what it says of the owner does not count.
    fn stable(&self, path: &Path) -> bool {
        self.uid != 0
            && fs::symlink_metadata(path.to_os())
                .is_ok_and(|metadata| metadata.uid() != self.uid && metadata.mode() & 0o022 == 0)
    }
}

fn kind(file_type: fs::FileType) -> Kind {
    if file_type.is_dir() {
        Kind::Directory
    } else if file_type.is_symlink() {
        Kind::Link
    } else {
        Kind::File
    }
}
