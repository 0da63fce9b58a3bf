//! Which compilers can build for BPF here: Debian's rustc-web with its prebuilt `core`, or a rustup nightly with
//! rust-src; and the clang and bpf-linker that fit its LLVM. Detects only; `setup` installs, `build_ebpf` builds.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;
use clap::ValueEnum;

use crate::{process, workspace};

/// The target the kernel side is built for.
pub(crate) const TARGET: &str = "bpfel-unknown-none";
/// LLVM to install for when there is no compiler yet to ask; the one every part was verified with.
pub(crate) const DEFAULT_LLVM: u32 = 22;
/// Oldest clang whose BPF back end has every CO-RE builtin the shim uses.
const OLDEST_CLANG: u32 = 14;

/// Where the BPF compiler comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Source {
    /// Debian's rustc-web and libstd-rust-web-dev-bpf
    RustcWeb,
    /// rustup's nightly with rust-src
    Nightly,
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::RustcWeb => "rustc-web",
            Self::Nightly => "nightly",
        })
    }
}

/// A compiler that can build for BPF.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    pub(crate) source: Source,
    /// The compiler itself; cargo gets it as `RUSTC`.
    pub(crate) rustc: PathBuf,
    pub(crate) version: String,
    pub(crate) llvm: u32,
}

impl Compiler {
    /// Its clippy, which must come from the same build.
    pub(crate) fn clippy_driver(&self) -> PathBuf {
        self.rustc.with_file_name("clippy-driver")
    }
}

/// The compiler to use: the wanted one, or rustc-web before nightly.
pub(crate) fn find(wanted: Option<Source>) -> Option<Compiler> {
    match wanted {
        Some(Source::RustcWeb) => find_rustc_web(),
        Some(Source::Nightly) => find_nightly(),
        None => find_rustc_web().or_else(find_nightly),
    }
}

/// The name `/usr/bin/rustc` says nothing: it may be the distribution's old compiler. What counts is the version and
/// that `core` for BPF lies in the sysroot.
fn find_rustc_web() -> Option<Compiler> {
    let mut candidates = vec![PathBuf::from("/usr/bin/rustc"), PathBuf::from("/usr/lib/rust-web/bin/rustc")];
    if let Ok(entries) = Path::new("/usr/lib").read_dir() {
        let versioned =
            entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("rust-"));
        candidates.extend(versioned.map(|entry| entry.path().join("bin/rustc")));
    }
    candidates.into_iter().filter(|rustc| rustc.is_file()).find_map(|rustc| {
        let sysroot = process::read(&rustc, &["--print", "sysroot"]).ok()?;
        let core = Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET);
        let (version, llvm) = parse_version(&process::read(&rustc, &["-vV"]).ok()?)?;
        (core.is_dir() && is_new_enough(&version)).then_some(Compiler {
            source: Source::RustcWeb,
            rustc,
            version,
            llvm,
        })
    })
}

fn find_nightly() -> Option<Compiler> {
    let rustc = process::read("rustup", &["which", "--toolchain", "nightly", "rustc"]).ok()?;
    let rustc = PathBuf::from(rustc.trim());
    let sysroot = rustc.parent()?.parent()?;
    let (version, llvm) = parse_version(&process::read(&rustc, &["-vV"]).ok()?)?;
    let has_source = sysroot.join("lib/rustlib/src/rust/library/core/src").is_dir();
    (has_source && is_new_enough(&version)).then_some(Compiler {
        source: Source::Nightly,
        rustc,
        version,
        llvm,
    })
}

/// Release and LLVM major from `rustc -vV`.
fn parse_version(text: &str) -> Option<(String, u32)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    Some((field("release:")?.to_owned(), major(field("LLVM version:")?)?))
}

fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

/// Whether cargo accepts this compiler for the workspace.
pub(crate) fn is_new_enough(version: &str) -> bool {
    let number = |text: &str| -> Vec<u32> {
        let digits = text.split(|character: char| !character.is_ascii_digit());
        digits.take(2).filter_map(|part| part.parse().ok()).collect()
    };
    number(version) >= number(env!("CARGO_PKG_RUST_VERSION"))
}

/// A clang whose bitcode the linker reads: not newer than the linker's LLVM.
pub(crate) fn find_clang(llvm: u32) -> Option<PathBuf> {
    let versioned = (OLDEST_CLANG..=llvm).rev().find_map(|n| workspace::find_program(&format!("clang-{n}")));
    versioned.or_else(|| {
        let clang = workspace::find_program("clang")?;
        let found = major(process::read(&clang, &["-dumpversion"]).ok()?.trim())?;
        (OLDEST_CLANG..=llvm).contains(&found).then_some(clang)
    })
}

/// A bpf-linker that runs and whose LLVM is not older than the compiler's: our own, then one on `PATH`.
pub(crate) fn find_linker(llvm: u32) -> Option<PathBuf> {
    let own = tools().join("bin/bpf-linker");
    let candidates = [Some(own), workspace::find_program("bpf-linker")];
    candidates.into_iter().flatten().find(|linker| linker.is_file() && linker_reads(linker, llvm))
}

/// Where `setup` installs what no package has.
pub(crate) fn tools() -> PathBuf {
    workspace::private().join("tools")
}

fn linker_reads(linker: &Path, llvm: u32) -> bool {
    let starts = Command::new(linker)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    let libraries: Result<String> = process::read("ldd", &[&linker.to_string_lossy()]);
    let shared = libraries.ok().and_then(|libraries| shared_llvm(&libraries));
    // A statically linked one does not tell its LLVM; it is accepted, and a mismatch shows when linking.
    starts && shared.is_none_or(|major| major >= llvm)
}

fn shared_llvm(libraries: &str) -> Option<u32> {
    libraries.lines().find_map(|line| major(line.trim().strip_prefix("libLLVM.so.")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_and_llvm_come_from_rustc() {
        let text = "rustc 1.96.0 (built from a source tarball)\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(parse_version(text), Some(("1.96.0".to_owned(), 22)));
        assert_eq!(parse_version("rustc 1.63.0\n"), None);
    }

    #[test]
    fn the_distributions_old_compiler_is_refused() {
        for (version, expected) in [
            ("1.63.0", false),
            ("1.94.1", false),
            ("1.95.0", true),
            ("1.100.0", true),
            ("1.97.0-nightly", true),
        ] {
            assert_eq!(is_new_enough(version), expected, "{version}");
        }
    }

    #[test]
    fn linker_llvm_is_read_from_its_libraries() {
        let text =
            "\tlinux-vdso.so.1 (0x0)\n\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x0)\n";
        assert_eq!(shared_llvm(text), Some(22));
        assert_eq!(shared_llvm("\tnot a dynamic executable\n"), None);
    }
}
