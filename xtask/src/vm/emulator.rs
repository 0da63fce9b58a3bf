//! QEMU: the system's, or one that setup unpacked into this checkout.
//!
//! Only where it is. `setup` brings it, `qemu` runs it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::workspace;

/// Name of the program.
pub(crate) const PROGRAM: &str = "qemu-system-x86_64";
/// Debian package that has it.
pub(crate) const PACKAGE: &str = "qemu-system-x86";

/// A QEMU that can be started.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Emulator {
    pub(crate) program: PathBuf,
    /// Where the loader finds its libraries, if it is not the system's. Its firmware it finds by its own path.
    pub(crate) libraries: Vec<PathBuf>,
}

/// Where setup unpacks a QEMU that cannot be installed.
pub(crate) fn private() -> PathBuf {
    workspace::private().join("qemu")
}

/// The system's QEMU, else the one of this checkout.
pub(crate) fn find() -> Option<Emulator> {
    if let Some(program) = workspace::find_program(PROGRAM) {
        return Some(Emulator { program, libraries: Vec::new() });
    }
    unpacked(&private())
}

fn unpacked(root: &Path) -> Option<Emulator> {
    let program = root.join("usr/bin").join(PROGRAM);
    program.is_file().then(|| Emulator { program, libraries: libraries(root) })
}

/// Debian's library directories, which bear the machine's name: `lib/x86_64-linux-gnu`.
fn libraries(root: &Path) -> Vec<PathBuf> {
    let parents = ["usr/lib", "lib"].map(|parent| root.join(parent));
    let entries = parents.iter().filter_map(|parent| fs::read_dir(parent).ok()).flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir() && path.to_string_lossy().ends_with("-linux-gnu"))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use anyhow::Result;

    use super::{Emulator, PROGRAM, unpacked};

    #[test]
    fn an_unpacked_emulator_comes_with_its_libraries() -> Result<()> {
        let root = tempfile::tempdir()?;
        assert_eq!(unpacked(root.path()), None);
        let program = root.path().join("usr/bin").join(PROGRAM);
        let libraries = root.path().join("usr/lib/x86_64-linux-gnu");
        fs::create_dir_all(root.path().join("usr/bin"))?;
        fs::create_dir_all(&libraries)?;
        fs::create_dir_all(root.path().join("usr/lib/ipxe"))?;
        fs::write(&program, "")?;
        assert_eq!(unpacked(root.path()), Some(Emulator { program, libraries: vec![libraries] }));
        Ok(())
    }
}
