//! What the suite needs of the machine, and whether the runner lets it skip what is not there.

use std::{fs, process::Command};

use crate::{
    install::{self, Package},
    run,
};

/// Told with every failure that a missing prerequisite causes.
pub(crate) const HOW_TO_SKIP: &str = "a runner without it may set DEFENSECLAW_MAY_SKIP=agents";

/// Why no operation of this agent can be paused here.
pub(crate) fn of_pausing(package: &Package) -> Option<String> {
    let modules = fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    if !modules.split(',').any(|name| name.trim() == "bpf") {
        return Some("BPF LSM is not active here: `cargo xtask test agents-6.12` has it in a guest".into());
    }
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".into());
    }
    if !install::has(package).unwrap_or_default() {
        return Some(format!("{} is not installed here", package.name));
    }
    run::program_under_test().err().map(|err| format!("{err:#}"))
}

/// Whether the runner says that the machine has this.
pub(crate) fn is_expected(feature: &str) -> bool {
    names("DEFENSECLAW_EXPECT", feature)
}

fn names(variable: &str, word: &str) -> bool {
    std::env::var(variable).is_ok_and(|list| list.split([',', ' ']).any(|name| name == word))
}

/// Skips must be asked for, and `DEFENSECLAW_EXPECT` takes the permission back.
pub(crate) fn may_skip() -> bool {
    names("DEFENSECLAW_MAY_SKIP", "agents") && !is_expected("agents")
}

/// Why agents cannot be driven here.
pub(crate) fn of_driver() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some(
            "not root: a run gets a network of its own, so that it cannot reach the internet".into(),
        );
    }
    match version_of("node") {
        None => return Some("node is not in PATH: install Node.js 18 or newer".into()),
        Some(version) if major(&version).is_none_or(|major| major < 18) => {
            return Some(format!("node {} is too old: install Node.js 18 or newer", version.trim()));
        }
        Some(_) => {}
    }
    version_of("npm").is_none().then(|| "npm is not in PATH: install it with Node.js".into())
}

/// Why agents cannot be watched here.
pub(crate) fn of_watching() -> Option<String> {
    of_driver().or_else(|| run::program_under_test().err().map(|err| format!("{err:#}")))
}

/// Why other sandboxes cannot be run here.
pub(crate) fn of_sandboxes() -> Option<String> {
    of_watching().or_else(|| {
        let missing =
            [("bwrap", "bubblewrap"), ("socat", "socat"), ("rg", "ripgrep")].into_iter().find(|(name, _)| {
                let flag = if *name == "socat" { "-V" } else { "--version" };
                !Command::new(name).arg(flag).output().is_ok_and(|output| output.status.success())
            });
        missing.map(|(name, package)| format!("{name} is not in PATH: install {package}"))
    })
}

fn version_of(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn major(version: &str) -> Option<u32> {
    version.trim().trim_start_matches('v').split('.').next()?.parse().ok()
}
