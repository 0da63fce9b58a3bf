//! Writes the archive format the kernel unpacks as its first file system: cpio "newc".
//!
//! Uncompressed on purpose: an emulated guest copies faster than it decompresses.

use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

pub(super) const DIRECTORY: u32 = 0o040_000;
pub(super) const REGULAR: u32 = 0o100_000;
pub(super) const SYMLINK: u32 = 0o120_000;

/// An archive being written.
#[derive(Debug)]
pub(super) struct Writer<W> {
    sink: W,
    inode: u32,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(sink: W) -> Self {
        Self { sink, inode: 0 }
    }

    /// An entry whose content is at hand; `mode` includes the type.
    pub(super) fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        self.header(path, mode, content.len() as u64)?;
        self.sink.write_all(content)?;
        self.pad(content.len())
    }

    /// A regular file, copied from this one.
    pub(super) fn file(&mut self, path: &Path, permissions: u32, source: &Path) -> io::Result<()> {
        let file = File::open(source)?;
        let length = file.metadata()?.len();
        self.header(path, REGULAR | permissions, length)?;
        // The header has promised a length; a file that changes meanwhile must not break the archive.
        let copied = io::copy(&mut file.take(length), &mut self.sink)?;
        if copied != length {
            return Err(io::Error::other(format!("{} became shorter while it was read", source.display())));
        }
        self.pad(usize::try_from(length).map_err(io::Error::other)?)
    }

    /// Ends the archive and returns what it was written to.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.header(Path::new("/TRAILER!!!"), 0, 0)?;
        self.sink.flush()?;
        Ok(self.sink)
    }

    fn header(&mut self, path: &Path, mode: u32, length: u64) -> io::Result<()> {
        let length = u32::try_from(length)
            .map_err(|error| io::Error::other(format!("{} is 4 GiB or more: {error}", path.display())))?;
        let name = path.strip_prefix("/").unwrap_or(path).as_os_str().as_bytes();
        self.inode += 1;
        write!(self.sink, "070701{:08X}{mode:08X}", self.inode)?;
        // uid, gid, links, mtime, size, device of the file, device of a node, length of the name, checksum.
        for field in [0, 0, 1, 0, length, 0, 0, 0, 0, u32::try_from(name.len() + 1).unwrap_or(u32::MAX), 0] {
            write!(self.sink, "{field:08X}")?;
        }
        self.sink.write_all(name)?;
        self.sink.write_all(&[0])?;
        self.pad(110 + name.len() + 1)
    }

    /// Headers and contents start at multiples of four.
    fn pad(&mut self, written: usize) -> io::Result<()> {
        let zeroes: &[u8] = match written % 4 {
            1 => &[0; 3],
            2 => &[0; 2],
            3 => &[0; 1],
            _ => &[],
        };
        self.sink.write_all(zeroes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_padded_and_end_with_a_trailer() {
        let mut writer = Writer::new(Vec::new());
        writer.entry(Path::new("/etc"), DIRECTORY | 0o755, b"").unwrap();
        writer.entry(Path::new("/etc/hosts"), REGULAR | 0o644, b"hello").unwrap();
        let archive = writer.finish().unwrap();
        assert_eq!(archive.len() % 4, 0);
        assert_eq!(&archive[..6], b"070701");
        // Name "etc" with its NUL fills 110 + 4 up to 116.
        assert_eq!(&archive[110..116], b"etc\0\0\0");
        let second = &archive[116..];
        assert_eq!(&second[14..22], b"000081A4");
        assert_eq!(&second[54..62], b"00000005");
        // 110 and the name's ten bytes are a multiple of four already.
        assert_eq!(&second[110..128], b"etc/hosts\0hello\0\0\0");
        assert!(archive.windows(11).any(|window| window == b"TRAILER!!!\0"));
    }
}
