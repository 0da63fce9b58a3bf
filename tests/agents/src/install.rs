//! Installs a client from npm at the version of its committed lock file, once, into the build directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{clients::Client, process};

/// A download of some hundred megabytes.
const DEADLINE: Duration = Duration::from_mins(15);

/// `target/agents`: installed clients, and logs of the last runs.
pub(crate) fn directory() -> Result<PathBuf> {
    let program = std::env::current_exe().context("cannot tell where this suite was built")?;
    let target = program.ancestors().nth(2).context("this suite is not in a build directory")?;
    Ok(target.join("agents"))
}

/// What npm installs, at the version of a committed lock file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Package {
    /// In folders and messages.
    pub(crate) name: &'static str,
    /// Pinned: what is asserted was observed on this one.
    pub(crate) version: &'static str,
    /// `package.json` that asks for it.
    pub(crate) manifest: &'static str,
    /// `package-lock.json` with the hashes of what npm may install.
    pub(crate) lock: &'static str,
    /// Its executable below the folder it was installed to.
    pub(crate) executable: fn(&Path) -> Result<PathBuf>,
    /// What runs that, if the machine need not have it: below the same folder.
    pub(crate) interpreter: Option<fn(&Path) -> PathBuf>,
}

/// The client's executable, installed if it is missing.
pub(crate) fn executable(client: &Client) -> Result<PathBuf> {
    Ok(package(&client.package)?.canonicalize()?)
}

/// Likewise, by the name that npm gives it.
pub(crate) fn package(package: &Package) -> Result<PathBuf> {
    let installed = installed(package)?;
    (package.executable)(&installed)
        .with_context(|| format!("{} is damaged; remove it and start again", installed.display()))
}

/// Whether the package is installed.
pub(crate) fn has(package: &Package) -> Result<bool> {
    Ok(place(package)?.exists())
}

fn place(package: &Package) -> Result<PathBuf> {
    Ok(directory()?.join(format!("{}-{}", package.name, package.version)))
}

/// The folder that a package is installed to, which it is if it is missing.
pub(crate) fn installed(package: &Package) -> Result<PathBuf> {
    let installed = place(package)?;
    if !installed.exists() {
        install(package, &installed)?;
    }
    Ok(installed)
}

/// An empty folder for the output of a run, below the build directory.
pub(crate) fn logs(name: &str, mode: &str) -> Result<PathBuf> {
    let logs = directory()?.join("logs").join(format!("{name}-{mode}"));
    if logs.exists() {
        fs::remove_dir_all(&logs).with_context(|| format!("cannot empty {}", logs.display()))?;
    }
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    Ok(logs)
}

fn install(package: &Package, installed: &Path) -> Result<()> {
    let cache = directory()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    // Built aside and renamed, so that what has the name is complete.
    let partial = tempfile::Builder::new().prefix(".partial-").tempdir_in(&cache)?;
    fs::write(partial.path().join("package.json"), package.manifest)?;
    fs::write(partial.path().join("package-lock.json"), package.lock)?;
    // `ci` takes exactly what the lock file names and refuses what does not have its SHA-512. The clients start
    // without their install scripts, so those need not run.
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix"]).arg(partial.path());
    let logs = cache.join("logs");
    process::run(&mut npm, &logs, &format!("npm-{}", package.name), DEADLINE)?
        .succeeded("npm ci")
        .with_context(|| format!("cannot install {} {}", package.name, package.version))?;
    let executable = (package.executable)(partial.path())?;
    let mut version = match package.interpreter {
        Some(interpreter) => Command::new(interpreter(partial.path())),
        None => Command::new(&executable),
    };
    version.args(package.interpreter.map(|_| &executable));
    version.env_clear().env("HOME", partial.path()).arg("--version");
    let version = process::run(&mut version, &logs, &format!("{}-version", package.name), DEADLINE)?;
    version.succeeded("the installed client")?;
    let said = String::from_utf8_lossy(&version.stdout).into_owned();
    ensure!(said.contains(package.version), "{} says it is version {said}", executable.display());
    match fs::rename(partial.path(), installed) {
        // Another run was faster.
        Err(_) if installed.exists() => Ok(()),
        other => other.with_context(|| format!("cannot make {}", installed.display())),
    }
}
