//! An agent whose shell takes our hook out of the configuration: what becomes of the next call and of the next session.

use std::fs;

use anyhow::{Context, Result, ensure};
use defenseclaw::model::Phase;

use crate::{install, network, script::Call};

use super::{
    agents::{Agent, Managed},
    etc,
    guard::Guard,
    rows,
    stage::Stage,
};

/// Calls that were heard of before they ran, by the names of the files they made.
fn heard(guard: &mut Guard, stage: &Stage, names: &[&str]) -> Result<Vec<bool>> {
    let kept = guard.stop()?;
    let row =
        |name: &&str| !rows::with(&kept, Phase::ToolPre, &format!("/{name}-{}", stage.marker)).is_empty();
    Ok(names.iter().map(row).collect())
}

/// A command that makes a file, and before that does this. In a script, because agents ask before a command that they can
/// see changes their settings.
fn after(stage: &Stage, command: &str, name: &str) -> Result<Call> {
    let script = stage.file(&format!("{name}-script"));
    fs::write(&script, format!("{command}\n"))?;
    Ok((stage.agent.shell.call)(&format!("sh {} && : > {}", script.display(), stage.file(name).display())))
}

/// One session a list of commands, each of which makes the file of its name.
fn sessions(guard: &Guard, stage: &Stage, sessions: &[&[(&str, &str)]]) -> Result<()> {
    for session in sessions {
        let calls: Result<_> = session.iter().map(|(command, name)| after(stage, command, name)).collect();
        let played = stage.play(guard, stage.script(calls?))?;
        played.ended_well(stage)?;
        for (_, name) in *session {
            ensure!(stage.file(name).exists(), "call {name} did not run; {}", played.told());
        }
    }
    Ok(())
}

pub(super) fn from_the_user_s_own_configuration(agent: &'static Agent) -> Result<()> {
    let logs = install::logs(agent.package.name, "hooked-removed")?;
    network::of_its_own(|| {
        let mut guard = Guard::set(logs)?;
        let stage = Stage::set(&guard, agent, "a")?;
        guard.install(&stage, &[])?;
        guard.start()?;
        let remove = (agent.remove)(&stage);
        let notice = if agent.removed_at_once {
            format!("until [ -e {} ]; do sleep 0.1; done", stage.noticed().display())
        } else {
            ":".into()
        };
        let first = [(remove.as_str(), "removal"), (&notice, "notice"), (":", "next")];
        sessions(&guard, &stage, &[&first, &[(":", "later")]])?;
        ensure!(!guard.verifies(&stage, &[])?, "verify does not miss the hook");
        let heard = heard(&mut guard, &stage, &["removal", "next", "later"])?;
        let expected = [true, !agent.removed_at_once, false];
        ensure!(heard == expected, "calls were heard of: {heard:?}, not {expected:?}");
        guard.strike()
    })
}

pub(super) fn managed_hooks_stay(agent: &'static Agent, managed: &Managed) -> Result<()> {
    let logs = install::logs(agent.package.name, "hooked-managed")?;
    let aside = tempfile::Builder::new().prefix("dc-").tempdir()?;
    network::of_its_own(|| {
        etc::of_its_own(aside.path())?;
        let mut guard = Guard::set(logs)?;
        let stage = Stage::set(&guard, agent, "a")?;
        guard.install(&stage, &["--managed"])?;
        guard.start()?;
        ensure!(guard.verifies(&stage, &["--managed"])?, "verify is not content");
        let off = (managed.switch_off)(&stage);
        sessions(&guard, &stage, &[&[(&off, "removal"), (":", "next")], &[(":", "later")]])?;
        let (mut names, mut expected) = (vec!["removal", "next", "later"], vec![true, true, true]);
        if let Some(hole) = managed.hole {
            sessions(&guard, &stage, &[&[(&hole(&stage), "hole")], &[(":", "unseen")]])?;
            ensure!(!guard.verifies(&stage, &["--managed"])?, "verify does not tell of the switch");
            names.extend(["hole", "unseen"]);
            expected.extend([true, false]);
        }
        let heard = heard(&mut guard, &stage, &names)?;
        ensure!(heard == expected, "calls {names:?} were heard of: {heard:?}, not {expected:?}");
        guard.strike()
    })
}

/// Where settings are read again, a closed hook is asked about that, too: it stays in force though it is gone from the file,
/// and nobody answers it.
pub(super) fn closed_hook_outlasts_its_removal(agent: &'static Agent) -> Result<()> {
    let logs = install::logs(agent.package.name, "hooked-removed-closed")?;
    network::of_its_own(|| {
        let mut guard = Guard::set(logs)?;
        let stage = Stage::set(&guard, agent, "a")?;
        guard.install(&stage, &["--fail-closed"])?;
        guard.start()?;
        let pid = guard.pid().context("there is no daemon")?;
        let noticed = stage.noticed();
        let remove = format!(
            "kill -KILL {pid}; {}; until [ -e {} ]; do sleep 0.1; done",
            (agent.remove)(&stage),
            noticed.display()
        );
        let script = stage.script(vec![after(&stage, &remove, "removal")?, after(&stage, ":", "next")?]);
        let played = stage.play(&guard, script)?;
        guard.is_dead()?;
        played.ended_well(&stage)?;
        ensure!(stage.file("removal").exists(), "the hook was not removed; {}", played.told());
        ensure!(!stage.file("next").exists(), "the tool ran; {}", played.told());
        guard.strike()
    })
}
