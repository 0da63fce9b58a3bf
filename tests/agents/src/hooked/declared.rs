//! Declared versus actual: agents of a kind at once, each with many commands that name a word only this trial knows.
//! Every program with such a word must belong to the call that announced it, and to no other session.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{
    Action, AuditRecord, Correlated, Correlation, Event, HookCall, Phase, ProcessKey, SessionId, Text,
    ToolCallId,
};

use crate::{install, network};

use super::{
    agents::Agent,
    guard::Guard,
    rows,
    stage::{self, Stage},
};

/// Commands of each agent.
const CALLS: usize = 25;
/// Every so many, a job that outlives its call.
const JOBS: usize = 5;

pub(super) fn programs_belong_to_the_calls_that_announced_them(agent: &'static Agent) -> Result<()> {
    let logs = install::logs(agent.package.name, "hooked-declared")?;
    network::of_its_own(|| {
        let mut guard = Guard::set(logs)?;
        let names = ["a", "b", "c", "d", "e", "f", "g", "h"].into_iter().take(agent.crowd);
        let stages = names.map(|name| Stage::set(&guard, agent, name)).collect::<Result<Vec<_>>>()?;
        for stage in &stages {
            guard.install(stage, &[])?;
        }
        guard.start()?;
        let parts = stages.iter().map(|stage| (stage, stage.script(commands(agent, stage))));
        let played = stage::play(&guard, parts.collect())?;
        let records = guard.records()?;
        let mut sessions = Vec::new();
        for (stage, played) in stages.iter().zip(&played) {
            played.ended_well(stage)?;
            sessions.push(check(&records, stage)?);
        }
        let distinct: BTreeSet<_> = sessions.iter().collect();
        ensure!(distinct.len() == stages.len(), "agents share a session: {sessions:?}");
        guard.strike()
    })
}

fn commands(agent: &Agent, stage: &Stage) -> Vec<crate::script::Call> {
    let command = |nth: usize| {
        let file = word(stage, nth);
        if agent.leaves_jobs && nth.is_multiple_of(JOBS) {
            return format!(
                "setsid sh -c ': > {file}; cat {file}; : > {}' > /dev/null 2>&1 &",
                over(stage, nth)
            );
        }
        format!(": > {file}; cat {file}")
    };
    let lookup = (agent.lookup.call)(&format!("word-{}", stage.marker));
    // A job that outlives its call must not outlive the agent, or nobody sees it.
    let jobs = (0..CALLS).filter(|nth| agent.leaves_jobs && nth.is_multiple_of(JOBS));
    let wait = jobs.map(|nth| format!("until [ -e {} ]; do sleep 0.1; done", over(stage, nth)));
    let wait = (agent.shell.call)(&wait.chain(["true".to_owned()]).collect::<Vec<_>>().join("; "));
    (0..CALLS).map(|nth| (agent.shell.call)(&command(nth))).chain([wait, lookup]).collect()
}

/// Made when a job is over.
fn over(stage: &Stage, nth: usize) -> String {
    stage.file(&format!("over{nth:02}")).display().to_string()
}

fn word(stage: &Stage, nth: usize) -> String {
    stage.file(&format!("word{nth:02}")).display().to_string()
}

/// The session of the stage, if all is as it should be.
fn check(records: &[AuditRecord], stage: &Stage) -> Result<SessionId> {
    let hooks: Vec<HookCall> = records
        .iter()
        .filter_map(|row| if let AuditRecord::Hook(call) = row { Some((**call).clone()) } else { None })
        .collect();
    let events: Vec<&Event> = records
        .iter()
        .filter_map(|row| if let AuditRecord::Event(event) = row { Some(&**event) } else { None })
        .collect();
    let parents: BTreeMap<ProcessKey, ProcessKey> = events
        .iter()
        .filter_map(|event| match event.action {
            Action::ProcessFork { child, .. } => Some((child, event.process)),
            _ => None,
        })
        .collect();
    let mut session = None;
    for nth in 0..CALLS {
        let word = word(stage, nth);
        let found = rows::with(&hooks, Phase::ToolPre, &word);
        let [(row, _, _)] = found.as_slice() else { anyhow::bail!("{} rows announce {word}", found.len()) };
        let call = *row.calls.first().with_context(|| format!("the call of {word} has no label: {row:?}"))?;
        let of = row.session.with_context(|| format!("the call of {word} is bound to no session"))?;
        ensure!(session.is_none_or(|known| known == of), "{word} is announced in another session, {of}");
        session = Some(of);
        let conclusion = concluded(records, call).with_context(|| format!("nothing is said of {word}"))?;
        ensure!(conclusion.correlation == Correlation::Matched, "{word}: {conclusion:?}");
        let programs: Vec<&&Event> = events.iter().filter(|event| runs(event, &word)).collect();
        ensure!(!programs.is_empty(), "no program was seen with {word}");
        for program in programs {
            ensure!(program.session == of, "the program with {word} is in session {}", program.session);
            belongs(program.process, call, &conclusion, &parents, &events)
                .with_context(|| format!("the program with {word}"))?;
        }
    }
    let session = session.context("nothing was announced")?;
    served(records, &hooks, stage, session)?;
    Ok(session)
}

/// What no hook speaks of is said to be explained by none: the MCP server, unless it was started for the call to it.
fn served(records: &[AuditRecord], hooks: &[HookCall], stage: &Stage, session: SessionId) -> Result<()> {
    let server = stage.server().display().to_string();
    let names = |text: &Text| String::from_utf8_lossy(&text.0).contains(&server);
    // A tree is named by its topmost process.
    let relays =
        |text: &Text| stage.agent.relay.is_some_and(|relay| String::from_utf8_lossy(&text.0).contains(relay));
    let asked = rows::with(hooks, Phase::ToolPre, &format!("word-{}", stage.marker));
    let asked: Vec<ToolCallId> = asked.iter().filter_map(|(row, ..)| row.calls.first().copied()).collect();
    let says = |row: &Correlated| match row.tool_call {
        None => row.correlation == Correlation::KernelOnly && (names(&row.program) || relays(&row.program)),
        Some(call) => asked.contains(&call) && row.attributed.iter().any(|known| names(&known.what)),
    };
    let found = records
        .iter()
        .any(|row| matches!(row, AuditRecord::Correlated(row) if row.session == session && says(row)));
    let said = || {
        let rows = records.iter().filter_map(|row| match row {
            AuditRecord::Correlated(row) if row.session == session => Some(format!("{row:?}")),
            _ => None,
        });
        rows.collect::<Vec<_>>().join("\n")
    };
    ensure!(found, "nothing says what started {server}:\n{}", said());
    Ok(())
}

/// `cat WORD`, however it was started.
fn runs(event: &Event, word: &str) -> bool {
    let Action::ProcessExec(exec) = &event.action else { return false };
    exec.exe.path.text.0.ends_with(b"/cat")
        && exec.argv.get(1).is_some_and(|argument| argument.0 == word.as_bytes())
}

/// The last row about a call counts.
fn concluded(records: &[AuditRecord], call: ToolCallId) -> Option<Correlated> {
    records
        .iter()
        .filter_map(|row| if let AuditRecord::Correlated(row) = row { Some(&**row) } else { None })
        .rfind(|row| row.tool_call == Some(call))
        .cloned()
}

/// No event of the process is of another call, and it or one above it is tied to this one.
fn belongs(
    process: ProcessKey,
    call: ToolCallId,
    conclusion: &Correlated,
    parents: &BTreeMap<ProcessKey, ProcessKey>,
    events: &[&Event],
) -> Result<()> {
    for event in events.iter().filter(|event| event.process == process) {
        ensure!(event.tool_call.is_none_or(|of| of == call), "was given to {:?}: {event:?}", event.tool_call);
    }
    let line = std::iter::successors(Some(process), |process| parents.get(process).copied());
    let tied = |process: &ProcessKey| conclusion.attributed.iter().any(|known| known.process == *process);
    ensure!(line.take(16).any(|process| tied(&process)), "is not tied to its call: {conclusion:?}");
    Ok(())
}
