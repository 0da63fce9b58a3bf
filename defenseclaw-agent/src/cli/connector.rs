//! `defenseclaw connector`: installs our hook into the configuration of agents, and says whether it is still there.
//! Exit codes: 0 it is as it should be, 1 it is not, 2 the command could not do its work.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::Context as _;
use serde::Serialize;

use super::{
    NEGATIVE,
    output::{self, Out, escape},
};
use crate::{
    config::{self, Config},
    connectors,
    hook::{self, Arguments},
    installer::{self, FileState, Finding, InstallError, Registry, Request, Roots, Scope, State, Whole},
    model::{Connector, FailMode, VERIFY_EVENT, Way},
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
    /// What cannot be judged is held, also by the agent itself where it can be told to [default: as configured]
    #[arg(long)]
    fail_closed: bool,
    /// Where the hook finds the daemon [default: as configured]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Configuration of the daemon [default: /etc/defenseclaw/config.yaml for root, otherwise
    /// ~/.defenseclaw/config.yaml]
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
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
    fn request(&self) -> anyhow::Result<(Request, Registry)> {
        let scope = match (self.managed, self.project) {
            (true, _) => Scope::Managed,
            (_, true) => Scope::Project,
            _ => Scope::User,
        };
        let mut request = request(self.connector, scope, self.program.clone(), FailMode::Open)?;
        let config = config::load(self.config.as_deref())?;
        tell(&mut request, &config, self.fail_closed, self.socket.as_deref());
        Ok((request, Registry::beside(&config.audit)))
    }
}

/// What the hook is told: as configured, unless somebody says otherwise.
fn tell(request: &mut Request, config: &Config, fail_closed: bool, socket: Option<&Path>) {
    let own = config.connector(request.connector);
    request.fail = if fail_closed { FailMode::Closed } else { own.fail_mode };
    let way = own.ask.unwrap_or(connectors::default_way(request.connector));
    request.holds = way != Way::Fallback;
    let millis = own.timeout.as_millis().to_string();
    let socket = socket.unwrap_or(&config.socket).to_string_lossy();
    request.arguments = ["--socket", &socket, "--fail", request.fail.as_str(), "--timeout-ms", &millis]
        .map(str::to_owned)
        .to_vec();
    if request.holds {
        request.arguments.push("--hold-ms".to_owned());
        request.arguments.push(connectors::HOLD_MAX.as_millis().to_string());
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
    Ok(Request { connector, scope, program, arguments: Vec::new(), fail, holds: false, roots })
}

/// One installation, for people and machines.
#[derive(Serialize)]
struct Seen {
    connector: Connector,
    scope: String,
    files: Vec<FileState>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    findings: Vec<Finding>,
    /// Of a round trip; none if none was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    daemon: Option<Result<(), String>>,
}

/// Runs it.
pub fn run(command: &Command, out: &mut Out) -> anyhow::Result<ExitCode> {
    match command {
        Command::Install(args) => {
            let (request, registry) = args.place.request()?;
            // First, so that who watches knows what is about to be there.
            if let Err(err) = registry.add(&request) {
                output::note(&format!("the daemon will not notice if this hook is taken out: {err}"));
            }
            let files = installer::install(&request)?;
            show(&request, files, installer::findings(&request)?, None, args.place.json, out)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Remove(args) => {
            let (request, registry) = args.request()?;
            if let Err(err) = registry.forget(&request) {
                output::note(&format!("the daemon may take this for tampering: {err}"));
            }
            let files = installer::remove(&request)?;
            show(&request, files, Vec::new(), None, args.json, out)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Verify(args) => {
            let (request, _) = args.request()?;
            let files = installer::inspect(&request)?;
            let findings = installer::findings(&request)?;
            let whole = installer::condition(&request).state == Whole::Installed;
            let daemon = round_trip(&request);
            let whole = whole && daemon.is_ok();
            show(&request, files, findings, Some(daemon), args.json, out)?;
            Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(NEGATIVE) })
        }
        Command::List(args) => list(args.json, out),
    }
}

fn list(json: bool, out: &mut Out) -> anyhow::Result<ExitCode> {
    let mut found = false;
    let config = config::load(None)?;
    // Also where this directory and this state of things do not show it: another project, or taken out by somebody.
    let mut missing = Registry::beside(&config.audit).read()?;
    for connector in Connector::ALL {
        for scope in [Scope::User, Scope::Project, Scope::Managed] {
            let mut request = request(*connector, scope, None, FailMode::Open)?;
            tell(&mut request, &config, false, None);
            let files = match installer::inspect(&request) {
                Ok(files) => files,
                Err(InstallError::NoPlace { .. } | InstallError::NoDirectory { .. }) => continue,
                Err(err) => return Err(err.into()),
            };
            if files.iter().any(|file| file.state != State::Absent) {
                found = true;
                missing.retain(|known| !installer::same_place(known, &request));
                let active = installer::findings(&request)?.into_iter().filter(|finding| finding.active);
                show(&request, files, active.collect(), None, json, out)?;
            }
        }
    }
    for request in missing {
        found = true;
        show(&request, installer::inspect(&request)?, Vec::new(), None, json, out)?;
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
    daemon: Option<Result<(), String>>,
    json: bool,
    out: &mut Out,
) -> anyhow::Result<()> {
    let seen =
        Seen { connector: request.connector, scope: request.scope.to_string(), files, findings, daemon };
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
    let answered = match &seen.daemon {
        Some(Ok(())) => "the daemon answers".to_owned(),
        Some(Err(why)) => format!("{}: {}", output::bad("not answered"), escape(why.as_bytes())),
        None => return Ok(()),
    };
    Ok(out.line(&format!("  {answered}"))?)
}

/// Sends one event as the hook would, and sees whether the daemon itself answers it.
fn round_trip(request: &Request) -> Result<(), String> {
    let words = [request.connector.as_str().to_owned()].into_iter().chain(request.arguments.clone());
    let words: Vec<OsString> = words.map(OsString::from).collect();
    let told = Arguments::read(&words, |_| None, nix::unistd::geteuid().is_root())?;
    // Each agent says in another field which event it is. No agent has this one, so nothing is judged or watched for it.
    let name = VERIFY_EVENT;
    let payload = serde_json::json!({"hook_event_name": name, "hook": name, "agent_action_name": name});
    let deadline = Instant::now() + told.timeout;
    let asked = hook::ask(&told.socket, told.connector, payload.to_string().as_bytes(), deadline, deadline);
    asked.map(drop).map_err(|failure| failure.to_string())
}
