//! What a policy says of operations that no hook holds, or that only some hook of this level holds: told truthfully, and
//! held where it is said to be.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    net::TcpListener,
    os::unix::{net::UnixListener, process::ExitStatusExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use defenseclaw::{
    model::{
        Action, AuditRecord, Decision, Enforced, Event, EventKind, Level, LossReason, Mechanism, PolicyAction,
    },
    policy,
};
use tempfile::TempDir;

use super::{Ended, to_its_end};
use crate::check::{
    Setting, records,
    session::{own_program, run_dir, watched},
};

/// A policy and the objects that it speaks of.
struct Place {
    dir: TempDir,
    base: PathBuf,
    unix: UnixListener,
    tcp: TcpListener,
}

/// What became of a run.
struct Found {
    ended: Ended,
    events: Vec<Event>,
    unwatched: u64,
}

impl Place {
    fn new() -> Result<Self> {
        let dir = run_dir()?;
        let base = fs::canonicalize(dir.path())?;
        for name in ["secret", "gone", "open"] {
            fs::write(base.join(name), b"x")?;
        }
        fs::copy(own_program()?, base.join("program"))?;
        Ok(Self {
            unix: UnixListener::bind(base.join("socket"))?,
            tcp: TcpListener::bind("127.0.0.1:0")?,
            dir,
            base,
        })
    }

    fn at(&self, name: &str) -> String {
        self.base.join(name).display().to_string()
    }

    fn port(&self) -> Result<u16> {
        Ok(self.tcp.local_addr()?.port())
    }

    /// Puts a policy with these rules down; `kill` for all of them.
    fn policy(&self, kill: bool) -> Result<PathBuf> {
        let file = self.base.join("policy.yaml");
        let (at, port) = (|name| self.at(name), self.port()?);
        let end = format!("severity: high, kill: {kill}, reason: a test}}");
        let text = format!(
            "version: 1
name: judged
settings: {{unresolved: allow}}
rules:
  - {{id: secret, effect: file.read, match: {{paths: '{}'}}, {end}
  - {{id: gone, effect: file.delete, match: {{paths: '{}'}}, {end}
  - {{id: program, effect: exec, match: {{paths: '{}'}}, {end}
  - {{id: socket, effect: unix, match: {{unix: '{}'}}, {end}
  - {{id: port, effect: net.connect, match: {{addresses: 127.0.0.1, ports: {port}}}, {end}
  - {{id: namespace, effect: priv.namespace, {end}
  - {{id: io_uring, effect: priv.io_uring, {end}
  - {{id: perf, effect: priv.perf, {end}
",
            at("secret"),
            at("gone"),
            at("program"),
            at("socket"),
        );
        fs::write(&file, text)?;
        Ok(file)
    }

    fn run(&self, setting: &Setting, options: &[&str], attempts: &[String]) -> Result<Found> {
        let db = self.dir.path().join("audit.db");
        let program = own_program()?;
        let mut command: Vec<OsString> = vec![program.into(), "attempt".into()];
        command.extend(attempts.iter().map(OsString::from));
        let command: Vec<_> = command.iter().map(OsString::as_os_str).collect();
        let options: Vec<_> = options.iter().map(std::ffi::OsStr::new).collect();
        let ended = to_its_end(&mut watched(setting, &db, &options, &command))?;
        ensure!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        let (mut events, mut unwatched) = (Vec::new(), 0);
        records(setting, &db, &["--session", "last"], |row| {
            match row.record {
                AuditRecord::Event(event) => events.push(*event),
                AuditRecord::Loss(loss)
                    if loss.kind == "process_fork" && loss.reason == LossReason::MapFull =>
                {
                    unwatched += loss.count;
                }
                _ => {}
            }
            Ok(())
        })
        .with_context(|| format!("the run ended with {}:\n{}", ended.status, ended.stderr))?;
        Ok(Found { ended, events, unwatched })
    }
}

impl Found {
    /// Errno of an attempt; none if it did not come that far.
    fn errno(&self, attempt: &str) -> Option<i32> {
        let line = |line: &str| line.rsplit_once('=').filter(|(name, _)| *name == attempt)?.1.parse().ok();
        self.ended.stdout.lines().find_map(line)
    }

    /// Decisions by the rule that was decisive, with the kind of event.
    fn decisions(&self) -> BTreeMap<&str, Vec<(EventKind, &Decision)>> {
        let mut found: BTreeMap<&str, Vec<(EventKind, &Decision)>> = BTreeMap::new();
        for event in &self.events {
            if let Some(decision) = event.decision.as_deref()
                && let Some(rule) = decision.verdict.rule_ids.first()
            {
                found.entry(rule).or_default().push((event.kind(), decision));
            }
        }
        found
    }

    fn said(&self) -> String {
        let Self { ended, .. } = self;
        format!("{}\n{}{}\n{:#?}", ended.status, ended.stdout, ended.stderr, self.decisions())
    }
}

fn path(options: &Path) -> Result<&str> {
    options.to_str().context("no UTF-8")
}

/// Operations on files, programs and sockets, and the rule of each.
fn operations(place: &Place) -> Result<Vec<(String, &'static str)>> {
    Ok(vec![
        (format!("read:{}", place.at("secret")), "secret"),
        (format!("start:{}", place.at("program")), "program"),
        (format!("unix:{}", place.at("socket")), "socket"),
        (format!("connect:{}", place.port()?), "port"),
        (format!("unlink:{}", place.at("gone")), "gone"),
    ])
}

fn attempts(operations: &[(String, &str)]) -> Vec<String> {
    operations.iter().map(|(attempt, _)| attempt.clone()).collect()
}

/// Nothing is blocked, and all that would be is told once.
pub(super) fn observe(setting: &Setting) -> Result<()> {
    let place = Place::new()?;
    let policy = place.policy(false)?;
    let operations = operations(&place)?;
    let mut all = attempts(&operations);
    all.push(format!("read:{}", place.at("open")));
    let found = place.run(setting, &["--policy", path(&policy)?, "--mode", "observe"], &all)?;
    for (attempt, rule) in &operations {
        ensure!(found.errno(attempt) == Some(0), "{attempt} failed: {}", found.said());
        let decisions = found.decisions();
        let told = decisions.get(rule).with_context(|| format!("{rule} is not told: {}", found.said()))?;
        // At level `lsm` a start of a program is told by what the kernel asks about it, more than once.
        let once = *rule == "program" || told.len() == 1;
        ensure!(once, "{rule} is told {} times: {}", told.len(), found.said());
        for (_, decision) in told {
            let as_it_was = decision.action == PolicyAction::Alert
                && decision.verdict.raw_action == PolicyAction::Block
                && decision.would_block
                && decision.mechanism == Mechanism::None
                && decision.enforced.is_none();
            ensure!(as_it_was, "{rule}: {decision:?}");
        }
    }
    Ok(())
}

/// What a hook holds is refused; what none holds goes through, and nobody says otherwise.
pub(super) fn action(setting: &Setting) -> Result<()> {
    let place = Place::new()?;
    let policy = place.policy(false)?;
    let operations = operations(&place)?;
    let options = ["--policy", path(&policy)?, "--mode", "action", "--landlock", "off", "--allow-degraded"];
    let found = place.run(setting, &options, &attempts(&operations))?;
    for (attempt, rule) in &operations {
        let held = setting.level == Level::Lsm || *rule == "port";
        let errno = found.errno(attempt).with_context(|| found.said())?;
        ensure!((errno == libc::EPERM) == held, "{attempt} ended with {errno}: {}", found.said());
        let decisions = found.decisions();
        let told = decisions.get(rule).with_context(|| format!("{rule} is not told: {}", found.said()))?;
        let expected = match (held, setting.level) {
            (true, Level::Lsm) => (PolicyAction::Block, Mechanism::Lsm, Some(Enforced::Applied)),
            (true, _) => (PolicyAction::Block, Mechanism::Cgroup, Some(Enforced::Applied)),
            (false, _) => (PolicyAction::Alert, Mechanism::None, Some(Enforced::Unsupported)),
        };
        ensure!(told.len() == 1, "{rule} is told {} times: {}", told.len(), found.said());
        for (_, decision) in told {
            let is = (decision.action, decision.mechanism, decision.enforced);
            ensure!(is == expected, "{rule}: {is:?} instead of {expected:?}: {}", found.said());
        }
    }
    Ok(())
}

/// A rule that ends the process does so at every level; at `tracepoint` after the deed.
pub(super) fn kill(setting: &Setting) -> Result<()> {
    let place = Place::new()?;
    let policy = place.policy(true)?;
    let attempt = format!("read:{}", place.at("secret"));
    let options = ["--policy", path(&policy)?, "--mode", "action", "--landlock", "off", "--allow-degraded"];
    let found = place.run(setting, &options, &[attempt.clone(), "wait".to_owned()])?;
    ended_by_kill(&found)?;
    let at_once = setting.level == Level::Lsm;
    ensure!(found.errno(&attempt).is_none() == at_once, "{}", found.said());
    let decisions = found.decisions();
    let (_, decision) = decisions.get("secret").and_then(|told| told.first()).context(found.said())?;
    let expected = if at_once {
        (Mechanism::Lsm, Some(Enforced::Applied))
    } else {
        (Mechanism::Signal, Some(Enforced::TooLate))
    };
    ensure!((decision.mechanism, decision.enforced) == expected, "{decision:?}");
    Ok(())
}

/// The cgroup's programs may send no signal: the watcher does, when it reads the record.
pub(super) fn kill_by_cgroup(setting: &Setting) -> Result<()> {
    let place = Place::new()?;
    let policy = place.policy(true)?;
    let attempt = format!("connect:{}", place.port()?);
    let options = ["--policy", path(&policy)?, "--mode", "action", "--landlock", "off", "--allow-degraded"];
    let found = place.run(setting, &options, &[attempt, "wait".to_owned()])?;
    ended_by_kill(&found)?;
    ensure!(found.decisions().contains_key("port"), "{}", found.said());
    drop(place.unix);
    Ok(())
}

fn ended_by_kill(found: &Found) -> Result<()> {
    let status = found.ended.status;
    ensure!(status.signal() == Some(9) || status.code() == Some(137), "{}", found.said());
    Ok(())
}

/// Namespaces, io_uring and performance events: refused by whatever call at level `lsm`.
pub(super) fn privileges(setting: &Setting) -> Result<()> {
    let place = Place::new()?;
    let policy = place.policy(false)?;
    let lsm = setting.level == Level::Lsm;
    let operations = [
        ("unshare", "namespace", libc::EPERM),
        ("unshare-32", "namespace", libc::EPERM),
        ("setns", "namespace", libc::EPERM),
        ("clone", "namespace", libc::EPERM),
        ("uring", "io_uring", libc::EPERM),
        ("perf", "perf", libc::EPERM),
    ];
    let all: Vec<String> = operations
        .iter()
        .map(|(attempt, ..)| (*attempt).to_owned())
        .chain(["fork".into(), "thread".into()])
        .collect();
    for mode in ["action", "observe"] {
        let options = ["--policy", path(&policy)?, "--mode", mode, "--landlock", "off", "--allow-degraded"];
        let found = place.run(setting, &options, &all)?;
        for (attempt, rule, refusal) in operations {
            let errno = found.errno(attempt).with_context(|| found.said())?;
            let expected = if lsm && mode == "action" { refusal } else { 0 };
            // Where nothing is forbidden, the machine may not have it.
            let absent = expected == 0 && errno != libc::EPERM;
            ensure!(errno == expected || absent, "{mode} {attempt} ended with {errno}: {}", found.said());
            let seen = lsm || !["perf", "unshare-32"].contains(&attempt);
            let told = found.decisions().contains_key(rule);
            ensure!(told || !seen || errno != expected, "{mode} {attempt} is not told: {}", found.said());
        }
        for attempt in ["fork", "thread"] {
            ensure!(found.errno(attempt) == Some(0), "{mode} {attempt}: {}", found.said());
        }
        let blocked = |event: &&Event| event.policy_action() == Some(PolicyAction::Block);
        let blocked = found.events.iter().filter(blocked).count();
        let expected = if lsm && mode == "action" { operations.len() } else { 0 };
        ensure!(blocked == expected, "{mode}: {blocked} are blocked, not {expected}: {}", found.said());
    }
    Ok(())
}

/// With room for few processes, a fork too many is refused where policy blocks, and counted where it does not. Whoever is
/// not enrolled forks as before.
pub(super) fn no_room(setting: &Setting) -> Result<()> {
    let place = Place::new()?;
    let policy = place.policy(false)?;
    let wanted = 40;
    for mode in ["action", "observe"] {
        let options = [
            "--policy",
            path(&policy)?,
            "--mode",
            mode,
            "--landlock",
            "off",
            "--allow-degraded",
            "--max-processes",
            "16",
        ];
        let attempt = format!("forks:{wanted}");
        // Room that was taken is there again afterwards.
        let all = [attempt.clone(), "thread".to_owned(), "fork".to_owned(), attempt.clone()];
        let found = place.run(setting, &options, &all)?;
        let refused = mode == "action" && setting.level == Level::Lsm;
        let errno = found.errno(&attempt).with_context(|| found.said())?;
        let made: Vec<u64> =
            found.ended.stdout.lines().filter_map(|line| line.strip_prefix("made=")?.parse().ok()).collect();
        ensure!(made.len() == 2 && found.errno("fork") == Some(0), "{}", found.said());
        let is_refusal = |event: &&Event| {
            matches!(&event.action, Action::ProcessFork { child, .. } if child.tgid == 0)
                && event.result == Some(-i64::from(libc::EAGAIN))
                && event.policy_action() == Some(PolicyAction::Block)
        };
        let refusals = found.events.iter().filter(is_refusal).count();
        if refused {
            ensure!(errno == libc::EAGAIN, "the fork too many ended with {errno}: {}", found.said());
            ensure!(made.iter().all(|made| (8..16).contains(made)), "{made:?} were made: {}", found.said());
            ensure!(refusals == 2, "{refusals} refusals are recorded: {}", found.said());
            ensure!(found.unwatched == 0, "{} were not watched: {}", found.unwatched, found.said());
        } else {
            ensure!(errno == 0 && made == [wanted, wanted], "{}", found.said());
            ensure!(found.unwatched > 0 && refusals == 0, "the audit has no loss: {}", found.said());
        }
    }
    Ok(())
}

pub(super) fn preset_default(setting: &Setting) -> Result<()> {
    starts(setting, "default")
}

pub(super) fn preset_strict(setting: &Setting) -> Result<()> {
    starts(setting, "strict")
}

/// At level `lsm` a preset is held as it is, but for rules about host names where nothing leads questions to our name
/// server. Below, it is refused, and every rule that is not held is named.
fn starts(setting: &Setting, preset: &str) -> Result<()> {
    let dir = run_dir()?;
    let db = dir.path().join("audit.db");
    let program = own_program()?;
    let options = ["--policy", preset, "--mode", "action"].map(std::ffi::OsStr::new);
    let command = [program.as_os_str(), "exit".as_ref(), "0".as_ref()];
    let ended = to_its_end(&mut watched(setting, &db, &options, &command))?;
    if setting.level == Level::Lsm {
        let hosts = rules_about_hosts(preset)?;
        let unheld: Vec<&str> =
            ended.stderr.split(" is held ").filter_map(|text| text.rsplit(' ').next()).collect();
        let unheld = unheld.split_last().map_or(&[][..], |(_, rules)| rules);
        ensure!(unheld.iter().all(|rule| hosts.iter().any(|known| known == rule)), "{}", ended.stderr);
        ensure!(ended.status.success() == unheld.is_empty(), "{}: {}", ended.status, ended.stderr);
    } else {
        ensure!(ended.status.code() == Some(125), "{}: {}", ended.status, ended.stderr);
        ensure!(ended.stderr.contains("PATH-SSH-KEY is held"), "{}", ended.stderr);
    }
    Ok(())
}

fn rules_about_hosts(preset: &str) -> Result<Vec<String>> {
    let text = policy::preset(preset).context("there is no such preset")?;
    let included = |name: &str| policy::preset(name).map(str::to_owned);
    let policy = policy::load(preset, text, &included).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    let rules = policy.rules.iter().filter(|rule| !rule.matches.hosts.is_empty());
    Ok(rules.map(|rule| rule.id.clone()).collect())
}
