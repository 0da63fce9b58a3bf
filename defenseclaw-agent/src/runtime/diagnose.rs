//! What this machine lets us do, each point with what to do about it: the data behind `defenseclaw doctor`.

use std::{fs, path::Path};

use serde::Serialize;

use super::{clock, guard, host, persist};
use crate::{
    launcher::{Placement, landlock::Abi},
    model::{CapabilityState, Posture, Protection, SessionId},
    sensor::{self, Sensor},
};

/// One point that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it is.
    pub state: CapabilityState,
    /// What was found.
    pub detail: String,
    /// What to do; empty if nothing.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub hint: &'static str,
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Diagnosis {
    /// Version of this program.
    pub version: &'static str,
    /// Kernel release.
    pub kernel: String,
    /// Whether a command can be watched here and now.
    pub can_watch: bool,
    /// Points, in the order they matter.
    pub checks: Vec<Check>,
    /// Level and hooks, if the programs could be loaded.
    pub protection: Option<Protection>,
    /// Whether what policy forbids is refused here, as just tried; off if it could not be tried.
    #[serde(flatten)]
    pub posture: Posture,
}

/// Looks at this machine. Loads the programs and unloads them again; nobody is watched but a process of our own that tries
/// what is forbidden to it.
pub fn diagnose(database: &Path) -> Diagnosis {
    let mut checks = vec![privileges(), pid_namespace(), btf(), boot_clock()];
    let mut posture = Posture::Off;
    let protection = match sensor::survey() {
        Ok(mut sensor) => {
            let protection = sensor.protection().clone();
            let level = if protection.level_reason.is_empty() {
                point("vantage level", CapabilityState::Available, protection.level.as_str(), "")
            } else {
                let detail = format!("{}: {}", protection.level.as_str(), protection.level_reason);
                point("vantage level", CapabilityState::Degraded, detail, "")
            };
            checks.push(level);
            let (found, check) = enforcement(&mut sensor);
            posture = found;
            checks.push(check);
            Some(protection)
        }
        Err(error) => {
            let hint = error.hint().unwrap_or_default();
            checks.push(point("BPF programs", CapabilityState::Missing, error.to_string(), hint));
            None
        }
    };
    let can_watch =
        protection.is_some() && checks.iter().all(|check| check.state != CapabilityState::Missing);
    // What follows narrows what is seen, but does not prevent watching.
    checks.extend([cgroup(), landlock(), database_place(database)]);
    checks.extend(left_behind());
    Diagnosis {
        version: env!("CARGO_PKG_VERSION"),
        kernel: host::host().kernel,
        can_watch,
        checks,
        protection,
        posture,
    }
}

/// Tries what policy would forbid.
fn enforcement(sensor: &mut Sensor) -> (Posture, Check) {
    const NAME: &str = "enforcement";
    let session = SessionId::new(clock::wall_now(), std::process::id());
    let placement = Placement::create(session);
    if let Some(cgroup) = placement.cgroup() {
        sensor.hold_cgroup(cgroup.path());
    }
    let found = guard::survey(sensor, placement.cgroup());
    let check = match &found {
        Ok(Posture::Enforced) => {
            let detail = "a forbidden open, exec and connect were tried just now, and refused";
            point(NAME, CapabilityState::Available, detail, "")
        }
        Ok(Posture::Degraded { which }) => {
            let which: Vec<_> =
                which.iter().map(|unproven| format!("{}: {}", unproven.operation, unproven.reason)).collect();
            let detail = format!("not everything that was forbidden was refused: {}", which.join("; "));
            let hint = "boot with `bpf` in the list of active LSMs (lsm=…,bpf); until then `run --mode action` is \
                        refused without --allow-degraded";
            point(NAME, CapabilityState::Degraded, detail, hint)
        }
        Ok(Posture::Off) => point(NAME, CapabilityState::Degraded, "nothing was tried", ""),
        Err(error) => point(
            NAME,
            CapabilityState::Degraded,
            super::run::causes(error),
            error.hint().unwrap_or_default(),
        ),
    };
    (found.unwrap_or(Posture::Off), check)
}

/// Persistent sessions that nobody watches.
fn left_behind() -> Vec<Check> {
    // Who is not root is told so elsewhere.
    let all = persist::persistent_sessions().unwrap_or_default();
    let unwatched = all.into_iter().filter(|one| !one.watched);
    let checks = unwatched.map(|one| {
        let hint = if one.adoptable {
            "`defenseclaw adopt` goes on with it, `defenseclaw release` takes it off"
        } else {
            "`defenseclaw release` removes what is left of it"
        };
        let detail = format!("{} has no watcher: {}", one.session, one.detail);
        point("persistent session", CapabilityState::Degraded, detail, hint)
    });
    checks.collect()
}

fn point(name: &'static str, state: CapabilityState, detail: impl Into<String>, hint: &'static str) -> Check {
    Check { name, state, detail: detail.into(), hint }
}

fn privileges() -> Check {
    if nix::unistd::geteuid().is_root() {
        return point("privileges", CapabilityState::Available, "root", "");
    }
    point(
        "privileges",
        CapabilityState::Missing,
        "not root; reading an existing audit (`sessions`, `events`, `report`, `audit verify`) works without",
        "run with sudo to watch a command",
    )
}

fn pid_namespace() -> Check {
    if host::in_initial_pid_namespace() {
        point("pid namespace", CapabilityState::Available, "the initial one", "")
    } else {
        point(
            "pid namespace",
            CapabilityState::Missing,
            "not the initial one, so the kernel's process ids are not ours",
            "in a container, share the host's pid namespace (`--pid=host`, `hostPID: true`)",
        )
    }
}

fn btf() -> Check {
    let path = "/sys/kernel/btf/vmlinux";
    match fs::metadata(path) {
        Ok(_) => point("kernel type information", CapabilityState::Available, path, ""),
        Err(error) => point(
            "kernel type information",
            CapabilityState::Missing,
            format!("{path}: {error}"),
            "boot a kernel built with CONFIG_DEBUG_INFO_BTF",
        ),
    }
}

fn boot_clock() -> Check {
    match clock::boot_id() {
        Ok(id) => point("boot id", CapabilityState::Available, id, ""),
        Err(error) => point("boot id", CapabilityState::Missing, error.to_string(), "mount /proc"),
    }
}

fn cgroup() -> Check {
    match fs::read_to_string("/proc/self/mountinfo") {
        Ok(mounts) if mounts.lines().any(|line| line.contains(" - cgroup2 ")) => {
            point("cgroup v2", CapabilityState::Available, "mounted", "")
        }
        Ok(_) => point(
            "cgroup v2",
            CapabilityState::Degraded,
            "not mounted: name server answers are not read",
            "mount cgroup2 on /sys/fs/cgroup",
        ),
        Err(error) => point("cgroup v2", CapabilityState::Degraded, error.to_string(), "mount /proc"),
    }
}

fn landlock() -> Check {
    let abi = Abi::of_this_kernel();
    if abi == Abi::NONE {
        let hint = "boot with landlock in lsm=, in a kernel built with CONFIG_SECURITY_LANDLOCK";
        point("Landlock", CapabilityState::Degraded, "not there, or not enabled", hint)
    } else {
        point("Landlock", CapabilityState::Available, abi.to_string(), "")
    }
}

fn database_place(database: &Path) -> Check {
    use nix::unistd::{AccessFlags, access};
    let shown = database.display().to_string();
    let place = if database.exists() {
        Some(database)
    } else {
        database.ancestors().skip(1).find(|dir| dir.exists())
    };
    match place.map(|place| access(place, AccessFlags::W_OK)) {
        Some(Ok(())) => point("audit database", CapabilityState::Available, shown, ""),
        Some(Err(errno)) => {
            let detail = format!("{shown}: {}", errno.desc());
            point("audit database", CapabilityState::Degraded, detail, "choose another place with --db")
        }
        None => point("audit database", CapabilityState::Degraded, shown, "choose another place with --db"),
    }
}
