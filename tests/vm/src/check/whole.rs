//! The session as a whole: its level, its begin and end, its order, its losses, and what must not be in it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
    process::Command,
    sync::Arc,
};

use defenseclaw::model::{Action, EventKind, ExitStatus, Level, Loss, LossReason, MainExit, ProcessKey};
use libtest_mimic::{Completion, Failed, Trial};

use super::{Observed, Setting, claims, compare::json, trial};
use crate::{provoke::secret, truth::TICK_NS};

type Check = fn(&Setting, &Observed) -> Result<(), String>;

pub(crate) fn trials(setting: &Setting, observed: &Arc<Observed>) -> Vec<Trial> {
    let checks: [(&str, Check); 10] = [
        ("exit code", exit_code),
        ("level", level),
        ("start", start),
        ("end", end),
        ("order", order),
        ("tree", tree),
        ("losses", losses),
        ("blind spots", blind_spots),
        ("secrets", secrets),
        ("verify", verify),
    ];
    let mut trials: Vec<Trial> = checks
        .into_iter()
        .map(|(name, check)| {
            let (setting, observed) = (setting.clone(), Arc::clone(observed));
            trial(format!("session/{name}"), move || {
                check(&setting, &observed).map(|()| Completion::Completed).map_err(Failed::from)
            })
        })
        .collect();
    trials.extend(claims::expectations(setting, observed));
    trials
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, expected: &T, actual: &T) -> Result<(), String> {
    if expected == actual {
        Ok(())
    } else {
        Err(format!("{what}: expected {expected:?}, recorded {actual:?}"))
    }
}

fn exit_code(_: &Setting, observed: &Observed) -> Result<(), String> {
    if observed.status.success() && !observed.stderr.contains("panicked") {
        return Ok(());
    }
    Err(format!("`run` ended with {} and said:\n{}", observed.status, observed.stderr))
}

fn level(setting: &Setting, observed: &Observed) -> Result<(), String> {
    let protection = &observed.start.protection;
    if protection.level != setting.level {
        let (actual, expected) = (protection.level.as_str(), setting.level.as_str());
        return Err(format!("level {expected} expected, this is {actual}: {}", protection.level_reason));
    }
    if (protection.level == Level::Lsm) != protection.level_reason.is_empty() {
        return Err(format!("level {} with reason {:?}", protection.level.as_str(), protection.level_reason));
    }
    for capability in &protection.capabilities {
        let available = capability.state == defenseclaw::model::CapabilityState::Available;
        if available != capability.reason.is_empty() {
            return Err(format!(
                "a capability needs a reason when it is not available, and only then: {}",
                json(capability)
            ));
        }
    }
    Ok(())
}

fn start(_: &Setting, observed: &Observed) -> Result<(), String> {
    let start = &observed.start;
    let read = |path: &str| {
        fs::read_to_string(path).map(|text| text.trim().to_owned()).map_err(|err| err.to_string())
    };
    equal("boot_id", &read("/proc/sys/kernel/random/boot_id")?, &start.boot_id)?;
    equal("kernel", &read("/proc/sys/kernel/osrelease")?, &start.kernel)?;
    equal("host", &read("/proc/sys/kernel/hostname")?, &start.host)?;
    let command: Vec<Vec<u8>> = start.command.iter().map(|text| text.0.clone()).collect();
    equal("command", &observed.command, &command)?;
    let cwd = std::env::current_dir().map_err(|err| err.to_string())?;
    equal("project", &cwd.as_os_str().as_bytes().to_vec(), &start.project.0)?;
    let provoker = observed.truths.first().map_or(0, |truth| truth.parent);
    equal("root process", &provoker, &start.root.tgid)?;
    if start.version.is_empty() {
        return Err("the version is empty".to_owned());
    }
    let (before, after) = observed.between;
    if start.wall < before || start.wall > after {
        return Err(format!("the session began at {:?}, outside of {:?}", start.wall, observed.between));
    }
    let earliest = observed.events.iter().map(|event| event.time).min();
    // The launcher may know the start in clock ticks only.
    if earliest.is_some_and(|earliest| earliest.0 / TICK_NS < start.root.start_ns / TICK_NS) {
        return Err(format!("an event at {earliest:?}, before the root process {} began", start.root));
    }
    Ok(())
}

fn end(_: &Setting, observed: &Observed) -> Result<(), String> {
    let Some(end) = &observed.end else { return Err("there is no session_end".to_owned()) };
    equal("session", &observed.start.session, &end.session)?;
    equal("main process", &MainExit::Ended(ExitStatus::Code(0)), &end.main)?;
    equal("left running", &0, &end.left_running)?;
    equal("events", &(observed.events.len() as u64), &end.events)?;
    if end.wall < observed.start.wall || end.boot < observed.start.boot || end.wall > observed.between.1 {
        return Err(format!("it ended at {:?} and began at {:?}", end.wall, observed.start.wall));
    }
    Ok(())
}

/// Rows come in the order of their numbers, which have no gap; one session only.
fn order(_: &Setting, observed: &Observed) -> Result<(), String> {
    if let Some([row, next]) = observed.seqs.array_windows().find(|[row, next]| *next != row + 1) {
        return Err(format!("row {row} is followed by row {next}"));
    }
    match observed.events.iter().find(|event| event.session != observed.start.session) {
        Some(event) => Err(format!("an event of another session: {}", json(event))),
        None => Ok(()),
    }
}

#[derive(Default)]
struct Life {
    forks: usize,
    exits: usize,
    born: u64,
    died: u64,
    first: u64,
    last: u64,
}

/// Every process that acts was forked once, exits once, and acts only in between.
fn tree(_: &Setting, observed: &Observed) -> Result<(), String> {
    let mut lives: BTreeMap<(u32, u64), Life> = BTreeMap::new();
    let id = |key: ProcessKey| (key.tgid, key.start_ns);
    for event in observed.events.iter().filter(|event| event.process.tgid != 0) {
        let time = event.time.0;
        let life = lives.entry(id(event.process)).or_default();
        life.first = if life.first == 0 { time } else { life.first.min(time) };
        life.last = life.last.max(time);
        match &event.action {
            Action::ProcessExit { .. } => {
                life.exits += 1;
                life.died = time;
            }
            Action::ProcessFork { child, .. } => {
                let life = lives.entry(id(*child)).or_default();
                life.forks += 1;
                life.born = time;
            }
            _ => {}
        }
    }
    let root = observed.start.root.tgid;
    let mut wrong = Vec::new();
    for ((tgid, start), life) in &lives {
        let forks = usize::from(*tgid != root);
        if life.forks != forks || life.exits != 1 {
            wrong.push(format!("{tgid}@{start}: forked {} times, exited {} times", life.forks, life.exits));
        } else if life.first != 0 && (life.first < life.born || life.last > life.died) {
            wrong.push(format!(
                "{tgid}@{start}: acts from {} to {}, lives from {} to {}",
                life.first, life.last, life.born, life.died
            ));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let count = wrong.len();
    wrong.truncate(20);
    Err(format!("{count} of {} processes:\n{}", lives.len(), wrong.join("\n")))
}

/// Nothing is missing but what the provocations lose on purpose.
fn losses(_: &Setting, observed: &Observed) -> Result<(), String> {
    let expected = |loss: &Loss| {
        loss.reason == LossReason::Folded
            || observed.truths.iter().flat_map(|truth| &truth.losses).any(|expected| {
                expected.kind == loss.kind
                    && expected.reason.is_none_or(|reason| reason == loss.reason)
                    && expected.only.is_none_or(|level| level == observed.start.protection.level)
            })
    };
    let lost: Vec<String> = observed.losses.iter().filter(|loss| !expected(loss)).map(json).collect();
    if lost.is_empty() { Ok(()) } else { Err(format!("observations are missing:\n{}", lost.join("\n"))) }
}

/// What the level cannot see has to be said.
fn blind_spots(_: &Setting, observed: &Observed) -> Result<(), String> {
    let protection = &observed.start.protection;
    for name in ["blind/io_uring", "blind/compat_syscalls"] {
        let stated = protection.capabilities.iter().any(|capability| capability.name == name);
        if protection.level == Level::Tracepoint && !stated {
            return Err(format!(
                "`{name}` is not among the capabilities: {}",
                json(&protection.capabilities)
            ));
        }
    }
    Ok(())
}

/// The environment of a program is not kept.
fn secrets(_: &Setting, observed: &Observed) -> Result<(), String> {
    let secret = secret().into_vec();
    let name = secret.split(|byte| *byte == b'=').next().unwrap_or_default().to_vec();
    let value = secret[name.len() + 1..].to_vec();
    for suffix in ["", "-wal", "-shm"] {
        let path = format!("{}{suffix}", observed.db.display());
        let Ok(bytes) = fs::read(&path) else { continue };
        for needle in [&name, &value] {
            if bytes.windows(needle.len()).any(|window| window == &needle[..]) {
                return Err(format!("{path} contains `{}`", needle.escape_ascii()));
            }
        }
    }
    let execs = observed.events.iter().filter(|event| event.kind() == EventKind::ProcessExec).count();
    if execs == 0 { Err("no exec is recorded, so nothing is proven".to_owned()) } else { Ok(()) }
}

fn verify(setting: &Setting, observed: &Observed) -> Result<(), String> {
    let output = Command::new(&setting.binary)
        .arg("--db")
        .arg(&observed.db)
        .args(["audit", "verify"])
        .output()
        .map_err(|err| err.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(format!("`audit verify` ended with {}:\n{}", output.status, String::from_utf8_lossy(&text)))
}
