//! Two agents of a kind at once, with one daemon: each waits for the other in the middle of a command, so that both are in a
//! tool call at the same time. No row may be of the other's session.

use anyhow::{Context, Result, ensure};
use defenseclaw::model::Phase;
use nix::{sys::stat::Mode, unistd::mkfifo};

use crate::{install, network};

use super::{
    agents::Agent,
    guard::Guard,
    rows,
    stage::{self, Stage},
};

pub(super) fn rows_never_mix_sessions(agent: &'static Agent) -> Result<()> {
    let logs = install::logs(agent.package.name, "hooked-together")?;
    network::of_its_own(|| {
        let mut guard = Guard::set(logs)?;
        let stages = [Stage::set(&guard, agent, "a")?, Stage::set(&guard, agent, "b")?];
        for stage in &stages {
            guard.install(stage, &[])?;
        }
        guard.start()?;
        // Neither end of a pipe opens before the other.
        let pipe = guard.root().join("meeting");
        mkfifo(&pipe, Mode::S_IRWXU).context("cannot make the pipe in which both meet")?;
        let meet = [format!("echo met > {}", pipe.display()), format!("cat {}", pipe.display())];
        let parts = stages.iter().zip(&meet).map(|(stage, meet)| {
            let name = |what: &str| stage.file(what).display().to_string();
            let calls = vec![
                (agent.shell.call)(&format!("{meet}; : > {}", name("met"))),
                (agent.write.call)(&stage.file("written"), "x\n"),
                (agent.lookup.call)(&format!("word-{}", stage.marker)),
                (agent.shell.call)(&format!(": > {}", name("last"))),
            ];
            (stage, stage.script(calls))
        });
        let played = stage::play(&guard, parts.collect())?;
        let kept = guard.stop()?;
        let mut sessions = Vec::new();
        for (stage, played) in stages.iter().zip(&played) {
            played.ended_well(stage)?;
            let session = (agent.session)(&played.ended.stdout)?;
            for what in ["met", "written", "last"] {
                ensure!(
                    stage.file(what).exists(),
                    "{} was not made; {}",
                    stage.file(what).display(),
                    played.told()
                );
            }
            for phase in [Phase::ToolPre, Phase::ToolPost] {
                let own = rows::with(&kept, phase, &stage.marker);
                ensure!(own.len() == 4, "{} rows of {phase} speak of {}", own.len(), stage.marker);
                for (row, event, call) in own {
                    rows::allowed(row)?;
                    ensure!(
                        event.session.as_deref() == Some(session.as_str()),
                        "{call:?} of session {session} is kept under {:?}",
                        event.session
                    );
                }
            }
            sessions.push(session);
        }
        ensure!(sessions.first() != sessions.last(), "both have the session {sessions:?}");
        for event in kept.iter().filter_map(|row| row.event.as_ref()) {
            ensure!(
                event.session.as_ref().is_some_and(|session| sessions.contains(session)),
                "{} is of session {:?}, not one of {sessions:?}",
                event.name,
                event.session
            );
        }
        guard.strike()
    })
}
