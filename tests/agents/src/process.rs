//! Starts a program, waits for it with a deadline, and ends by pid whatever it leaves running.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    sys::{
        prctl,
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid, waitpid},
    },
    unistd::Pid,
};

/// How long a program that overran its deadline has for tidying up.
const GRACE: Duration = Duration::from_secs(10);

/// What a program said, and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// Command lines of the processes it left running; they are ended by now.
    pub(crate) left: Vec<String>,
}

impl Ended {
    /// An error with the end of stderr unless the program exited with 0.
    pub(crate) fn succeeded(&self, what: &str) -> Result<()> {
        if self.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&self.stderr);
        let lines: Vec<&str> = stderr.lines().collect();
        let tail = lines.get(lines.len().saturating_sub(30)..).unwrap_or_default();
        bail!("{what} ended with {}; the end of its stderr:\n{}", self.status, tail.join("\n"))
    }
}

/// A program that was started here.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    name: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// Starts `command` with no input. Its output goes to `NAME.stdout` and `NAME.stderr` in `logs`, which stay.
pub(crate) fn start(command: &mut Command, logs: &Path, name: &str) -> Result<Running> {
    // Orphans come to this process instead of init, so that none is lost from sight.
    prctl::set_child_subreaper(true).context("cannot become the reaper of orphans")?;
    fs::create_dir_all(logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let stdout = logs.join(format!("{name}.stdout"));
    let stderr = logs.join(format!("{name}.stderr"));
    let child = command
        .stdin(Stdio::null())
        .stdout(File::create(&stdout)?)
        .stderr(File::create(&stderr)?)
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    Ok(Running { child, name: name.to_owned(), stdout, stderr })
}

/// Starts `command` and waits for it. One at a time: every descendant of this process that is left at the end is taken
/// for the command's.
pub(crate) fn run(command: &mut Command, logs: &Path, name: &str, deadline: Duration) -> Result<Ended> {
    let running = start(command, logs, name)?;
    finish(vec![running], deadline, &[])?.pop().context("nothing was run")
}

/// Waits for all of them. Every descendant of this process that is left then is taken for theirs, but the trees of
/// `spared`.
pub(crate) fn finish(running: Vec<Running>, deadline: Duration, spared: &[Pid]) -> Result<Vec<Ended>> {
    let in_time: Vec<_> = running.iter().map(|it| wait(&it.child, deadline)).collect();
    let mains: Vec<Pid> = running.iter().map(|it| pid_of(&it.child)).collect::<Result<_>>()?;
    let left = end_descendants(&mains, spared);
    let mut ended = Vec::new();
    for (mut it, in_time) in running.into_iter().zip(in_time) {
        let status = it.child.wait()?;
        if !in_time? {
            bail!("{} did not end within {deadline:?}; its output is in {}", it.name, it.stdout.display());
        }
        let (stdout, stderr) = (fs::read(it.stdout)?, fs::read(it.stderr)?);
        ended.push(Ended { status, stdout, stderr, left: Vec::new() });
    }
    let left = left?;
    for it in &mut ended {
        it.left.clone_from(&left);
    }
    Ok(ended)
}

/// Waits without reaping, so that the pid stays the child's until `Child::wait`. False: it had to be told to end.
fn wait(child: &Child, deadline: Duration) -> Result<bool> {
    let pid = pid_of(child)?;
    let (tell, told) = mpsc::sync_channel(1);
    thread::spawn(move || {
        while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) == Err(Errno::EINTR) {}
        // Nobody listens any more when the deadline has passed twice.
        tell.send(()).ok();
    });
    if told.recv_timeout(deadline).is_ok() {
        return Ok(true);
    }
    kill(pid, Signal::SIGTERM)?;
    if told.recv_timeout(GRACE).is_err() {
        kill(pid, Signal::SIGKILL)?;
    }
    Ok(false)
}

/// Ends every descendant of this process but `mains`, which have ended or been killed, and the trees of `spared`. Returns
/// their command lines.
fn end_descendants(mains: &[Pid], spared: &[Pid]) -> Result<Vec<String>> {
    let mut ended = Vec::new();
    loop {
        let left: Vec<Pid> = descendants(spared)?.into_iter().filter(|pid| !mains.contains(pid)).collect();
        if left.is_empty() {
            return Ok(ended);
        }
        for pid in &left {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if !line.is_empty() {
                ended.push(format!("{pid}: {}", line.escape_ascii().to_string().replace("\\x00", " ")));
            }
            match kill(*pid, Signal::SIGKILL) {
                // It may have ended since it was listed.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(err) => bail!("cannot end process {pid}: {err}"),
            }
        }
        for pid in left {
            // A grandchild cannot be waited for; it comes to this process when its parent ends, for the next round.
            match waitpid(pid, None) {
                Ok(_) | Err(Errno::ECHILD | Errno::EINTR) => {}
                Err(err) => bail!("cannot wait for process {pid}: {err}"),
            }
        }
    }
}

/// Proves that neither a program that overruns its deadline nor what it started outlives `run`.
pub(crate) fn overrunning_tree_is_ended(logs: &Path) -> Result<()> {
    // The second sleep leaves the session and, when its parent ends, the tree of the first.
    let mut shell = Command::new("sh");
    shell.args(["-c", "(setsid sleep 1000 &); sleep 1000"]);
    let Err(err) = run(&mut shell, logs, "overrun", Duration::from_millis(300)) else {
        bail!("a program that overran its deadline was taken for one that ended")
    };
    ensure!(err.to_string().contains("did not end within"), "it failed otherwise: {err:#}");
    let left = descendants(&[])?;
    ensure!(left.is_empty(), "these were left running: {left:?}");
    Ok(())
}

/// Those of this process, without the trees of `spared`.
fn descendants(spared: &[Pid]) -> Result<Vec<Pid>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // Processes end while they are listed.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name in parentheses may hold anything; state and parent follow its last parenthesis.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if let Some(parent) = parent.and_then(|text| text.parse::<i32>().ok()) {
            parents.push((pid, parent));
        }
    }
    let mut found = vec![i32::try_from(std::process::id())?];
    let mut next = 0;
    while let Some(&ancestor) = found.get(next) {
        found.extend(
            parents
                .iter()
                .filter(|(pid, parent)| *parent == ancestor && !spared.contains(&Pid::from_raw(*pid)))
                .map(|(pid, _)| *pid),
        );
        next += 1;
    }
    Ok(found.into_iter().skip(1).map(Pid::from_raw).collect())
}

fn pid_of(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}
