//! The check of enforcement: files, a program and an address that a private policy forbids, and what it means when an
//! attempt to use them is not refused. Who attempts is a process of `launcher`'s.

use std::{
    fs,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    sys::statvfs,
};

use super::EnforceError;
use crate::{
    model::{Effects, PolicyAction, Posture, Unproven},
    policy::image::{AddressRow, Entry, Image, PathKey, PathPattern, PathRow, Ports, Reach},
};

/// On the loopback network, where nobody listens: if it is not refused, nothing leaves the machine.
const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 203, 113, 77), 9);
/// Of the directories.
const PREFIX: &str = "defenseclaw-check-";
/// Numbers of the canary's rules: those that share the last row of the counters, away from the rules of policies.
const RULES: [u16; 3] = [u16::MAX - 2, u16::MAX - 1, u16::MAX];

/// What must not be touched. Dropping it removes the files.
#[derive(Debug)]
pub struct Trap {
    directory: PathBuf,
    /// Says that somebody needs the files: those of a process that was killed are removed by the next one.
    _lock: Flock<fs::File>,
    /// Must not be opened.
    pub file: PathBuf,
    /// Must not be executed. It is empty: where it is not refused, it is not a program either.
    pub program: PathBuf,
    /// Must not be connected to.
    pub address: SocketAddrV4,
}

/// What became of each attempt: 0, or the errno.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// Opening the file.
    pub open: i32,
    /// Executing the program.
    pub exec: i32,
    /// Connecting to the address.
    pub connect: i32,
}

impl Trap {
    /// Makes the files, where only this user can see them and programs may be executed.
    pub fn set() -> Result<Self, EnforceError> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for place in ["/run", "/var/lib", "/var/tmp", "/tmp"].map(Path::new) {
            if !may_execute(place) {
                continue;
            }
            remove_stale(place);
            match Self::set_in(place) {
                Ok(trap) => return Ok(trap),
                Err(error) => last = error,
            }
        }
        Err(EnforceError::System {
            step: "make the files of the enforcement check in /run, /var/lib, /var/tmp or /tmp".to_owned(),
            source: last,
        })
    }

    fn set_in(place: &Path) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = format!("{PREFIX}{:016x}", u64::from_ne_bytes(random));
        // The kernel knows files by their real paths.
        let directory = fs::canonicalize(place)?.join(name);
        fs::DirBuilder::new().mode(0o700).create(&directory)?;
        let lock = lock(&directory)?;
        let trap = Self {
            _lock: lock,
            file: directory.join("file"),
            program: directory.join("program"),
            address: ADDRESS,
            directory,
        };
        fs::File::create(&trap.file)?.write_all(b"Nobody may read this.\n")?;
        fs::OpenOptions::new().create_new(true).write(true).mode(0o700).open(&trap.program)?;
        Ok(trap)
    }

    /// The policy that forbids it, and nothing else.
    pub fn image(&self) -> Image {
        let [open, exec, connect] = RULES;
        let row = |path: &Path, effects, rule| PathRow {
            pattern: PathPattern {
                key: PathKey::Anchored(
                    path.as_os_str()
                        .as_bytes()
                        .split(|byte| *byte == b'/')
                        .filter(|part| !part.is_empty())
                        .map(<[u8]>::to_vec)
                        .collect(),
                ),
                reach: Reach::Exact,
            },
            entries: vec![block(effects, rule)],
        };
        Image {
            paths: vec![row(&self.file, Effects::FILE_READ, open), row(&self.program, Effects::EXEC, exec)],
            addresses: vec![AddressRow {
                network: IpAddr::V4(*self.address.ip()),
                length: 32,
                entries: vec![(Ports::ANY, block(Effects::NET_CONNECT, connect))],
            }],
            ..Image::default()
        }
    }
}

impl Drop for Trap {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.directory).ok();
    }
}

fn lock(directory: &Path) -> io::Result<Flock<fs::File>> {
    let directory = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(directory)?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno.into())
}

/// Removes the files of checks that were killed.
fn remove_stale(place: &Path) {
    let Ok(entries) = fs::read_dir(place) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let is_mine = || {
            fs::symlink_metadata(entry.path())
                .is_ok_and(|found| found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw())
        };
        // One that is just being made has no lock for a moment; whoever makes it then tries elsewhere.
        if is_ours
            && is_mine()
            && let Ok(_lock) = lock(&entry.path())
        {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

fn block(effects: Effects, rule: u16) -> Entry {
    Entry {
        effects,
        rule,
        action: PolicyAction::Block,
        raw_action: PolicyAction::Block,
        would_block: false,
        kill: false,
        unless: None,
    }
}

fn may_execute(place: &Path) -> bool {
    statvfs::statvfs(place).is_ok_and(|found| !found.flags().contains(statvfs::FsFlags::ST_NOEXEC))
}

/// What the attempts prove. Only the errno that a refusal of ours has counts as one.
pub fn posture(attempts: &Attempts) -> Posture {
    let Attempts { open, exec, connect } = *attempts;
    let which: Vec<Unproven> = [("open", open), ("exec", exec), ("connect", connect)]
        .into_iter()
        .filter(|(_, errno)| *errno != Errno::EPERM as i32)
        .map(|(operation, errno)| Unproven {
            operation: operation.to_owned(),
            reason: went_through(operation, errno),
        })
        .collect();
    if which.is_empty() { Posture::Enforced } else { Posture::Degraded { which } }
}

fn went_through(operation: &str, errno: i32) -> String {
    let known = Errno::from_raw(errno);
    match (operation, known) {
        (_, _) if errno == 0 => "it went through".to_owned(),
        ("exec", Errno::ENOEXEC) | ("connect", Errno::ECONNREFUSED | Errno::EINPROGRESS) => {
            "it was not refused by policy".to_owned()
        }
        ("open" | "exec", Errno::ENOENT) => "the file of the check is gone".to_owned(),
        _ => format!("it failed for another reason than policy: {}", known.desc()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_by_policy_proves_anything() {
        let eperm = Errno::EPERM as i32;
        let all = Attempts { open: eperm, exec: eperm, connect: eperm };
        assert_eq!(posture(&all), Posture::Enforced);
        let cases = [
            (Attempts { open: 0, ..all }, "open"),
            (Attempts { open: Errno::EACCES as i32, ..all }, "open"),
            (Attempts { exec: Errno::ENOEXEC as i32, ..all }, "exec"),
            (Attempts { connect: Errno::ECONNREFUSED as i32, ..all }, "connect"),
            (Attempts { connect: 0, ..all }, "connect"),
        ];
        for (attempts, operation) in cases {
            let Posture::Degraded { which } = posture(&attempts) else { panic!("{attempts:?}") };
            let [unproven] = which.as_slice() else { panic!("{which:?}") };
            assert_eq!(unproven.operation, operation, "{attempts:?}");
        }
    }

    #[test]
    fn what_a_killed_check_has_left_is_removed_and_what_is_in_use_is_not() {
        let place = tempfile::TempDir::new().unwrap();
        let used = Trap::set_in(place.path()).unwrap();
        let left = place.path().join(format!("{PREFIX}0"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join("file"), "").unwrap();
        remove_stale(place.path());
        assert!(used.file.exists() && !left.exists());
    }

    #[test]
    fn the_files_are_there_and_go() {
        let trap = Trap::set().unwrap();
        let (file, program) = (trap.file.clone(), trap.program.clone());
        assert!(file.exists() && program.exists());
        assert_eq!(fs::read(&program).unwrap(), b"");
        let image = trap.image();
        assert_eq!((image.paths.len(), image.addresses.len()), (2, 1));
        drop(trap);
        assert!(!file.exists() && !program.exists());
    }
}
