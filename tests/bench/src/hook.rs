//! What a hook costs the agent that waits for it: from the start of its process to its end, alone and among many, with
//! the same round trip by bash, curl and jq beside it. Also whether every call is answered rightly and kept.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    ops::ControlFlow,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use defenseclaw::{
    model::{AuditRecord, PolicyAction},
    store::{Filter, Reader, StoreError},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Serialize;

use crate::host::field;

/// Compare a hook with the same round trip by other programs, and ask many at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Fail where a budget is missed
    #[arg(long)]
    check: bool,
    /// Hooks one after the other
    #[arg(long, default_value_t = 1000)]
    calls: u64,
    /// How long many ask at once
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Hooks each second, of all callers together
    #[arg(long, default_value_t = 300)]
    rate: u32,
    /// Callers
    #[arg(long, default_value_t = 64)]
    callers: u32,
}

const BUDGET_P50: f64 = 3.0;
const BUDGET_P99: f64 = 10.0;
const BUDGET_LOADED_P99: f64 = 30.0;
/// Of the daemon, KiB.
const BUDGET_MEMORY: u64 = 60 << 10;
/// Round trips of the others for one of ours.
const BASELINE_SHARE: u64 = 5;
/// Processes that start programs and read files beside the callers.
const LOAD: usize = 2;
/// For a daemon that starts.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize)]
struct Times {
    calls: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

#[derive(Debug, Serialize)]
struct Outcome {
    idle: Times,
    bash_curl_jq: Times,
    loaded: Times,
    /// Calls a second that really were made.
    rate: f64,
    /// Calls without a row of their own.
    lost: u64,
    /// Calls that were answered otherwise than policy says.
    wrong: u64,
    daemon_rss_kib: u64,
    daemon_peak_kib: u64,
}

/// Measures and prints.
pub(crate) fn measure(arguments: &Arguments) -> Result<ExitCode> {
    let scratch = tempfile::tempdir()?;
    let mut place = Place::new(scratch.path())?;
    let wrong = AtomicU64::new(0);
    let mut asked = 0;
    let mut ask = |place: &Place, times: &mut Vec<Duration>| {
        times.push(place.ask(asked, 0, &wrong)?);
        asked += 1;
        anyhow::Ok(())
    };
    // Fills the caches; counted as calls, not as times.
    for _ in 0..20 {
        ask(&place, &mut Vec::new())?;
    }
    let (mut idle, mut others) = (Vec::new(), Vec::new());
    for call in 0..arguments.calls {
        ask(&place, &mut idle)?;
        if call % BASELINE_SHARE == 0 {
            others.push(place.ask_by_others()?);
        }
    }
    let unnamed = others.len() as u64;
    eprintln!("alone: done");
    let started = Instant::now();
    let loaded = place.many(arguments, asked, &wrong)?;
    let rate = f64::from(u32::try_from(loaded.len())?) / started.elapsed().as_secs_f64();
    let total = asked + loaded.len() as u64;
    let status = fs::read_to_string(format!("/proc/{}/status", place.daemon.id()))?;
    let memory = |name: &str| field(&status, name).context("no memory in the daemon's status");
    let (daemon_rss_kib, daemon_peak_kib) = (memory("VmRSS:")?, memory("VmHWM:")?);
    place.stop()?;
    let (named, rows) = place.kept(&wrong)?;
    if rows != named + unnamed {
        eprintln!("{rows} rows, {named} of calls and {unnamed} of others");
    }
    let outcome = Outcome {
        idle: times(idle).context("no calls")?,
        bash_curl_jq: times(others).context("no calls of others")?,
        loaded: times(loaded).context("no calls under load")?,
        rate,
        lost: total.saturating_sub(named),
        wrong: wrong.load(Ordering::Relaxed),
        daemon_rss_kib,
        daemon_peak_kib,
    };
    show(&outcome);
    println!("{}", serde_json::to_string(&outcome)?);
    let missed = complaints(&outcome, arguments);
    for complaint in &missed {
        eprintln!("{complaint}");
    }
    // Not a matter of how fast the machine is.
    let defect = outcome.lost > 0 || outcome.wrong > 0;
    Ok(if defect || (arguments.check && !missed.is_empty()) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

struct Place {
    directory: PathBuf,
    program: PathBuf,
    daemon: Child,
}

impl Place {
    fn new(directory: &Path) -> Result<Self> {
        let program = std::env::current_exe()?.with_file_name("defenseclaw");
        if !program.is_file() {
            bail!("{} is not built", program.display());
        }
        let [socket, audit] = ["d.sock", "audit.db"].map(|name| directory.join(name));
        let config = directory.join("config.yaml");
        fs::write(
            &config,
            format!(
                "version: 1\nsocket: {}\naudit: {}\npolicy: default\nmode: action\n",
                socket.display(),
                audit.display()
            ),
        )?;
        let daemon =
            Command::new(&program).arg("daemon").arg("--config").arg(&config).stdin(Stdio::null()).spawn()?;
        let place = Self { directory: directory.to_owned(), program, daemon };
        let deadline = Instant::now() + PATIENCE;
        while UnixStream::connect(&socket).is_err() {
            if Instant::now() > deadline {
                bail!("the daemon does not listen");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(place)
    }

    fn socket(&self) -> PathBuf {
        self.directory.join("d.sock")
    }

    /// One hook, every other one of which has to be denied.
    fn ask(&self, call: u64, caller: u32, wrong: &AtomicU64) -> Result<Duration> {
        let deny = call % 2 == 1;
        let started = Instant::now();
        let mut hook = Command::new(&self.program)
            .args(["hook", "claude-code", "--timeout-ms", "10000", "--socket"])
            .arg(self.socket())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        hook.stdin.take().context("no pipe")?.write_all(payload(call, caller, deny).as_bytes())?;
        let output = hook.wait_with_output()?;
        let time = started.elapsed();
        let denied = String::from_utf8_lossy(&output.stdout).contains(r#""permissionDecision":"deny""#);
        if denied != deny || !output.status.success() {
            wrong.fetch_add(1, Ordering::Relaxed);
        }
        Ok(time)
    }

    /// The same by programs that everybody has.
    fn ask_by_others(&self) -> Result<Duration> {
        let script = r#"payload=$(cat); reply=$(printf %s "$payload" | curl -s --unix-socket "$1" --data-binary @- http://d/v1/hooks/claude-code); [ -z "$reply" ] || printf %s "$reply" | jq -c ."#;
        let started = Instant::now();
        let mut others = Command::new("bash")
            .args(["-c", script, "bash"])
            .arg(self.socket())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        others.stdin.take().context("no pipe")?.write_all(payload(u64::MAX, 0, true).as_bytes())?;
        let output = others.wait_with_output()?;
        let time = started.elapsed();
        if !String::from_utf8_lossy(&output.stdout).contains("deny") {
            bail!("bash, curl and jq were not answered: {output:?}");
        }
        Ok(time)
    }

    /// Many callers at a steady rate, while others start programs and read files.
    fn many(&self, arguments: &Arguments, first: u64, wrong: &AtomicU64) -> Result<Vec<Duration>> {
        let stop = AtomicBool::new(false);
        let started = Instant::now();
        let total = u32::try_from(u64::from(arguments.rate) * arguments.seconds)?;
        thread::scope(|scope| {
            for _ in 0..LOAD {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        Command::new("/bin/true").status().ok();
                        fs::read("/proc/self/maps").ok();
                    }
                });
            }
            let callers: Vec<_> = (0..arguments.callers)
                .map(|caller| {
                    scope.spawn(move || {
                        let mut times = Vec::new();
                        for call in (caller..total).step_by(arguments.callers as usize) {
                            let due = Duration::from_secs(call.into()) / arguments.rate;
                            thread::sleep(due.saturating_sub(started.elapsed()));
                            times.push(self.ask(first + u64::from(call), caller, wrong)?);
                        }
                        anyhow::Ok(times)
                    })
                })
                .collect();
            let mut times = Vec::new();
            let mut failed = None;
            for caller in callers {
                match caller.join() {
                    Ok(Ok(found)) => times.extend(found),
                    Ok(Err(err)) => failed = Some(err),
                    Err(_) => failed = Some(anyhow::anyhow!("a caller panicked")),
                }
            }
            stop.store(true, Ordering::Relaxed);
            failed.map_or(Ok(times), Err)
        })
    }

    fn stop(&mut self) -> Result<()> {
        kill(Pid::from_raw(i32::try_from(self.daemon.id())?), Signal::SIGTERM)?;
        let status = self.daemon.wait()?;
        if !status.success() {
            bail!("the daemon ended with {status}");
        }
        Ok(())
    }

    /// Calls with a row of their own, and all rows. A row that says something else than what was answered is wrong.
    fn kept(&self, wrong: &AtomicU64) -> Result<(u64, u64)> {
        let mut ids: BTreeMap<u64, u64> = BTreeMap::new();
        let mut rows = 0;
        Reader::open(&self.directory.join("audit.db"))?.records(&Filter::default(), 0, None, |stored| {
            if let AuditRecord::Hook(call) = stored.record {
                rows += 1;
                let id = call.event.as_ref().and_then(|event| event.tools.first()?.id.clone());
                if let Some(id) = id.and_then(|id| id.parse::<u64>().ok()).filter(|id| *id != u64::MAX) {
                    *ids.entry(id).or_default() += 1;
                    let blocked =
                        call.decision.is_some_and(|decision| decision.action == PolicyAction::Block);
                    wrong.fetch_add(u64::from(blocked != (id % 2 == 1)), Ordering::Relaxed);
                }
            }
            Ok::<_, StoreError>(ControlFlow::Continue(()))
        })?;
        let twice = ids.values().filter(|count| **count > 1).count();
        if twice > 0 {
            bail!("{twice} calls have several rows");
        }
        Ok((ids.len() as u64, rows))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nothing is left of it if it was stopped.
        self.daemon.kill().ok();
        self.daemon.wait().ok();
    }
}

fn payload(call: u64, caller: u32, deny: bool) -> String {
    let (tool, input) = if deny {
        ("Read", serde_json::json!({"file_path": "/etc/shadow"}))
    } else {
        (
            "Bash",
            serde_json::json!({"command": "cargo test --workspace | tail -n 20", "description": "Run the tests"}),
        )
    };
    serde_json::json!({
        "hook_event_name": "PreToolUse", "session_id": format!("bench-{caller}"), "cwd": "/",
        "transcript_path": "/home/dev/.claude/projects/x/y.jsonl", "permission_mode": "default",
        "tool_name": tool, "tool_use_id": call.to_string(), "tool_input": input,
    })
    .to_string()
}

fn times(mut times: Vec<Duration>) -> Option<Times> {
    times.sort_unstable();
    let at = |percent: usize| {
        let place = times.len() * percent / 100;
        times.get(place.min(times.len() - 1)).map(|time| time.as_secs_f64() * 1000.0)
    };
    let max_ms = times.last()?.as_secs_f64() * 1000.0;
    Some(Times { calls: times.len(), p50_ms: at(50)?, p99_ms: at(99)?, max_ms })
}

fn show(outcome: &Outcome) {
    eprintln!("{:14}{:>8}{:>10}{:>10}{:>10}", "", "calls", "p50 ms", "p99 ms", "max ms");
    for (name, times) in [
        ("hook, alone", &outcome.idle),
        ("bash+curl+jq", &outcome.bash_curl_jq),
        ("hook, many", &outcome.loaded),
    ] {
        eprintln!(
            "{name:14}{:>8}{:>10.2}{:>10.2}{:>10.2}",
            times.calls, times.p50_ms, times.p99_ms, times.max_ms
        );
    }
    eprintln!(
        "{:.0} calls/s, {} lost, {} wrong; the daemon has {} KiB, at most {} KiB",
        outcome.rate, outcome.lost, outcome.wrong, outcome.daemon_rss_kib, outcome.daemon_peak_kib
    );
}

fn complaints(outcome: &Outcome, arguments: &Arguments) -> Vec<String> {
    let mut missed = Vec::new();
    for (what, found, budget) in [
        ("p50 alone", outcome.idle.p50_ms, BUDGET_P50),
        ("p99 alone", outcome.idle.p99_ms, BUDGET_P99),
        ("p99 among many", outcome.loaded.p99_ms, BUDGET_LOADED_P99),
    ] {
        if found > budget {
            missed.push(format!("{what}: {found:.2} ms, over the budget of {budget} ms"));
        }
    }
    if outcome.daemon_peak_kib > BUDGET_MEMORY {
        missed.push(format!("the daemon took {} KiB", outcome.daemon_peak_kib));
    }
    if outcome.rate < f64::from(arguments.rate) * 0.98 {
        missed.push(format!("only {:.0} calls/s could be made", outcome.rate));
    }
    missed
}
