//! `defenseclaw policy`: reads policies from files or presets and says what is in them. Decides nothing itself.
//! Exit codes: 0 fine, 1 findings (mistakes, failed cases, differences), 2 the command could not do its work.

mod explain;
pub(super) mod problems;

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;

use super::{
    NEGATIVE,
    output::{self, Out, escape},
};
use crate::{
    model::Mode,
    policy::{self, Bindings, Layers, PRESETS, Policy, Problem, Session},
};
use problems::Broken;

/// Operations shown of each kind of difference; all are in the JSON.
const EXAMPLES: usize = 3;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Say every mistake in policies, and what the kernel cannot hold
    Check(CheckArgs),
    /// Say what a policy says about one operation, and which layer would hold it
    Explain(explain::Args),
    /// Run the cases that stand beside policies; without FILE, those of the presets
    Test(TestArgs),
    /// Say what becomes blocked or allowed from one policy to another
    Diff(DiffArgs),
    /// Print a preset
    Show(ShowArgs),
}

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// Files or presets
    #[arg(required = true, value_name = "FILE|PRESET")]
    policies: Vec<String>,
    /// Print one JSON object for each mistake
    #[arg(long)]
    json: bool,
}

/// Arguments of `test`.
#[derive(Debug, clap::Args)]
pub struct TestArgs {
    /// Files with cases
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Arguments of `diff`.
#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// Before
    #[arg(value_name = "A")]
    before: String,
    /// After
    #[arg(value_name = "B")]
    after: String,
    /// Mode in which they are compared
    #[arg(long, value_parser = mode, default_value = "action")]
    mode: Mode,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Arguments of `show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    /// Which
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(PRESETS))]
    preset: String,
}

/// Runs it. `layers` is what this machine has, if somebody looked.
pub fn run(command: &Command, layers: Option<Layers>, out: &mut Out) -> anyhow::Result<ExitCode> {
    let done = match command {
        Command::Check(args) => check(args, out),
        Command::Explain(args) => explain::run(args, layers, out),
        Command::Test(args) => test(args, out),
        Command::Diff(args) => diff(args, out),
        Command::Show(args) => show(args, out),
    };
    match done.map_err(anyhow::Error::downcast::<Broken>) {
        Ok(code) => Ok(code),
        // A policy that cannot be used is a finding, and is said as `check` does.
        Err(Ok(Broken(problems))) => {
            problems::print(&problems, out)?;
            Ok(ExitCode::from(NEGATIVE))
        }
        Err(Err(err)) => Err(err),
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    let words = || Mode::ALL.iter().map(|mode| mode.as_str()).collect::<Vec<_>>().join(", ");
    Mode::from_name(text).ok_or_else(|| format!("modes are {}", words()))
}

/// A policy by the name of a preset or file.
fn read(name: &str) -> anyhow::Result<Policy> {
    let text = match policy::preset(name) {
        Some(text) => text.to_owned(),
        None => file(Path::new(name))
            .with_context(|| format!("cannot read policy {name}; presets are {}", PRESETS.join(", ")))?,
    };
    Ok(policy::load(name, &text, &|name| policy::preset(name).map(str::to_owned)).map_err(Broken)?)
}

/// A text that is not longer than a policy may be, or a little longer, so that loading says so.
fn file(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let limit = u64::try_from(policy::SIZE_MAX)? + 1;
    File::open(path)?.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

/// Directories of this user and place.
fn bindings(mode: Option<Mode>) -> anyhow::Result<Bindings> {
    use std::os::unix::ffi::OsStringExt as _;
    let resolved = |path: PathBuf| std::fs::canonicalize(&path).unwrap_or(path).into_os_string().into_vec();
    let home = std::env::home_dir().filter(|home| home.is_absolute()).unwrap_or_else(|| "/root".into());
    let project = std::env::current_dir().context("cannot tell the current directory")?;
    Ok(Bindings { home: resolved(home), project: resolved(project), profile: "default".to_owned(), mode })
}

fn check(args: &CheckArgs, out: &mut Out) -> anyhow::Result<ExitCode> {
    let mut fine = true;
    for name in &args.policies {
        let found = match read(name).and_then(|policy| Ok((compiled(&policy)?, policy))) {
            Ok((found, policy)) if found.is_empty() => {
                if !args.json {
                    let count = policy.rules.len();
                    let name = escape(name.as_bytes());
                    out.line(&format!(
                        "{name}: {} rules, nothing wrong",
                        output::strong(&count.to_string())
                    ))?;
                    let session = Session::new(&policy, &bindings(Some(Mode::Action))?).ok();
                    for id in session.iter().flat_map(Session::user_space_rules) {
                        out.line(&format!(
                            "  {id} has patterns that only user space can judge: it alerts, late"
                        ))?;
                    }
                }
                continue;
            }
            Ok((found, _)) => found,
            Err(err) => err.downcast::<Broken>()?.0,
        };
        fine = false;
        if args.json {
            for problem in &found {
                out.json(problem)?;
            }
        } else {
            problems::print(&found, out)?;
        }
    }
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::from(NEGATIVE) })
}

/// What is wrong with the policy in any profile and mode.
fn compiled(policy: &Policy) -> anyhow::Result<Vec<Problem>> {
    let mut profiles: Vec<_> = policy.profiles.iter().map(|profile| profile.name.clone()).collect();
    if policy.profile("default").is_none() {
        profiles.push("default".to_owned());
    }
    let mut found: Vec<Problem> = Vec::new();
    for profile in profiles {
        for mode in Mode::ALL {
            let bindings = Bindings { profile: profile.clone(), ..bindings(Some(*mode))? };
            let problems = policy::compile(policy, &bindings).err().unwrap_or_default();
            for problem in problems {
                if !found.contains(&problem) {
                    found.push(problem);
                }
            }
        }
    }
    Ok(found)
}

fn test(args: &TestArgs, out: &mut Out) -> anyhow::Result<ExitCode> {
    let mut failed = 0;
    if args.files.is_empty() {
        for (name, text) in policy::CASES {
            failed += cases(name, text, Path::new(""), out)?;
        }
    }
    for path in &args.files {
        let name = path.to_string_lossy();
        let text = file(path).with_context(|| format!("cannot read cases {name}"))?;
        failed += cases(&name, &text, path.parent().unwrap_or(Path::new("")), out)?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(NEGATIVE) })
}

/// Runs one file of cases; the number of those that failed. Policies that are no presets stand beside it.
fn cases(name: &str, text: &str, directory: &Path, out: &mut Out) -> anyhow::Result<usize> {
    let suite = policy::suite(name, text).map_err(Broken)?;
    let mut failed = 0;
    for wanted in &suite.policies {
        let policy = match policy::preset(wanted) {
            Some(_) => read(wanted)?,
            None => read(&directory.join(wanted).to_string_lossy())?,
        };
        let outcome = suite.run(&|bindings| Session::new(&policy, bindings));
        problems::print(&outcome.failures, out)?;
        failed += outcome.failures.len();
        let verdict = if outcome.failures.is_empty() {
            "as expected".to_owned()
        } else {
            output::bad(&format!("{} not as expected", outcome.failures.len()))
        };
        let [name, wanted] = [name, wanted].map(|text| escape(text.as_bytes()));
        out.line(&format!("{name}, {wanted}: {} operations, {verdict}", outcome.asked))?;
    }
    Ok(failed)
}

fn diff(args: &DiffArgs, out: &mut Out) -> anyhow::Result<ExitCode> {
    let (before, after) = (read(&args.before)?, read(&args.after)?);
    let found = policy::diff(&before, &after, &bindings(Some(args.mode))?).map_err(Broken)?;
    let code = if found.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(NEGATIVE) };
    if args.json {
        out.json(&found)?;
        return Ok(code);
    }
    for setting in &found.settings {
        out.line(&escape(setting.as_bytes()))?;
    }
    for rule in &found.rules {
        out.line(&format!("rule {}: {}", output::strong(&rule.id), rule.change))?;
    }
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for change in &found.operations {
        let key = (change.blocked, &change.effect, &change.before, &change.after);
        groups.entry(key).or_default().push(change);
    }
    for ((blocked, effect, before, after), changes) in &groups {
        let word = if *blocked { output::bad("blocked") } else { output::strong("allowed") };
        let rule = |id: &str| if id.is_empty() { "no rule".to_owned() } else { id.to_owned() };
        out.line(&format!("{word} {effect} ({} -> {}), {}:", rule(before), rule(after), changes.len()))?;
        for change in changes.iter().take(EXAMPLES) {
            let by = if change.executable.is_empty() { "" } else { " by " };
            let operation = [change.object.as_str(), by, change.executable.as_str()].concat();
            out.line(&format!("    {}", escape(operation.as_bytes())))?;
        }
        if changes.len() > EXAMPLES {
            out.line(&format!("    and {} more", changes.len() - EXAMPLES))?;
        }
    }
    out.line(&format!(
        "{} settings and {} rules differ; {} of {} operations become blocked or allowed in mode {}",
        found.settings.len(),
        found.rules.len(),
        found.operations.len(),
        found.tried,
        args.mode
    ))?;
    Ok(code)
}

fn show(args: &ShowArgs, out: &mut Out) -> anyhow::Result<ExitCode> {
    for line in policy::preset(&args.preset).unwrap_or_default().lines() {
        out.line(line)?;
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests;
