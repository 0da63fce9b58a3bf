//! The provoker: one watched process that runs every case in a forked child of its own. Each case acts, and writes down
//! what it knows of its acts; it never looks at what was recorded.

pub(crate) mod compat;
mod dns;
mod exec;
mod exit;
mod fileless;
mod files;
mod foreign;
mod long;
mod mounts;
mod names;
mod namespaces;
mod net;
mod open;
mod privileged;
mod scope;
mod stage;
mod storm;
mod tree;
mod unix;
pub(crate) mod uring;

use std::{fs, path::Path, process::ExitCode};

use anyhow::{Context, Result};
pub(crate) use exec::secret;
pub(crate) use net::kernel_address;
pub(crate) use stage::Stage;

/// One case: its name and what it does.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    act: fn(&mut Stage) -> Result<()>,
}

/// Every case, in the order in which they run.
pub(crate) const CASES: &[Case] = &[
    Case { name: "fork", act: exit::fork },
    Case { name: "exit", act: exit::codes },
    Case { name: "exit-signal", act: exit::signals },
    Case { name: "exit-thread", act: exit::threads },
    Case { name: "exec", act: exec::identity },
    Case { name: "exec-argv", act: exec::argv },
    Case { name: "exec-ids", act: exec::ids },
    Case { name: "exec-script", act: exec::script },
    Case { name: "exec-env", act: exec::environment },
    Case { name: "exec-fileless", act: fileless::memfd },
    Case { name: "exec-descriptor", act: fileless::descriptor },
    Case { name: "tree-daemon", act: tree::daemon },
    Case { name: "tree-vfork", act: tree::vfork },
    Case { name: "tree-thread", act: tree::exec_from_thread },
    Case { name: "tree-cgroup", act: tree::other_cgroup },
    Case { name: "tree-pid-reuse", act: tree::pid_reuse },
    Case { name: "open-modes", act: open::modes },
    Case { name: "open-calls", act: open::calls },
    Case { name: "open-code", act: open::code },
    Case { name: "files-unlink", act: files::unlink },
    Case { name: "files-rename", act: files::rename },
    Case { name: "files-link", act: files::link },
    Case { name: "files-mode", act: files::mode },
    Case { name: "files-owner", act: files::owner },
    Case { name: "files-length", act: files::length },
    Case { name: "files-directories", act: files::directories },
    Case { name: "files-nodes", act: files::nodes },
    Case { name: "paths-aliases", act: names::aliases },
    Case { name: "paths-bytes", act: names::bytes },
    Case { name: "paths-nameless", act: names::nameless },
    Case { name: "paths-long", act: long::paths },
    Case { name: "paths-deep", act: long::depth },
    Case { name: "mounts", act: mounts::mounts },
    Case { name: "mounts-roots", act: mounts::roots },
    Case { name: "io-uring", act: uring::open },
    Case { name: "net-tcp", act: net::tcp },
    Case { name: "net-udp", act: net::udp },
    Case { name: "net-bind", act: net::bind },
    Case { name: "unix", act: unix::sockets },
    Case { name: "dns", act: dns::answers },
    Case { name: "ptrace", act: foreign::ptrace },
    Case { name: "memory", act: foreign::memory },
    Case { name: "signal", act: foreign::signal },
    Case { name: "namespaces", act: namespaces::unshare },
    Case { name: "namespaces-clone", act: namespaces::clone },
    Case { name: "namespaces-setns", act: namespaces::setns },
    Case { name: "bpf", act: privileged::bpf },
    Case { name: "modules", act: privileged::modules },
    Case { name: "ids", act: privileged::ids },
    Case { name: "compat", act: compat::ia32 },
    Case { name: "scope", act: scope::outside },
    Case { name: "storm", act: storm::short_processes },
];

/// What the process outside the session does meanwhile.
pub(crate) const BYSTANDER_CASES: &[&str] = &[
    "fork",
    "exec",
    "open-modes",
    "files-unlink",
    "files-rename",
    "net-tcp",
    "unix",
    "dns",
    "ptrace",
    "mounts",
];

/// `provoke DIR [CASE…]`: runs the cases and leaves their truths in `DIR/truth`.
pub(crate) fn main(dir: &Path, names: &[String]) -> ExitCode {
    match run(dir, names) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: cannot provoke in {}: {err:#}", dir.display());
            ExitCode::from(3)
        }
    }
}

fn run(dir: &Path, names: &[String]) -> Result<()> {
    fs::create_dir_all(dir.join("truth"))?;
    let dir = fs::canonicalize(dir)?;
    prepare_program(&dir)?;
    for name in names {
        CASES.iter().find(|case| case.name == name).with_context(|| format!("there is no case `{name}`"))?;
    }
    for case in CASES {
        if names.is_empty() || names.iter().any(|name| name == case.name) {
            Stage::case(&dir, case.name, case.act).with_context(|| format!("case {}", case.name))?;
        }
    }
    Ok(())
}

/// Puts the program that cases execute into `DIR`, if it is not there.
pub(crate) fn prepare_program(dir: &Path) -> Result<()> {
    let program = dir.join("prog");
    if !program.exists() {
        fs::copy("/proc/self/exe", &program)?;
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    Ok(())
}
