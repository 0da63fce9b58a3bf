//! What a directory tree looks like: two snapshots differ if anything was changed in between, whoever says otherwise.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use crate::sys::cpath;

/// Every file below a directory, with what can be known of it. Access times do not count.
pub(crate) type Snapshot = BTreeMap<PathBuf, Vec<u8>>;

pub(crate) fn take(directory: &Path) -> Snapshot {
    let mut snapshot = Snapshot::new();
    add(directory, &mut snapshot);
    snapshot
}

fn add(path: &Path, snapshot: &mut Snapshot) {
    let facts = match facts(path) {
        Ok(facts) => facts,
        Err(error) => format!("{error}").into_bytes(),
    };
    snapshot.insert(path.to_owned(), facts);
    if path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            add(&entry.path(), snapshot);
        }
    }
}

fn facts(path: &Path) -> io::Result<Vec<u8>> {
    let metadata = path.symlink_metadata()?;
    let mut facts = format!(
        "{} {} {:o} {} {} {} {} ",
        metadata.dev(),
        metadata.ino(),
        metadata.mode(),
        metadata.uid(),
        metadata.gid(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    )
    .into_bytes();
    if metadata.is_file() {
        facts.extend(fs::read(path)?);
    } else if metadata.is_symlink() {
        facts.extend(fs::read_link(path)?.as_os_str().as_bytes());
    }
    let (name, mut names) = (cpath(path), [0_u8; 1024]);
    // SAFETY: both outlive the call, and the length is that of the buffer.
    let length = unsafe { libc::llistxattr(name.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
    facts.extend(&names[..length.max(0) as usize]);
    Ok(facts)
}
