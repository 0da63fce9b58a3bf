//! `defenseclaw doctor`: what this machine lets us see and hold. Exit code 1: a command cannot be watched here, or not
//! everything that policy forbids is refused.

use std::process::ExitCode;

use super::{
    NEGATIVE,
    output::{self, Out, escape},
};
use crate::{
    config::Settings,
    model::{Capability, CapabilityState, Posture, Protection},
    runtime::{self, Check},
};

/// Arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, settings: &Settings, out: &mut Out) -> anyhow::Result<ExitCode> {
    let found = runtime::diagnose(&settings.database);
    if args.json {
        out.json(&found)?;
    } else {
        out.line(&format!("defenseclaw {} on Linux {}", found.version, escape(found.kernel.as_bytes())))?;
        out.line("")?;
        for check in &found.checks {
            point(check, out)?;
        }
        if let Some(protection) = &found.protection {
            hooks(protection, out)?;
        }
        out.line("")?;
        out.line(&output::strong(if found.can_watch {
            "Commands can be watched here: defenseclaw run -- COMMAND"
        } else {
            "Commands cannot be watched here."
        }))?;
        out.line(&output::strong(match found.posture {
            Posture::Enforced => {
                "They can be held to a policy: defenseclaw run --policy default --mode action -- COMMAND"
            }
            Posture::Degraded { .. } => "They cannot be held to a policy in full: see enforcement above.",
            Posture::Off => "They cannot be held to a policy.",
        }))?;
    }
    let degraded = matches!(found.posture, Posture::Degraded { .. });
    Ok(if found.can_watch && !degraded { ExitCode::SUCCESS } else { ExitCode::from(NEGATIVE) })
}

fn word(state: CapabilityState) -> String {
    match state {
        CapabilityState::Available => "ok      ".to_owned(),
        CapabilityState::Degraded => output::strong("degraded"),
        CapabilityState::Missing => output::bad("missing "),
    }
}

fn point(check: &Check, out: &mut Out) -> std::io::Result<()> {
    out.line(&format!("{} {:<24} {}", word(check.state), check.name, escape(check.detail.as_bytes())))?;
    if !check.hint.is_empty() {
        out.line(&format!("{:33} {}", "", output::dim(check.hint)))?;
    }
    Ok(())
}

fn hooks(protection: &Protection, out: &mut Out) -> std::io::Result<()> {
    let blind = |capability: &&Capability| capability.name.starts_with("blind/");
    let hooks = || protection.capabilities.iter().filter(|capability| !blind(capability));
    let works = hooks().filter(|hook| hook.state == CapabilityState::Available).count();
    out.line("")?;
    out.line(&format!("{works} of {} hooks work at level {}.", hooks().count(), protection.level.as_str()))?;
    for hook in hooks().filter(|hook| hook.state != CapabilityState::Available) {
        out.line(&format!("{} {:<24} {}", word(hook.state), hook.name, escape(hook.reason.as_bytes())))?;
    }
    out.line("")?;
    out.line("What this level does not see:")?;
    for spot in protection.capabilities.iter().filter(blind) {
        out.line(&format!("  - {}", escape(spot.reason.as_bytes())))?;
    }
    Ok(())
}
