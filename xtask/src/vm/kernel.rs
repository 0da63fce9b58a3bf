//! Kernels of the virtual machines: Debian's cloud kernels, unpacked under `.xtask/kernels/<version>`, or a given file.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result};

use crate::workspace;

/// Kernels the suites run on.
pub(crate) const VERSIONS: [&str; 2] = ["6.1", "6.12"];

/// Which kernel to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// One of [`VERSIONS`], or another that was unpacked to its place.
    Version(String),
    /// A kernel image.
    Image(PathBuf),
}

impl FromStr for Kernel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('/') {
            return Ok(Self::Image(PathBuf::from(text)));
        }
        if VERSIONS.contains(&text) {
            return Ok(Self::Version(text.to_owned()));
        }
        Err(format!("expected {}, or the path of a vmlinuz", VERSIONS.join(", ")))
    }
}

/// A kernel on disk.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) image: PathBuf,
    pub(crate) release: String,
}

impl Kernel {
    /// The image to boot.
    pub(super) fn image(&self) -> Result<PathBuf> {
        match self {
            Self::Image(path) => {
                path.canonicalize().with_context(|| format!("no kernel at {}", path.display()))
            }
            Self::Version(version) => {
                let found = find(version);
                Ok(found
                    .with_context(|| format!("no kernel {version}: run `cargo xtask setup --for vm`"))?
                    .image)
            }
        }
    }
}

/// Where the kernel of this version is, or would be.
pub(crate) fn directory(version: &str) -> PathBuf {
    workspace::private().join("kernels").join(version)
}

/// The unpacked kernel of this version.
pub(crate) fn find(version: &str) -> Option<Found> {
    find_in(&directory(version))
}

fn find_in(directory: &Path) -> Option<Found> {
    directory.join("boot").read_dir().ok()?.flatten().find_map(|entry| {
        let name = entry.file_name();
        let release = name.to_str()?.strip_prefix("vmlinuz-")?.to_owned();
        Some(Found { image: entry.path(), release })
    })
}

/// Pattern of the package names of this version, for `apt-cache search`.
pub(crate) fn package_pattern(version: &str) -> String {
    format!(r"^linux-image-{}\.[0-9].*cloud-amd64-unsigned$", version.replace('.', r"\."))
}

/// The newest of these packages, by the numbers in their names.
pub(crate) fn newest(names: Vec<String>) -> Option<String> {
    names.into_iter().max_by_key(|name| {
        let numbers = name.split(|character: char| !character.is_ascii_digit());
        numbers.filter_map(|part| part.parse().ok()).collect::<Vec<u64>>()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_package_is_newest_by_number() {
        let names =
            ["6.1.0-9", "6.1.0-56", "6.1.0-47"].map(|n| format!("linux-image-{n}-cloud-amd64-unsigned"));
        assert_eq!(newest(names.to_vec()).unwrap(), "linux-image-6.1.0-56-cloud-amd64-unsigned");
        assert_eq!(newest(Vec::new()), None);
    }

    #[test]
    fn pattern_does_not_take_6_12_for_6_1() {
        assert_eq!(package_pattern("6.1"), r"^linux-image-6\.1\.[0-9].*cloud-amd64-unsigned$");
    }

    #[test]
    fn kernel_is_a_known_version_or_a_path() {
        assert_eq!("6.1".parse(), Ok(Kernel::Version("6.1".to_owned())));
        assert_eq!("./vmlinuz".parse(), Ok(Kernel::Image(PathBuf::from("./vmlinuz"))));
        assert!("5.4".parse::<Kernel>().is_err());
    }
}
