//! The places of persistent sessions: a directory of names in the BPF file system, a file that says what they are, and a
//! lock that says whether somebody watches. Makes and removes them; what is pinned there is the sensor's business.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};
use tracing::warn;

use super::{clock, manifest::Manifest, run::RunError};
use crate::{
    model::{Event, SessionId},
    sensor::{self, Sensor},
};

const BPFFS: &str = "/sys/fs/bpf";
const PINS: &str = "/sys/fs/bpf/defenseclaw";
/// Sockets of ours are to be reached there, so others may pass.
const OURS: &str = "/run/defenseclaw";
/// Nobody else may hold a lock there.
const RUN: &str = "/run/defenseclaw/sessions";
const MANIFEST: &str = "json";
const LOCK: &str = "lock";

/// A session cannot be made persistent, or not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum PersistError {
    /// Not root.
    #[error("only root can leave programs in the kernel, see them there, or take them over")]
    NotRoot,
    /// No BPF file system.
    #[error("there is no BPF file system at {BPFFS}, and it cannot be mounted: {0}")]
    Mount(Errno),
    /// A file or directory of ours.
    #[error("cannot {step} {}", path.display())]
    File {
        /// What was tried.
        step: &'static str,
        /// With which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Somebody else could change what is in it.
    #[error("{} does not belong to root alone", .0.display())]
    Open(PathBuf),
    /// It has a watcher.
    #[error("session {0} is being watched")]
    Watched(SessionId),
    /// No such session.
    #[error("there is no persistent session {0}")]
    Unknown(SessionId),
    /// Nothing says what is in the kernel.
    #[error("nothing says what session {0} has left in the kernel")]
    NoManifest(SessionId),
    /// The programs speak another language.
    #[error(
        "the programs of session {session} were loaded by version {version}, whose records and maps (ABI {found}) this \
         version (ABI {}) does not know",
        sensor::abi()
    )]
    Abi {
        /// Whose programs.
        session: SessionId,
        /// Who loaded them.
        version: String,
        /// Their ABI.
        found: u16,
    },
    /// The machine was started again since.
    #[error(
        "session {0} belongs to an earlier start of this machine: nothing of it is in the kernel any more"
    )]
    OtherBoot(SessionId),
    /// The audit has its end.
    #[error("session {0} has ended, by its audit; what is left of it in the kernel is not in use")]
    Ended(SessionId),
}

impl PersistError {
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NotRoot => Some("run with sudo"),
            Self::Mount(_) => {
                Some("mount it: mount -t bpf bpf /sys/fs/bpf; without it, run without --persist")
            }
            Self::Watched(_) => Some("end its watcher first: what it watches stays held"),
            Self::Unknown(_) => Some("`defenseclaw adopt` lists those there are"),
            Self::Abi { .. } => {
                Some("adopt it with the version that loaded them; `defenseclaw release` takes them off")
            }
            Self::NoManifest(_) | Self::OtherBoot(_) | Self::Ended(_) => {
                Some("`defenseclaw release` removes what is left")
            }
            Self::File { .. } | Self::Open(_) => None,
        }
    }
}

fn failed<'a>(step: &'static str, path: &'a Path) -> impl Fn(io::Error) -> PersistError + 'a {
    move |source| PersistError::File { step, path: path.to_owned(), source }
}

/// The place of one session, while its lock is ours. Dropping it removes everything, unless it is to be kept.
#[derive(Debug)]
pub(super) struct Place {
    session: SessionId,
    _lock: Flock<fs::File>,
    keep: bool,
}

/// Where something of a session is, or was.
pub(super) fn pins(session: SessionId) -> PathBuf {
    Path::new(PINS).join(session.to_string())
}

fn beside(session: SessionId, extension: &str) -> PathBuf {
    Path::new(RUN).join(format!("{session}.{extension}"))
}

impl Place {
    /// Makes it. Says so if a BPF file system had to be mounted.
    pub(super) fn make(session: SessionId) -> Result<(Self, Option<String>), PersistError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(PersistError::NotRoot);
        }
        let mounted = mount_bpffs()?;
        directory(Path::new(PINS), 0o700)?;
        directory(Path::new(OURS), 0o755)?;
        directory(Path::new(RUN), 0o700)?;
        found().into_iter().for_each(clear_empty);
        let place = Self { session, _lock: lock(session)?, keep: false };
        directory(&pins(session), 0o700)?;
        let words = format!("there was no BPF file system at {BPFFS}: it was mounted, and stays");
        Ok((place, mounted.then_some(words)))
    }

    /// Takes over that of a session whose watcher is gone.
    pub(super) fn take(session: SessionId) -> Result<Self, PersistError> {
        if !nix::unistd::geteuid().is_root() {
            return Err(PersistError::NotRoot);
        }
        if !found().contains(&session) {
            return Err(PersistError::Unknown(session));
        }
        directory(Path::new(OURS), 0o755)?;
        directory(Path::new(RUN), 0o700)?;
        Ok(Self { session, _lock: lock(session)?, keep: true })
    }

    /// From now on what is there outlives this process.
    pub(super) fn keep(&mut self) {
        self.keep = true;
    }

    /// Whether it does.
    pub(super) fn is_kept(&self) -> bool {
        self.keep
    }

    /// From now on it goes with this process.
    pub(super) fn give_up(&mut self) {
        self.keep = false;
    }

    /// Directory of the names.
    pub(super) fn pins(&self) -> PathBuf {
        pins(self.session)
    }

    pub(super) fn read(&self) -> Result<Manifest, PersistError> {
        let file = beside(self.session, MANIFEST);
        Manifest::read(&file).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                PersistError::NoManifest(self.session)
            } else {
                failed("read", &file)(error)
            }
        })
    }

    pub(super) fn write(&self, manifest: &Manifest) -> Result<(), PersistError> {
        let file = beside(self.session, MANIFEST);
        manifest.write(&file).map_err(failed("write", &file))
    }

    fn remove(&self) -> Result<(), PersistError> {
        let pins = self.pins();
        // Attachments first: without them nothing runs, whatever else cannot be removed.
        for part in ["links", "maps"] {
            remove_files(&pins.join(part)).map_err(failed("remove", &pins))?;
        }
        absent(fs::remove_dir(&pins)).map_err(failed("remove", &pins))?;
        // What says that there is something goes last: whoever is cut off here is found by it.
        for extension in [LOCK, "json.next", MANIFEST] {
            let file = beside(self.session, extension);
            absent(fs::remove_file(&file)).map_err(failed("remove", &file))?;
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = self.remove()
        {
            warn!(%error, session = %self.session, "something of a persistent session is left");
        }
    }
}

/// A place with what is known of the session in it.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) place: Place,
    pub(super) manifest: Manifest,
}

impl Kept {
    /// Gives everything its name, with the file that says what it is written first: whatever happens meanwhile can be
    /// cleared away.
    pub(super) fn pin(place: Place, manifest: Manifest, sensor: &mut Sensor) -> Result<Self, RunError> {
        let mut kept = Self { place, manifest };
        kept.place.write(&kept.manifest)?;
        sensor.pin(&kept.place.pins())?;
        kept.manifest.pinned = true;
        kept.place.write(&kept.manifest)?;
        Ok(kept)
    }

    /// Notes records that are left out of the audit, for whoever must account for them.
    pub(super) fn note_filtered<'a>(&mut self, events: impl Iterator<Item = &'a Event>) {
        let mut changed = false;
        for event in events {
            *self.manifest.filtered.entry(event.kind().as_str().to_owned()).or_default() += 1;
            changed = true;
        }
        if changed && let Err(error) = self.place.write(&self.manifest) {
            warn!(%error, "who takes over will count some records of the enforcement check as missing");
        }
    }
}

/// A session that has something in the kernel or in a file of ours.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PersistentSession {
    /// Its id.
    pub session: SessionId,
    /// Somebody watches it.
    pub watched: bool,
    /// It can be adopted; otherwise only released.
    pub adoptable: bool,
    /// What it is, or why it cannot be adopted.
    pub detail: String,
}

/// Every persistent session, oldest first. Only root can see them.
pub fn persistent_sessions() -> Result<Vec<PersistentSession>, PersistError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(PersistError::NotRoot);
    }
    Ok(found().into_iter().map(look).collect())
}

fn look(session: SessionId) -> PersistentSession {
    let file = beside(session, MANIFEST);
    let of_this_boot = |manifest: &Manifest| clock::boot_id().is_ok_and(|now| now == manifest.start.boot_id);
    let (adoptable, detail) = match Manifest::read(&file) {
        Ok(manifest) if !of_this_boot(&manifest) => (false, PersistError::OtherBoot(session).to_string()),
        Ok(manifest) if manifest.abi != sensor::abi() => (false, abi(session, &manifest).to_string()),
        Ok(manifest) => {
            let command: Vec<_> = manifest.start.command.iter().map(|word| word.lossy()).collect();
            (true, command.join(" "))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            (false, PersistError::NoManifest(session).to_string())
        }
        Err(error) => (false, format!("cannot read {}: {error}", file.display())),
    };
    let watched = is_watched(session);
    PersistentSession { session, watched, adoptable: adoptable && !watched, detail }
}

pub(super) fn abi(session: SessionId, manifest: &Manifest) -> PersistError {
    PersistError::Abi { session, version: manifest.start.version.clone(), found: manifest.abi }
}

fn found() -> BTreeSet<SessionId> {
    let names = [PINS, RUN].into_iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
    let names = names.map(|entry| PathBuf::from(entry.file_name()));
    // A lock alone is what is left between two steps of removal.
    let names = names.filter(|name| name.extension().is_none_or(|extension| extension == MANIFEST));
    names.filter_map(|name| name.file_stem()?.to_str()?.parse().ok()).collect()
}

/// Removes what is left of a run that was killed before it had anything to leave.
fn clear_empty(session: SessionId) {
    let is_empty = || fs::read_dir(pins(session)).is_ok_and(|mut names| names.next().is_none());
    if !beside(session, MANIFEST).exists()
        && let Ok(lock) = lock(session)
        && is_empty()
    {
        drop(Place { session, _lock: lock, keep: false });
    }
}

fn is_watched(session: SessionId) -> bool {
    let Ok(file) = fs::File::open(beside(session, LOCK)) else { return false };
    matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK)))
}

fn lock(session: SessionId) -> Result<Flock<fs::File>, PersistError> {
    let path = beside(session, LOCK);
    loop {
        let file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(failed("open", &path))?;
        let lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
            if errno == Errno::EWOULDBLOCK {
                PersistError::Watched(session)
            } else {
                failed("lock", &path)(errno.into())
            }
        })?;
        // Who had it before may have removed the file.
        let ours = lock.metadata().map_err(failed("examine", &path))?;
        if fs::symlink_metadata(&path).is_ok_and(|now| now.ino() == ours.ino()) {
            return Ok(lock);
        }
    }
}

/// Whether it had to be mounted.
fn mount_bpffs() -> Result<bool, PersistError> {
    if statfs(BPFFS).is_ok_and(|found| found.filesystem_type() == BPF_FS_MAGIC) {
        return Ok(false);
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), BPFFS, Some("bpf"), flags, Some("mode=0700")).map_err(PersistError::Mount)?;
    Ok(true)
}

/// Makes a directory, or sees that the one there is root's.
fn directory(path: &Path, mode: u32) -> Result<(), PersistError> {
    match fs::DirBuilder::new().recursive(false).mode(mode).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("make", path)(error)),
    }
    let found = fs::symlink_metadata(path).map_err(failed("examine", path))?;
    let is_ours = found.is_dir() && found.uid() == 0 && found.mode() & 0o022 == 0;
    if is_ours { Ok(()) } else { Err(PersistError::Open(path.to_owned())) }
}

fn remove_files(directory: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return absent(Err(error)),
    };
    for entry in entries {
        absent(fs::remove_file(entry?.path()))?;
    }
    absent(fs::remove_dir(directory))
}

/// What is not there needs no removal.
fn absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
