//! What the audit and the report must say of a run, each as one test. The suite knows the truth from the script,
//! the scripted model and the files; it was not told by the program under test.

use std::{collections::BTreeSet, path::Path};

use anyhow::{Context, Result, bail, ensure};
use defenseclaw::model::{Access, Action, Event, Exec, ExitStatus, LossReason, MainExit, ProcessKey};
use serde_json::Value;

use crate::{
    audit::{Audit, names},
    clients::Client,
    run::{self, Run},
    scene::HOST_FILE,
};

/// One proof.
type Proof = fn(&Watched) -> Result<()>;

/// Every proof, with the name of its test.
pub(crate) const ALL: &[(&str, Proof)] = &[
    ("the_run_is_undisturbed", |it| it.run.tools_ran()),
    ("root_process_is_the_agent", root_process_is_the_agent),
    ("shell_command_descends_from_the_agent", shell_command_descends_from_the_agent),
    ("command_s_files_are_the_shell_s", command_s_files_are_the_shell_s),
    ("write_tool_acts_in_the_agent", write_tool_acts_in_the_agent),
    ("read_tool_acts_in_the_agent", read_tool_acts_in_the_agent),
    ("agent_connects_to_its_model", agent_connects_to_its_model),
    ("nothing_leaves_the_machine", nothing_leaves_the_machine),
    ("session_of_the_agent_is_kept", session_of_the_agent_is_kept),
    ("session_ends_complete", session_ends_complete),
    ("report_shows_the_command", report_shows_the_command),
];

/// A run with its audit and report.
#[derive(Debug)]
pub(crate) struct Watched {
    run: Run,
    audit: Audit,
    report: Vec<u8>,
}

impl Watched {
    /// Runs the client under the program under test.
    pub(crate) fn new(client: &'static Client) -> Result<Self> {
        let (run, evidence) = run::watched(client)?;
        Ok(Self { audit: Audit::parse(&evidence.audit)?, report: evidence.report, run })
    }

    fn agent(&self) -> ProcessKey {
        self.audit.start.root
    }

    /// The command as the client quotes it for its shell.
    fn quoted(&self) -> String {
        (self.run.client.quoted)(&self.run.plan.command)
    }

    /// The one program start that carries the command.
    fn shell(&self) -> Result<(&Event, &Exec)> {
        let quoted = self.quoted();
        let mut found = self
            .audit
            .execs()
            .filter(|(_, exec)| exec.argv.iter().any(|argument| argument.lossy().contains(&quoted)));
        match (found.next(), found.next()) {
            (Some(shell), None) => Ok(shell),
            (None, _) => bail!("no process_exec has {quoted:?} in its argv, of\n{}", self.all_execs()),
            (Some(_), Some(_)) => bail!("two process_exec have {quoted:?} in their argv"),
        }
    }

    /// The program that the shell started with exactly these arguments.
    fn started_by_shell(&self, argv: &[&str]) -> Result<(&Event, &Exec)> {
        let shell = self.shell()?.0.process;
        self.audit
            .execs()
            .find(|(event, exec)| {
                self.audit.descends(event.process, shell)
                    && exec.argv.iter().map(|argument| argument.lossy()).eq(argv.iter().copied())
            })
            .with_context(|| format!("no descendant of {shell} is {argv:?}, of\n{}", self.all_execs()))
    }

    fn all_execs(&self) -> String {
        let lines = self.audit.execs().map(|(event, exec)| format!("{} {:?}", event.process, exec.argv));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// Who opened or made this file with any of these rights.
    fn users(&self, path: &Path, rights: Access) -> BTreeSet<ProcessKey> {
        let users =
            self.audit.events.iter().filter(|event| succeeded(event)).filter(|event| match &event.action {
                Action::FileOpen { file, access } | Action::FileCreate { file, access } => {
                    access.intersects(rights) && names(&file.path, path)
                }
                _ => false,
            });
        users.map(|event| event.process).collect()
    }
}

fn root_process_is_the_agent(it: &Watched) -> Result<()> {
    let (_, exec) = it
        .audit
        .execs()
        .find(|(event, _)| event.process == it.agent())
        .context("the root process has no process_exec")?;
    ensure!(names(&exec.exe.path, &it.run.executable), "the root process runs {:?}", exec.exe.path);
    let command: Vec<_> = it.audit.start.command.iter().map(|argument| argument.lossy()).collect();
    ensure!(
        command.first().is_some_and(|program| Path::new(&**program) == it.run.executable),
        "session_start has the command {command:?}"
    );
    Ok(())
}

fn shell_command_descends_from_the_agent(it: &Watched) -> Result<()> {
    let (shell, exec) = it.shell()?;
    ensure!(
        it.audit.descends(shell.process, it.agent()),
        "no forks lead from the agent to {}",
        shell.process
    );
    ensure!(exec.parent == it.agent(), "the shell's parent was {}, not the agent", exec.parent);
    let cat = it.started_by_shell(&["cat", HOST_FILE])?.0.process;
    let id = it.started_by_shell(&["id", "-u"])?.0.process;
    let marker = it.run.plan.marker.as_str();
    let env = it.started_by_shell(&["/usr/bin/env", "printf", "%s\\n", marker])?.0.process;
    // env becomes printf: a second program in the same process.
    let printf = it.started_by_shell(&["printf", "%s\\n", marker])?.0.process;
    ensure!(env == printf, "printf ran in {printf}, env in {env}");
    ensure!(BTreeSet::from([cat, id, env]).len() == 3, "the shell's children are {cat}, {id} and {env}");
    Ok(())
}

fn command_s_files_are_the_shell_s(it: &Watched) -> Result<()> {
    let shell = it.shell()?.0.process;
    let cat = it.started_by_shell(&["cat", HOST_FILE])?.0.process;
    let readers = it.users(Path::new(HOST_FILE), Access::READ);
    ensure!(readers == BTreeSet::from([cat]), "{HOST_FILE} was read by {readers:?}, cat is {cat}");
    // The redirection is made by the shell's child before it becomes cat, or by the shell.
    let output = &it.run.plan.output;
    let writers = it.users(output, Access::WRITE);
    ensure!(
        !writers.is_empty() && writers.iter().all(|writer| [shell, cat].contains(writer)),
        "{} was written by {writers:?}; the shell is {shell}, cat is {cat}",
        output.display()
    );
    let created =
        it.audit.events.iter().any(
            |event| matches!(&event.action, Action::FileCreate { file, .. } if names(&file.path, output)),
        );
    ensure!(created, "there is no file_create of {}", output.display());
    Ok(())
}

/// The file is made under another name, written, and renamed.
fn write_tool_acts_in_the_agent(it: &Watched) -> Result<()> {
    let target = &it.run.plan.written;
    let rename = it.audit.events.iter().find_map(|event| match &event.action {
        Action::FileRename { file, to, .. } if succeeded(event) && names(to, target) => Some((event, file)),
        _ => None,
    });
    let (rename, temporary) = rename.with_context(|| format!("no file_rename to {}", target.display()))?;
    ensure!(rename.process == it.agent(), "{} renamed it, not the agent", rename.process);
    let temporary = target.with_file_name(
        Path::new(&*temporary.path.text.lossy()).file_name().context("the renamed file has no name")?,
    );
    let name = target.file_name().and_then(|name| name.to_str()).context("the target has no name")?;
    let prefix = (it.run.client.temporary)(name, it.agent().tgid);
    ensure!(
        temporary.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)),
        "{} was renamed, not {prefix}…",
        temporary.display()
    );
    let create = it
        .audit
        .events
        .iter()
        .find(|event| {
            matches!(&event.action, Action::FileCreate { file, access }
                if access.contains(Access::WRITE) && names(&file.path, &temporary))
        })
        .with_context(|| format!("no file_create for writing of {}", temporary.display()))?;
    ensure!(create.process == it.agent(), "{} made it, not the agent", create.process);
    ensure!(create.time <= rename.time, "renamed at {:?}, made at {:?}", rename.time, create.time);
    let writers = it.users(target, Access::WRITE);
    ensure!(writers.is_empty(), "{} was opened for writing by {writers:?}", target.display());
    Ok(())
}

fn read_tool_acts_in_the_agent(it: &Watched) -> Result<()> {
    let path = &it.run.plan.read;
    let readers = it.users(path, Access::READ);
    ensure!(readers == BTreeSet::from([it.agent()]), "{} was read by {readers:?}", path.display());
    Ok(())
}

fn agent_connects_to_its_model(it: &Watched) -> Result<()> {
    let connects = it.audit.events.iter().any(|event| {
        event.process == it.agent()
            && matches!(&event.action, Action::NetConnect { endpoint }
                if endpoint.address.is_some_and(|address| address.is_loopback()) && endpoint.port == it.run.port)
    });
    ensure!(connects, "no net_connect of the agent to 127.0.0.1:{}", it.run.port);
    Ok(())
}

/// Attempts count: the run's network has no way out, so that none can succeed.
fn nothing_leaves_the_machine(it: &Watched) -> Result<()> {
    let abroad: Vec<String> = it
        .audit
        .events
        .iter()
        .filter(|event| match &event.action {
            Action::NetConnect { endpoint } | Action::NetSend { endpoint, .. } => {
                // A name server on loopback would ask others.
                endpoint.address.is_some_and(|address| !address.is_loopback()) || endpoint.port == 53
            }
            Action::DnsAnswer { .. } => true,
            _ => false,
        })
        .map(|event| format!("{} {:?}", event.process, event.action))
        .collect();
    ensure!(abroad.is_empty(), "the tree tried to leave the machine:\n{}", abroad.join("\n"));
    Ok(())
}

fn session_of_the_agent_is_kept(it: &Watched) -> Result<()> {
    let variable = it.run.client.session_variable;
    let session = it.run.answer()?.session;
    let (_, exec) = it.shell()?;
    let kept = exec.session_env.iter().find(|(name, _)| name.lossy() == variable);
    let (_, value) =
        kept.with_context(|| format!("the shell has no {variable}, only {:?}", exec.session_env))?;
    ensure!(value.lossy() == session, "{variable} is {value:?}, the client calls its session {session:?}");
    Ok(())
}

fn session_ends_complete(it: &Watched) -> Result<()> {
    let end = &it.audit.end;
    ensure!(end.main == MainExit::Ended(ExitStatus::Code(0)), "the agent ended as {:?}", end.main);
    ensure!(end.left_running == 0, "{} processes were left running", end.left_running);
    let events = u64::try_from(it.audit.events.len())?;
    ensure!(end.events == events, "session_end counts {} events, there are {events}", end.events);
    // Folded observations are counted, and no loss: one of each is in the audit.
    let losses: Vec<_> = it.audit.losses.iter().filter(|loss| loss.reason != LossReason::Folded).collect();
    ensure!(losses.is_empty(), "observations are missing: {losses:?}");
    Ok(())
}

fn report_shows_the_command(it: &Watched) -> Result<()> {
    let report: Value = serde_json::from_slice(&it.report).context("the report is not JSON")?;
    let command = &it.run.plan.command;
    ensure!(
        any_text(&report, &|text| text.contains(&it.quoted()) || text.contains(command)),
        "the report does not show {command:?}"
    );
    Ok(())
}

/// Attempts that failed are in the audit too, where the vantage point knows the result.
fn succeeded(event: &Event) -> bool {
    event.result.is_none_or(|result| result >= 0)
}

/// Whether any text in the JSON, at any depth, is like this.
fn any_text(value: &Value, like: &dyn Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => like(text),
        Value::Array(items) => items.iter().any(|item| any_text(item, like)),
        Value::Object(fields) => fields.values().any(|field| any_text(field, like)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}
