//! One run of a client, alone or under the program under test, against the scripted model.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    clients::{Answer, Client},
    endpoint::{Endpoint, Exchange},
    install, network,
    process::{self, Ended},
    scene::{Plan, Scene},
    script::{Script, ToolResult},
};

const DEADLINE: Duration = Duration::from_mins(3);

/// The only programs an agent finds, and none of this user's own.
pub(crate) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What happened, as far as the suite itself knows it.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) client: &'static Client,
    pub(crate) executable: PathBuf,
    pub(crate) plan: Plan,
    /// Port of the scripted model.
    pub(crate) port: u16,
    ended: Ended,
    exchanges: Vec<Exchange>,
    /// What is wrong with the files that the tools made.
    files_differ: Option<String>,
}

/// What the program under test said of a run.
#[derive(Debug)]
pub(crate) struct Evidence {
    /// Output of `events --json`.
    pub(crate) audit: Vec<u8>,
    /// Output of `run --report json`.
    pub(crate) report: Vec<u8>,
}

impl Run {
    /// The run ended well, and the tools really did what the model asked for.
    pub(crate) fn tools_ran(&self) -> Result<()> {
        let exchanges: Vec<String> = self
            .exchanges
            .iter()
            .map(|it| format!("{} -> {} ({})", it.request, it.status, it.note))
            .collect();
        self.check().with_context(|| format!("the client asked:\n{}", exchanges.join("\n")))
    }

    fn check(&self) -> Result<()> {
        self.ended.succeeded(self.client.package.name)?;
        self.plan.check_results(self.tool_results())?;
        self.plan.check_answer(&self.answer()?)?;
        if let Some(problem) = &self.files_differ {
            anyhow::bail!("{problem}");
        }
        ensure!(self.ended.left.is_empty(), "these processes were left running: {:?}", self.ended.left);
        Ok(())
    }

    /// What the client printed; an error if that is not all that is on stdout.
    pub(crate) fn answer(&self) -> Result<Answer> {
        (self.client.answer)(&self.ended.stdout)
    }

    /// Every request carries the whole conversation, so the longest list is that of its end.
    fn tool_results(&self) -> &[ToolResult] {
        self.exchanges
            .iter()
            .map(|it| it.results.as_slice())
            .max_by_key(|results| results.len())
            .unwrap_or(&[])
    }
}

/// Runs the client with nobody watching.
pub(crate) fn alone(client: &'static Client) -> Result<Run> {
    let (scene, plan, script) = Scene::set(client)?;
    let logs = install::logs(client.package.name, "alone")?;
    let run = play(client, &scene, plan, script, &logs, Vec::new())?;
    scene.strike()?;
    Ok(run)
}

/// Runs the client under `defenseclaw run`, and asks for the audit.
pub(crate) fn watched(client: &'static Client) -> Result<(Run, Evidence)> {
    let (scene, plan, script) = Scene::set(client)?;
    let logs = install::logs(client.package.name, "watched")?;
    let program = program_under_test()?;
    let database = scene.beside("audit.db");
    let report = logs.join("report.json");
    let mut watch: Vec<OsString> = vec![(&program).into(), "--db".into(), (&database).into()];
    watch.extend(["run", "--report", "json", "--report-file"].map(OsString::from));
    watch.extend([(&report).into(), "--".into()]);
    let run = play(client, &scene, plan, script, &logs, watch)?;
    let mut events = Command::new(&program);
    events.arg("--db").arg(&database).args(["events", "--json", "--session", "last"]);
    let events = process::run(in_scene(&mut events, &scene), &logs, "audit", DEADLINE)?;
    events.succeeded("defenseclaw events").with_context(|| {
        let run = run.ended.succeeded("the run").err().map(|err| format!("; {err}")).unwrap_or_default();
        format!("there is no audit; all output is in {}{run}", logs.display())
    })?;
    let report = fs::read(&report).with_context(|| format!("there is no report in {}", report.display()))?;
    scene.strike()?;
    Ok((run, Evidence { audit: events.stdout, report }))
}

/// The program under test: `DEFENSECLAW_BIN`, or what was built beside this suite.
pub(crate) fn program_under_test() -> Result<PathBuf> {
    let program = match std::env::var_os("DEFENSECLAW_BIN") {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?.with_file_name("defenseclaw"),
    };
    ensure!(
        program.is_file(),
        "{} is missing: build the program, or name it in DEFENSECLAW_BIN",
        program.display()
    );
    Ok(program.canonicalize()?)
}

/// Starts the scripted model and the client, which is given to `watcher` as its last arguments.
fn play(
    client: &'static Client,
    scene: &Scene,
    plan: Plan,
    script: Script,
    logs: &Path,
    watcher: Vec<OsString>,
) -> Result<Run> {
    let executable = install::executable(client)?;
    network::of_its_own(|| {
        let endpoint = Endpoint::start(client.protocol, script)?;
        let mut line = watcher;
        line.push((&executable).into());
        line.extend((client.arguments)("Do what the test asks for."));
        let [program, arguments @ ..] = line.as_slice() else { anyhow::bail!("nothing to run") };
        let mut command = Command::new(program);
        in_scene(command.args(arguments), scene)
            .envs((client.environment)(&endpoint.url(), &scene.scratch()));
        let ended = process::run(&mut command, logs, "agent", DEADLINE);
        let port = endpoint.port;
        let exchanges = endpoint.finish();
        fs::write(logs.join("model.log"), format!("{exchanges:#?}\n"))?;
        let ended = ended?;
        let files_differ = plan.check_files().err().map(|err| format!("{err:#}"));
        Ok(Run { client, executable, plan, port, ended, exchanges, files_differ })
    })
}

/// Nothing of this machine's user reaches the command.
fn in_scene<'a>(command: &'a mut Command, scene: &Scene) -> &'a mut Command {
    command
        .env_clear()
        .env("HOME", scene.home())
        .env("PATH", SEARCH_PATH)
        .env("TMPDIR", scene.scratch())
        .env("LANG", "C.UTF-8")
        .current_dir(scene.project())
}
