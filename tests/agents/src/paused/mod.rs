//! Mode hitl without hooks: the agent's shell is told to read files about which a person decides, and the read itself is
//! paused in the kernel. Keys of the terminal view decide. Needs an active BPF LSM, which a guest has; the agents' own programs come from
//! a host where they were installed.

mod agents;

use std::{
    fs,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use defenseclaw::{
    model::{Approval, AuditRecord, Outcome, Ruling, Via, Waiter},
    store::{Filter, Reader, StoreError},
};
use libtest_mimic::{Completion, Failed, Trial};

use crate::{
    endpoint::{Endpoint, Exchange},
    install, network, prerequisites,
    process::{self, Ended},
    run,
    script::{Script, Turn},
    terminal::View,
};
use agents::Agent;

/// An emulated machine takes ten times as long as others.
const DEADLINE: Duration = Duration::from_mins(8);
const RULE: &str = "suite.asked";
const CONTENT: &str = "what a person has let it read";
const MESSAGE: &str = "take the copy in docs instead";
const LAST_WORDS: &str = "the script is done";

/// All of them.
pub(crate) fn trials() -> Vec<Trial> {
    agents::ALL.iter().flat_map(of).collect()
}

fn of(agent: &'static Agent) -> [Trial; 2] {
    let name = |what: &str| format!("{}::paused::{what}", agent.package.name);
    [
        // What a host does for its guests.
        Trial::ignorable_test(name("is_installed"), move || {
            if install::has(&agent.package)? {
                return Ok(Completion::Completed);
            }
            crate::unless_missing(prerequisites::of_driver, || install::package(&agent.package).map(drop))
        }),
        Trial::ignorable_test(name("keys_of_the_terminal_view_decide"), move || unless_impossible(agent)),
    ]
}

/// No host of this suite must have what this needs; a guest that was made for it says that it has.
fn unless_impossible(agent: &'static Agent) -> Result<Completion, Failed> {
    match prerequisites::of_pausing(&agent.package) {
        Some(reason) if prerequisites::is_expected("bpf_lsm") => Err(reason.into()),
        Some(reason) => Ok(Completion::ignored_with(reason)),
        None => match check(agent) {
            Ok(()) => Ok(Completion::Completed),
            Err(err) => Err(format!("{err:#}").into()),
        },
    }
}

/// What came of a run.
struct Played {
    ended: Ended,
    exchanges: Vec<Exchange>,
    records: Vec<AuditRecord>,
}

fn check(agent: &'static Agent) -> Result<()> {
    let logs = install::logs(agent.package.name, "paused")?;
    let scene = tempfile::Builder::new().prefix("dc-").tempdir()?;
    // The kernel names files by their real paths.
    let root = scene.path().canonicalize()?;
    for name in ["home", "project", "tmp", "asked"] {
        fs::create_dir(root.join(name))?;
    }
    let files = ["yes", "no"].map(|name| root.join("asked").join(name).display().to_string());
    for file in &files {
        fs::write(file, format!("{CONTENT}\n"))?;
    }
    let policy = format!(
        "version: 1
settings: {{unresolved: allow}}
rules:
  - {{id: {RULE}, effect: file.read, match: {{paths: ['{}/asked/**']}}, severity: high, reason: ask first}}
",
        root.display()
    );
    fs::write(root.join("policy.yaml"), policy)?;
    let played = network::of_its_own(|| play(agent, &root, &logs, &files))?;
    held(&played, &files)?;
    scene.close().context("cannot remove the folders of the run")
}

/// The agent asks for both files, one after the other. The first may be read, the second not.
fn play(agent: &Agent, root: &Path, logs: &Path, files: &[String; 2]) -> Result<Played> {
    let program = run::program_under_test()?;
    let calls = files.each_ref().map(|file| Turn::Call((agent.shell)(&format!("cat {file}; echo ended $?"))));
    let script = Script(calls.into_iter().chain([Turn::Text(LAST_WORDS.into())]).collect());
    let endpoint = Endpoint::start(agent.protocol, script)?;
    (agent.settle)(&root.join("home"), &endpoint.url())?;
    let database = root.join("audit.db");
    let mut command = Command::new(&program);
    command.arg("--db").arg(&database).args(["run", "--mode", "hitl", "--approval-timeout", "900"]);
    command.arg("--policy").arg(root.join("policy.yaml")).args(["--report", "json", "--report-file"]);
    command.arg(logs.join("report.json")).arg("--").arg(install::package(&agent.package)?);
    command
        .args((agent.arguments)())
        .env_clear()
        .env("HOME", root.join("home"))
        .env("PATH", run::SEARCH_PATH)
        .env("TMPDIR", root.join("tmp"))
        .env("LANG", "C.UTF-8")
        .envs((agent.environment)(&endpoint.url(), &root.join("tmp")))
        .current_dir(root.join("project"));
    let mut view = View::start(&program, None, DEADLINE, &logs.join("view.log"))?;
    let spared = [view.pid()?];
    let over = AtomicBool::new(false);
    let (ended, answered) = thread::scope(|scope| {
        let person = scope.spawn(|| {
            let about = |file| vec![file, RULE, "file.read", "high", "paused before it happens"];
            let [yes, no] = files.each_ref().map(|file| about(file.as_str()));
            view.answer_all(&[(yes, "y".to_owned()), (no, format!("m{MESSAGE}"))], &over)?;
            view.quit()
        });
        let running = process::start(&mut command, logs, "agent");
        let ended = running.and_then(|it| process::finish(vec![it], DEADLINE, &spared));
        over.store(true, Ordering::SeqCst);
        (ended, person.join())
    });
    let exchanges = endpoint.finish();
    fs::write(logs.join("model.log"), format!("{exchanges:#?}\n"))?;
    let ended = ended?.pop().context("nothing was run")?;
    match answered {
        Ok(answered) => answered.with_context(|| told(&ended, &exchanges))?,
        Err(_) => bail!("who answers has panicked"),
    }
    let mut records = Vec::new();
    Reader::open(&database)?.records(&Filter::default(), 0, None, |stored| {
        records.push(stored.record);
        Ok::<_, StoreError>(std::ops::ControlFlow::Continue(()))
    })?;
    Ok(Played { ended, exchanges, records })
}

/// The agent had the content of the first file, nothing of the second, and came to the end of the script.
fn held(played: &Played, files: &[String; 2]) -> Result<()> {
    let told = || told(&played.ended, &played.exchanges);
    played.ended.succeeded("the agent").with_context(told)?;
    let said = String::from_utf8_lossy(&played.ended.stdout);
    ensure!(said.contains(LAST_WORDS), "its last words were others; {}", told());
    let results = played.exchanges.iter().map(|it| it.results.as_slice());
    let results = results.max_by_key(|results| results.len()).unwrap_or(&[]);
    let [approved, denied] = results else { bail!("not two results; {}", told()) };
    ensure!(
        approved.text.contains(&format!("{CONTENT}\nended 0")),
        "the approved call gave the model {:?}",
        approved.text
    );
    ensure!(
        denied.text.contains("Operation not permitted")
            && denied.text.contains("ended 1")
            && denied.text.contains(MESSAGE)
            && !denied.text.contains(CONTENT),
        "the denied call gave the model {:?}",
        denied.text
    );
    let asked = played.records.iter().filter_map(|row| match row {
        AuditRecord::Asked(asked) => Some(&**asked),
        _ => None,
    });
    let asked: Vec<&Approval> = asked.collect();
    // Claude Code looks itself at a file that a command of its shell has shown: then one file is asked about twice.
    for (asked, name) in asked.iter().map(|asked| (asked, asked.subject.object.lossy())) {
        ensure!(
            asked.subject.rule == RULE
                && asked.subject.effect == "file.read"
                && files.iter().any(|file| *file == name)
                && matches!(asked.waiter, Waiter::Paused { .. }),
            "it was asked about {asked:?}"
        );
    }
    for (file, expected) in files.iter().zip([(Ruling::Once, true), (Ruling::Deny, false)]) {
        let of_cat = asked.iter().filter(|asked| {
            asked.subject.object.lossy() == file.as_str()
                && asked.command.iter().any(|word| word.lossy() == "cat")
        });
        let ids: Vec<_> = of_cat.map(|asked| asked.id).collect();
        let [id] = ids.as_slice() else { bail!("{} questions are of a cat of {file}", ids.len()) };
        let answer = played.records.iter().find_map(|row| match row {
            AuditRecord::Settled(settled) if settled.id == *id => match &settled.outcome {
                Outcome::Ruled { ruling, by, .. } => Some((*ruling, by.via, settled.allowed)),
                _ => None,
            },
            _ => None,
        });
        let (ruling, allowed) = expected;
        ensure!(answer == Some((ruling, Via::View, allowed)), "{file} was answered with {answer:?}");
    }
    Ok(())
}

fn told(ended: &Ended, exchanges: &[Exchange]) -> String {
    let asked: Vec<String> =
        exchanges.iter().map(|it| format!("{} -> {} ({})", it.request, it.status, it.note)).collect();
    let results = exchanges.iter().map(|it| it.results.as_slice()).max_by_key(|results| results.len());
    let complaints = String::from_utf8_lossy(&ended.stderr);
    format!("it asked:\n{}\nand got {results:?}; it complained:\n{complaints}", asked.join("\n"))
}
