//! `defenseclaw run`: watch one command from before its first instruction until its tree has ended. The command keeps
//! stdin, stdout, stderr and its exit code; everything of ours goes to stderr or to files, after it has ended.

use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use clap::{
    ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};

use super::{
    output::{self, Out},
    report::{self, Form},
};
use crate::{
    config::Settings,
    model::{Mode, PolicyAction, SessionId},
    runtime::{
        self, LandlockChoice, LandlockLevel, PolicyOptions, PolicySource, RunError, RunOptions, RunOutcome,
        SensorOptions, Siblings, UserChoice,
    },
    store::Reader,
};

/// Arguments.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
#[command(
    after_help = "The exit code is that of the command; 125: it could not be watched, 126: it could not be \
                        started, 127: it was not found."
)]
pub struct Args {
    /// What to print on stderr when the tree has ended
    #[arg(long, value_enum, default_value_t)]
    report: Form,
    /// Write the report to this file instead
    #[arg(long, value_name = "PATH")]
    report_file: Option<PathBuf>,
    /// Fold nothing in the report
    #[arg(long)]
    full: bool,
    /// Stop watching when the command itself has ended, whatever its children still do
    #[arg(long)]
    detach_after_main: bool,
    /// Keep the programs in the kernel when this watcher ends before the tree, even by kill -9: the tree stays enrolled and
    /// held, and `defenseclaw adopt` goes on with it
    #[arg(long)]
    persist: bool,
    /// Run the command as this user [default: who called sudo, otherwise unchanged]
    #[arg(long, value_name = "NAME", conflicts_with = "as_root")]
    user: Option<String>,
    /// Under sudo, run the command as root
    #[arg(long)]
    as_root: bool,
    /// What the command may do: a preset (observe, default, strict) or a file, which is read again when it changes and
    /// on SIGHUP. Without root, Landlock alone holds it
    #[arg(long, value_name = "PRESET|FILE")]
    policy: Option<PathBuf>,
    /// What follows from the severity of a rule [default: what the policy says, else observe]
    #[arg(long, value_parser = mode(), requires = "policy")]
    mode: Option<Mode>,
    /// Profile of the policy
    #[arg(long, value_name = "NAME", default_value = "default", requires = "policy")]
    profile: String,
    /// What happens to objects that cannot be resolved [default: what the policy says]
    #[arg(long, value_name = "ACTION", value_parser = unresolved(), requires = "policy")]
    unresolved: Option<PolicyAction>,
    /// How much Landlock may do; `auto` leaves files to other layers for a command that makes a sandbox of its own
    #[arg(long, value_enum, default_value_t, requires = "policy")]
    landlock: LandlockArg,
    /// Let Landlock close places inside directories the command can write to, too: what is made or replaced beside
    /// them later cannot be used
    #[arg(long, requires = "policy")]
    landlock_carve: bool,
    /// Start the command although not every rule that blocks is held, or that it is is not proven
    #[arg(long, requires = "policy")]
    allow_degraded: bool,
    /// How long a question to a person is open, before what the policy says without an answer applies. Questions are asked in
    /// mode hitl, as root, where BPF LSM is active
    #[arg(long, value_name = "SECONDS", default_value = "90", requires = "policy")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3600))]
    approval_timeout: u64,
    /// Size of each ring between kernel and watcher, in bytes: a power of two, at least 4096
    #[arg(long, value_name = "BYTES", value_parser = ring_size)]
    ring_bytes: Option<u32>,
    /// Processes that can be watched at once. Beyond it, a policy that blocks refuses to let more be made; without one
    /// they are not watched, and counted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(4..=1 << 22))]
    max_processes: Option<u32>,
    /// Write the counters of every stage to this file, as JSON
    #[arg(long, value_name = "PATH")]
    stats_json: Option<PathBuf>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Levels to choose from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LandlockArg {
    /// By the command
    #[default]
    Auto,
    /// Files, ports and scopes
    Full,
    /// Ports and scopes
    Scopes,
    /// Nothing
    Off,
}

fn policy(args: &Args) -> Option<PolicyOptions> {
    let landlock = match args.landlock {
        LandlockArg::Auto => LandlockChoice::Auto,
        LandlockArg::Full => LandlockChoice::Level(LandlockLevel::Full),
        LandlockArg::Scopes => LandlockChoice::Level(LandlockLevel::ScopesAndNet),
        LandlockArg::Off => LandlockChoice::Level(LandlockLevel::Off),
    };
    Some(PolicyOptions {
        source: PolicySource::named(args.policy.as_deref()?),
        mode: args.mode,
        profile: args.profile.clone(),
        unresolved: args.unresolved,
        landlock,
        siblings: if args.landlock_carve { Siblings::Any } else { Siblings::Stable },
        allow_degraded: args.allow_degraded,
        asks: None,
    })
}

fn mode() -> impl TypedValueParser<Value = Mode> {
    // The parser lets these words through only, so the fallback is never taken.
    PossibleValuesParser::new(Mode::ALL.iter().map(|mode| mode.as_str()))
        .map(|name| Mode::from_name(&name).unwrap_or(Mode::Observe))
}

fn unresolved() -> impl TypedValueParser<Value = PolicyAction> {
    // Nobody can be asked about what has no name.
    let words = [PolicyAction::Allow, PolicyAction::Alert, PolicyAction::Block];
    PossibleValuesParser::new(words.map(PolicyAction::as_str))
        .map(|name| PolicyAction::from_name(&name).unwrap_or(PolicyAction::Block))
}

fn ring_size(text: &str) -> Result<u32, String> {
    let size: u32 = text.parse().map_err(|error: std::num::ParseIntError| error.to_string())?;
    if size.is_power_of_two() && (4096..=1 << 30).contains(&size) {
        Ok(size)
    } else {
        Err("not a power of two between 4096 and 1073741824".to_owned())
    }
}

/// Runs it. Ends this process the way the command ended.
pub fn run(args: &Args, settings: &Settings, out: &mut Out) -> anyhow::Result<ExitCode> {
    // Opened first: a path that cannot be written must not cost the run.
    let mut report_out = match &args.report_file {
        Some(path) => Out::file(create(path)?),
        None => Out::stderr(),
    };
    let stats_file = args.stats_json.as_deref().map(create).transpose()?;
    let options = options(args, settings)?;
    if options.is_rootless() {
        output::note("not root: Landlock alone holds the command, and what it does is not recorded");
    }
    let outcome = runtime::run(&options)?;
    for warning in &outcome.warnings {
        output::note(warning);
    }
    if let Some(file) = stats_file {
        serde_json::to_writer(file, &outcome.stats).context("cannot write the counters")?;
    }
    print_report(&settings.database, outcome.session, args.report, args.full, &mut report_out);
    out.flush()?;
    finish(&outcome)
}

/// The command has run and its exit code counts; a report can be had again with `defenseclaw report`.
pub(super) fn print_report(database: &Path, session: SessionId, form: Form, full: bool, out: &mut Out) {
    if form == Form::None {
        return;
    }
    let made = Reader::open(database)
        .and_then(|reader| report::build(&reader, session))
        .map_err(anyhow::Error::from)
        .and_then(|made| Ok(report::write(&made, form, full, out)?))
        .and_then(|()| Ok(out.flush()?));
    if let Err(error) = made {
        output::error(&error.context("cannot report"), Some("try `defenseclaw report` again"));
    }
}

fn finish(outcome: &RunOutcome) -> anyhow::Result<ExitCode> {
    match outcome.status {
        Some(status) => runtime::finish_like(status),
        None => Ok(ExitCode::SUCCESS),
    }
}

pub(super) fn create(path: impl AsRef<std::path::Path>) -> anyhow::Result<File> {
    let path = path.as_ref();
    File::create(path).with_context(|| format!("cannot write {}", path.display()))
}

fn options(args: &Args, settings: &Settings) -> Result<RunOptions, RunError> {
    let choice = match &args.user {
        Some(name) => UserChoice::Named(name.clone()),
        None if args.as_root => UserChoice::Unchanged,
        None => UserChoice::Invoker,
    };
    let is_root = nix::unistd::geteuid().is_root();
    let user = runtime::choose_user(&choice, is_root, |name| std::env::var_os(name))?;
    if let Some(user) = user.as_ref().filter(|user| user.is_invoker) {
        output::note(&format!("the command runs as {}, who called sudo; --as-root keeps root", user.name));
    }
    let mut sensor = SensorOptions { judge: args.policy.is_some(), ..SensorOptions::default() };
    if let Some(size) = args.ring_bytes {
        (sensor.bulk_ring, sensor.priority_ring) = (size, size);
    }
    sensor.processes = args.max_processes.unwrap_or(sensor.processes);
    Ok(RunOptions {
        command: args.command.clone(),
        user,
        database: settings.database.clone(),
        default_database: settings.default_place,
        detach_after_main: args.detach_after_main,
        persist: args.persist,
        policy: policy(args),
        approval_timeout: Duration::from_secs(args.approval_timeout),
        tell: output::note,
        sensor,
    })
}
