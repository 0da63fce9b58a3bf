//! `policy explain`: one operation, every mode, and who would hold it.

use std::{path::Path, process::ExitCode};

use anyhow::bail;
use serde::Serialize;

use super::{
    super::output::{self, Out, escape},
    bindings, mode, read,
};
use crate::{
    connectors,
    model::{Connector, Content, Effect, Hold, HookEvent, Mode, Phase, PolicyAction, Verdict},
    policy::{self, Actor, Bindings, Held, Layers, Object, Session, Subject},
};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What is done: file.read, exec, net.connect, dns, unix, priv.mount, ...
    #[arg(value_name = "EFFECT", value_parser = subject)]
    effect: Subject,
    /// To what: a path, ADDRESS:PORT, NAME:PORT, NAME=ADDRESS:PORT, a host name, @abstract, or ? for what has no path
    #[arg(value_name = "OBJECT", default_value = "")]
    object: String,
    /// Program that does it
    #[arg(long, value_name = "PATH")]
    exe: Option<String>,
    /// Program of its parent
    #[arg(long, value_name = "PATH")]
    parent: Option<String>,
    /// Only this mode
    #[arg(long, value_parser = mode)]
    mode: Option<Mode>,
    /// Policy to ask
    #[arg(long, value_name = "FILE|PRESET", default_value = "default")]
    policy: String,
    /// Profile of the policy
    #[arg(long, default_value = "default")]
    profile: String,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn subject(text: &str) -> Result<Subject, String> {
    let words = || Subject::all().map(Subject::as_str).collect::<Vec<_>>().join(", ");
    Subject::from_name(text).ok_or_else(|| format!("effects are {}", words()))
}

#[derive(Serialize)]
struct Explanation<'a> {
    effect: &'static str,
    object: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<&'a str>,
    policy: &'a str,
    modes: Vec<InMode>,
    /// Somebody looked what this machine has; else `held` says what could hold it.
    layers_known: bool,
    /// Of texts: what was recognised in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    found: Vec<&'static str>,
    /// Of texts: what a block comes to with each agent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    agents: Vec<(Connector, Hold)>,
    /// Another rule would decide if nobody were spared.
    #[serde(skip_serializing_if = "Option::is_none")]
    spared_by: Option<String>,
}

#[derive(Serialize)]
struct InMode {
    mode: Mode,
    action: PolicyAction,
    would_block: bool,
    kill: bool,
    #[serde(flatten)]
    verdict: Verdict,
    held: Held,
}

pub(super) fn run(args: &Args, layers: Option<Layers>, out: &mut Out) -> anyhow::Result<ExitCode> {
    let text = object_text(args)?;
    let object = Object::parse(args.effect, &text).map_err(anyhow::Error::msg)?;
    let policy = read(&args.policy)?;
    let actor = Actor {
        executable: args.exe.as_deref().map(str::as_bytes),
        parent: args.parent.as_deref().map(str::as_bytes),
    };
    let mut explanation = Explanation {
        effect: args.effect.as_str(),
        object: &text,
        executable: args.exe.as_deref(),
        policy: &policy.name,
        modes: Vec::new(),
        layers_known: layers.is_some(),
        found: if let Object::Content(_, text) = object { recognised(text) } else { Vec::new() },
        agents: match args.effect {
            Subject::Content(content) => agents(content),
            Subject::Effect(_) | Subject::Privilege(_) => Vec::new(),
        },
        spared_by: None,
    };
    for mode in Mode::ALL.iter().filter(|mode| args.mode.is_none_or(|wanted| wanted == **mode)) {
        let bindings = Bindings { profile: args.profile.clone(), ..bindings(Some(*mode))? };
        let session = Session::new(&policy, &bindings).map_err(super::Broken)?;
        let entry = session.judge(actor, &object);
        explanation.modes.push(InMode {
            mode: *mode,
            action: entry.map_or(PolicyAction::Allow, |entry| entry.action),
            would_block: entry.is_some_and(|entry| entry.would_block),
            kill: entry.is_some_and(|entry| entry.kill),
            verdict: policy::evaluate(&session, actor, &object),
            held: policy::held(&layers.unwrap_or(Layers::ALL), &session, actor, &object),
        });
        let anybody = policy::evaluate(&session, Actor::default(), &object);
        let here = policy::evaluate(&session, actor, &object);
        explanation.spared_by =
            anybody.rule_ids.first().filter(|id| here.rule_ids.first() != Some(id)).cloned();
    }
    if args.json {
        out.json(&explanation)?;
    } else {
        print(&explanation, out)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Paths may be relative to where the question is asked.
fn object_text(args: &Args) -> anyhow::Result<String> {
    let text = args.object.as_str();
    let effect = match args.effect {
        Subject::Effect(effect) => effect,
        Subject::Privilege(_) => return Ok(String::new()),
        Subject::Content(_) => return Ok(text.to_owned()),
    };
    if text.is_empty() {
        bail!("{effect} is done to something; name it after the effect");
    }
    let is_path = !matches!(effect, Effect::NetConnect | Effect::NetBind | Effect::Dns);
    if !is_path || text.starts_with(['/', '?', '@']) {
        return Ok(text.to_owned());
    }
    let here = std::env::current_dir()?;
    Ok(here.join(Path::new(text)).to_string_lossy().into_owned())
}

/// Names of what is in a text.
fn recognised(text: &str) -> Vec<&'static str> {
    let mut names: Vec<_> = policy::detect(text).iter().map(|found| found.detector.as_str()).collect();
    names.dedup();
    names
}

/// What a block of a text comes to with each agent, at the moment when the agent shows it.
fn agents(content: Content) -> Vec<(Connector, Hold)> {
    let phases: &[Phase] = match content {
        Content::Prompt => &[Phase::PromptSubmit],
        Content::ToolInput => &[Phase::ToolPre],
        Content::ToolOutput => &[Phase::ToolPost],
        Content::Message => &[Phase::Stop, Phase::SubagentStop],
    };
    let hold = |connector: Connector| {
        let events = connectors::events(connector).filter(|(_, phase)| phases.contains(phase));
        let holds =
            events.map(|(name, phase)| connectors::control(&HookEvent::new(connector, phase, name)).hold);
        holds.max().map(|hold| (connector, hold))
    };
    Connector::ALL.iter().filter_map(|connector| hold(*connector)).collect()
}

fn print(explanation: &Explanation<'_>, out: &mut Out) -> anyhow::Result<()> {
    let by = explanation.executable.map(|path| format!(" by {path}")).unwrap_or_default();
    let title = format!("{} {}{by}", explanation.effect, explanation.object);
    out.line(&output::strong(&escape(title.trim().as_bytes())))?;
    if !explanation.found.is_empty() {
        out.line(&format!("  has      {}", explanation.found.join(", ")))?;
    }
    let mut said = None;
    for now in &explanation.modes {
        let rule = now.verdict.rule_ids.first();
        if said != Some(rule) {
            said = Some(rule);
            match rule {
                Some(id) => {
                    let severity =
                        now.verdict.severity.map(|severity| format!(", {severity}")).unwrap_or_default();
                    out.line(&format!("  rule     {id}{severity}, of policy {}", explanation.policy))?;
                }
                None => out.line(&format!("  rule     none of policy {}: allowed", explanation.policy))?,
            }
            if !now.verdict.reason.is_empty() {
                out.line(&format!("  reason   {}", escape(now.verdict.reason.as_bytes())))?;
            }
        }
        let mut action = match now.action {
            PolicyAction::Block | PolicyAction::Confirm => output::bad(now.action.as_str()),
            PolicyAction::Allow | PolicyAction::Alert => now.action.as_str().to_owned(),
        };
        if now.would_block {
            action.push_str(" (would block)");
        }
        if now.verdict.raw_action == PolicyAction::Confirm && now.action != PolicyAction::Confirm {
            action.push_str(" (asks to confirm)");
        }
        if now.kill {
            action.push_str(" and end the process");
        }
        let held = match &now.held {
            Held::NotNeeded => String::new(),
            Held::By(by) => {
                let names: Vec<_> = by.iter().map(|mechanism| mechanism.as_str()).collect();
                let sure = if explanation.layers_known { "held by" } else { "could be held by" };
                format!("  {sure} {}", names.join(", "))
            }
            Held::Not(why) => format!("  {} {why}", output::bad("not held:")),
        };
        out.line(&format!("  {:<8} {action}{held}", now.mode))?;
    }
    let blocks = explanation.modes.iter().any(|now| now.action >= PolicyAction::Confirm);
    for (hold, words) in [
        (Hold::Prevents, "prevents it"),
        (Hold::Withholds, "gives the model the reason instead"),
        (Hold::Tells, "withholds it of some tools or only tells the model afterwards"),
        (Hold::Nothing, "only records it"),
    ] {
        let names: Vec<_> = explanation
            .agents
            .iter()
            .filter(|(_, of)| blocks && *of == hold)
            .map(|(connector, _)| connector.as_str())
            .collect();
        if !names.is_empty() {
            out.line(&format!("  the hook {words}: {}", names.join(", ")))?;
        }
    }
    if let Some(rule) = &explanation.spared_by {
        out.line(&format!("  spared   {rule} spares this program"))?;
    }
    Ok(())
}
