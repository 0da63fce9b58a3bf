//! The socket in the file system: made where nobody else can put one, and only if no other daemon answers there.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

/// The socket cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Somebody answers there.
    #[error("another daemon answers at {}; stop it, or name another socket in the configuration", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket is there.
    #[error("{} is not a socket; name another one in the configuration", path.display())]
    NotASocket {
        /// What is there.
        path: PathBuf,
    },
    /// Others could put their own socket there.
    #[error("others can write to {}; a socket there could be replaced", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
    },
    /// The system said no.
    #[error("cannot listen at {}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A socket that listens, and goes when it is dropped.
#[derive(Debug)]
pub struct Listener {
    pub(super) socket: UnixListener,
    path: PathBuf,
    inode: u64,
}

impl Listener {
    /// Makes the socket, and its directory. Root's is for everybody: the kernel says who asks. Others' is their own.
    pub fn bind(path: &Path) -> Result<Self, ApiError> {
        let failed = |source| ApiError::Io { path: path.to_owned(), source };
        let root = nix::unistd::geteuid().is_root();
        let directory = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new()
            .recursive(true)
            .mode(if root { 0o755 } else { 0o700 })
            .create(directory)
            .map_err(failed)?;
        let found = fs::metadata(directory).map_err(failed)?;
        let sticky = found.mode() & 0o1000 != 0;
        if (found.mode() & 0o022 != 0 && !sticky)
            || ![0, nix::unistd::geteuid().as_raw()].contains(&found.uid())
        {
            return Err(ApiError::Open { path: directory.to_owned() });
        }
        clear(path)?;
        let socket = UnixListener::bind(path).map_err(failed)?;
        let mode = if root { 0o666 } else { 0o600 };
        fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed)?;
        let inode = fs::symlink_metadata(path).map_err(failed)?.ino();
        Ok(Self { socket, path: path.to_owned(), inode })
    }
}

/// Takes away what a daemon before has left.
fn clear(path: &Path) -> Result<(), ApiError> {
    let failed = |source| ApiError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(ApiError::NotASocket { path: path.to_owned() }),
        Ok(_) if UnixStream::connect(path).is_ok() => Err(ApiError::Taken { path: path.to_owned() }),
        Ok(_) => fs::remove_file(path).map_err(failed),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(err) => Err(failed(err)),
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Only our own: another daemon may have taken the place.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            drop(fs::remove_file(&self.path));
        }
    }
}
