//! Where one agent lives in a trial: a home with its settings and somebody else's hook, a project, a port for its model.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    endpoint::{Endpoint, Exchange},
    install,
    process::{self, Ended},
    run::SEARCH_PATH,
    script::{Call, Script, ToolResult, Turn},
};

use super::{agents::Agent, guard::Guard};

const DEADLINE: Duration = Duration::from_mins(2);
/// The network is the trial's own, so that every port is free.
const PORT: u16 = 8100;
/// What the agent is asked.
pub(super) const PROMPT: &str = "Do what the test asks for.";
const LOOKUP: &str = include_str!("lookup.mjs");

/// One agent's folders and names.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) agent: &'static Agent,
    pub(super) name: &'static str,
    /// Occurs in every name and content of this stage.
    pub(super) marker: String,
    pub(super) port: u16,
    /// The program of Node.js.
    pub(super) node: PathBuf,
    /// Where the agent is installed.
    pub(super) installed: PathBuf,
    /// Which run this is.
    count: AtomicU32,
    root: PathBuf,
    logs: PathBuf,
}

/// A run of the agent, after its end.
#[derive(Debug)]
pub(super) struct Played {
    pub(super) ended: Ended,
    pub(super) exchanges: Vec<Exchange>,
}

impl Stage {
    /// Makes the folders and the agent's own settings.
    pub(super) fn set(guard: &Guard, agent: &'static Agent, name: &'static str) -> Result<Self> {
        let root = guard.root().join(name);
        let unique = guard.root().file_name().and_then(|name| name.to_str()).context("odd temporary name")?;
        let port = PORT + u16::from(name.as_bytes().first().copied().unwrap_or_default());
        let stage = Self {
            agent,
            name,
            marker: format!("{unique}-{name}"),
            port,
            node: node()?,
            installed: install::installed(&agent.package)?,
            count: AtomicU32::new(0),
            logs: guard.logs().to_owned(),
            root,
        };
        for folder in [stage.home(), stage.project(), stage.scratch()] {
            fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        fs::write(stage.server(), LOOKUP)?;
        (agent.settle)(&stage)?;
        Ok(stage)
    }

    pub(super) fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    pub(super) fn project(&self) -> PathBuf {
        self.root.join("project")
    }

    pub(super) fn scratch(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// The MCP server's program.
    pub(super) fn server(&self) -> PathBuf {
        self.root.join("lookup.mjs")
    }

    /// Made by somebody else's hook.
    pub(super) fn foreign(&self) -> PathBuf {
        self.root.join("foreign")
    }

    /// Made by somebody else's hook when the agent has read its settings again.
    pub(super) fn noticed(&self) -> PathBuf {
        self.root.join("noticed")
    }

    /// A file of the project that the run may make.
    pub(super) fn file(&self, what: &str) -> PathBuf {
        self.project().join(format!("{what}-{}.txt", self.marker))
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// For agents that go on with the last session unless they are given another.
    pub(super) fn session(&self) -> String {
        format!("{}-{}", self.marker, self.count.load(Ordering::Relaxed))
    }

    pub(super) fn last_words(&self) -> String {
        format!("done {}", self.marker)
    }

    /// The calls, and the last words.
    pub(super) fn script(&self, calls: Vec<Call>) -> Script {
        let last = Turn::Text(self.last_words());
        Script(calls.into_iter().map(Turn::Call).chain([last]).collect())
    }

    /// Writes a file of the home, with its folders.
    pub(super) fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.home().join(path);
        let folder = path.parent().context("a file of the home has a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Nothing of this machine's user reaches the command.
    pub(super) fn surround<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env_clear()
            .env("HOME", self.home())
            .env("PATH", SEARCH_PATH)
            .env("TMPDIR", self.scratch())
            .env("LANG", "C.UTF-8")
            .current_dir(self.project())
    }

    /// Runs the agent once.
    pub(super) fn play(&self, guard: &Guard, script: Script) -> Result<Played> {
        play(guard, vec![(self, script)])?.pop().context("nothing was played")
    }
}

impl Played {
    /// The agent ended well, with the model's last words.
    pub(super) fn ended_well(&self, stage: &Stage) -> Result<()> {
        self.ended.succeeded(stage.agent.name()).with_context(|| self.told())?;
        let said = String::from_utf8_lossy(&self.ended.stdout);
        ensure!(said.contains(&stage.last_words()), "its last words were others; {}", self.told());
        Ok(())
    }

    /// Every request carries the whole conversation, so the longest list is that of its end.
    pub(super) fn results(&self) -> &[ToolResult] {
        let results = self.exchanges.iter().map(|it| it.results.as_slice());
        results.max_by_key(|results| results.len()).unwrap_or(&[])
    }

    /// The result of the call of this turn.
    pub(super) fn result(&self, turn: usize) -> Result<&str> {
        let result =
            self.results().get(turn).with_context(|| format!("no result {turn}; {}", self.told()))?;
        Ok(&result.text)
    }

    /// For messages.
    pub(super) fn told(&self) -> String {
        let exchanges: Vec<String> = self
            .exchanges
            .iter()
            .map(|it| format!("{} -> {} ({})", it.request, it.status, it.note))
            .collect();
        format!("it asked:\n{}\nand got {:?}", exchanges.join("\n"), self.results())
    }
}

/// Runs agents side by side, each with its own model, in the network of the calling thread.
pub(super) fn play(guard: &Guard, parts: Vec<(&Stage, Script)>) -> Result<Vec<Played>> {
    let mut endpoints = Vec::new();
    let mut running = Vec::new();
    let mut attempt = Ok(());
    for (stage, script) in parts {
        let count = stage.count.fetch_add(1, Ordering::Relaxed) + 1;
        let endpoint = Endpoint::at(stage.port, stage.agent.protocol, script)?;
        endpoints.push((stage, endpoint));
        let line = line(stage)?;
        let [program, arguments @ ..] = line.as_slice() else { anyhow::bail!("nothing to run") };
        let mut command = Command::new(program);
        stage.surround(command.args(arguments)).envs((stage.agent.environment)(stage));
        match process::start(&mut command, &stage.logs, &format!("{}-agent-{count}", stage.name)) {
            Ok(started) => running.push(started),
            Err(err) => attempt = Err(err),
        }
    }
    let ended = process::finish(running, DEADLINE, &guard.spared());
    let mut exchanges = Vec::new();
    for (stage, endpoint) in endpoints {
        let asked = endpoint.finish();
        fs::write(
            stage.logs.join(format!("{}-model-{}.log", stage.name, stage.count.load(Ordering::Relaxed))),
            format!("{asked:#?}\n"),
        )?;
        exchanges.push(asked);
    }
    attempt?;
    Ok(ended?.into_iter().zip(exchanges).map(|(ended, exchanges)| Played { ended, exchanges }).collect())
}

fn line(stage: &Stage) -> Result<Vec<OsString>> {
    let mut line = Vec::new();
    line.extend(stage.agent.package.interpreter.map(|find| find(&stage.installed).into_os_string()));
    line.push((stage.agent.package.executable)(&stage.installed)?.into_os_string());
    line.extend((stage.agent.arguments)(stage));
    Ok(line)
}

/// An absolute path, because agents run with a short search path.
fn node() -> Result<PathBuf> {
    let output = Command::new("node").args(["-p", "process.execPath"]).output().context("cannot run node")?;
    let path = Path::new(std::str::from_utf8(&output.stdout)?.trim()).to_owned();
    ensure!(path.is_absolute(), "node does not say where it is");
    Ok(path)
}
