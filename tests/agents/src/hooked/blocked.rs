//! A policy that forbids a program and a folder: no command and no tool may get there, and the model must read why.

use std::fs;

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{Enforced, Mechanism, Phase, PolicyAction};

use crate::{install, network};

use super::{
    agents::Agent,
    guard::{EXEC_RULE, FILE_RULE, FLOATING, Guard},
    rows,
    stage::Stage,
};

pub(super) fn neither_command_nor_file_happens(agent: &'static Agent) -> Result<()> {
    let logs = install::logs(agent.package.name, "hooked-blocked")?;
    network::of_its_own(|| {
        let mut guard = Guard::set(logs)?;
        let stage = Stage::set(&guard, agent, "a")?;
        guard.install(&stage, &[])?;
        guard.start()?;
        let (marker, forbidden) = (&stage.marker, guard.forbidden());
        let (ran, stolen) = (stage.file("ran"), stage.file("stolen"));
        // In the project: agents have limits of their own about what lies outside.
        let written = stage.project().join(FLOATING).join(format!("written-{marker}.txt"));
        // Named from where the agent works.
        let (own, copied) = (format!("{FLOATING}/own"), stage.file("copied"));
        fs::create_dir(stage.project().join(FLOATING))?;
        fs::write(stage.project().join(&own), "nobody is to read this\n")?;
        let script = stage.script(vec![
            (agent.shell.call)(&format!("{} {}", forbidden.display(), ran.display())),
            (agent.shell.call)(&format!("cat {} > {}", guard.secret().display(), stolen.display())),
            (agent.write.call)(&written, "x\n"),
            (agent.shell.call)(&format!("cat {own} > {}", copied.display())),
        ]);
        let played = stage.play(&guard, script)?;
        played.ended_well(&stage)?;
        for path in [&ran, &stolen, &written, &copied] {
            ensure!(!path.exists(), "{} was made; {}", path.display(), played.told());
        }
        let reasons =
            [(EXEC_RULE, "not this program"), (FILE_RULE, "not these files"), (FILE_RULE, "not these files")];
        for (turn, (rule, reason)) in reasons.into_iter().enumerate() {
            let text = played.result(turn)?;
            ensure!(text.contains(reason) && text.contains(rule), "call {turn} gave the model {text:?}");
        }
        let kept = guard.stop()?;
        for (text, rule) in [
            (format!("ran-{marker}"), EXEC_RULE),
            (format!("stolen-{marker}"), FILE_RULE),
            (format!("written-{marker}"), FILE_RULE),
            (format!("copied-{marker}"), FILE_RULE),
        ] {
            let found = rows::with(&kept, Phase::ToolPre, &text);
            let [(row, _, _)] = found.as_slice() else {
                anyhow::bail!("{} rows speak of {text}", found.len())
            };
            let decision = row.decision.as_ref().context("a blocked call has no decision")?;
            ensure!(
                decision.action == PolicyAction::Block
                    && decision.mechanism == Mechanism::HookReply
                    && decision.enforced == Some(Enforced::Applied)
                    && decision.verdict.rule_ids.first().is_some_and(|first| first == rule)
                    && row.answer.action == PolicyAction::Block,
                "{text} was decided so: {decision:?}, {:?}",
                row.answer
            );
            let after = rows::with(&kept, Phase::ToolPost, &text);
            ensure!(
                after.is_empty() != agent.tells_of_held,
                "{} rows after the call speak of {text}",
                after.len()
            );
        }
        guard.strike()
    })
}
