//! What the audit has to say of each attempt.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use defenseclaw::model::{
    Action, Decision, Event, Level, Mechanism, NetEndpoint, PolicyAction, Severity, UnixName,
};

use super::{
    place::{Case, Object},
    program::Outcome,
    watched::{Facts, Mode, reason},
};

/// Exactly one record says that it was refused: by whom, what, by which rule, and why.
pub(super) fn one_refusal(facts: &Facts, case: &Case, outcome: &Outcome) -> Result<()> {
    let mine = facts.events.iter().filter(|event| event.process.tgid == outcome.pid);
    let event = super::only(mine.collect(), "record of a refusal by this process")?;
    describes(facts, case, event)?;
    let decision = decision(event)?;
    ensure!(decision.action == PolicyAction::Block && !decision.would_block, "{decision:?}");
    let held = if facts.level == Level::Lsm { Mechanism::Lsm } else { Mechanism::Cgroup };
    ensure!(decision.mechanism == held, "held by {}", decision.mechanism);
    ensure!(event.result == Some(-i64::from(libc::EPERM)), "result {:?}", event.result);
    ensure!(event.process.start_ns != 0, "its start is not known");
    Ok(())
}

/// At least one record says that another mode would have refused it.
pub(super) fn would_block(facts: &Facts, case: &Case, outcome: &Outcome) -> Result<()> {
    let mut wrong = None;
    let mine = facts.events.iter().filter(|event| event.process.tgid == outcome.pid);
    for event in mine.filter(|event| event.decision.is_some()) {
        let right = describes(facts, case, event).and_then(|()| {
            let decision = decision(event)?;
            ensure!(decision.action == PolicyAction::Alert && decision.would_block, "{decision:?}");
            ensure!(decision.mechanism == Mechanism::None, "held by {}", decision.mechanism);
            Ok(())
        });
        match right {
            Ok(()) => return Ok(()),
            Err(err) => wrong = Some(err),
        }
    }
    match wrong {
        Some(err) => Err(err),
        None => anyhow::bail!("no record with a decision about this process"),
    }
}

/// Nobody was refused anything but what the cases tried, and nobody else is in the audit.
pub(super) fn nothing_else(facts: &Facts, mode: Mode) -> Result<()> {
    let protected: Vec<u32> = facts.protected().map(|outcome| outcome.pid).collect();
    let refused = |event: &&Event| {
        event.decision.as_ref().is_some_and(|decision| match mode {
            Mode::Action => decision.action == PolicyAction::Block,
            Mode::Observe => decision.would_block,
        })
    };
    let strange: Vec<&Event> = facts
        .events
        .iter()
        .filter(refused)
        .filter(|event| !protected.contains(&event.process.tgid))
        .collect();
    ensure!(strange.is_empty(), "nobody tried these: {strange:#?}");
    if mode == Mode::Observe {
        let blocked = |event: &&Event| event.policy_action() == Some(PolicyAction::Block);
        ensure!(facts.events.iter().filter(blocked).count() == 0, "something was refused in mode observe");
    }
    Ok(())
}

fn decision(event: &Event) -> Result<&Decision> {
    event.decision.as_deref().ok_or_else(|| anyhow::anyhow!("no decision: {event:#?}"))
}

/// The record is about this operation and this rule.
fn describes(facts: &Facts, case: &Case, event: &Event) -> Result<()> {
    let place = facts.place(case);
    ensure!(
        event.kind() == case.kind,
        "a record of {}, not of {}",
        event.kind().as_str(),
        case.kind.as_str()
    );
    let object = (case.object)(&place);
    ensure!(is_about(&event.action, &object), "not about {object:?}: {:?}", event.action);
    let decision = decision(event)?;
    let id = case.rule_id();
    ensure!(decision.verdict.rule_ids == [id.clone()], "rules {:?}, not {id}", decision.verdict.rule_ids);
    ensure!(decision.verdict.reason == reason(&id), "reason {:?}", decision.verdict.reason);
    ensure!(decision.verdict.raw_action == PolicyAction::Block, "{decision:?}");
    ensure!(decision.verdict.severity == Some(Severity::High), "{decision:?}");
    Ok(())
}

fn is_about(action: &Action, object: &Object) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let own = action.path().map(|path| path.text.0.as_slice());
    match object {
        Object::Path(path) => own == Some(path.as_os_str().as_bytes()),
        Object::Below(path) => {
            own.is_some_and(|own| own.starts_with(&[path.as_os_str().as_bytes(), b"/"].concat()))
        }
        Object::To(path) => action.other_path().is_some_and(|to| to.text.0 == path.as_os_str().as_bytes()),
        Object::Endpoint(address) => endpoint(action).is_some_and(|found| is_same(found, *address)),
        Object::Port(port) => endpoint(action).is_some_and(|found| found.port == *port),
        Object::Abstract(name) => {
            matches!(action, Action::UnixConnect { name: UnixName::Abstract(own), .. } if own.0 == name.as_bytes())
        }
        Object::Target(pid) => match action {
            Action::Ptrace { target, .. } => target.tgid == *pid,
            Action::Signal { target, .. } => target.as_ref().is_some_and(|target| target.tgid == *pid),
            _ => false,
        },
        Object::Any => true,
    }
}

fn endpoint(action: &Action) -> Option<&NetEndpoint> {
    match action {
        Action::NetConnect { endpoint } | Action::NetBind { endpoint } | Action::NetSend { endpoint, .. } => {
            Some(endpoint)
        }
        _ => None,
    }
}

/// A mapped address is the same address.
fn is_same(found: &NetEndpoint, wanted: SocketAddr) -> bool {
    found.address.map(|address| IpAddr::to_canonical(&address)) == Some(wanted.ip())
        && found.port == wanted.port()
}
