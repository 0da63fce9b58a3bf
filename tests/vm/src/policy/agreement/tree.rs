//! The files that random operations meet: made anew for each policy by the suite, which nobody judges.

use std::{
    ffi::{CString, OsStr},
    fs, io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::random::Random;
use crate::policy::kernel::PROGRAM;

pub(super) const DIRECTORIES: &[&str] = &["a", "b", "c"];
pub(super) const FILES: &[&str] = &["x", "y.env", "z.pem", ".e"];
/// Names that files, links and sockets have, or will have.
pub(super) const NAMES: &[&str] = &["x", "y.env", "z.pem", ".e", "k", "b.env", "s", "l", "a"];
pub(super) const ABSTRACT: &[&str] = &["-p", "-q"];
/// Holds the long paths, beside the root: files so deep are not looked for.
const DEEP: &str = "deep";
/// Components of a path that are judged.
const DEPTH_MAX: usize = 64;

/// What stands below the root, and who listens there.
pub(super) struct Tree {
    root: PathBuf,
    listeners: Vec<UnixListener>,
    /// A file as deep as paths are judged, and one that is deeper.
    pub(super) deep: [PathBuf; 2],
}

impl Tree {
    pub(super) fn new(root: &Path) -> Result<Self> {
        let components = root.components().count() - 1;
        let mut directory = root.with_file_name(DEEP);
        fs::create_dir_all(&directory)?;
        // The file comes on top.
        for _ in components..DEPTH_MAX - 1 {
            directory.push("a");
            fs::create_dir(&directory)?;
        }
        let last = directory.join("x");
        directory.push("a");
        fs::create_dir(&directory)?;
        let deeper = directory.join("x");
        for file in [&last, &deeper] {
            program(file)?;
        }
        Ok(Self { root: root.to_owned(), listeners: Vec::new(), deep: [last, deeper] })
    }

    /// As if nothing had happened.
    pub(super) fn rebuild(&mut self, random: &mut Random) -> Result<()> {
        self.listeners.clear();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
        let mut directories = vec![self.root.clone()];
        let mut level = directories.clone();
        for _ in 0..3 {
            let below = level.iter().flat_map(|above| ["a", "b"].map(|name| above.join(name)));
            level = below.collect();
            for directory in &level {
                fs::DirBuilder::new().mode(0o755).create(directory)?;
            }
            directories.extend(level.iter().cloned());
        }
        let mut files = Vec::new();
        for directory in &directories {
            for name in FILES {
                if random.percent(60) {
                    let file = directory.join(name);
                    program(&file)?;
                    files.push(file);
                }
            }
            if random.percent(20) {
                fs::create_dir(directory.join("c"))?;
            }
        }
        for _ in 0..4 {
            let (Some(file), directory) =
                (files.get(random.below(files.len().max(1))), &directories[random.below(directories.len())])
            else {
                continue;
            };
            free(fs::hard_link(file, directory.join(random.of(NAMES))))?;
            let target = &directories[random.below(directories.len())];
            free(symlink(target, directory.join("l")))?;
            let directory = &directories[random.below(directories.len())];
            free(symlink(file, directory.join("k")))?;
        }
        for _ in 0..3 {
            let directory = &directories[random.below(directories.len())];
            let socket = directory.join("s");
            if fs::symlink_metadata(&socket).is_err() {
                self.listeners
                    .push(UnixListener::bind(&socket).with_context(|| socket.display().to_string())?);
            }
        }
        Ok(())
    }
}

/// A name that is taken already stays as it is.
fn free(made: io::Result<()>) -> io::Result<()> {
    match made {
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn program(path: &Path) -> Result<()> {
    fs::write(path, PROGRAM).with_context(|| path.display().to_string())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Where a name in a directory is, without symbolic links: the last component is not followed.
pub(super) fn real_entry(path: &Path) -> Option<PathBuf> {
    let text = path.as_os_str().as_bytes();
    let trimmed = text.iter().rposition(|byte| *byte != b'/').map_or(text, |last| &text[..=last]);
    let path = Path::new(OsStr::from_bytes(trimmed));
    let name = path.file_name()?;
    let directory = fs::canonicalize(path.parent()?).ok()?;
    directory.is_dir().then(|| directory.join(name))
}

/// A path for the kernel.
pub(super) fn words(path: &Path) -> CString {
    crate::sys::c(path.as_os_str().as_bytes())
}
