//! Which configuration file is read, and where the daemon's socket is if it says nothing.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{Config, ConfigError, default_database};
use crate::policy::SIZE_MAX;

/// Of the service.
const OF_SERVICE: &str = "/etc/defenseclaw/config.yaml";
/// Of the service.
const SOCKET_OF_SERVICE: &str = "/run/defenseclaw/daemon.sock";

/// Where embedded runs that ask a person listen: `SESSION.sock`.
pub const RUNS: &str = "/run/defenseclaw/runs";

fn directory(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The file that is read if nobody names one; it need not exist.
pub fn config_path() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() {
        return Some(OF_SERVICE.into());
    }
    Some(directory("HOME")?.join(".defenseclaw/config.yaml"))
}

/// Where the daemon of this user listens: root's at a fixed place, others' in their runtime directory.
pub fn default_socket() -> Result<PathBuf, ConfigError> {
    if nix::unistd::geteuid().is_root() {
        return Ok(SOCKET_OF_SERVICE.into());
    }
    directory("XDG_RUNTIME_DIR")
        .or_else(|| directory("HOME").map(|home| home.join(".defenseclaw/run")))
        .map(|place| place.join("defenseclaw/daemon.sock"))
        .ok_or(ConfigError::NoHome)
}

/// Where a daemon that this user may ask can be: its own, then root's.
pub fn sockets() -> Vec<PathBuf> {
    let own = load(None).map(|config| config.socket).or_else(|_| default_socket());
    let mut found: Vec<_> = own.into_iter().collect();
    if !found.iter().any(|socket| socket == Path::new(SOCKET_OF_SERVICE)) {
        found.push(SOCKET_OF_SERVICE.into());
    }
    found
}

/// Where embedded runs listen.
pub fn run_sockets() -> Vec<PathBuf> {
    let Ok(all) = std::fs::read_dir(RUNS) else { return Vec::new() };
    let paths = all.flatten().map(|entry| entry.path());
    let mut found: Vec<_> =
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "sock")).collect();
    found.sort();
    found
}

/// The configuration in a file, or in the one of this user. That one may be missing: then the defaults hold.
pub fn load(named: Option<&Path>) -> Result<Config, ConfigError> {
    let defaults = Config::new(default_socket()?, default_database()?);
    let Some(path) = named.map(Path::to_owned).or_else(config_path) else { return Ok(defaults) };
    let text = match text(&path) {
        Ok(text) => text,
        Err(ConfigError::Read { source, .. })
            if named.is_none() && source.kind() == io::ErrorKind::NotFound =>
        {
            return Ok(defaults);
        }
        Err(err) => return Err(err),
    };
    defaults.read(&path.to_string_lossy(), &text).map_err(ConfigError::Wrong)
}

fn text(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    // A pipe in its place must not hold us up.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(failed(io::Error::other("not a regular file")));
    }
    if nix::unistd::geteuid().is_root() && (found.uid() != 0 || found.mode() & 0o022 != 0) {
        return Err(ConfigError::Foreign { path: path.to_owned() });
    }
    let mut text = String::new();
    // One byte more than is allowed, so that reading it says so.
    file.take(SIZE_MAX as u64 + 1).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}
