//! Debian packages: what the sources offer, installing, and downloading without installing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{process, progress, workspace};

/// The system's package manager. Its lists are fetched at most once.
#[derive(Debug, Default)]
pub(super) struct Apt {
    updated: bool,
}

impl Apt {
    /// Installs packages, after a look whether the sources have them all.
    pub(super) fn install(&mut self, packages: &[&str]) -> Result<()> {
        let list = packages.join(" ");
        require_apt(&list)?;
        self.update()?;
        let absent: Vec<&str> =
            packages.iter().copied().filter(|package| candidate(package).is_none()).collect();
        if !absent.is_empty() {
            bail!(
                "this system's package sources do not have: {}. Add a source that has them (Debian 12 or newer has \
                 all; LLVM and clang are also on apt.llvm.org), or put the program on PATH yourself; then run cargo \
                 xtask setup again",
                absent.join(" ")
            );
        }
        let mut command = apt_get()?;
        // rustc-web conflicts with the packaged rustup and rustc: never remove what a person has installed.
        command.args(["install", "-y", "--no-install-recommends", "--no-remove"]).args(packages);
        progress::step("apt-install", &format!("installing {list}"), &mut command)
    }

    /// Fetches the package lists.
    pub(super) fn update(&mut self) -> Result<()> {
        if self.updated {
            return Ok(());
        }
        progress::step("apt-update", "fetching the package lists", apt_get()?.arg("update"))?;
        self.updated = true;
        Ok(())
    }

    /// Version the sources offer for a package, if any.
    pub(super) fn offers(&mut self, package: &str) -> Result<Option<String>> {
        require_apt(package)?;
        self.update()?;
        Ok(candidate(package))
    }

    /// Names of packages that match a pattern.
    pub(super) fn search(&mut self, pattern: &str) -> Result<Vec<String>> {
        require_apt(pattern)?;
        let search = || process::read("apt-cache", &["search", "--names-only", pattern]);
        let mut found = search()?;
        if found.is_empty() {
            self.update()?;
            found = search()?;
        }
        Ok(found.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    }
}

/// Downloads a package file into a directory; needs no root.
pub(super) fn download(package: &str, directory: &Path) -> Result<PathBuf> {
    let mut command = Command::new("apt-get");
    command.args(["download", package]).current_dir(directory);
    progress::step("apt-download", &format!("downloading {package}"), &mut command)?;
    let entries = fs::read_dir(directory)?.flatten().map(|entry| entry.path());
    let mut files = entries.filter(|path| path.extension().is_some_and(|extension| extension == "deb"));
    files
        .next()
        .with_context(|| format!("apt-get download {package} left no file in {}", directory.display()))
}

fn candidate(package: &str) -> Option<String> {
    let policy = process::read("apt-cache", &["policy", package]).ok()?;
    let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (version != "(none)").then(|| version.to_owned())
}

fn require_apt(what: &str) -> Result<()> {
    if workspace::find_program("apt-get").is_none() {
        bail!(
            "{what}: missing, and there is no apt-get; on a system that is not Debian-like, install it yourself"
        );
    }
    Ok(())
}

fn apt_get() -> Result<Command> {
    let root = process::is_root();
    if !root && let Some(sudo) = workspace::find_program("sudo") {
        // Asks for the password here, on the terminal, and not under a spinner.
        process::execute(Command::new(sudo).arg("-v"))?;
    }
    let mut command = process::as_root("apt-get", &[("DEBIAN_FRONTEND", "noninteractive".into())])?;
    command.args(["-o", "Dpkg::Use-Pty=0"]);
    Ok(command)
}
