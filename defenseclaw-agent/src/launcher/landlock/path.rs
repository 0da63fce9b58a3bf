//! Absolute paths as the policy has them: components, none of them empty, `.` or `..`.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Component, PathBuf},
};

/// Components from the root; empty: the root itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path(pub Vec<Vec<u8>>);

impl Path {
    /// The root.
    pub fn root() -> Self {
        Self::default()
    }

    /// From text. Relative parts mean nothing here and are left out.
    pub fn new(path: impl AsRef<std::path::Path>) -> Self {
        let components = path.as_ref().components().filter_map(|component| match component {
            Component::Normal(name) => Some(name.as_bytes().to_vec()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
        });
        Self(components.collect())
    }

    /// Something directly below.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        let mut components = self.0.clone();
        components.push(name.to_vec());
        Self(components)
    }

    /// The directory it is in; the root is in itself.
    #[must_use]
    pub fn parent(&self) -> Self {
        let mut components = self.0.clone();
        components.pop();
        Self(components)
    }

    /// Whether `self` is `other` or something below it.
    pub fn is_at_or_below(&self, other: &Path) -> bool {
        self.0.starts_with(&other.0)
    }

    pub(super) fn to_os(&self) -> PathBuf {
        let mut text = Vec::new();
        for component in &self.0 {
            text.push(b'/');
            text.extend_from_slice(component);
        }
        if text.is_empty() {
            text.push(b'/');
        }
        OsString::from_vec(text).into()
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("/");
        }
        self.0.iter().try_for_each(|name| write!(f, "/{}", OsStr::from_bytes(name).display()))
    }
}
