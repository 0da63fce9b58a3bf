//! `defenseclaw connector`: installs our hook into the configuration of agents, and says whether it is still there.
//! Exit codes: 0 it is as it should be, 1 it is not, 2 the command could not do its work.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use serde::Serialize;

use super::{
    NEGATIVE,
    output::{self, Out, escape},
};
use crate::{
    installer::{self, FileState, Finding, InstallError, Request, Roots, Scope, State},
    model::{Connector, FailMode},
};

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Add our hook to an agent's configuration
    Install(InstallArgs),
    /// Take our hook out of an agent's configuration
    Remove(PlaceArgs),
    /// List where our hook is installed
    List(ListArgs),
    /// Say whether our hook is as it was installed, and what can pass it by
    Verify(PlaceArgs),
}

/// Where.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[derive(Debug, clap::Args)]
pub struct PlaceArgs {
    /// Which agent
    #[arg(value_parser = connector, value_name = "CONNECTOR")]
    connector: Connector,
    /// This user's configuration (the default)
    #[arg(long, group = "scope")]
    user: bool,
    /// The configuration of the project in this directory
    #[arg(long, group = "scope")]
    project: bool,
    /// The machine's configuration, which users cannot change
    #[arg(long, group = "scope")]
    managed: bool,
    /// The program that the hook runs [default: this one]
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// The agent refuses when the hook fails, where it can be told to
    #[arg(long)]
    fail_closed: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `install`.
#[derive(Debug, clap::Args)]
pub struct InstallArgs {
    #[command(flatten)]
    place: PlaceArgs,
}

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

fn connector(name: &str) -> Result<Connector, String> {
    Connector::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Connector::ALL.iter().map(|connector| connector.as_str()).collect();
        format!("is none of {}", names.join(", "))
    })
}

impl PlaceArgs {
    fn request(&self) -> anyhow::Result<Request> {
        let scope = match (self.managed, self.project) {
            (true, _) => Scope::Managed,
            (_, true) => Scope::Project,
            _ => Scope::User,
        };
        let fail = if self.fail_closed { FailMode::Closed } else { FailMode::Open };
        request(self.connector, scope, self.program.clone(), fail)
    }
}

fn request(
    connector: Connector,
    scope: Scope,
    program: Option<PathBuf>,
    fail: FailMode,
) -> anyhow::Result<Request> {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let roots = Roots { home, project: std::env::current_dir().ok(), etc: "/etc".into() };
    let program = match program {
        Some(program) => program,
        None => {
            std::env::current_exe().context("cannot tell where this program is; name it with --program")?
        }
    };
    Ok(Request { connector, scope, program, fail, roots })
}

/// One installation, for people and machines.
#[derive(Serialize)]
struct Seen {
    connector: Connector,
    scope: String,
    files: Vec<FileState>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    findings: Vec<Finding>,
}

/// Runs it.
pub fn run(command: &Command, out: &mut Out) -> anyhow::Result<ExitCode> {
    match command {
        Command::Install(args) => {
            let request = args.place.request()?;
            let files = installer::install(&request)?;
            show(&request, files, installer::findings(&request)?, args.place.json, out)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Remove(args) => {
            let request = args.request()?;
            let files = installer::remove(&request)?;
            show(&request, files, Vec::new(), args.json, out)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Verify(args) => {
            let request = args.request()?;
            let files = installer::inspect(&request)?;
            let findings = installer::findings(&request)?;
            let whole = files.iter().all(|file| file.state == State::Installed)
                && !findings.iter().any(|finding| finding.active);
            show(&request, files, findings, args.json, out)?;
            Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(NEGATIVE) })
        }
        Command::List(args) => list(args.json, out),
    }
}

fn list(json: bool, out: &mut Out) -> anyhow::Result<ExitCode> {
    let mut found = false;
    for connector in Connector::ALL {
        for scope in [Scope::User, Scope::Project, Scope::Managed] {
            let request = request(*connector, scope, None, FailMode::Open)?;
            let files = match installer::inspect(&request) {
                Ok(files) => files,
                Err(InstallError::NoPlace { .. } | InstallError::NoDirectory { .. }) => continue,
                Err(err) => return Err(err.into()),
            };
            if files.iter().any(|file| file.state != State::Absent) {
                found = true;
                show(&request, files, Vec::new(), json, out)?;
            }
        }
    }
    if !found && !json {
        output::note("no hook of ours is installed");
    }
    Ok(ExitCode::SUCCESS)
}

fn show(
    request: &Request,
    files: Vec<FileState>,
    findings: Vec<Finding>,
    json: bool,
    out: &mut Out,
) -> anyhow::Result<()> {
    let seen = Seen { connector: request.connector, scope: request.scope.to_string(), files, findings };
    if json {
        return Ok(out.json(&seen)?);
    }
    for file in &seen.files {
        let state = match file.state {
            State::Installed => "installed",
            State::Changed => "changed",
            State::Absent => "absent",
        };
        let path = escape(file.path.as_os_str().as_encoded_bytes());
        out.line(&format!("{} {} {state:<9} {path}", seen.connector, seen.scope))?;
    }
    for finding in &seen.findings {
        let word = if finding.active { "switched off" } else { "can be passed by" };
        out.line(&format!("  {word}: {}", escape(finding.way.as_bytes())))?;
    }
    Ok(())
}
