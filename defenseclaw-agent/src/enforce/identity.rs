//! Files that absolute patterns name, by device and inode: so that another name of one of them (hard link, bind mount,
//! another mount namespace) is judged as the file. Looks at the file system, and keeps within stated bounds.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ffi::CString,
    fs, io,
    mem::MaybeUninit,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

use nix::sys::statfs::{self, FsType, statfs};

use crate::{
    model::{Effects, PolicyAction},
    policy::image::Entry,
};

/// How far is looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Files, directories and links, over all patterns.
    pub files: usize,
    /// Of one pattern, so that a large tree does not leave the others without.
    pub per_pattern: usize,
    /// Directories below a pattern's own.
    pub depth: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { files: 50_000, per_pattern: 10_000, depth: 32 }
    }
}

/// One file, and what is said of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The kernel's `dev_t`: 20 bit minor.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// What policy says of the path it was found at, the decisive first.
    pub entries: Vec<Entry>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Identities {
    /// Each file once.
    pub files: Vec<Identity>,
    /// What could not be looked at, and why; these are judged by path only.
    pub skipped: Vec<String>,
}

/// Looks for the files of absolute patterns. `entries_of` says what policy says of a path. A pattern that names a symbolic
/// link stands for what it leads to, but for programs: a link to a program of many names must not become all of them.
/// Links below are not followed.
pub fn find(roots: &[Vec<u8>], bounds: Bounds, entries_of: &dyn Fn(&[u8]) -> Vec<Entry>) -> Identities {
    let mut walk = Walk {
        bounds,
        entries_of,
        devices: Devices::default(),
        found: BTreeMap::new(),
        skipped: Vec::new(),
        seen: 0,
        seen_max: 0,
    };
    for root in roots {
        walk.root(Path::new(std::ffi::OsStr::from_bytes(root)));
    }
    let files = walk.found.into_iter().map(|((dev, ino), entries)| Identity { dev, ino, entries });
    Identities { files: files.collect(), skipped: walk.skipped }
}

struct Walk<'a> {
    bounds: Bounds,
    entries_of: &'a dyn Fn(&[u8]) -> Vec<Entry>,
    devices: Devices,
    found: BTreeMap<(u64, u64), Vec<Entry>>,
    skipped: Vec<String>,
    seen: usize,
    /// Where the current pattern has to end.
    seen_max: usize,
}

impl Walk<'_> {
    fn root(&mut self, root: &Path) {
        self.seen_max = self.bounds.files.min(self.seen + self.bounds.per_pattern);
        let metadata = match fs::symlink_metadata(root) {
            Ok(metadata) => metadata,
            Err(error) => {
                // What does not exist has no inode: its path is judged when it is made.
                if error.kind() != io::ErrorKind::NotFound {
                    self.skip(root, &error.to_string());
                }
                return;
            }
        };
        self.take(root, root, Effects::all());
        let mut start = root.to_owned();
        let mut sparing = Effects::all();
        if metadata.is_symlink() {
            // It leads nowhere, or in a circle.
            let Ok(target) = fs::canonicalize(root) else { return };
            sparing.remove(Effects::EXEC);
            start = target;
            self.take(&start, root, sparing);
        }
        if start.is_dir() {
            self.below(&start, root, sparing);
        }
    }

    /// Everything below a directory, what is nearest to it first; `named` is the name that policy knows it by.
    fn below(&mut self, start: &Path, named: &Path, effects: Effects) {
        let mut todo = VecDeque::from([(start.to_owned(), named.to_owned(), 0)]);
        while let Some((directory, named, depth)) = todo.pop_front() {
            match statfs(&directory) {
                Ok(found) if is_pseudo(found.filesystem_type()) => continue,
                Ok(_) => {}
                Err(errno) => {
                    self.skip(&directory, errno.desc());
                    continue;
                }
            }
            let entries = match fs::read_dir(&directory) {
                Ok(entries) => entries,
                Err(error) => {
                    self.skip(&directory, &error.to_string());
                    continue;
                }
            };
            if depth >= self.bounds.depth {
                self.skip(&directory, &format!("more than {} directories deep", self.bounds.depth));
                continue;
            }
            for entry in entries.flatten() {
                if self.seen >= self.seen_max {
                    self.skip(start, "it has too many files; those nearest to it are protected");
                    return;
                }
                let (path, name) = (entry.path(), named.join(entry.file_name()));
                self.take(&path, &name, effects);
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    todo.push_back((path, name, depth + 1));
                }
            }
        }
    }

    /// Notes one file by the name that policy knows.
    fn take(&mut self, path: &Path, named: &Path, effects: Effects) {
        self.seen += 1;
        let identity = match self.devices.identity(path, false) {
            Ok(identity) => identity,
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    self.skip(path, &error.to_string());
                }
                return;
            }
        };
        let mut entries = (self.entries_of)(named.as_os_str().as_bytes());
        for entry in &mut entries {
            entry.effects &= effects;
        }
        entries.retain(|entry| !entry.effects.is_empty());
        // The stricter of path and inode holds: what only allows changes nothing.
        if entries.iter().all(|entry| entry.action == PolicyAction::Allow) {
            return;
        }
        let known = self.found.entry(identity).or_default();
        if known.is_empty() {
            *known = entries;
        } else if *known != entries {
            // Two protected names of one file: what is stricter under either of them.
            known.extend(entries);
            known.sort_by_key(|entry| std::cmp::Reverse(entry.action));
            known.dedup();
        }
    }

    fn skip(&mut self, path: &Path, reason: &str) {
        // Text for people; what stands in a name is escaped by who prints it. Of a path that nobody reads to its end, its
        // end is left out.
        const SHOWN: usize = 120;
        let path = path.to_string_lossy();
        let end = path.char_indices().nth(SHOWN).map_or(path.len(), |(at, _)| at);
        let more = if end < path.len() { "…" } else { "" };
        self.skipped.push(format!("{}{more}: {reason}", path.get(..end).unwrap_or_default()));
    }
}

/// File systems without files of their own: what lies there is judged by path.
fn is_pseudo(kind: FsType) -> bool {
    const BINFMT: FsType = FsType(0x4249_4e4d);
    const PSTORE: FsType = FsType(0x6165_676c);
    const CONFIGFS: FsType = FsType(0x6265_6570);
    [
        statfs::PROC_SUPER_MAGIC,
        statfs::SYSFS_MAGIC,
        statfs::CGROUP_SUPER_MAGIC,
        statfs::CGROUP2_SUPER_MAGIC,
        statfs::DEBUGFS_MAGIC,
        statfs::TRACEFS_MAGIC,
        statfs::SECURITYFS_MAGIC,
        statfs::BPF_FS_MAGIC,
        statfs::DEVPTS_SUPER_MAGIC,
        PSTORE,
        BINFMT,
        CONFIGFS,
    ]
    .contains(&kind)
}

/// Device numbers as the kernel's inodes carry them. What `stat` says is another one where a file system gives each
/// subvolume its own (btrfs); the mount table has the right one.
#[derive(Debug, Default)]
struct Devices {
    by_mount: Option<HashMap<u64, u64>>,
}

impl Devices {
    fn identity(&mut self, path: &Path, follow: bool) -> io::Result<(u64, u64)> {
        let path = CString::new(path.as_os_str().to_owned().into_vec())?;
        let mut found = MaybeUninit::<libc::statx>::zeroed();
        let flags = libc::AT_NO_AUTOMOUNT | if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW };
        let mask = libc::STATX_INO | libc::STATX_MNT_ID;
        // SAFETY: the path ends with a NUL, and the kernel writes no more than the structure, which is valid when zero.
        let (result, found) = unsafe {
            let result = libc::statx(libc::AT_FDCWD, path.as_ptr(), flags, mask, found.as_mut_ptr());
            (result, found.assume_init())
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let own = kernel_dev(found.stx_dev_major.into(), found.stx_dev_minor.into());
        let mounted = if found.stx_mask & libc::STATX_MNT_ID == 0 {
            None
        } else {
            self.by_mount.get_or_insert_with(mounts).get(&found.stx_mnt_id).copied()
        };
        Ok((mounted.unwrap_or(own), found.stx_ino))
    }
}

/// Device and inode of what is at `path`, or of what a link there leads to, as in an [`Identity`].
pub fn identity_of(path: &Path) -> io::Result<(u64, u64)> {
    Devices::default().identity(path, true)
}

/// Device of each mount, by its id.
fn mounts() -> HashMap<u64, u64> {
    let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
    parse_mounts(&String::from_utf8_lossy(&text))
}

fn parse_mounts(text: &str) -> HashMap<u64, u64> {
    let parse = |line: &str| {
        let mut fields = line.split(' ');
        let id = fields.next()?.parse().ok()?;
        let (major, minor) = fields.nth(1)?.split_once(':')?;
        Some((id, kernel_dev(major.parse().ok()?, minor.parse().ok()?)))
    };
    text.lines().filter_map(parse).collect()
}

/// `MKDEV`.
fn kernel_dev(major: u64, minor: u64) -> u64 {
    major << 20 | minor
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use tempfile::TempDir;

    use super::*;
    use crate::enforce::sample;

    fn entries(_: &[u8]) -> Vec<Entry> {
        vec![sample::entry(1)]
    }

    fn bytes(path: &Path) -> Vec<u8> {
        path.as_os_str().as_bytes().to_vec()
    }

    fn inodes(found: &Identities) -> Vec<u64> {
        found.files.iter().map(|file| file.ino).collect()
    }

    fn ino(path: &Path) -> u64 {
        fs::symlink_metadata(path).unwrap().ino()
    }

    #[test]
    fn a_tree_is_found_and_a_way_out_is_not_taken() {
        let place = TempDir::new().unwrap();
        let outside = TempDir::new().unwrap();
        let keys = place.path().join("keys");
        fs::create_dir_all(keys.join("deep")).unwrap();
        fs::write(keys.join("deep/id"), "secret").unwrap();
        fs::write(outside.path().join("other"), "").unwrap();
        symlink(outside.path(), keys.join("out")).unwrap();
        let found = find(&[bytes(&keys), bytes(&place.path().join("absent"))], Bounds::default(), &entries);
        let mut expected: Vec<u64> = ["", "deep", "deep/id", "out"]
            .iter()
            .map(|name| ino(&keys.join(name).components().collect::<std::path::PathBuf>()))
            .collect();
        let mut inodes = inodes(&found);
        expected.sort_unstable();
        inodes.sort_unstable();
        assert_eq!(inodes, expected);
        assert!(found.skipped.is_empty(), "{:?}", found.skipped);
        let device = fs::metadata(&keys).unwrap().dev();
        let expected = kernel_dev(libc::major(device).into(), libc::minor(device).into());
        // True of every file system that has one device for all its files.
        assert!(found.files.iter().all(|file| file.dev == expected), "{:?}", found.files);
    }

    #[test]
    fn a_pattern_that_is_a_link_stands_for_its_target_but_for_programs() {
        let place = TempDir::new().unwrap();
        let real = place.path().join("dotfiles");
        fs::create_dir(&real).unwrap();
        fs::write(real.join("config"), "").unwrap();
        let link = place.path().join(".ssh");
        symlink(&real, &link).unwrap();
        let asked = std::cell::RefCell::new(Vec::new());
        let found = find(&[bytes(&link)], Bounds::default(), &|path| {
            asked.borrow_mut().push(path.to_vec());
            vec![Entry { effects: Effects::FILE_READ | Effects::EXEC, ..sample::entry(1) }]
        });
        let effects = |path: &Path| {
            let file = found.files.iter().find(|file| file.ino == ino(path)).unwrap();
            file.entries.iter().map(|entry| entry.effects).collect::<Vec<_>>()
        };
        assert_eq!(effects(&link), [Effects::FILE_READ | Effects::EXEC]);
        assert_eq!(effects(&real), [Effects::FILE_READ]);
        assert_eq!(effects(&real.join("config")), [Effects::FILE_READ]);
        assert!(
            asked.borrow().contains(&bytes(&link.join("config"))),
            "judged by the name that policy knows"
        );
    }

    #[test]
    fn bounds_are_kept_and_said() {
        let place = TempDir::new().unwrap();
        let mut deep = place.path().to_owned();
        for n in 0..6 {
            deep.push(n.to_string());
            fs::create_dir(&deep).unwrap();
            fs::write(deep.join("file"), "").unwrap();
        }
        for (bounds, most) in [
            (Bounds { files: 5, per_pattern: 100, depth: 32 }, 5),
            (Bounds { files: 100, per_pattern: 4, depth: 32 }, 4),
            (Bounds { files: 100, per_pattern: 100, depth: 2 }, 6),
        ] {
            let found = find(&[bytes(place.path())], bounds, &entries);
            assert!(found.files.len() <= most, "{bounds:?}: {}", found.files.len());
            assert_eq!(found.skipped.len(), 1, "{:?}", found.skipped);
        }
    }

    #[test]
    fn pseudo_file_systems_and_mere_permissions_have_no_rows() {
        let found = find(&[b"/proc/self".to_vec()], Bounds::default(), &entries);
        assert!(found.files.len() <= 2, "{}", found.files.len());
        let place = TempDir::new().unwrap();
        let allow = |_: &[u8]| vec![Entry { action: PolicyAction::Allow, ..sample::entry(1) }];
        assert!(find(&[bytes(place.path())], Bounds::default(), &allow).files.is_empty());
    }

    #[test]
    fn two_names_of_one_file_hold_the_stricter_of_both() {
        let place = TempDir::new().unwrap();
        let [alerted, blocked] = ["alerted", "blocked"].map(|name| place.path().join(name));
        fs::write(&alerted, "").unwrap();
        fs::hard_link(&alerted, &blocked).unwrap();
        let found = find(&[bytes(&alerted), bytes(&blocked)], Bounds::default(), &|path| {
            let action = if path.ends_with(b"blocked") { PolicyAction::Block } else { PolicyAction::Alert };
            vec![Entry { action, ..sample::entry(1) }]
        });
        let [file] = found.files.as_slice() else { panic!("{found:?}") };
        let actions: Vec<_> = file.entries.iter().map(|entry| entry.action).collect();
        assert_eq!(actions, [PolicyAction::Block, PolicyAction::Alert]);
    }

    #[test]
    fn mount_table() {
        let text = "23 28 0:21 / /sys rw - sysfs sysfs rw\n99 1 259:1 / / rw - ext4 /dev/x rw\nbad line\n";
        assert_eq!(parse_mounts(text), HashMap::from([(23, 21), (99, 259 << 20 | 1)]));
    }
}
