//! The guest's file tree, as it is put together: files of the host under their own or another path, with the symlinks
//! on the way to them, and files made up here. `libraries` adds what executables need; `cpio` writes it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::cpio;

/// As many symlinks as the kernel follows.
const SYMLINKS: u32 = 40;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Directory {
        permissions: u32,
    },
    Symlink(PathBuf),
    /// Content of a host's file.
    File {
        source: PathBuf,
        permissions: u32,
    },
    Bytes {
        content: Vec<u8>,
        permissions: u32,
    },
}

/// A file tree. Keys are absolute paths without symlinks in their parents.
#[derive(Debug, Default)]
pub(super) struct Image {
    nodes: BTreeMap<PathBuf, Node>,
}

impl Image {
    /// Makes a directory and its parents.
    pub(super) fn directory(&mut self, path: &Path, permissions: u32) -> Result<()> {
        let path = self.resolve(path, true)?;
        self.nodes.insert(path, Node::Directory { permissions });
        Ok(())
    }

    /// Makes a file with this content.
    pub(super) fn bytes(&mut self, path: &Path, permissions: u32, content: &[u8]) -> Result<()> {
        self.place(path, Node::Bytes { content: content.to_vec(), permissions })
    }

    /// Makes a symlink, unless something is there.
    pub(super) fn symlink(&mut self, path: &Path, target: &Path) -> Result<()> {
        let path = self.resolve(path, false)?;
        self.nodes.entry(path).or_insert_with(|| Node::Symlink(target.to_owned()));
        Ok(())
    }

    /// Puts a host's file or directory, with all that is in it, to a path of the guest.
    pub(super) fn copy_to(&mut self, source: &Path, destination: &Path) -> Result<()> {
        let metadata =
            fs::metadata(source).with_context(|| format!("cannot copy {} to the guest", source.display()))?;
        let permissions = metadata.permissions().mode() & 0o7777;
        if metadata.is_dir() {
            self.directory(destination, permissions)?;
            let entries =
                fs::read_dir(source).with_context(|| format!("cannot read {}", source.display()))?;
            for entry in entries {
                let entry = entry?;
                self.copy_entry(&entry.path(), &destination.join(entry.file_name()))?;
            }
            return Ok(());
        }
        if !metadata.is_file() {
            bail!("cannot copy {} to the guest: neither file nor directory", source.display());
        }
        self.place(destination, Node::File { source: source.to_owned(), permissions })
    }

    /// Puts a host's file or directory to the same path, and the symlinks of that path as well.
    pub(super) fn copy(&mut self, path: &Path) -> Result<()> {
        let real = self.copy_symlinks(path)?;
        self.copy_to(&real, &real)
    }

    /// Whether the guest has this path.
    pub(super) fn contains(&mut self, path: &Path) -> bool {
        self.resolve(path, true).is_ok_and(|path| self.nodes.contains_key(&path))
    }

    /// Sources of all regular files that can be executed or loaded by one.
    pub(super) fn host_files(&self) -> Vec<PathBuf> {
        let sources = self.nodes.values().filter_map(|node| match node {
            Node::File { source, .. } => Some(source.clone()),
            Node::Directory { .. } | Node::Symlink(_) | Node::Bytes { .. } => None,
        });
        sources.collect()
    }

    /// Writes the tree; returns its size in bytes.
    pub(super) fn write(&self, path: &Path) -> Result<u64> {
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut archive = cpio::Writer::new(BufWriter::new(file));
        // Sorted, so a directory always comes before what is in it.
        for (name, node) in &self.nodes {
            match node {
                Node::Directory { permissions } => archive.entry(name, cpio::DIRECTORY | permissions, b""),
                Node::Symlink(target) => {
                    archive.entry(name, cpio::SYMLINK | 0o777, target.as_os_str().as_bytes())
                }
                Node::File { source, permissions } => archive.file(name, *permissions, source),
                Node::Bytes { content, permissions } => {
                    archive.entry(name, cpio::REGULAR | permissions, content)
                }
            }
            .with_context(|| format!("cannot add {} to the guest", name.display()))?;
        }
        let file = archive.finish()?;
        Ok(file.get_ref().metadata()?.len())
    }

    fn copy_entry(&mut self, source: &Path, destination: &Path) -> Result<()> {
        let kind = fs::symlink_metadata(source)
            .with_context(|| format!("cannot read {}", source.display()))?
            .file_type();
        if kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device() {
            return Ok(());
        }
        if !kind.is_symlink() {
            return self.copy_to(source, destination);
        }
        let target = fs::read_link(source)?;
        self.place(destination, Node::Symlink(target))?;
        // A file that a link points to is part of what the directory offers; whole other directories are not.
        let Ok(real) = source.canonicalize() else { return Ok(()) };
        if real.is_file() && !self.contains(&real) {
            self.copy(&real)?;
        }
        Ok(())
    }

    /// Adds every symlink that leads to `path` on the host, and returns where it really is.
    fn copy_symlinks(&mut self, path: &Path) -> Result<PathBuf> {
        let mut rest: Vec<PathBuf> = parts(&std::path::absolute(path)?);
        let mut at = PathBuf::from("/");
        let mut followed = 0;
        while let Some(part) = rest.pop() {
            if part.as_os_str() == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&part);
            let metadata = fs::symlink_metadata(&next)
                .with_context(|| format!("cannot copy {} to the guest", path.display()))?;
            if !metadata.is_symlink() {
                at = next;
                continue;
            }
            followed += 1;
            if followed > SYMLINKS {
                bail!("cannot copy {} to the guest: too many symlinks", path.display());
            }
            let target = fs::read_link(&next)?;
            self.symlink(&next, &target)?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            rest.extend(parts(&target));
        }
        Ok(at)
    }

    fn place(&mut self, path: &Path, node: Node) -> Result<()> {
        let path = self.resolve(path, false)?;
        if matches!(self.nodes.get(&path), Some(Node::Directory { .. })) {
            bail!("{} is a directory in the guest", path.display());
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    /// Where a path leads in the guest. Makes missing parents; follows the last component only if told to.
    fn resolve(&mut self, path: &Path, follow_last: bool) -> Result<PathBuf> {
        if !path.is_absolute() {
            bail!("{} is no absolute path, which a path of the guest must be", path.display());
        }
        let mut rest = parts(path);
        let mut at = PathBuf::from("/");
        let mut followed = 0;
        while let Some(part) = rest.pop() {
            if part.as_os_str() == ".." {
                at.pop();
                continue;
            }
            let next = at.join(part);
            match self.nodes.get(&next) {
                Some(Node::Symlink(target)) if follow_last || !rest.is_empty() => {
                    followed += 1;
                    if followed > SYMLINKS {
                        bail!("too many symlinks in {} of the guest", path.display());
                    }
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    rest.extend(parts(target));
                }
                Some(Node::File { .. } | Node::Bytes { .. }) if !rest.is_empty() => {
                    bail!("{} of the guest is no directory", next.display());
                }
                Some(_) => at = next,
                None => {
                    if !rest.is_empty() {
                        self.nodes.insert(next.clone(), Node::Directory { permissions: 0o755 });
                    }
                    at = next;
                }
            }
        }
        Ok(at)
    }
}

/// Components after the root, last first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let inner = path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    inner.map(|part| PathBuf::from(part.as_os_str())).rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(image: &Image) -> Vec<&str> {
        image.nodes.keys().map(|path| path.to_str().unwrap()).collect()
    }

    #[test]
    fn files_land_behind_symlinked_directories() {
        let mut image = Image::default();
        image.symlink(Path::new("/bin"), Path::new("usr/bin")).unwrap();
        image.bytes(Path::new("/bin/tool"), 0o755, b"x").unwrap();
        assert_eq!(names(&image), ["/bin", "/usr", "/usr/bin", "/usr/bin/tool"]);
        assert!(image.contains(Path::new("/bin/tool")));
    }

    #[test]
    fn a_given_file_replaces_a_symlink_and_not_its_target() {
        let mut image = Image::default();
        image.bytes(Path::new("/busybox"), 0o755, b"x").unwrap();
        image.symlink(Path::new("/ls"), Path::new("/busybox")).unwrap();
        image.bytes(Path::new("/ls"), 0o755, b"real").unwrap();
        assert!(
            matches!(image.nodes.get(Path::new("/busybox")), Some(Node::Bytes { content, .. }) if content == b"x")
        );
        assert!(
            matches!(image.nodes.get(Path::new("/ls")), Some(Node::Bytes { content, .. }) if content == b"real")
        );
        image.symlink(Path::new("/ls"), Path::new("/busybox")).unwrap();
        assert!(matches!(image.nodes.get(Path::new("/ls")), Some(Node::Bytes { .. })));
    }

    #[test]
    fn copies_keep_their_symlinks() {
        let host = tempfile::tempdir().unwrap();
        let root = host.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        fs::write(root.join("real/file"), "x").unwrap();
        std::os::unix::fs::symlink("real", root.join("alias")).unwrap();
        std::os::unix::fs::symlink("file", root.join("real/link")).unwrap();
        let mut image = Image::default();
        image.copy(&root.join("alias/link")).unwrap();
        assert_eq!(image.nodes.get(&root.join("alias")), Some(&Node::Symlink("real".into())));
        assert_eq!(image.nodes.get(&root.join("real/link")), Some(&Node::Symlink("file".into())));
        assert!(matches!(image.nodes.get(&root.join("real/file")), Some(Node::File { .. })));
    }

    #[test]
    fn hostile_trees_are_errors() {
        let mut image = Image::default();
        image.symlink(Path::new("/loop"), Path::new("/loop")).unwrap();
        assert!(image.bytes(Path::new("/loop/x"), 0o644, b"").is_err());
        image.bytes(Path::new("/file"), 0o644, b"").unwrap();
        assert!(image.bytes(Path::new("/file/x"), 0o644, b"").is_err());
        assert!(image.bytes(Path::new("relative"), 0o644, b"").is_err());
        assert!(image.copy_to(Path::new("/no such file"), Path::new("/x")).is_err());
    }
}
