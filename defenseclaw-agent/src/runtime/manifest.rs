//! What a persistent session has left in the kernel, for whoever goes on with it: one JSON file beside the lock, written as
//! a whole or not at all. The secret seed of the hashes is not in it.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::policy::{Directories, PolicyOptions, PolicySource};
use crate::{
    launcher::landlock::{LandlockChoice, LandlockLevel, Siblings},
    model::{Mode, PolicyAction, PolicyLoaded, SessionStart, Text},
};

/// Of the file, not of what it describes.
pub(super) const FORMAT: u32 = 1;

/// A pinned session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) format: u32,
    /// Version of what crosses the kernel boundary.
    pub(super) abi: u16,
    /// SHA-256 of the object that the programs came from.
    pub(super) object: String,
    /// The audit it belongs to.
    pub(super) database: Text,
    /// Its first row, with boot id, root process, level and hooks. The start of the root process may be less exact here.
    pub(super) start: SessionStart,
    /// Everything has its name: the command is about to start.
    pub(super) pinned: bool,
    /// Its directory; none: it shares that of its watcher.
    pub(super) cgroup: Option<Text>,
    /// Programs that are attached.
    pub(super) attached: Vec<String>,
    pub(super) policy: Option<ManifestPolicy>,
    /// Records that were left out of the audit, by wire name of their kind.
    pub(super) filtered: BTreeMap<String, u64>,
    /// Opens in the audit that no program has seen: of files that were open before.
    pub(super) handed: u64,
}

/// The policy that was put in force at the start, and where it can be read again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ManifestPolicy {
    /// A preset's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    preset: Option<String>,
    /// Or a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    file: Option<Text>,
    mode: Option<Mode>,
    profile: String,
    unresolved: Option<PolicyAction>,
    allow_degraded: bool,
    home: Text,
    project: Text,
    pub(super) loaded: PolicyLoaded,
}

impl ManifestPolicy {
    pub(super) fn new(options: &PolicyOptions, directories: &Directories, loaded: PolicyLoaded) -> Self {
        let (preset, file) = match &options.source {
            PolicySource::Preset(name) => (Some(name.clone()), None),
            // Whoever reads it again is somewhere else.
            PolicySource::File(path) => (None, Some(text(&absolute(path)))),
        };
        Self {
            preset,
            file,
            mode: options.mode,
            profile: options.profile.clone(),
            unresolved: options.unresolved,
            allow_degraded: options.allow_degraded,
            home: Text(directories.home.clone()),
            project: Text(directories.project.clone()),
            loaded,
        }
    }

    /// What Landlock holds was settled when the command started, and stays with its processes.
    pub(super) fn options(&self) -> PolicyOptions {
        let file = self.file.as_ref().map(path);
        PolicyOptions {
            source: match (&self.preset, file) {
                (_, Some(file)) => PolicySource::File(file),
                (preset, None) => PolicySource::Preset(preset.clone().unwrap_or_default()),
            },
            mode: self.mode,
            profile: self.profile.clone(),
            unresolved: self.unresolved,
            landlock: LandlockChoice::Level(LandlockLevel::Off),
            siblings: Siblings::Stable,
            allow_degraded: self.allow_degraded,
            asks: None,
        }
    }

    pub(super) fn directories(&self) -> Directories {
        Directories { home: self.home.0.clone(), project: self.project.0.clone() }
    }
}

impl Manifest {
    pub(super) fn read(file: &Path) -> io::Result<Self> {
        let manifest: Self = serde_json::from_slice(&fs::read(file)?)?;
        if manifest.format == FORMAT {
            Ok(manifest)
        } else {
            let format = manifest.format;
            Err(io::Error::other(format!("it has format {format}, this program knows {FORMAT}")))
        }
    }

    /// Replaces the file.
    pub(super) fn write(&self, file: &Path) -> io::Result<()> {
        let mut next = file.as_os_str().to_owned();
        next.push(".next");
        let mut out =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        serde_json::to_writer(&mut out, self)?;
        out.flush()?;
        fs::rename(&next, file)
    }
}

pub(super) fn absolute(file: &Path) -> PathBuf {
    std::path::absolute(file).unwrap_or_else(|_| file.to_owned())
}

pub(super) fn text(path: &Path) -> Text {
    path.as_os_str().as_bytes().into()
}

pub(super) fn path(text: &Text) -> PathBuf {
    std::ffi::OsStr::from_bytes(&text.0).into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::model::{BootTime, Level, ProcessKey, Protection, SessionId, WallTime};

    fn manifest() -> Manifest {
        let loaded = PolicyLoaded {
            session: SessionId(7),
            boot: BootTime(5),
            profile: 0,
            name: "default".to_owned(),
            mode: Mode::Action,
            generation: 3,
            digest: "5f".repeat(32),
            rules: Vec::new(),
        };
        let options = PolicyOptions {
            source: PolicySource::File("policy.yaml".into()),
            mode: Some(Mode::Action),
            profile: "default".to_owned(),
            unresolved: Some(PolicyAction::Block),
            landlock: LandlockChoice::Auto,
            siblings: Siblings::Any,
            allow_degraded: true,
            asks: None,
        };
        let directories = Directories { home: b"/home/\xff".to_vec(), project: b"/p".to_vec() };
        let protection = Protection {
            level: Level::Lsm,
            level_reason: String::new(),
            capabilities: Vec::new(),
            table: Vec::new(),
            rules: Vec::new(),
        };
        Manifest {
            format: FORMAT,
            abi: 2,
            object: "ab".repeat(32),
            database: Text(b"/var/\xfe/audit.db".to_vec()),
            start: SessionStart {
                session: SessionId(7),
                wall: WallTime(1),
                boot: BootTime(2),
                boot_id: "boot".to_owned(),
                root: ProcessKey { tgid: 10, start_ns: 11 },
                command: vec![Text(b"\xfd".to_vec())],
                project: "/p".into(),
                home: "/h".into(),
                host: String::new(),
                kernel: String::new(),
                version: String::new(),
                origin: crate::model::Origin::Launched,
                protection,
            },
            pinned: true,
            cgroup: None,
            attached: vec!["file_open".to_owned()],
            policy: Some(ManifestPolicy::new(&options, &directories, loaded)),
            filtered: BTreeMap::from([("file_open".to_owned(), 3)]),
            handed: 1,
        }
    }

    #[test]
    fn it_reads_back_wherever_it_is_read_and_is_nobody_elses() {
        let place = tempfile::TempDir::new().unwrap();
        let file = place.path().join("x.json");
        let written = manifest();
        written.write(&file).unwrap();
        written.write(&file).unwrap();
        let read = Manifest::read(&file).unwrap();
        assert_eq!(read, written);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);
        let policy = read.policy.unwrap();
        assert_eq!(policy.directories().home, b"/home/\xff");
        let PolicySource::File(path) = policy.options().source else { panic!("{policy:?}") };
        assert_eq!(path, std::env::current_dir().unwrap().join("policy.yaml"));
    }

    #[test]
    fn what_is_no_manifest_is_said() {
        let place = tempfile::TempDir::new().unwrap();
        let file = place.path().join("x.json");
        let other = Manifest { format: FORMAT + 1, ..manifest() };
        other.write(&file).unwrap();
        assert!(Manifest::read(&file).unwrap_err().to_string().contains("format 2"));
        fs::write(&file, "{\"format\":1").unwrap();
        assert_eq!(Manifest::read(&file).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(Manifest::read(&place.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
