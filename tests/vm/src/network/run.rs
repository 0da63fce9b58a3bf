//! Names through `defenseclaw run --policy`: one command asks and connects as a policy has it, while somebody outside of
//! its tree does the same with the same server. The policies, what the audit must say of it, and what a kill leaves.

mod asker;
mod stage;

use std::{collections::BTreeMap, ffi::OsStr, fs, os::unix::process::CommandExt, path::Path};

use anyhow::{Context, Result, ensure};
pub(crate) use asker::{main as asker_main, outsider_main};
use defenseclaw::{
    model::{
        Action, AuditRecord, CapabilityState, Event, Held, Level, Mechanism, PolicyAction, SessionStart,
    },
    resolver::REBINDING,
};
use libtest_mimic::{Completion, Failed, Trial};
use stage::Stage;
pub(crate) use stage::main as stage_main;

use crate::{
    check::{
        Setting, records,
        session::{own_program, run_dir, watched},
        trial,
    },
    runs::{self, kill, to_its_end},
    sys,
};

type Case = fn(&Setting) -> Result<()>;

const CASES: &[(&str, Case)] = &[
    ("network/run: names are judged, and the audit says how", judged),
    ("network/run: observe refuses nothing", observed),
    ("network/run: reloads leave no gap", reloaded),
    ("network/run: killed", killed),
    ("network/run: without a cgroup", without_cgroup),
    ("network/run: presets hold their rules about names", presets),
];

pub(super) fn trials(setting: &Setting) -> Vec<Trial> {
    let possible = sys::cgroup_mount().is_some();
    let of = |(name, case): &(&'static str, Case)| {
        let (name, case, setting) = (*name, *case, setting.clone());
        trial(name, move || {
            if !possible {
                return setting.skip(name, "root", "no cgroup v2 hierarchy is mounted");
            }
            match case(&setting) {
                Ok(()) => Ok(Completion::Completed),
                Err(err) => Err(Failed::from(format!("{err:#}"))),
            }
        })
    };
    CASES.iter().map(of).collect()
}

/// Nothing but names and addresses, so that every level holds all of it. `spared` is the program that may ask for one of
/// the names.
fn policy(spared: &Path, lists_before: &[&str]) -> String {
    let spared = spared.display();
    let before: Vec<String> = lists_before
        .iter()
        .enumerate()
        .map(|(at, list)| {
            format!(
                "  - {{id: n.list{at}, effect: net.connect, match: {{addresses: [203.0.113.0/24]}}, \
                 unless: {{executables: [{list}]}}, severity: high, reason: not there}}\n"
            )
        })
        .collect();
    let before = before.concat();
    format!(
        "version: 1
settings: {{unresolved: allow}}
rules:
{before}  - {{id: n.allowed, effect: [dns, net.connect], match: {{hosts: [inside.example.com, alias.example.com, pinned.example.com]}}, severity: info}}
  - {{id: n.network, effect: net.connect, match: {{addresses: [192.0.2.64/26]}}, severity: high, reason: not this network}}
  - {{id: n.single, effect: net.connect, match: {{addresses: [192.0.2.70]}}, severity: high, reason: not this address}}
  - {{id: n.blocked, effect: dns, match: {{hosts: [blocked.example.com]}}, severity: critical, reason: not this name}}
  - {{id: n.hop, effect: dns, match: {{hosts: [hop.example.net]}}, severity: high, reason: not over this name}}
  - {{id: n.port, effect: net.connect, match: {{hosts: [port.example.com], ports: 8443}}, severity: high, reason: not this port}}
  - {{id: n.spared, effect: dns, match: {{hosts: [spared.example.com]}}, unless: {{executables: [{spared}]}}, severity: high, reason: only one may}}
"
    )
}

/// What the audit has of a session.
struct Audit {
    start: SessionStart,
    events: Vec<Event>,
    policies: usize,
}

fn audit(setting: &Setting, db: &Path) -> Result<Audit> {
    let (mut start, mut events, mut policies, mut losses) = (None, Vec::new(), 0, Vec::new());
    records(setting, db, &["--session", "last"], |row| {
        match row.record {
            AuditRecord::SessionStart(found) => start = Some(*found),
            AuditRecord::Event(event) => events.push(*event),
            AuditRecord::PolicyLoaded(_) => policies += 1,
            AuditRecord::Loss(loss) => losses.push(loss),
            AuditRecord::PolicyRefused(refused) => anyhow::bail!("refused: {refused:?}"),
            AuditRecord::Posture(_)
            | AuditRecord::Handover(_)
            | AuditRecord::Asked(_)
            | AuditRecord::Settled(_)
            | AuditRecord::Granted(_)
            | AuditRecord::GrantEnded(_)
            | AuditRecord::Hook(_)
            | AuditRecord::Correlated(_)
            | AuditRecord::Finding(_)
            | AuditRecord::SessionEnd(_) => {}
        }
        Ok(())
    })?;
    ensure!(losses.is_empty(), "{losses:?}");
    Ok(Audit { start: start.context("no session")?, events, policies })
}

/// Events by the rule that decided them, with what was done.
fn by_rule(audit: &Audit) -> BTreeMap<(String, PolicyAction), Vec<&Event>> {
    let mut found: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for event in &audit.events {
        let Some(decision) = &event.decision else { continue };
        let rule = decision.verdict.rule_ids.first().cloned().unwrap_or_default();
        found.entry((rule, decision.action)).or_default().push(event);
    }
    found
}

fn answers(audit: &Audit) -> impl Iterator<Item = (&Event, String, u16)> {
    audit.events.iter().filter_map(|event| match &event.action {
        Action::DnsAnswer { name, code, .. } => Some((event, name.lossy().into_owned(), *code)),
        _ => None,
    })
}

fn judged(setting: &Setting) -> Result<()> {
    let dir = run_dir()?;
    let base = fs::canonicalize(dir.path())?;
    let spared = base.join("spared");
    fs::copy(own_program()?, &spared)?;
    let mut stage = Stage::set(setting, &base, &policy(&spared, &["/usr/bin/other"]), "action", "judged")?;
    let outsider = stage.outsider()?;
    let ended = stage.finish()?;
    ensure!(ended.success(), "the command failed ({ended}):\n{}", stage.said());
    let outside = runs::wait(outsider)?;
    ensure!(outside.success(), "outside of the tree: {}", fs::read_to_string(base.join("outside"))?);

    let audit = audit(setting, &stage.db)?;
    let resolver = audit.start.protection.capabilities.iter().find(|found| found.name == "resolver");
    ensure!(
        resolver.is_some_and(|found| found.state == CapabilityState::Available),
        "{resolver:?} of {:?}",
        audit.start.protection.capabilities
    );
    for rule in ["n.blocked", "n.hop", "n.port", "n.spared"] {
        let mut holds = audit.start.protection.rules.iter().filter(|hold| hold.rule == rule);
        ensure!(
            holds.any(|hold| hold.held == Held::Whole && hold.mechanism == Mechanism::Resolver),
            "{rule} is not held by the resolver"
        );
    }

    let rules = by_rule(&audit);
    let of = |rule: &str| rules.get(&(rule.to_owned(), PolicyAction::Block)).cloned().unwrap_or_default();
    for (rule, name, times) in [
        ("n.blocked", "blocked.example.com", 2),
        ("n.hop", "chain.example.com", 1),
        ("n.spared", "spared.example.com", 1),
        (REBINDING, "rebind.example.com", 1),
    ] {
        let found = of(rule);
        ensure!(found.len() == times, "{rule} has {} records, not {times}: {found:#?}", found.len());
        for event in found {
            let decision = event.decision.as_ref().context("a decision")?;
            ensure!(decision.mechanism == Mechanism::Resolver && !decision.verdict.reason.is_empty());
            ensure!(event.process.tgid == audit.start.root.tgid, "another process: {event:?}");
            ensure!(
                matches!(&event.action, Action::DnsAnswer { name: found, code: 5, .. } if found.lossy() == name),
                "{event:?}"
            );
        }
    }
    for rule in ["n.network", "n.single", "n.port"] {
        ensure!(!of(rule).is_empty(), "{rule} has no record of what it blocked");
    }
    // Each question once: the C library asks for both families.
    let mut asked: BTreeMap<String, usize> = BTreeMap::new();
    for (event, name, _) in answers(&audit) {
        ensure!(event.process.tgid != 0, "recorded twice: {event:?}");
        *asked.entry(name).or_default() += 1;
    }
    let expected: BTreeMap<String, usize> = [
        ("www", 2),
        ("missing", 2),
        ("inside", 1),
        ("alias", 1),
        ("pinned", 1),
        ("blocked", 2),
        ("chain", 1),
        ("rebind", 1),
        ("port", 1),
        ("spared", 2),
    ]
    .map(|(name, times)| (format!("{name}.example.com"), times))
    .into();
    ensure!(asked == expected, "{asked:?}");
    // What is refused at the question is forwarded by nobody; the one that arrived is the outsider's.
    let heard = stage.server.asked().into_iter().filter(|asked| asked.name == "blocked.example.com.").count();
    ensure!(heard == 1, "the server was asked {heard} times for the blocked name");

    for arguments in [&["events", "--blocked", "--session", "last"] as &[&str], &["report"]] {
        let shown = shown(setting, &stage.db, arguments)?;
        for part in ["blocked.example.com", "n.blocked", "rebind.example.com", REBINDING] {
            ensure!(shown.contains(part), "`{}` says nothing of {part}:\n{shown}", arguments.join(" "));
        }
    }
    Ok(())
}

fn shown(setting: &Setting, db: &Path, arguments: &[&str]) -> Result<String> {
    let ended = to_its_end(std::process::Command::new(&setting.binary).arg("--db").arg(db).args(arguments))?;
    ensure!(ended.status.success(), "{arguments:?}: {}", ended.stderr);
    Ok(ended.stdout)
}

fn observed(setting: &Setting) -> Result<()> {
    let dir = run_dir()?;
    let base = fs::canonicalize(dir.path())?;
    let text = policy(&base.join("spared"), &[]);
    let mut stage = Stage::set(setting, &base, &text, "observe", "observed")?;
    let ended = stage.finish()?;
    ensure!(ended.success(), "the command failed ({ended}):\n{}", stage.said());
    let audit = audit(setting, &stage.db)?;
    let rules = by_rule(&audit);
    ensure!(rules.keys().all(|(_, action)| *action != PolicyAction::Block), "{:?}", rules.keys());
    for rule in ["n.blocked", REBINDING] {
        let told = rules.get(&(rule.to_owned(), PolicyAction::Alert)).and_then(|events| events.first());
        let decision = told.and_then(|event| event.decision.as_ref()).context("nothing is said of a name")?;
        ensure!(decision.would_block && decision.mechanism == Mechanism::None, "{decision:?}");
    }
    Ok(())
}

/// Reloads while the command resolves and connects: by a policy without names first, then by two that agree on names
/// and number their lists of executables differently.
fn reloaded(setting: &Setting) -> Result<()> {
    const TIMES: usize = 20;
    let dir = run_dir()?;
    let base = fs::canonicalize(dir.path())?;
    let spared = base.join("spared");
    fs::copy(own_program()?, &spared)?;
    let nameless = "version: 1\nsettings: {unresolved: allow}\nrules:\n  - {id: n.network, effect: net.connect, \
                    match: {addresses: [192.0.2.64/26]}, severity: high, reason: not this network}\n";
    let mut stage = Stage::set_with(setting, &base, &spared, nameless, "action", "reloaded")?;
    stage.go()?;
    stage.wait_for("nameless")?;
    let texts = [policy(&spared, &["/usr/bin/other", "/usr/bin/more"]), policy(&spared, &[])];
    for turn in 0..TIMES {
        fs::write(base.join("policy.next"), &texts[turn % 2])?;
        fs::rename(base.join("policy.next"), base.join("policy.yaml"))?;
        stage.wait_for_policies(turn + 2)?;
        if turn == 0 {
            fs::write(base.join("with-names"), b"")?;
            stage.wait_for("resolved")?;
        }
        // The command has been judged by it.
        stage.wait_for_questions(3)?;
    }
    fs::write(base.join("stop"), b"")?;
    let ended = stage.wait()?;
    ensure!(ended.success(), "the command failed ({ended}):\n{}", stage.said());
    let audit = audit(setting, &stage.db)?;
    ensure!(audit.policies == TIMES + 1, "{} policies came into force", audit.policies);
    let rules = by_rule(&audit);
    let port = rules.get(&("n.port".to_owned(), PolicyAction::Block)).map_or(0, Vec::len);
    ensure!(port > 0, "no connect was blocked by name: {:?}", rules.keys());
    let generations: std::collections::BTreeSet<_> = rules
        .values()
        .flatten()
        .filter_map(|event| event.decision.as_ref().map(|decision| decision.generation))
        .collect();
    ensure!(generations.len() == TIMES + 1, "judged under {generations:?} only");
    Ok(())
}

/// Where no cgroup can be made, rules about names are not held, and that is said instead of done without.
fn without_cgroup(setting: &Setting) -> Result<()> {
    let dir = run_dir()?;
    let (db, file) = (dir.path().join("audit.db"), dir.path().join("policy.yaml"));
    fs::write(&file, policy(&dir.path().join("spared"), &[]))?;
    let program = own_program()?;
    for accepted in [false, true] {
        let mut options =
            vec![OsStr::new("--mode"), OsStr::new("action"), OsStr::new("--policy"), file.as_os_str()];
        options.extend(accepted.then_some(OsStr::new("--allow-degraded")));
        let command = [program.as_os_str(), OsStr::new("exit"), OsStr::new("0")];
        let mut run = watched(setting, &db, &options, &command);
        // SAFETY: between fork and exec it makes system calls only.
        unsafe { run.pre_exec(stage::without_cgroups) };
        let ended = to_its_end(&mut run)?;
        ensure!(ended.status.success() == accepted, "{}:\n{}", ended.status, ended.stderr);
        if !accepted {
            for part in ["n.blocked is held not at all", "no resolver: the command has no cgroup of its own"]
            {
                ensure!(ended.stderr.contains(part), "nothing says `{part}`:\n{}", ended.stderr);
            }
        }
    }
    Ok(())
}

/// Without `--persist` everything ends with the watcher: sockets that spoke with the resolver get no answer, and what is
/// asked anew is nobody's business any more.
fn killed(setting: &Setting) -> Result<()> {
    let dir = run_dir()?;
    let base = fs::canonicalize(dir.path())?;
    let before = kill::traces()?;
    let mut stage = Stage::set(setting, &base, &policy(&base.join("spared"), &[]), "action", "killed")?;
    stage.go()?;
    stage.wait_for("asked")?;
    stage.kill()?;
    let left = kill::left_since(&before);
    fs::write(base.join("gone"), b"")?;
    let written = stage.wait_for("after");
    left?;
    written?;
    let after = fs::read_to_string(base.join("after"))?;
    ensure!(after == "ok", "after the kill: {after}");
    Ok(())
}

/// Whatever else is not held here, rules about names are. At level `lsm` all of `default` is.
fn presets(setting: &Setting) -> Result<()> {
    let dir = run_dir()?;
    let (db, program) = (dir.path().join("audit.db"), own_program()?);
    for preset in ["default", "strict"] {
        let mut options = vec!["--policy", preset, "--mode", "action"];
        if preset != "default" || setting.level != Level::Lsm {
            options.push("--allow-degraded");
        }
        let options: Vec<_> = options.into_iter().map(OsStr::new).collect();
        let command = [program.as_os_str(), OsStr::new("exit"), OsStr::new("0")];
        let ended = to_its_end(&mut watched(setting, &db, &options, &command))?;
        ensure!(ended.status.success(), "{preset}: {}", ended.stderr);
        let audit = audit(setting, &db)?;
        let mut best: BTreeMap<&str, (Held, &[String])> = BTreeMap::new();
        for hold in &audit.start.protection.rules {
            let known = best.entry(&hold.rule).or_insert((hold.held, &hold.reasons));
            if hold.held > known.0 {
                *known = (hold.held, &hold.reasons);
            }
        }
        for (rule, (held, reasons)) in &best {
            if *held != Held::Whole {
                println!("{preset}: {rule}: {}: {}", held.as_str(), reasons.join("; "));
            }
        }
        let names =
            |rule: &&str| rule.starts_with("C2-") || ["block.dns_over_https", "default:dns"].contains(rule);
        let of_names: Vec<_> = best.iter().filter(|(rule, _)| names(rule)).collect();
        ensure!(of_names.len() >= 8, "{preset}: {:?}", best.keys());
        for (rule, (held, reasons)) in of_names {
            ensure!(*held == Held::Whole, "{preset}: {rule}: {reasons:?}");
        }
    }
    Ok(())
}
