//! Classes of paths: where a file lies as seen from the project, and what is noise. Not a policy: no path is bad.

use serde::Serialize;

use crate::model::{KernelPath, Text};

/// Where a file lies, in the order of the report: what is outside of the project first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathClass {
    /// Below the user's home directory.
    Home,
    /// Below `/etc`.
    SystemConfig,
    /// Nowhere else in this list, or not known.
    Elsewhere,
    /// Below `/tmp`, `/var/tmp` or `/dev/shm`.
    Temporary,
    /// Below the working directory of the start.
    Project,
}

/// Class of a path, or the folder of noise it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Class(PathClass),
    Noise(Text),
}

/// The directories that classes depend on.
#[derive(Debug)]
pub(super) struct Places {
    project: Vec<u8>,
    home: Vec<u8>,
}

/// Reading here is what every program does.
const SYSTEM: [&str; 11] =
    ["/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/proc", "/sys", "/nix/store", "/snap", "/opt"];
const SYSTEM_FILES: [&str; 9] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/locale.alias",
    "/etc/localtime",
    "/etc/fonts",
    "/etc/nsswitch.conf",
    "/etc/alternatives",
    "/var/cache/fontconfig",
    "/run/nscd",
];
/// Devices that hold nothing.
const DEVICES: [&str; 9] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/console",
    "/dev/ptmx",
    "/dev/pts",
];
/// Directories of dependencies and caches, wherever they are.
const DEPENDENCIES: [&[u8]; 6] =
    [b"node_modules", b"site-packages", b"dist-packages", b"__pycache__", b"_cacache", b".rustup"];

impl Places {
    pub(super) fn new(places: Option<(&Text, &Text)>) -> Self {
        let directory = |text: &Text| text.0.strip_suffix(b"/").unwrap_or(&text.0).to_vec();
        match places {
            Some((project, home)) => Self { project: directory(project), home: directory(home) },
            None => Self { project: Vec::new(), home: Vec::new() },
        }
    }

    /// `changed`: the file was changed, or it was tried.
    pub(super) fn place(&self, path: &KernelPath, changed: bool) -> Place {
        let text = path.text.0.as_slice();
        if path.unresolved && !path.as_given {
            return Place::Noise("(pipes and other files without a path)".into());
        }
        // The beginning is missing, or there is a way out that only the kernel could have followed.
        if path.truncated || !text.starts_with(b"/") || components(text).any(|part| part == b"..") {
            return Place::Class(PathClass::Elsewhere);
        }
        if within(text, &self.project) && !self.is_dot_file_of_home(text) {
            return match dependencies(text, self.project.len(), true) {
                Some(folder) => Place::Noise(folder),
                None => Place::Class(PathClass::Project),
            };
        }
        if DEVICES.iter().any(|name| within(text, name.as_bytes())) {
            return Place::Noise("/dev".into());
        }
        // Changes outside of the project are never noise.
        if !changed {
            let fixed = SYSTEM.iter().chain(&SYSTEM_FILES).find(|name| within(text, name.as_bytes()));
            if let Some(folder) = dependencies(text, 0, false).filter(|_| fixed.is_none()) {
                return Place::Noise(folder);
            }
            if let Some(folder) = fixed {
                return Place::Noise((*folder).into());
            }
        }
        Place::Class(self.class(text))
    }

    fn class(&self, text: &[u8]) -> PathClass {
        if within(text, &self.home) {
            PathClass::Home
        } else if within(text, b"/etc") {
            PathClass::SystemConfig
        } else if ["/tmp", "/var/tmp", "/dev/shm"].iter().any(|name| within(text, name.as_bytes())) {
            PathClass::Temporary
        } else {
            PathClass::Elsewhere
        }
    }

    /// An agent that is started in the home directory makes it the project; its dot-files are outside all the same.
    fn is_dot_file_of_home(&self, text: &[u8]) -> bool {
        within(&self.home, &self.project)
            && below(text, &self.home).is_some_and(|rest| rest.starts_with(b"."))
    }
}

/// Folder of dependencies that a path lies in, from the byte `from` on. In the project, git's objects are one too.
fn dependencies(text: &[u8], from: usize, in_project: bool) -> Option<Text> {
    let mut end = from;
    let mut before: &[u8] = b"";
    for part in components(text.get(from..)?) {
        end += 1 + part.len();
        let objects = in_project && before == b".git" && part == b"objects";
        let library = before == b"lib" && part.starts_with(b"python");
        // The last component is the file itself.
        if (DEPENDENCIES.contains(&part) || objects || library) && end < text.len() {
            return text.get(..end).map(Text::from);
        }
        before = part;
    }
    None
}

/// Components of an absolute path, or of what follows a directory in it.
fn components(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'/').skip(1)
}

/// What follows `directory` in a path below it.
pub(super) fn below<'a>(text: &'a [u8], directory: &[u8]) -> Option<&'a [u8]> {
    // An empty directory is `/` or unknown: everything would be below it.
    if directory.is_empty() { None } else { text.strip_prefix(directory)?.strip_prefix(b"/") }
}

fn within(text: &[u8], directory: &[u8]) -> bool {
    below(text, directory).is_some() || (!directory.is_empty() && text == directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(project: &str, path: &KernelPath, changed: bool) -> String {
        let (project, home) = (project.into(), "/home/u".into());
        match Places::new(Some((&project, &home))).place(path, changed) {
            Place::Class(class) => format!("{class:?}"),
            Place::Noise(folder) => format!("noise {}", folder.lossy()),
        }
    }

    #[test]
    fn read_and_changed() {
        let cases = [
            ("/home/u/app/src/a.rs", "Project", "Project"),
            ("/home/u/app", "Project", "Project"),
            ("/home/u/application/a", "Home", "Home"),
            ("/home/u/.ssh/id_rsa", "Home", "Home"),
            ("/home/u/app/.git/config", "Project", "Project"),
            (
                "/home/u/app/.git/objects/ab/cd",
                "noise /home/u/app/.git/objects",
                "noise /home/u/app/.git/objects",
            ),
            (
                "/home/u/app/node_modules/x/y.js",
                "noise /home/u/app/node_modules",
                "noise /home/u/app/node_modules",
            ),
            ("/home/u/app/a/node_modules", "Project", "Project"),
            (
                "/home/u/.local/lib/python3.11/site-packages/x.pth",
                "noise /home/u/.local/lib/python3.11",
                "Home",
            ),
            ("/usr/lib/node_modules/npm/a.js", "noise /usr", "Elsewhere"),
            ("/etc/ld.so.cache", "noise /etc/ld.so.cache", "SystemConfig"),
            ("/etc/passwd", "SystemConfig", "SystemConfig"),
            ("/etcetera", "Elsewhere", "Elsewhere"),
            ("/proc/1/environ", "noise /proc", "Elsewhere"),
            ("/dev/null", "noise /dev", "noise /dev"),
            ("/dev/sda", "Elsewhere", "Elsewhere"),
            ("/dev/shm/x", "Temporary", "Temporary"),
            ("/var/tmp/x", "Temporary", "Temporary"),
            ("/home/u/app/../.ssh/id_rsa", "Elsewhere", "Elsewhere"),
            ("relative", "Elsewhere", "Elsewhere"),
            ("", "Elsewhere", "Elsewhere"),
        ];
        for (path, read, changed) in cases {
            let path = path.into();
            assert_eq!(
                (place("/home/u/app", &path, false), place("/home/u/app", &path, true)),
                (read.to_owned(), changed.to_owned()),
                "{path:?}"
            );
        }
    }

    #[test]
    fn home_or_root_as_project() {
        assert_eq!(place("/home/u", &"/home/u/.ssh/id_rsa".into(), false), "Home");
        assert_eq!(place("/home/u/", &"/home/u/notes".into(), false), "Project");
        assert_eq!(place("/", &"/etc/shadow".into(), false), "SystemConfig");
        assert_eq!(place("", &"/srv/x".into(), false), "Elsewhere");
    }

    #[test]
    fn what_the_kernel_could_not_tell() {
        let cut = KernelPath { truncated: true, ..KernelPath::from("/home/u/app/x") };
        assert_eq!(place("/home/u/app", &cut, false), "Elsewhere");
        let pipe = KernelPath { unresolved: true, ..KernelPath::from("pipe:[1]") };
        assert_eq!(place("/home/u/app", &pipe, true), "noise (pipes and other files without a path)");
    }
}
