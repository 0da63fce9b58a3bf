//! `cargo xtask setup`: what this machine lacks for a purpose, and the steps that install it.
//!
//! This file decides and reports; `needs` looks, `apt` and `install` change the machine.

mod apt;
mod install;
mod needs;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::bpf_toolchain::Source;
use needs::{Fix, Need};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only show what is there and what is missing; exit 1 if anything is
    #[arg(long)]
    check: bool,
    /// What the machine is to be used for
    #[arg(long = "for", value_name = "PURPOSE", value_delimiter = ',', default_value = "all")]
    purposes: Vec<Purpose>,
    /// BPF compiler to set up; the default is what is there, else rustc-web, else nightly
    #[arg(long, value_name = "SOURCE")]
    bpf_toolchain: Option<Source>,
}

/// What the machine is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// Build the kernel side and the binary
    Build,
    /// Watch a command on this host
    Run,
    /// Run virtual machines, and the programs the suites compare with
    Vm,
    /// Run real agents
    Agents,
    /// Lint the kernel side
    Lint,
    /// Everything
    All,
}

pub(crate) fn perform(arguments: &Arguments) -> Result<ExitCode> {
    let found = needs::survey(&arguments.purposes, arguments.bpf_toolchain);
    print_table(&found);
    let missing = found.iter().filter(|need| need.fix.is_some()).count();
    if missing == 0 {
        eprintln!("nothing is missing");
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.check {
        eprintln!("{missing} missing: install with `cargo xtask setup`");
        return Ok(ExitCode::FAILURE);
    }
    install_missing(&arguments.purposes, arguments.bpf_toolchain)?;
    eprintln!("everything is there");
    Ok(ExitCode::SUCCESS)
}

/// Installs what these purposes lack. Says nothing when nothing is missing.
pub(crate) fn ensure(purposes: &[Purpose]) -> Result<()> {
    let found = needs::survey(purposes, None);
    if found.iter().all(|need| need.fix.is_none()) {
        return Ok(());
    }
    print_table(&found);
    install_missing(purposes, None)
}

/// In rounds, because one step decides the next: the compiler tells which LLVM the linker needs.
fn install_missing(purposes: &[Purpose], wanted: Option<Source>) -> Result<()> {
    let mut apt = apt::Apt::default();
    let mut last: Option<Vec<Fix>> = None;
    loop {
        let fixes: Vec<Fix> =
            needs::survey(purposes, wanted).into_iter().filter_map(|need| need.fix).collect();
        if fixes.is_empty() {
            return Ok(());
        }
        if last.as_ref() == Some(&fixes) {
            let left: Vec<String> = fixes.iter().map(ToString::to_string).collect();
            bail!("still missing after installing: {}", left.join(", "));
        }
        apply(&mut apt, &fixes)?;
        last = Some(fixes);
    }
}

/// Packages first and together; everything else stands on them.
fn apply(apt: &mut apt::Apt, fixes: &[Fix]) -> Result<()> {
    let mut packages: Vec<&str> = Vec::new();
    for fix in fixes {
        if let Fix::Packages(names) = fix {
            for name in names {
                if !packages.contains(&name.as_str()) {
                    packages.push(name);
                }
            }
        }
    }
    if !packages.is_empty() {
        return apt.install(&packages);
    }
    for fix in fixes {
        match fix {
            Fix::Packages(_) => {}
            Fix::Compiler => install::compiler(apt)?,
            Fix::Nightly => install::nightly()?,
            Fix::NightlyClippy => install::nightly_component("clippy")?,
            Fix::Linker { llvm } => install::linker(*llvm)?,
            Fix::Emulator => install::emulator(apt)?,
            Fix::Kernel(version) => install::kernel(apt, version)?,
            Fix::Nothing(message) => bail!("{message}"),
        }
    }
    Ok(())
}

fn print_table(found: &[Need]) {
    for need in found {
        let mark = if need.fix.is_some() { "missing" } else { "ok" };
        let detail = match &need.fix {
            Some(fix) => fix.to_string(),
            None => need.found.clone(),
        };
        eprintln!("{mark:>8}  {:<22} {:<44} {detail}", need.name, need.why);
    }
}
