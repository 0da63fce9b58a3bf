//! Mode hitl without anybody at the agent's terminal: a file of which a rule says that a person decides. The agent's hook is
//! held, somebody answers from outside, through the daemon's socket or in the terminal view, and the agent goes on with the
//! file's content, or with the reason why not.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use defenseclaw::model::{AuditRecord, HookCall, Mechanism, Outcome, PolicyAction, Ruling, Via};
use serde_json::{Value, json};

use crate::{install, network};

use super::{
    agents::Agent,
    guard::{ASKED_RULE, Guard},
    rows,
    stage::Stage,
};

/// For an agent to come to its calls on a busy machine.
const DEADLINE: Duration = Duration::from_mins(2);
const CONTENT: &str = "what a person has let it read";
const MESSAGE: &str = "take the copy in docs instead";

/// Who answers: about the first of these files yes, about the second no.
type Person<'a> = Box<dyn FnOnce(&[PathBuf; 2]) -> Result<()> + Send + 'a>;

pub(super) fn approved_goes_on_and_denied_is_told_why(agent: &'static Agent) -> Result<()> {
    check(agent, "asked", Via::Api, |guard| {
        let socket = guard.socket();
        Ok(Box::new(move |[yes, no]| {
            let answers = [
                (yes.clone(), json!({"ruling": "once", "via": "api"})),
                (no.clone(), json!({"ruling": "deny", "message": MESSAGE, "via": "api"})),
            ];
            answer(&socket, &answers)
        }))
    })
}

/// As above, with keys.
pub(super) fn keys_of_the_terminal_view_decide(agent: &'static Agent) -> Result<()> {
    check(agent, "viewed", Via::View, |guard| {
        let mut view = guard.view()?;
        Ok(Box::new(move |[yes, no]| {
            let shown = |path: &Path| path.to_str().map(str::to_owned).context("odd temporary name");
            for (path, keys) in [(yes, "y".to_owned()), (no, format!("m{MESSAGE}"))] {
                let about = [&*shown(path)?, ASKED_RULE, "file.read", "high", agent.name()];
                view.answer(&about, &keys)?;
            }
            view.quit()
        }))
    })
}

fn check(
    agent: &'static Agent,
    name: &str,
    via: Via,
    person: impl FnOnce(&mut Guard) -> Result<Person<'static>> + Send,
) -> Result<()> {
    let logs = install::logs(agent.package.name, &format!("hooked-{name}"))?;
    network::of_its_own(|| {
        let mut guard = Guard::set(logs)?;
        guard.configure("hitl", "ask: hold, ")?;
        let stage = Stage::set(&guard, agent, "a")?;
        guard.install(&stage, &[])?;
        guard.start()?;
        let files = ["yes", "no"].map(|name| guard.asked().join(name));
        for file in &files {
            fs::write(file, CONTENT)?;
        }
        let [yes, no] = &files;
        let stolen = stage.file("stolen");
        let script = stage.script(vec![
            (agent.shell.call)(&format!("cat {}", yes.display())),
            (agent.shell.call)(&format!("cat {} > {}", no.display(), stolen.display())),
        ]);
        let person = person(&mut guard)?;
        let (played, answered) = thread::scope(|scope| {
            let person = scope.spawn(|| person(&files));
            let played = stage.play(&guard, script);
            (played, person.join())
        });
        let played = played?;
        match answered {
            Ok(answered) => answered.with_context(|| played.told())?,
            Err(_) => bail!("who answers has panicked"),
        }
        played.ended_well(&stage)?;
        let text = played.result(0)?;
        ensure!(text.contains(CONTENT), "the approved call gave the model {text:?}");
        let text = played.result(1)?;
        ensure!(
            text.contains(MESSAGE) && text.contains("ask first") && text.contains(ASKED_RULE),
            "the denied call gave the model {text:?}"
        );
        ensure!(!stolen.exists(), "the denied call ran; {}", played.told());
        let records = guard.records()?;
        kept(&records, agent, via)?;
        guard.strike()
    })
}

/// The audit has both questions with who answered, and both hooks with what came of them.
fn kept(records: &[AuditRecord], agent: &Agent, via: Via) -> Result<()> {
    let asked: Vec<_> = records
        .iter()
        .filter_map(|row| if let AuditRecord::Asked(asked) = row { Some(asked) } else { None })
        .collect();
    let [first, second] = asked.as_slice() else { bail!("{} questions were asked", asked.len()) };
    for (asked, name) in [(first, "yes"), (second, "no")] {
        ensure!(
            asked.subject.rule == ASKED_RULE
                && asked.subject.effect == "file.read"
                && asked.subject.object.lossy().ends_with(name)
                && asked.connector == Some(agent.connector),
            "it was asked about {asked:?}"
        );
    }
    let rulings: Vec<_> = records
        .iter()
        .filter_map(|row| match row {
            AuditRecord::Settled(settled) => match &settled.outcome {
                Outcome::Ruled { ruling, by, .. } => Some((*ruling, by.via, settled.allowed)),
                _ => None,
            },
            _ => None,
        })
        .collect();
    ensure!(
        rulings == [(Ruling::Once, via, true), (Ruling::Deny, via, false)],
        "the answers were {rulings:?}"
    );
    let hooks: Vec<HookCall> = records
        .iter()
        .filter_map(|row| if let AuditRecord::Hook(call) = row { Some((**call).clone()) } else { None })
        .collect();
    for (name, action) in [("yes", PolicyAction::Allow), ("no", PolicyAction::Block)] {
        let found = rows::with(&hooks, defenseclaw::model::Phase::ToolPre, &format!("asked/{name}"));
        let [(row, _, _)] = found.as_slice() else { bail!("{} rows speak of {name}", found.len()) };
        let decision = row.decision.as_ref().context("a held call has no decision")?;
        ensure!(
            decision.verdict.raw_action == PolicyAction::Confirm
                && decision.action == action
                && decision.mechanism == Mechanism::HookReply
                && row.answer.action == action,
            "{name} was decided so: {decision:?}, {:?}",
            row.answer
        );
    }
    Ok(())
}

/// Answers the question about each of these files, as soon as it is there.
fn answer(socket: &Path, answers: &[(PathBuf, Value)]) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    let mut left: Vec<_> = answers.iter().collect();
    let mut version: Option<u64> = None;
    while !left.is_empty() {
        ensure!(Instant::now() < deadline, "nobody asked about {left:?}");
        let after = version.map(|version| format!("after={version}&")).unwrap_or_default();
        let open = request(socket, &format!("GET /v1/approvals?{after}wait_ms=2000"), "")?;
        version = open.get("version").and_then(Value::as_u64);
        for approval in open.get("approvals").and_then(Value::as_array).into_iter().flatten() {
            let (object, id) = (text(approval, "object")?, text(approval, "id")?);
            let Some(at) = left.iter().position(|(path, _)| path.to_str() == Some(object)) else {
                bail!("somebody asks about {object}")
            };
            let (_, ruling) = left.remove(at);
            request(socket, &format!("POST /v1/approvals/{id}"), &ruling.to_string())?;
        }
    }
    Ok(())
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value.get(key).and_then(Value::as_str).with_context(|| format!("no {key} in {value}"))
}

fn request(socket: &Path, line: &str, body: &str) -> Result<Value> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    let length = body.len();
    write!(stream, "{line} HTTP/1.1\r\nhost: d\r\ncontent-length: {length}\r\n\r\n{body}")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    let (head, body) = reply.split_once("\r\n\r\n").context("no reply")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{line}: {reply}");
    serde_json::from_str(body).with_context(|| format!("{line}: {reply}"))
}
