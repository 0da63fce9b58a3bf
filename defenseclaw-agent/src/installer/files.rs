//! Configuration files: read, replaced as a whole, kept aside. A reader sees the old text or the new one, never a part.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{InstallError, Scope};

/// No agent's configuration is larger.
const LENGTH: u64 = 4 << 20;
/// Ending of the file that keeps the original.
const BACKUP: &str = ".before-defenseclaw";

fn io<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> InstallError + 'a {
    move |source| InstallError::Io { what, path: path.to_owned(), source }
}

/// The text of a file; none if there is no file.
pub(super) fn read(path: &Path) -> Result<Option<String>, InstallError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(io("read", path)(err)),
    };
    let unreadable = |why: &str| InstallError::Unreadable { path: path.to_owned(), why: why.to_owned() };
    if !file.metadata().map_err(io("read", path))?.is_file() {
        return Err(unreadable("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(LENGTH + 1).read_to_end(&mut bytes).map_err(io("read", path))?;
    if bytes.len() as u64 > LENGTH {
        return Err(unreadable("it is larger than any configuration"));
    }
    String::from_utf8(bytes).map(Some).map_err(|err| unreadable(&err.to_string()))
}

/// The text of a file that nobody else can have written; none if there is no file.
pub(super) fn read_own(path: &Path) -> Result<Option<String>, InstallError> {
    match fs::symlink_metadata(path) {
        Ok(found)
            if !found.is_file()
                || found.uid() != nix::unistd::geteuid().as_raw()
                || found.mode() & 0o022 != 0 =>
        {
            let why = "others may have written it".to_owned();
            Err(InstallError::Unreadable { path: path.to_owned(), why })
        }
        Ok(_) => read(path),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(io("read", path)(err)),
    }
}

/// Replaces a file, or makes it with its directories. A link is followed: what it leads to is replaced.
pub(super) fn replace(path: &Path, text: &str, scope: Scope) -> Result<(), InstallError> {
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = path.parent().unwrap_or(Path::new("/"));
    refuse_foreign(directory, scope)?;
    fs::create_dir_all(directory).map_err(io("make", directory))?;
    let old = fs::metadata(path).ok();
    let fresh = if scope == Scope::User { 0o600 } else { 0o644 };
    let mode = old.as_ref().map_or(fresh, |old| old.permissions().mode() & 0o7777);
    let part = sibling(path, &format!(".defenseclaw-{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        file.write_all(text.as_bytes())?;
        if let Some(old) = &old {
            std::os::unix::fs::fchown(&file, Some(old.uid()), Some(old.gid()))?;
        }
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&part, path)?;
        File::open(directory)?.sync_all()
    })();
    written.map_err(|source| {
        // The error that is reported is the one that counts.
        drop(fs::remove_file(&part));
        io("write", path)(source)
    })
}

/// Root writes only where nobody else can swap a directory for a link meanwhile.
fn refuse_foreign(directory: &Path, scope: Scope) -> Result<(), InstallError> {
    if scope == Scope::Managed || !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let nearest = directory.ancestors().find_map(|path| fs::metadata(path).ok().map(|found| (path, found)));
    match nearest {
        Some((path, found)) if found.uid() != 0 => Err(InstallError::NotOurs { path: path.to_owned() }),
        _ => Ok(()),
    }
}

pub(super) fn delete(path: &Path) -> Result<(), InstallError> {
    fs::remove_file(path).map_err(io("remove", path))
}

/// Keeps the text that a file had before us, unless one is kept already.
pub(super) fn back_up(path: &Path, text: &str) -> Result<(), InstallError> {
    let kept = sibling(path, BACKUP);
    let mut file = match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&kept) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(err) => return Err(io("write", &kept)(err)),
    };
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io("write", &kept))
}

/// The text that a file had before us.
pub(super) fn backup(path: &Path) -> Result<Option<String>, InstallError> {
    read(&sibling(path, BACKUP))
}

pub(super) fn forget_backup(path: &Path) -> Result<(), InstallError> {
    let kept = sibling(path, BACKUP);
    if kept.exists() { delete(&kept) } else { Ok(()) }
}

fn sibling(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
