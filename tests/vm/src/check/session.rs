//! Runs `defenseclaw` and reads back what it recorded.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use defenseclaw::model::{AuditRecord, Event, Loss, SessionEnd, SessionStart, WallTime};
use serde::Deserialize;
use tempfile::TempDir;

use super::Setting;
use crate::{provoke, sys::c, truth::Truth};

/// A row of the audit, as `events --json` prints it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Recorded {
    pub(crate) seq: u64,
    #[serde(flatten)]
    pub(crate) record: AuditRecord,
}

/// The watched run of all provocations: what they say, and what was recorded.
#[derive(Debug)]
pub(crate) struct Observed {
    /// Goes when the trials have ended.
    _dir: TempDir,
    pub(crate) db: PathBuf,
    pub(crate) truths: Vec<Truth>,
    pub(crate) seqs: Vec<u64>,
    pub(crate) start: SessionStart,
    pub(crate) end: Option<SessionEnd>,
    pub(crate) events: Vec<Event>,
    pub(crate) losses: Vec<Loss>,
    /// Events by the process that acted.
    pub(crate) by_process: BTreeMap<u32, Vec<usize>>,
    /// The command that was watched.
    pub(crate) command: Vec<Vec<u8>>,
    pub(crate) status: ExitStatus,
    pub(crate) stderr: String,
    /// Pid of the watcher, and every pid that acted outside the session meanwhile.
    pub(crate) watcher: u32,
    pub(crate) outsiders: Vec<u32>,
    /// Wall clock around the run.
    pub(crate) between: (WallTime, WallTime),
}

impl Observed {
    pub(crate) fn of(&self, tgid: u32) -> impl Iterator<Item = &Event> {
        self.by_process.get(&tgid).into_iter().flatten().map(|at| &self.events[*at])
    }
}

/// A directory for a run: every user may pass it, and programs on it may run.
pub(crate) fn run_dir() -> Result<TempDir> {
    let mut dir = match env::var_os("SUITE_TMP") {
        Some(base) => TempDir::with_prefix_in("suite-vm-", base)?,
        None => TempDir::with_prefix("suite-vm-")?,
    };
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    if env::var_os("SUITE_KEEP").is_some() {
        dir.disable_cleanup(true);
        eprintln!("kept: {}", dir.path().display());
    }
    Ok(dir)
}

/// The command `defenseclaw --db DB run --report none OPTIONS -- COMMAND`.
pub(crate) fn watched(setting: &Setting, db: &Path, options: &[&OsStr], command: &[&OsStr]) -> Command {
    let mut run = Command::new(&setting.binary);
    run.arg("--db").arg(db).args(["run", "--report", "none"]).args(options).arg("--").args(command);
    run.stdin(Stdio::null());
    run
}

/// This program, to be run again.
pub(crate) fn own_program() -> Result<PathBuf> {
    fs::read_link("/proc/self/exe").context("own program")
}

/// Every row that `events --json` prints with these arguments, handed over one by one.
pub(crate) fn records(
    setting: &Setting,
    db: &Path,
    arguments: &[&str],
    mut take: impl FnMut(Recorded) -> Result<()>,
) -> Result<()> {
    let mut child = Command::new(&setting.binary)
        .arg("--db")
        .arg(db)
        .args(["events", "--json"])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", setting.binary.display()))?;
    let output = child.stdout.take().context("stdout")?;
    let mut result = Ok(());
    for line in BufReader::with_capacity(1 << 20, output).split(b'\n') {
        let line = line?;
        if result.is_ok() && !line.is_empty() {
            result = serde_json::from_slice::<Recorded>(&line)
                .with_context(|| format!("`events --json` printed {}", line.escape_ascii()))
                .and_then(&mut take);
        }
    }
    let status = child.wait()?;
    result?;
    ensure!(status.success(), "`events --json` ended with {status}");
    Ok(())
}

/// A child that ends with the suite, whatever happens.
pub(crate) struct Companion(pub(crate) Child);

impl Drop for Companion {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn observe(setting: &Setting) -> Result<Observed> {
    let dir = run_dir()?;
    let base = fs::canonicalize(dir.path())?;
    let (work, program) = (base.join("run"), own_program()?);
    fs::create_dir_all(work.join("bystander"))?;
    provoke::prepare_program(&work)?;
    provoke::prepare_program(&work.join("bystander"))?;
    for fifo in ["go", "done"] {
        let path = c(work.join(fifo).as_os_str().as_bytes());
        // SAFETY: the path outlives the call.
        let failed = unsafe { libc::mkfifo(path.as_ptr(), 0o600) };
        ensure!(failed == 0, "mkfifo: {}", std::io::Error::last_os_error());
    }
    let target = Companion(Command::new(&program).arg("wait-for-input").stdin(Stdio::piped()).spawn()?);
    let bystander = Companion(
        Command::new(&program)
            .arg("bystander")
            .arg(&work)
            .env("SUITE_OUTSIDE_PID", target.0.id().to_string())
            .spawn()?,
    );

    let db = base.join("audit.db");
    let mut command = vec![program.as_os_str(), OsStr::new("provoke"), work.as_os_str()];
    let cases = env::var("SUITE_CASES").unwrap_or_default();
    command.extend(cases.split(',').filter(|case| !case.is_empty()).map(OsStr::new));
    let log = base.join("stderr");
    let before = now();
    let mut run = watched(setting, &db, &[], &command)
        .env("SUITE_OUTSIDE_PID", target.0.id().to_string())
        .stderr(fs::File::create(&log)?)
        .spawn()
        .with_context(|| format!("cannot start {}", setting.binary.display()))?;
    let watcher = run.id();
    let status = run.wait()?;
    let after = now();
    let stderr = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let mut outsiders = vec![bystander.0.id(), target.0.id(), sys_pid()];
    drop((bystander, target));
    let outside = truths(&work.join("bystander"))?;
    outsiders.extend(outside.iter().flat_map(|truth| &truth.started).map(|(pid, _)| *pid));

    let (mut start, mut end, mut events, mut losses, mut seqs) =
        (None, None, Vec::new(), Vec::new(), Vec::new());
    records(setting, &db, &["--session", "last"], |row| {
        seqs.push(row.seq);
        match row.record {
            AuditRecord::SessionStart(begun) => start = Some(*begun),
            AuditRecord::Event(event) => events.push(*event),
            AuditRecord::Loss(loss) => losses.push(loss),
            AuditRecord::SessionEnd(ended) => end = Some(ended),
            AuditRecord::PolicyLoaded(_)
            | AuditRecord::PolicyRefused(_)
            | AuditRecord::Posture(_)
            | AuditRecord::Handover(_)
            | AuditRecord::Asked(_)
            | AuditRecord::Settled(_)
            | AuditRecord::Granted(_)
            | AuditRecord::GrantEnded(_)
            | AuditRecord::Hook(_)
            | AuditRecord::Correlated(_)
            | AuditRecord::Finding(_) => {}
        }
        Ok(())
    })
    .with_context(|| format!("run ended with {status}, and said:\n{stderr}"))?;
    let Some(start) = start else {
        bail!("the audit has no session_start; run ended with {status}:\n{stderr}")
    };
    let mut by_process: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for (at, event) in events.iter().enumerate() {
        by_process.entry(event.process.tgid).or_default().push(at);
    }
    Ok(Observed {
        truths: truths(&work)?,
        command: command.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        between: (before, after),
        _dir: dir,
        db,
        seqs,
        start,
        end,
        events,
        losses,
        by_process,
        status,
        stderr,
        watcher,
        outsiders,
    })
}

fn sys_pid() -> u32 {
    std::process::id()
}

fn now() -> WallTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    WallTime(since.as_nanos() as i64)
}

/// What the provoker left in `DIR/truth`, in the order of the cases.
fn truths(dir: &Path) -> Result<Vec<Truth>> {
    let mut found = Vec::new();
    for case in provoke::CASES {
        let path = dir.join("truth").join(format!("{}.json", case.name));
        if let Ok(json) = fs::read(&path) {
            found.push(serde_json::from_slice(&json).with_context(|| format!("{}", path.display()))?);
        }
    }
    Ok(found)
}
