//! What each purpose needs, whether it is there, and what would bring it. Looks only, and quickly.

use std::fmt;
use std::path::Path;

use crate::bpf_toolchain::{self, Compiler, Source};
use crate::vm::{emulator, kernel};
use crate::{process, workspace};

use super::Purpose;

/// One thing that is needed.
#[derive(Debug)]
pub(super) struct Need {
    pub(super) name: String,
    pub(super) why: &'static str,
    /// Where it was found.
    pub(super) found: String,
    /// What brings it, if it is missing.
    pub(super) fix: Option<Fix>,
}

/// A step that brings what is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fix {
    Packages(Vec<String>),
    /// A BPF compiler from wherever this machine can get one.
    Compiler,
    /// rustup's nightly with rust-src.
    Nightly,
    NightlyClippy,
    /// bpf-linker from source, for this LLVM.
    Linker {
        llvm: u32,
    },
    Emulator,
    Kernel(String),
    /// We cannot; the message says what a person can do.
    Nothing(String),
}

impl fmt::Display for Fix {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packages(names) => write!(formatter, "apt: {}", names.join(" ")),
            Self::Compiler => write!(formatter, "apt: rustc-web, or rustup: nightly"),
            Self::Nightly => write!(formatter, "rustup: nightly with rust-src"),
            Self::NightlyClippy => write!(formatter, "rustup: clippy for nightly"),
            Self::Linker { llvm } => write!(formatter, "cargo install, LLVM {llvm}, into .xtask/tools"),
            Self::Emulator => write!(formatter, "apt: {}", emulator::PACKAGE),
            Self::Kernel(version) => write!(formatter, "apt-get download of a cloud kernel {version}"),
            Self::Nothing(message) => formatter.write_str(message),
        }
    }
}

/// Programs a purpose needs, with the package that has them.
const VM_PROGRAMS: [(&str, &str, &str); 5] = [
    ("busybox", "busybox-static", "user space of the virtual machines"),
    ("strace", "strace", "tests: an independent witness"),
    ("git", "git", "tests: real work to watch"),
    ("gcc", "gcc", "tests: real work to watch"),
    ("python3", "python3", "tests: real work to watch"),
];
const AGENT_PROGRAMS: [(&str, &str, &str); 5] = [
    ("node", "nodejs", "runs the agents"),
    ("npm", "npm", "installs the agents"),
    ("bwrap", "bubblewrap", "tests: the agents' own sandboxes"),
    ("socat", "socat", "tests: the agents' own sandboxes"),
    ("rg", "ripgrep", "tests: the agents' own sandboxes"),
];

/// Everything these purposes need, in the order it can be installed.
pub(super) fn survey(purposes: &[Purpose], wanted: Option<Source>) -> Vec<Need> {
    let has = |purpose| purposes.contains(&purpose) || purposes.contains(&Purpose::All);
    let mut needs = Vec::new();
    if has(Purpose::Build) {
        build(&mut needs, wanted);
    }
    if has(Purpose::Run) && !process::is_root() {
        needs.push(match workspace::find_program("sudo") {
            Some(path) => present("sudo", "watching needs root", path.display().to_string()),
            None => missing(
                "sudo",
                "watching needs root",
                Fix::Nothing("there is no sudo: run cargo xtask as root".to_owned()),
            ),
        });
    }
    if has(Purpose::Vm) {
        needs.push(qemu());
        needs.extend(VM_PROGRAMS.map(program));
        needs.extend(kernel::VERSIONS.map(kernel_image));
    }
    if has(Purpose::Agents) {
        needs.extend(AGENT_PROGRAMS.map(program));
    }
    // Without a compiler there is nothing to lint with; `build` brings it, and then this asks again.
    if has(Purpose::Lint)
        && let Some(compiler) = bpf_toolchain::find(wanted)
    {
        needs.push(clippy(&compiler));
    }
    needs
}

fn build(needs: &mut Vec<Need>, wanted: Option<Source>) {
    needs.push(program(("cc", "gcc", "links, and compiles SQLite")));
    if !Path::new("/usr/include/stdio.h").exists() {
        needs.push(missing("libc headers", "compiles SQLite", packages(&["libc6-dev"])));
    }
    let compiler = bpf_toolchain::find(wanted);
    let why = "compiles the kernel side for BPF";
    needs.push(match (&compiler, wanted) {
        (Some(found), _) => present(
            "BPF compiler",
            why,
            format!("{} {} (LLVM {}), {}", found.source, found.version, found.llvm, found.rustc.display()),
        ),
        (None, Some(Source::Nightly)) => missing("BPF compiler", why, Fix::Nightly),
        (None, Some(Source::RustcWeb)) => {
            missing("BPF compiler", why, packages(&["rustc-web", "libstd-rust-web-dev-bpf"]))
        }
        (None, None) => missing("BPF compiler", why, Fix::Compiler),
    });
    let llvm = compiler.map_or(bpf_toolchain::DEFAULT_LLVM, |compiler| compiler.llvm);
    let why = "compiles the C shim";
    needs.push(match bpf_toolchain::find_clang(llvm) {
        Some(path) => present("clang", why, path.display().to_string()),
        None => missing("clang", why, packages(&[&format!("clang-{llvm}")])),
    });
    let why = "links BPF objects";
    if let Some(path) = bpf_toolchain::find_linker(llvm) {
        needs.push(present("bpf-linker", why, path.display().to_string()));
        return;
    }
    if !Path::new(&format!("/usr/lib/llvm-{llvm}/bin/llvm-config")).exists() {
        let package = format!("llvm-{llvm}-dev");
        needs.push(missing(&format!("LLVM {llvm}"), "builds bpf-linker", packages(&[&package])));
    }
    needs.push(missing("bpf-linker", why, Fix::Linker { llvm }));
}

fn clippy(compiler: &Compiler) -> Need {
    let (name, why) = ("BPF clippy", "lints the kernel side");
    let driver = compiler.clippy_driver();
    match compiler.source {
        _ if driver.is_file() => present(name, why, driver.display().to_string()),
        Source::RustcWeb => missing(name, why, packages(&["rust-web-clippy"])),
        Source::Nightly => missing(name, why, Fix::NightlyClippy),
    }
}

fn program((name, package, why): (&'static str, &'static str, &'static str)) -> Need {
    match workspace::find_program(name) {
        Some(path) => present(name, why, path.display().to_string()),
        None => missing(name, why, packages(&[package])),
    }
}

fn qemu() -> Need {
    let why = "virtual machines";
    match emulator::find() {
        Some(found) => present(emulator::PROGRAM, why, found.program.display().to_string()),
        None => missing(emulator::PROGRAM, why, Fix::Emulator),
    }
}

fn kernel_image(version: &str) -> Need {
    let name = format!("kernel {version}");
    match kernel::find(version) {
        Some(found) => present(&name, "boots the virtual machine", found.release),
        None => missing(&name, "boots the virtual machine", Fix::Kernel(version.to_owned())),
    }
}

fn packages(names: &[&str]) -> Fix {
    Fix::Packages(names.iter().map(|&name| name.to_owned()).collect())
}

fn present(name: &str, why: &'static str, found: String) -> Need {
    Need { name: name.to_owned(), why, found, fix: None }
}

fn missing(name: &str, why: &'static str, fix: Fix) -> Need {
    Need { name: name.to_owned(), why, found: String::new(), fix: Some(fix) }
}
