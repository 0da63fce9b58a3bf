//! The steps that are more than a package: a BPF compiler from the right source, bpf-linker, QEMU, and kernels.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::bpf_toolchain;
use crate::vm::{emulator, kernel};
use crate::{process, progress, workspace};

use super::apt::{self, Apt};

/// The version everything was verified with.
const LINKER_VERSION: &str = "0.13.0";
/// LLVMs this bpf-linker can be built for.
const LINKER_LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// rustc-web where the package sources have a new enough one, else nightly where there is rustup.
pub(super) fn compiler(apt: &mut Apt) -> Result<()> {
    let mut why = "there is no apt-get".to_owned();
    if workspace::find_program("apt-get").is_some() {
        match apt.offers("rustc-web")? {
            Some(version) if bpf_toolchain::is_new_enough(&version) => {
                return apt.install(&["rustc-web", "libstd-rust-web-dev-bpf"]);
            }
            Some(version) => why = format!("the package sources have rustc-web {version} only"),
            None => "the package sources have no rustc-web".clone_into(&mut why),
        }
    }
    if workspace::find_program("rustup").is_none() {
        bail!(
            "no compiler for BPF can be installed: {why}, and there is no rustup; install rustup from \
             https://rustup.rs, then run cargo xtask setup again"
        );
    }
    nightly()
}

/// rustup's nightly with the source of `core`.
pub(super) fn nightly() -> Result<()> {
    if workspace::find_program("rustup").is_none() {
        bail!(
            "a nightly compiler needs rustup: install it from https://rustup.rs, then run cargo xtask setup again"
        );
    }
    if process::read("rustup", &["toolchain", "list"])?.lines().any(|line| line.starts_with("nightly-")) {
        // The nightly that is there stays as it is.
        return nightly_component("rust-src");
    }
    let mut command = Command::new("rustup");
    command.args(["toolchain", "install", "nightly", "--profile=minimal", "--component=rust-src"]);
    progress::step("rustup-nightly", "installing rustup nightly with rust-src", &mut command)
}

/// Adds a component to the nightly that is there.
pub(super) fn nightly_component(name: &str) -> Result<()> {
    let mut command = Command::new("rustup");
    command.args(["component", "add", name, "--toolchain=nightly"]);
    progress::step("rustup-component", &format!("adding {name} to rustup nightly"), &mut command)
}

/// bpf-linker, built against the packaged LLVM, into `.xtask/tools`.
pub(super) fn linker(llvm: u32) -> Result<()> {
    if !LINKER_LLVM.contains(&llvm) {
        bail!(
            "bpf-linker {LINKER_VERSION} cannot be built for LLVM {llvm}: put a bpf-linker for LLVM {llvm} on PATH, \
             or choose the other compiler with --bpf-toolchain"
        );
    }
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let mut path = OsString::from(format!("{prefix}/bin:"));
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new(workspace::cargo());
    command
        .args(["install", "bpf-linker", "--force", "--no-default-features", "--version", LINKER_VERSION])
        .arg(format!("--features=llvm-{llvm}"))
        .arg("--root")
        .arg(bpf_toolchain::tools())
        .current_dir(workspace::root())
        .env("LLVM_PREFIX", &prefix)
        .env("PATH", path)
        .env_remove("CARGO_TARGET_DIR");
    progress::step("bpf-linker", &format!("building bpf-linker {LINKER_VERSION}, some minutes"), &mut command)
}

/// A Debian cloud kernel, unpacked, not installed.
pub(super) fn kernel(apt: &mut Apt, version: &str) -> Result<()> {
    let directory = kernel::directory(version);
    let parent = directory.parent().context("the kernel directory has no parent")?;
    fs::create_dir_all(parent)?;
    let scratch = tempfile::tempdir_in(parent)?;
    let mut archive = download_kernel(apt, version, scratch.path());
    if archive.is_err() {
        // Old lists name packages the server no longer has.
        apt.update()?;
        archive = download_kernel(apt, version, scratch.path());
    }
    unpack_to(&archive?, scratch.path(), &directory)
}

/// QEMU, installed where that costs no other package its place. Where it does (a package from backports or from another
/// vendor that conflicts with the release's QEMU), unpacked with what it needs beside the kernels: nobody's programs are
/// removed for our tests.
pub(super) fn emulator(apt: &mut Apt) -> Result<()> {
    let plan = apt.plan(emulator::PACKAGE)?;
    if plan.removes.is_empty() {
        return apt.install(&[emulator::PACKAGE]);
    }
    let directory = emulator::private();
    eprintln!(
        "installing {} would remove {}, so it is unpacked to {} instead",
        emulator::PACKAGE,
        plan.removes.join(" "),
        directory.display()
    );
    let parent = directory.parent().context("the emulator's directory has no parent")?;
    fs::create_dir_all(parent)?;
    let scratch = tempfile::tempdir_in(parent)?;
    let names: Vec<&str> = plan.installs.iter().map(String::as_str).collect();
    let archives = apt::download(&names, scratch.path())?;
    unpack_to(&archives, scratch.path(), &directory)
}

/// Unpacked in the scratch directory and renamed, so that an interrupted step leaves nothing half done.
fn unpack_to(archives: &[PathBuf], scratch: &Path, directory: &Path) -> Result<()> {
    let unpacked = scratch.join("unpacked");
    apt::unpack(archives, &unpacked)?;
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::rename(unpacked, directory).with_context(|| format!("cannot fill {}", directory.display()))
}

fn download_kernel(apt: &mut Apt, version: &str, directory: &Path) -> Result<Vec<PathBuf>> {
    let names = apt.search(&kernel::package_pattern(version))?;
    let package = kernel::newest(names).with_context(|| {
        format!(
            "this system's package sources have no cloud kernel {version} (Debian 12 has 6.1, and 6.12 in its \
             security and backports sources). Use another with `--kernel <path of a vmlinuz>`, or unpack one to {}",
            kernel::directory(version).display()
        )
    })?;
    apt::download(&[&package], directory)
}
