//! A trial for every claim, one for each case as a whole, and one for each skip.

use std::{fmt::Write, sync::Arc};

use defenseclaw::model::{CapabilityState, Event, EventKind, ExitStatus, Level, Loss, LossReason};
use libtest_mimic::{Completion, Failed, Trial};

use super::{
    Observed, Setting,
    compare::{differences, json},
    coverage, trial,
};
use crate::{
    provoke::CASES,
    truth::{Claim, ExpectedLoss, Never, Storm, TICK_NS, Times, Truth},
};

/// What a trial of a case runs.
type Check = Box<dyn FnOnce(&Setting, &Observed, &Truth) -> Result<Completion, Failed> + Send>;

/// Events shown in a failure.
const SHOWN: usize = 40;

pub(crate) fn trials(setting: &Setting, observed: &Arc<Observed>) -> Vec<Trial> {
    let mut trials = Vec::new();
    let wanted = std::env::var("SUITE_CASES").unwrap_or_default();
    for case in CASES {
        if !wanted.is_empty() && !wanted.split(',').any(|name| name == case.name) {
            continue;
        }
        let Some(at) = observed.truths.iter().position(|truth| truth.case == case.name) else {
            let (name, stderr) = (case.name, observed.stderr.clone());
            trials.push(trial(format!("{name}/provoked"), move || {
                Err(format!("the provoker left no truth for this case; the run said:\n{stderr}").into())
            }));
            continue;
        };
        of_case(setting, observed, at, &mut trials);
    }
    trials
}

fn of_case(setting: &Setting, observed: &Arc<Observed>, at: usize, trials: &mut Vec<Trial>) {
    let truth = &observed.truths[at];
    let mut add = |name: &str, check: Check| {
        let (setting, observed) = (setting.clone(), Arc::clone(observed));
        let name = format!("{}/{name}", truth.case);
        trials.push(trial(name, move || check(&setting, &observed, &observed.truths[at])));
    };
    add(
        "provoked",
        Box::new(|_, _, truth| match &truth.failure {
            Some(failure) => Err(format!("the provocation did not work: {failure}").into()),
            None => Ok(Completion::Completed),
        }),
    );
    add("own process", Box::new(|_, observed, truth| done(own_process(observed, truth))));
    add("nothing unexplained", Box::new(|_, observed, truth| done(closed(observed, truth))));
    for claim in truth.claims.clone() {
        if claim.only.is_some_and(|level| level != observed.start.protection.level) {
            continue;
        }
        let name = claim.step.clone();
        add(&name, Box::new(move |setting, observed, truth| check_claim(setting, observed, truth, &claim)));
    }
    for never in truth.nevers.clone() {
        let name = format!("never: {}", never.step);
        add(&name, Box::new(move |_, observed, _| done(check_never(observed, &never))));
    }
    for loss in truth.losses.clone() {
        let name = format!("loss: {}", loss.step);
        add(&name, Box::new(move |_, observed, _| done(check_loss(observed, &loss))));
    }
    for storm in truth.storms.clone() {
        add("every process once", Box::new(move |_, observed, _| done(check_storm(observed, &storm))));
    }
    for skip in truth.skips.clone() {
        let name = skip.step.clone();
        add(
            &name,
            Box::new(move |setting, _, truth| {
                setting.skip(&format!("{}/{}", truth.case, skip.step), &skip.needs, &skip.reason)
            }),
        );
    }
}

fn done(result: Result<(), String>) -> Result<Completion, Failed> {
    result.map(|()| Completion::Completed).map_err(Failed::from)
}

/// Events as a failure shows them: those of the same kind first.
fn shown<'a>(events: impl Iterator<Item = &'a Event>, kinds: &[EventKind]) -> String {
    let mut events: Vec<&Event> = events.collect();
    events.sort_by_key(|event| !kinds.contains(&event.kind()));
    let mut text = String::new();
    for event in events.iter().take(SHOWN) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "    {}", json(event).chars().take(1200).collect::<String>());
    }
    if events.len() > SHOWN {
        let _ = writeln!(text, "    … and {} more", events.len() - SHOWN);
    }
    if events.is_empty() {
        text.push_str("    none at all\n");
    }
    text
}

fn check_claim(
    setting: &Setting,
    observed: &Observed,
    truth: &Truth,
    claim: &Claim,
) -> Result<Completion, Failed> {
    if let Some((name, reason)) = coverage::missing(&observed.start.protection, claim) {
        return setting.skip(&format!("{}/{}", truth.case, claim.step), &name, &reason);
    }
    let level = observed.start.protection.level;
    let found =
        observed.of(claim.tgid).filter(|event| differences(claim, truth, level, event).is_empty()).count();
    let (enough, wanted) = match claim.times {
        Times::Once => (found == 1, "exactly 1 event"),
        Times::AtLeastOnce => (found >= 1, "at least 1 event"),
        Times::Optional => (true, "any number of events"),
    };
    if enough {
        return Ok(Completion::Completed);
    }
    let kinds: Vec<EventKind> = claim.actions.iter().map(defenseclaw::model::Action::kind).collect();
    let mut text = format!("step `{}` ({}): expected {wanted}, recorded {found}\n", claim.step, claim.call);
    for action in &claim.actions {
        let _ = writeln!(text, "  expected: {}", json(action));
    }
    if let Some((near, differing)) = nearest(claim, truth, level, observed, &kinds) {
        let _ = writeln!(text, "  nearest:  {}", json(near));
        for difference in differing {
            let _ = writeln!(text, "    {difference}");
        }
    }
    let _ = writeln!(text, "  events of process {}:", claim.tgid);
    text.push_str(&shown(observed.of(claim.tgid), &kinds));
    Err(text.into())
}

/// The event of the same kind that differs in the fewest points.
fn nearest<'a>(
    claim: &Claim,
    truth: &Truth,
    level: Level,
    observed: &'a Observed,
    kinds: &[EventKind],
) -> Option<(&'a Event, Vec<String>)> {
    observed
        .of(claim.tgid)
        .filter(|event| kinds.contains(&event.kind()))
        .map(|event| (event, differences(claim, truth, level, event)))
        .min_by_key(|(_, differing)| {
            differing.iter().map(|difference| difference.len() + 1000).sum::<usize>()
        })
}

fn check_never(observed: &Observed, never: &Never) -> Result<(), String> {
    if never.only.is_some_and(|level| level != observed.start.protection.level) {
        return Ok(());
    }
    let found: Vec<&Event> = observed
        .of(never.tgid)
        .filter(|event| event.kind() == never.kind && json(event).contains(&never.containing))
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    let (kind, count) = (never.kind.as_str(), found.len());
    Err(format!(
        "expected no {kind} with `{}`, recorded {count}:\n{}",
        never.containing,
        shown(found.into_iter(), &[])
    ))
}

fn check_loss(observed: &Observed, expected: &ExpectedLoss) -> Result<(), String> {
    if expected.only.is_some_and(|level| level != observed.start.protection.level) {
        return Ok(());
    }
    let fits = |loss: &&Loss| {
        loss.kind == expected.kind && expected.reason.is_none_or(|reason: LossReason| reason == loss.reason)
    };
    let count: u64 = observed.losses.iter().filter(fits).map(|loss| loss.count).sum();
    if count >= expected.at_least {
        return Ok(());
    }
    Err(format!(
        "expected a loss of at least {} {} for {:?}, recorded {count}; all losses: {}",
        expected.at_least,
        expected.kind,
        expected.reason,
        json(&observed.losses)
    ))
}

fn check_storm(observed: &Observed, storm: &Storm) -> Result<(), String> {
    let forks = observed.of(storm.parent).filter(|event| event.kind() == EventKind::ProcessFork).count();
    if forks != storm.children.len() {
        return Err(format!("{} forks done, {forks} recorded", storm.children.len()));
    }
    let mut wrong = Vec::new();
    let mut execs = 0;
    for (pid, code) in &storm.children {
        let exits: Vec<_> =
            observed.of(*pid).filter(|event| event.kind() == EventKind::ProcessExit).collect();
        execs += observed.of(*pid).filter(|event| event.kind() == EventKind::ProcessExec).count();
        let status = ExitStatus::Code(*code);
        let right = defenseclaw::model::Action::ProcessExit { status };
        if exits.len() != 1 || exits[0].action != right {
            wrong.push(format!("{pid}: exit code {code} expected once, recorded {exits:?}"));
        }
    }
    if execs != storm.execs {
        wrong.push(format!("{} execs done, {execs} recorded", storm.execs));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    wrong.truncate(10);
    Err(wrong.join("\n"))
}

/// Header fields of every event by a process that the case knows; and its own begin and end.
fn own_process(observed: &Observed, truth: &Truth) -> Result<(), String> {
    let mut wrong = Vec::new();
    for (pid, _) in &truth.started {
        let starts: Vec<u64> =
            truth.started.iter().filter(|(known, _)| known == pid).map(|(_, ticks)| *ticks).collect();
        for event in observed.of(*pid) {
            if event.session != observed.start.session {
                wrong.push(format!("another session: {}", json(event)));
            }
            let ticks = event.process.start_ns / TICK_NS;
            // Pids come again: only what happened while the case ran is about its processes.
            let during = (truth.began..=truth.ended).contains(&event.time.0);
            if during && !starts.contains(&ticks) {
                wrong.push(format!(
                    "/proc says that {pid} started at tick {starts:?}, not {ticks}: {}",
                    json(event)
                ));
            }
            if event.process.start_ns > event.time.0 {
                wrong.push(format!("acts before it starts: {}", json(event)));
            }
        }
    }
    let (pid, ticks) = truth.started.first().copied().unwrap_or_default();
    let cgroups = observed.of(pid).filter(|event| truth.cgroup != 0 && event.cgroup != truth.cgroup);
    wrong.extend(cgroups.map(|event| format!("cgroup {} expected: {}", truth.cgroup, json(event))));
    let forked = observed.of(truth.parent).filter(|event| match &event.action {
        defenseclaw::model::Action::ProcessFork { child, .. } => {
            child.tgid == pid && child.start_ns / TICK_NS == ticks
        }
        _ => false,
    });
    let forked = forked.count();
    if forked != 1 {
        wrong.push(format!("the fork of this process by {} is recorded {forked} times", truth.parent));
    }
    let exits = observed
        .of(pid)
        .filter(|event| event.kind() == EventKind::ProcessExit && event.process.start_ns / TICK_NS == ticks)
        .count();
    if exits != 1 {
        wrong.push(format!("the exit of this process is recorded {exits} times"));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    wrong.truncate(10);
    Err(wrong.join("\n"))
}

/// Every file event below a closed directory is one that somebody claimed.
fn closed(observed: &Observed, truth: &Truth) -> Result<(), String> {
    let Some(directory) = &truth.closed else { return Ok(()) };
    let level = observed.start.protection.level;
    let prefix = [&directory.0[..], b"/"].concat();
    let unexplained: Vec<&Event> = observed
        .events
        .iter()
        .filter(|event| event.action.path().is_some_and(|path| path.text.0.starts_with(&prefix)))
        .filter(|event| event.kind() != EventKind::ProcessExec && !truth.tolerated.contains(&event.kind()))
        .filter(|event| !truth.claims.iter().any(|claim| differences(claim, truth, level, event).is_empty()))
        .collect();
    if unexplained.is_empty() {
        return Ok(());
    }
    let count = unexplained.len();
    Err(format!("{count} events that nobody claims:\n{}", shown(unexplained.into_iter(), &[])))
}

/// Capabilities that the caller says this machine has.
pub(crate) fn expectations(setting: &Setting, observed: &Arc<Observed>) -> Vec<Trial> {
    let expectation = |name: &String| {
        let (name, observed) = (name.clone(), Arc::clone(observed));
        trial(format!("expected/{name}"), move || {
            let protection = &observed.start.protection;
            match protection.capabilities.iter().find(|capability| capability.name == name) {
                Some(found) if found.state == CapabilityState::Missing => {
                    Err(format!("`{name}` is missing: {}", found.reason).into())
                }
                // Names that are no hooks stand for what provocations need; their skips fail on their own.
                _ => Ok(Completion::Completed),
            }
        })
    };
    setting.expect.iter().map(expectation).collect()
}
