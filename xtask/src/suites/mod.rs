//! `cargo xtask test`: runs the suites of this host one after the other, those of guests side by side, and ends with one
//! summary.
//!
//! `tally` reads results, `tools` knows what goes into a guest. A suite that could not run counts as failed.

mod tally;
mod tools;

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::setup::{self, Purpose};
use crate::vm::{self, Kernel, Profile, Stream, Vm};
use crate::{build_ebpf, process, run, workspace};
use tally::{Counts, Tally};

/// A guest that has not finished its suite by then never will.
const GUEST_TIMEOUT: Duration = Duration::from_hours(1);
/// Four runs with hundreds of attempts each, every one a process.
const BYPASS_TIMEOUT: Duration = Duration::from_mins(40);
/// Trials of the kernel suite about the launcher and the audit's file, on which a kernel has no bearing. The host does them;
/// in a guest each spends most of half a minute on loading programs.
const ON_HOST_ONLY: [&str; 5] =
    ["run/exit", "run/command not found", "run/input and output", "run/database", "run/disk full"];
/// The level of the host's own suite, which has done what takes long.
const NOT_BELOW_LSM: [&str; 3] = ["run/", "network/", "policy/"];
/// Names the features that must be there: without one, a test fails instead of skipping itself.
const EXPECT: &str = "DEFENSECLAW_EXPECT";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Suites to run; all but the bypass suites if none is named
    #[arg(value_name = "SUITE")]
    suites: Vec<Suite>,
    /// Show the suites
    #[arg(long)]
    list: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Suite {
    Unit,
    Cli,
    VmHost,
    #[value(name = "vm-6.1")]
    Vm61,
    #[value(name = "vm-6.12")]
    Vm612,
    #[value(name = "vm-6.12-no-lsm")]
    Vm612NoLsm,
    #[value(name = "bypass-6.1")]
    Bypass61,
    #[value(name = "bypass-6.12")]
    Bypass612,
    BypassHost,
    Agents,
    #[value(name = "agents-6.12")]
    Agents612,
}

/// Where the output of a guest goes.
type Print<'a> = dyn FnMut(Stream, &[u8]) + 'a;

/// What became of a suite.
struct Outcome {
    name: &'static str,
    counts: Counts,
    /// Why it is not good although no test says so.
    trouble: Option<String>,
    took: Duration,
}

pub(crate) fn perform(arguments: &Arguments) -> ExitCode {
    if arguments.list {
        for suite in Suite::value_variants() {
            println!("{:<16} {}", suite.name(), suite.about());
        }
        return ExitCode::SUCCESS;
    }
    let suites: Vec<Suite> = if arguments.suites.is_empty() {
        Suite::value_variants().iter().copied().filter(|suite| !suite.only_by_name()).collect()
    } else {
        arguments.suites.clone()
    };
    let (guests, host): (Vec<Suite>, Vec<Suite>) = suites.into_iter().partition(|suite| suite.is_in_guest());
    let mut outcomes: Vec<Outcome> =
        host.into_iter().map(|suite| suite.run(&mut |stream, bytes| vm::print(stream, bytes))).collect();
    outcomes.extend(in_guests(&guests));
    summarize(&outcomes)
}

/// An emulated guest keeps one processor busy, so as many run side by side as there are; each says what it has to say when
/// it has ended. One alone is heard at once.
fn in_guests(suites: &[Suite]) -> Vec<Outcome> {
    let side_by_side = std::thread::available_parallelism().map_or(1, usize::from).min(suites.len());
    if side_by_side <= 1 {
        return suites.iter().map(|suite| suite.run(&mut |stream, bytes| vm::print(stream, bytes))).collect();
    }
    let left = Mutex::new(suites.iter());
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..side_by_side {
            scope.spawn(|| {
                loop {
                    let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(suite) = next else { return };
                    let mut said = Vec::new();
                    let outcome = suite.run(&mut |stream, bytes| said.push((stream, bytes.to_vec())));
                    let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                    eprintln!("\n── {}, ended after {} s", suite.name(), outcome.took.as_secs());
                    for (stream, bytes) in said {
                        vm::print(stream, &bytes);
                    }
                    outcomes.push(outcome);
                }
            });
        }
    });
    outcomes.into_inner().unwrap_or_else(PoisonError::into_inner)
}

impl Suite {
    /// Whether it runs only where it is named: it was not seen to pass to its end yet.
    fn only_by_name(self) -> bool {
        matches!(self, Self::Bypass61 | Self::Bypass612 | Self::BypassHost)
    }

    fn is_in_guest(self) -> bool {
        matches!(
            self,
            Self::Vm61 | Self::Vm612 | Self::Vm612NoLsm | Self::Bypass61 | Self::Bypass612 | Self::Agents612
        )
    }

    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Cli => "cli",
            Self::VmHost => "vm-host",
            Self::Vm61 => "vm-6.1",
            Self::Vm612 => "vm-6.12",
            Self::Vm612NoLsm => "vm-6.12-no-lsm",
            Self::Bypass61 => "bypass-6.1",
            Self::Bypass612 => "bypass-6.12",
            Self::BypassHost => "bypass-host",
            Self::Agents => "agents",
            Self::Agents612 => "agents-6.12",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Unit => "tests inside the packages; need nothing, and run all as root",
            Self::Cli => "the binary's commands and output; what loads programs needs root",
            Self::VmHost => "kernel behaviour at level tracepoint, on this host; needs root",
            Self::Vm61 => "kernel behaviour at level lsm, in a guest with Linux 6.1",
            Self::Vm612 => "kernel behaviour at level lsm, in a guest with Linux 6.12",
            Self::Vm612NoLsm => "kernel behaviour at level tracepoint, in a guest without an active BPF LSM",
            Self::Bypass61 => "known ways around a policy at level lsm, in a guest with Linux 6.1",
            Self::Bypass612 => "known ways around a policy at level lsm, in a guest with Linux 6.12",
            Self::BypassHost => "those that every level holds, on this host; needs root",
            Self::Agents => "real agents against a scripted model; needs root and an npm registry",
            Self::Agents612 => "real agents that are paused at level lsm, in a guest with Linux 6.12",
        }
    }

    fn run(self, print: &mut Print<'_>) -> Outcome {
        eprintln!("\n── {}: {}", self.name(), self.about());
        let started = Instant::now();
        let mut tally = Tally::default();
        let trouble = match self.attempt(&mut tally, print) {
            Err(error) => Some(format!("{error:#}")),
            Ok(()) if tally.counts.is_empty() => Some("it reported no test".to_owned()),
            Ok(()) => None,
        };
        Outcome { name: self.name(), counts: tally.counts, trouble, took: started.elapsed() }
    }

    fn attempt(self, tally: &mut Tally, print: &mut Print<'_>) -> Result<()> {
        match self {
            Self::Unit => {
                // First of all: what is built before its BPF object is built again after it.
                build_object()?;
                let packages = ["--package=defenseclaw", "--package=defenseclaw-ebpf", "--package=xtask"];
                let mut command = process::cargo(&["test", "--no-fail-fast", "--lib", "--bins"]);
                command.args(packages);
                if process::is_root() {
                    // What makes maps of the kernel. Others count it as skipped.
                    command.args(["--", "--include-ignored"]);
                }
                count(&mut command, tally)
            }
            Self::Cli => {
                build_object()?;
                let mut command =
                    process::cargo(&["test", "--no-fail-fast", "--package=defenseclaw", "--test=*"]);
                count(command.env(EXPECT, "bpf_object"), tally)
            }
            Self::VmHost => {
                build("suite-vm")?;
                let mut command = on_host("suite-vm", "root,tools")?;
                count(command.args(["--level", "tracepoint"]), tally)
            }
            Self::Vm61 => kernel_suite("6.1", Profile::Lsm, tally, print),
            Self::Vm612 => kernel_suite("6.12", Profile::Lsm, tally, print),
            Self::Vm612NoLsm => kernel_suite("6.12", Profile::NoLsm, tally, print),
            Self::Bypass61 => bypass_suite("6.1", tally, print),
            Self::Bypass612 => bypass_suite("6.12", tally, print),
            Self::BypassHost => {
                build("suite-bypass")?;
                let mut command = on_host("suite-bypass", "")?;
                count(command.args(["--level", "tracepoint"]), tally)
            }
            Self::Agents => {
                setup::ensure(&[Purpose::Agents])?;
                build("suite-agents")?;
                count(&mut on_host("suite-agents", "root,npm")?, tally)
            }
            Self::Agents612 => paused_agents("6.12", tally, print),
        }
    }
}

/// Builds a suite's binary and the `defenseclaw` it tests.
fn build_object() -> Result<()> {
    setup::ensure(&[Purpose::Build])?;
    build_ebpf::build(None).map(drop)
}

fn build(package: &str) -> Result<()> {
    setup::ensure(&[Purpose::Build])?;
    run::build_binary()?;
    process::execute(process::cargo(&["build", "--quiet", "--release", "--package"]).arg(package))
}

/// A suite on this host, as root, with the built `defenseclaw` first on its `PATH`.
fn on_host(name: &str, expect: &str) -> Result<Command> {
    let mut directories = vec![workspace::target().join("release")];
    let path = std::env::var_os("PATH").unwrap_or_default();
    directories.extend(std::env::split_paths(&path));
    let environment = [
        ("PATH", std::env::join_paths(directories)?),
        ("HOME", std::env::var_os("HOME").unwrap_or_default()),
        (EXPECT, OsString::from(expect)),
    ];
    process::as_root(workspace::release_binary(name), &environment)
}

fn kernel_suite(kernel: &str, profile: Profile, tally: &mut Tally, print: &mut Print<'_>) -> Result<()> {
    let (level, expect) = match profile {
        Profile::Lsm => ("lsm", "root,tools,bpf_lsm"),
        Profile::NoLsm => ("tracepoint", "root,tools"),
    };
    let mut guest = guest_for("suite-vm", kernel)?.profile(profile).env(EXPECT, expect);
    for path in tools::paths()? {
        guest = guest.copy(path);
    }
    let mut command = vec!["suite-vm", "--level", level];
    let skipped: &[&str] = match profile {
        Profile::Lsm => &ON_HOST_ONLY,
        Profile::NoLsm => &NOT_BELOW_LSM,
    };
    command.extend(skipped.iter().flat_map(|group| ["--skip", group]));
    in_guest(&guest, &command, tally, print)
}

/// The guest is the suite's own: it mounts file systems there and changes files of the system.
fn bypass_suite(kernel: &str, tally: &mut Tally, print: &mut Print<'_>) -> Result<()> {
    let mut guest = guest_for("suite-bypass", kernel)?.timeout(BYPASS_TIMEOUT);
    for (module, name) in tools::modules(kernel) {
        guest = guest.copy_to(module, format!("/usr/lib/suite-modules/{name}"));
    }
    in_guest(&guest, &["suite-bypass", "--level", "lsm", "--own-machine"], tally, print)
}

/// The guest has no registry: what its agents are comes from this host, which installs them if they are missing.
fn paused_agents(kernel: &str, tally: &mut Tally, print: &mut Print<'_>) -> Result<()> {
    setup::ensure(&[Purpose::Agents])?;
    let mut guest =
        guest_for("suite-agents", kernel)?.env(EXPECT, "root,bpf_lsm").copy(tools::program("bash")?);
    count(on_host("suite-agents", "root,npm")?.arg("paused::is_installed"), tally)?;
    for installed in tools::agents()? {
        let name = installed.file_name().context("an installed agent has a name")?;
        // Beside the directory of the suite's own program, where it looks for them.
        let place = Path::new("/usr/local/agents").join(name);
        guest = guest.copy_to(&installed, place);
    }
    in_guest(&guest, &["suite-agents", "paused::keys"], tally, print)
}

/// A guest with `defenseclaw` and a suite.
fn guest_for(suite: &str, kernel: &str) -> Result<Vm> {
    setup::ensure(&[Purpose::Vm])?;
    build(suite)?;
    Ok(Vm::new(Kernel::Version(kernel.to_owned()))
        .timeout(GUEST_TIMEOUT)
        .copy_to(workspace::release_binary("defenseclaw"), "/usr/local/bin/defenseclaw")
        .copy_to(workspace::release_binary(suite), format!("/usr/local/bin/{suite}")))
}

fn in_guest(guest: &Vm, command: &[&str], tally: &mut Tally, print: &mut Print<'_>) -> Result<()> {
    let command: Vec<OsString> = command.iter().map(OsString::from).collect();
    let finished = guest.run(&command, &mut |stream, bytes| {
        print(stream, bytes);
        if stream == Stream::Output {
            tally.read(bytes);
        }
    })?;
    tally.finish();
    eprintln!("guest: booted in {:.1} s", finished.boot.as_secs_f64());
    judge(&format!("exit code {}", finished.code), finished.code == 0, tally)
}

/// Runs a suite on our terminal and counts what it reports on standard output.
fn count(command: &mut Command, tally: &mut Tally) -> Result<()> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", process::describe(command)))?;
    let mut output = BufReader::new(child.stdout.take().context("the suite has no standard output")?);
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? != 0 {
        std::io::stdout().write_all(&line)?;
        tally.read(&line);
        line.clear();
    }
    tally.finish();
    let status = child.wait()?;
    judge(&status.to_string(), status.success(), tally)
}

/// Exit code and counts must agree: a suite that crashed has failed, whatever it had reported before.
fn judge(status: &str, success: bool, tally: &Tally) -> Result<()> {
    if !success && tally.counts.failed == 0 {
        bail!("it ended with {status} before it reported a failed test");
    }
    if success && tally.counts.failed > 0 {
        bail!("it reported failed tests and ended with {status}");
    }
    Ok(())
}

fn summarize(outcomes: &[Outcome]) -> ExitCode {
    println!();
    let mut total = Counts::default();
    for outcome in outcomes {
        let counts = outcome.counts;
        println!("{:<16} {counts}, {:.0} s", outcome.name, outcome.took.as_secs_f64());
        if let Some(trouble) = &outcome.trouble {
            println!("{:<16} did not work: {trouble}", "");
        }
        total.add(counts);
        if counts.failed == 0 && outcome.trouble.is_some() {
            total.failed += 1;
        }
    }
    println!("{total}");
    if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
