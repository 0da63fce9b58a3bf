//! Debian packages: what the sources offer, installing, and downloading without installing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

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

    /// What installing a package would change, which is only asked here.
    pub(super) fn plan(&mut self, package: &str) -> Result<Plan> {
        require_apt(package)?;
        self.update()?;
        let simulated = process::read("apt-get", &["install", "-s", "--no-install-recommends", package])?;
        Ok(Plan::read(&simulated))
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

/// What apt would do to install a package.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Packages it would unpack: the wanted one and what it depends on.
    pub(super) installs: Vec<String>,
    /// Installed packages that would have to go.
    pub(super) removes: Vec<String>,
}

impl Plan {
    /// Reads what `apt-get install -s` prints: `Inst <name> …` and `Remv <name> …`.
    fn read(simulated: &str) -> Self {
        let named = |action: &str| {
            simulated
                .lines()
                .filter_map(|line| line.strip_prefix(action)?.split_whitespace().next())
                .map(str::to_owned)
                .collect()
        };
        Self { installs: named("Inst "), removes: named("Remv ") }
    }
}

/// Downloads package files into an empty directory; needs no root.
pub(super) fn download(packages: &[&str], directory: &Path) -> Result<Vec<PathBuf>> {
    let list = packages.join(" ");
    let mut command = Command::new("apt-get");
    command.arg("download").args(packages).current_dir(directory);
    progress::step("apt-download", &format!("downloading {list}"), &mut command)?;
    let entries = fs::read_dir(directory)?.flatten().map(|entry| entry.path());
    let files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "deb")).collect();
    if files.len() != packages.len() {
        bail!("apt-get download {list} left {} files in {}", files.len(), directory.display());
    }
    Ok(files)
}

/// Unpacks package files into a directory; installs nothing.
pub(super) fn unpack(archives: &[PathBuf], directory: &Path) -> Result<()> {
    for archive in archives {
        process::execute(Command::new("dpkg").arg("-x").arg(archive).arg(directory))?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::Plan;

    #[test]
    fn a_plan_names_what_comes_and_what_goes() {
        let plan = Plan::read(
            "Reading package lists...\n\
             Remv qemu-utils [1:10.0.2+ds-2+deb13u1~bpo12+1]\n\
             Inst libfdt1 (1.6.1-4+b1 Debian:12.15/oldstable [amd64])\n\
             Inst qemu-system-x86 (1:7.2+dfsg-7+deb12u18+b3 Debian:12.15/oldstable [amd64])\n\
             Conf libfdt1 (1.6.1-4+b1 Debian:12.15/oldstable [amd64])\n",
        );
        assert_eq!(plan.installs, ["libfdt1", "qemu-system-x86"]);
        assert_eq!(plan.removes, ["qemu-utils"]);
    }
}
