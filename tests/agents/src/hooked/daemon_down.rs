//! No daemon: what the fail mode says, whether it was never there or the agent's own shell has ended it.

use anyhow::{Context, Result, ensure};

use crate::{install, network};

use super::{
    agents::Agent,
    guard::Guard,
    stage::{Played, Stage},
};

/// What the hook says when nobody answers it.
const UNANSWERED: &str = "DefenseClaw gave no answer";

pub(super) fn open_lets_the_tool_run(agent: &'static Agent) -> Result<()> {
    killed(agent, &[], |stage, played| {
        ensure!(stage.file("after").exists(), "the tool did not run; {}", played.told());
        let text = played.result(1)?;
        ensure!(!text.contains(UNANSWERED), "the model got {text:?}");
        Ok(())
    })
}

pub(super) fn closed_holds_the_tool(agent: &'static Agent) -> Result<()> {
    killed(agent, &["--fail-closed"], |stage, played| {
        ensure!(!stage.file("after").exists(), "the tool ran; {}", played.told());
        let text = played.result(1)?;
        ensure!(text.contains(UNANSWERED), "the model got {text:?}");
        Ok(())
    })
}

/// The agent's shell ends the daemon; then comes another tool.
fn killed(
    agent: &'static Agent,
    options: &[&str],
    check: impl Fn(&Stage, &Played) -> Result<()> + Sync,
) -> Result<()> {
    let word = if options.is_empty() { "open" } else { "closed" };
    let logs = install::logs(agent.package.name, &format!("hooked-killed-{word}"))?;
    network::of_its_own(|| {
        let mut guard = Guard::set(logs)?;
        let stage = Stage::set(&guard, agent, "a")?;
        guard.install(&stage, options)?;
        guard.start()?;
        let pid = guard.pid().context("there is no daemon")?;
        let script = stage.script(vec![
            (agent.shell.call)(&format!("kill -KILL {pid} && : > {}", stage.file("killed").display())),
            (agent.shell.call)(&format!(": > {}", stage.file("after").display())),
        ]);
        let played = stage.play(&guard, script)?;
        guard.is_dead()?;
        ensure!(stage.file("killed").exists(), "the daemon was not killed; {}", played.told());
        played.ended_well(&stage)?;
        check(&stage, &played)?;
        guard.strike()
    })
}

/// With no daemon from the beginning, a closed hook keeps the prompt from the model.
pub(super) fn closed_holds_the_prompt(agent: &'static Agent) -> Result<()> {
    let logs = install::logs(agent.package.name, "hooked-down-closed")?;
    network::of_its_own(|| {
        let guard = Guard::set(logs)?;
        let stage = Stage::set(&guard, agent, "a")?;
        guard.install(&stage, &["--fail-closed"])?;
        ensure!(!guard.verifies(&stage, &["--fail-closed"])?, "verify is content without a daemon");
        let ran = stage.file("ran");
        let script = stage.script(vec![(agent.shell.call)(&format!(": > {}", ran.display()))]);
        let played = stage.play(&guard, script)?;
        ensure!(!ran.exists(), "the tool ran; {}", played.told());
        ensure!(
            played.exchanges.iter().all(|it| !it.note.starts_with("turn")),
            "the prompt reached the model; {}",
            played.told()
        );
        guard.strike()
    })
}
