//! Where cgroup v2 is mounted and where in it we are, from `/proc/self`: it may be at `/sys/fs/cgroup`, beside version
//! 1 at `/sys/fs/cgroup/unified`, elsewhere, or nowhere.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// Directories below which a cgroup may be made, best first, each or why not.
pub(super) fn cgroup_parents() -> Vec<Result<PathBuf, String>> {
    let read = |path: &str| fs::read(path).map_err(|err| format!("cannot read {path}: {err}"));
    let files = read("/proc/self/mountinfo").and_then(|mounts| Ok((mounts, read("/proc/self/cgroup")?)));
    let (mounts, own) = match files {
        Ok(files) => files,
        Err(reason) => return vec![Err(reason)],
    };
    let Some(mount) = cgroup2_mount(&mounts) else {
        return vec![Err(
            "cgroup v2 is not mounted; mount it, or boot with systemd.unified_cgroup_hierarchy=1".into(),
        )];
    };
    let mut parents = vec![Ok(mount.point.clone())];
    // A cgroup outside of what is mounted here (a container's view) has no directory.
    if let Some(own) = own_cgroup(&own)
        && let Ok(inside) = own.strip_prefix(&mount.root)
        && inside != Path::new("")
    {
        parents.insert(0, Ok(mount.point.join(inside)));
    }
    parents
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// Directory of the file system that is mounted.
    root: PathBuf,
    point: PathBuf,
}

/// The first cgroup v2 mount in a `mountinfo` file.
fn cgroup2_mount(mountinfo: &[u8]) -> Option<Mount> {
    mountinfo.split(|byte| *byte == b'\n').find_map(|line| {
        // Id, parent, device, root, mount point, options, any number of tags, a hyphen, type, ...
        let mut fields = line.split(|byte| *byte == b' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        fields.find(|field| *field == b"-")?;
        (fields.next()? == b"cgroup2").then(|| Mount { root: unescape(root), point: unescape(point) })
    })
}

/// Space, tab, newline and backslash are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                path.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                path.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(path))
}

/// The version 2 line of a `/proc/PID/cgroup` file.
pub(super) fn own_cgroup(text: &[u8]) -> Option<PathBuf> {
    let line = text.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    Some(PathBuf::from(OsString::from_vec(line.to_vec())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_mount() {
        let unified =
            b"30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 master:2 - cgroup2 cgroup2 rw,nsdelegate\n";
        let hybrid = b"32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let odd = b"41 31 0:38 /ab\\040c /x\\134y\\012 rw - cgroup2 none rw\n";
        let mount = |root: &str, point: &str| Some(Mount { root: root.into(), point: point.into() });
        assert_eq!(cgroup2_mount(unified), mount("/", "/sys/fs/cgroup"));
        assert_eq!(cgroup2_mount(hybrid), mount("/", "/sys/fs/cgroup/unified"));
        assert_eq!(cgroup2_mount(odd), mount("/ab c", "/x\\y\n"));
        for none in [
            b"".as_slice(),
            b"1 2 3",
            b"30 23 0:26 / /a rw shared:9",
            b"1 2 3:4 / /cgroup2 rw - ext4 cgroup2 rw",
        ] {
            assert_eq!(cgroup2_mount(none), None);
        }
    }

    #[test]
    fn finds_our_place() {
        let text = b"4:memory:/m\n0::/user.slice/a b\n";
        assert_eq!(own_cgroup(text), Some("/user.slice/a b".into()));
        assert_eq!(own_cgroup(b"4:memory:/m\n"), None);
    }
}
