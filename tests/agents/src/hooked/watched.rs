//! A run that is allowed everything: a command, a file, a tool of an MCP server, and a job that goes on. Every call must have
//! its two rows, of the agent's own session, and the configuration must come through it.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{HookCall, Phase, ToolCall};

use crate::{install, network};

use super::{
    agents::Agent,
    guard::Guard,
    rows,
    settings::{self, Kept},
    stage::{Played, Stage},
};

/// One proof.
type Proof = fn(&Watched) -> Result<()>;

/// Every proof, with the name of its test.
pub(super) const ALL: &[(&str, Proof)] = &[
    ("tools_ran", tools_ran),
    ("command_has_its_rows", command_has_its_rows),
    ("file_has_its_rows", file_has_its_rows),
    ("mcp_call_has_its_rows", mcp_call_has_its_rows),
    ("background_job_outlives_its_rows", background_job_outlives_its_rows),
    ("every_moment_is_heard_of", every_moment_is_heard_of),
    ("rows_are_of_the_agent_s_session", rows_are_of_the_agent_s_session),
    ("other_hooks_still_run", other_hooks_still_run),
    ("verify_says_yes_before_and_after", verify_says_yes_before_and_after),
    ("remove_restores_the_configuration", remove_restores_the_configuration),
];

/// How long the job in the background would go on. Nobody waits for it.
const JOB: &str = "1234";

/// The run, with what it left.
#[derive(Debug)]
pub(super) struct Watched {
    agent: &'static Agent,
    marker: String,
    played: Played,
    rows: Vec<HookCall>,
    session: String,
    /// What is wrong with the files that the tools made.
    files: Result<(), String>,
    foreign: bool,
    verified: [bool; 2],
    kept: Result<(), String>,
}

impl Watched {
    pub(super) fn new(agent: &'static Agent) -> Result<Self> {
        let logs = install::logs(agent.package.name, "hooked-allowed")?;
        network::of_its_own(|| {
            let mut guard = Guard::set(logs)?;
            let stage = Stage::set(&guard, agent, "a")?;
            let before = Kept::read(&guard, &stage)?;
            guard.install(&stage, &[])?;
            let installed = before.again()?;
            guard.start()?;
            let verified_before = guard.verifies(&stage, &[])?;
            let played = stage.play(&guard, stage.script(calls(&stage)))?;
            played.ended_well(&stage)?;
            let verified_after = guard.verifies(&stage, &[])?;
            let ran = installed.again()?;
            let removed = guard.connector(&stage, "remove", &[])?;
            removed.succeeded("connector remove")?;
            let kept = settings::check(&before, &installed, &ran, &ran.again()?);
            let rows = guard.stop()?;
            let session = (agent.session)(&played.ended.stdout)?;
            let watched = Self {
                agent,
                marker: stage.marker.clone(),
                files: files(&stage).map_err(|err| format!("{err:#}")),
                foreign: stage.foreign().exists(),
                verified: [verified_before, verified_after],
                kept: kept.map_err(|err| format!("{err:#}")),
                played,
                rows,
                session,
            };
            guard.strike()?;
            Ok(watched)
        })
    }

    fn name(&self, what: &str) -> String {
        format!("{what}-{}", self.marker)
    }

    /// The two rows of the call whose input has this text: allowed, of this tool, one before the other, and the agent
    /// says of the second whether the tool failed.
    fn pair(&self, tool: &str, text: &str, fails: bool) -> Result<[&ToolCall; 2]> {
        let all = || format!("of {:?}", self.heard());
        let mut calls = Vec::new();
        let mut ids = Vec::new();
        for phase in [Phase::ToolPre, Phase::ToolPost] {
            let found = rows::with(&self.rows, phase, text);
            let [(row, _, call)] = found.as_slice() else {
                anyhow::bail!("{} rows of {phase} speak of {text}, {}", found.len(), all())
            };
            rows::allowed(row)?;
            ensure!(call.tool == tool, "{phase} of {text} is of {}, not {tool}", call.tool);
            ensure!(call.failed == (fails && phase == Phase::ToolPost), "{phase} of {text}: {call:?}");
            ids.push((row.boot, call.id.clone()));
            calls.push(*call);
        }
        ensure!(ids.is_sorted_by_key(|(boot, _)| *boot), "the row after the call came first: {ids:?}");
        ensure!(
            ids.iter().all(|(_, id)| ids.first().is_some_and(|(_, first)| first == id)),
            "two calls: {ids:?}"
        );
        calls.try_into().ok().context("there are two phases")
    }

    fn heard(&self) -> Vec<(Phase, Vec<&str>)> {
        let events = self.rows.iter().filter_map(|row| row.event.as_ref());
        events
            .map(|event| (event.phase, event.tools.iter().map(|call| call.tool.as_str()).collect()))
            .collect()
    }
}

fn calls(stage: &Stage) -> Vec<crate::script::Call> {
    let (agent, marker) = (stage.agent, &stage.marker);
    vec![
        (agent.shell.call)(&format!("printf %s {marker} > command-{marker}.txt; cat command-{marker}.txt")),
        (agent.write.call)(&stage.file("written"), &format!("{marker}\n")),
        (agent.lookup.call)(&format!("word-{marker}")),
        (agent.shell.call)(&format!("setsid sleep {JOB} < /dev/null > job-{marker}.txt 2>&1 & echo started")),
    ]
}

fn files(stage: &Stage) -> Result<()> {
    for (what, content) in [("command", stage.marker.clone()), ("written", format!("{}\n", stage.marker))] {
        let path = stage.file(what);
        let found = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        ensure!(found == content, "{} holds {found:?}, not {content:?}", path.display());
    }
    Ok(())
}

fn tools_ran(it: &Watched) -> Result<()> {
    it.files.clone().map_err(anyhow::Error::msg)?;
    ensure!(it.played.result(0)?.contains(&it.marker), "the command gave {:?}", it.played.result(0)?);
    let looked = format!("looked up word-{}", it.marker);
    ensure!(it.played.result(2)?.contains(&looked), "the MCP server gave {:?}", it.played.result(2)?);
    ensure!(it.played.result(3)?.contains("started"), "the job gave {:?}", it.played.result(3)?);
    Ok(())
}

fn command_has_its_rows(it: &Watched) -> Result<()> {
    let name = it.name("command");
    let [before, after] = it.pair(it.agent.shell.name, &name, false)?;
    for word in ["printf", &it.marker, &format!("{name}.txt")] {
        ensure!(rows::announces_word(before, word), "no command with {word} in {:?}", before.intents);
    }
    ensure!(rows::announces_write(before, &format!("{name}.txt")), "no write in {:?}", before.intents);
    let output = after.output.as_deref().unwrap_or_default();
    ensure!(output.contains(&it.marker), "the output is not kept: {after:?}");
    Ok(())
}

fn file_has_its_rows(it: &Watched) -> Result<()> {
    let name = it.name("written");
    let [before, _] = it.pair(it.agent.write.name, &name, false)?;
    ensure!(rows::announces_write(before, &format!("{name}.txt")), "no write in {:?}", before.intents);
    Ok(())
}

fn mcp_call_has_its_rows(it: &Watched) -> Result<()> {
    for call in it.pair(it.agent.lookup.name, &it.name("word"), false)? {
        let server = call.mcp.as_ref().map(|mcp| (mcp.server.as_deref(), mcp.tool.as_str()));
        let expected = it.agent.names_server.then_some((Some("lab"), "lookup"));
        ensure!(server == expected, "the server is {server:?}, not {expected:?}");
    }
    Ok(())
}

fn background_job_outlives_its_rows(it: &Watched) -> Result<()> {
    let [before, _] = it.pair(it.agent.shell.name, &it.name("job"), !it.agent.leaves_jobs)?;
    ensure!(rows::announces_word(before, "sleep"), "no job in {:?}", before.intents);
    let job = format!("sleep {JOB}");
    ensure!(
        !it.agent.leaves_jobs || it.played.ended.left.iter().filter(|line| line.contains(&job)).count() == 1,
        "the job was to be left running, of {:?}",
        it.played.ended.left
    );
    Ok(())
}

fn every_moment_is_heard_of(it: &Watched) -> Result<()> {
    let events = it.rows.iter().filter_map(|row| row.event.as_ref());
    let heard: BTreeSet<&str> = events.map(|event| event.phase.as_str()).collect();
    let missing: Vec<_> = it.agent.phases.iter().filter(|phase| !heard.contains(phase.as_str())).collect();
    ensure!(missing.is_empty(), "nothing was heard of {missing:?}, only {heard:?}");
    let prompts = it.rows.iter().filter_map(|row| row.event.as_ref());
    let prompt =
        prompts.filter(|event| event.phase == Phase::PromptSubmit).find_map(|event| event.text.clone());
    ensure!(
        prompt.as_deref().is_some_and(|text| text.contains(super::stage::PROMPT)),
        "the prompt is kept as {prompt:?}"
    );
    Ok(())
}

fn rows_are_of_the_agent_s_session(it: &Watched) -> Result<()> {
    for row in &it.rows {
        ensure!(row.problem.is_none(), "it could not be read: {row:?}");
        let event = row.event.as_ref().context("a row has no event")?;
        ensure!(event.connector == it.agent.connector, "it is of {}", event.connector);
        // The round trip of `verify` is nobody's, nor is what the daemon says of the configuration.
        if !event.name.starts_with("defenseclaw.") {
            ensure!(
                event.session.as_deref() == Some(it.session.as_str()),
                "{} is of session {:?}, not {}",
                event.name,
                event.session,
                it.session
            );
        }
    }
    Ok(())
}

fn other_hooks_still_run(it: &Watched) -> Result<()> {
    ensure!(it.foreign == it.agent.runs_foreign, "somebody else's hook ran: {}", it.foreign);
    Ok(())
}

fn verify_says_yes_before_and_after(it: &Watched) -> Result<()> {
    ensure!(it.verified == [true, true], "before and after the run verify says {:?}", it.verified);
    Ok(())
}

fn remove_restores_the_configuration(it: &Watched) -> Result<()> {
    it.kept.clone().map_err(anyhow::Error::msg)
}
