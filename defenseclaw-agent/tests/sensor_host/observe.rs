//! One enrolled child beside one that is not: starts them, waits for their end, and collects what the sensor says.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use defenseclaw::{
    model::{Action, BootTime, Event, Level, Loss, SessionId},
    sensor::{self, Sensor, SensorOptions, SensorStats},
};
use libtest_mimic::Failed;
use nix::poll::{PollFd, PollFlags, poll};

pub(crate) const SESSION: SessionId = SessionId(0x0197_0000_0000_0007);

/// What came of one scenario.
#[derive(Debug)]
#[expect(dead_code, reason = "all of it is shown when a test fails")]
pub(crate) struct Observed {
    pub level: Level,
    pub child: u32,
    pub sibling: u32,
    /// Start of the child as /proc tells it.
    pub start_ticks: u64,
    /// Where the child worked.
    pub directory: PathBuf,
    pub events: Vec<Event>,
    pub losses: Vec<Loss>,
    pub stats: SensorStats,
    keep: tempfile::TempDir,
}

pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn new() -> Self {
        Self(Instant::now() + Duration::from_mins(1))
    }

    /// A moment for others; an error when time is up.
    pub(crate) fn wait(&self, why: impl FnOnce() -> String) -> Result<(), Failed> {
        if Instant::now() > self.0 {
            return Err(why().into());
        }
        poll(&mut [], 5u8)?;
        Ok(())
    }
}

/// Runs the role `scenario` twice, once enrolled, and reads until the enrolled one's end has arrived.
pub(crate) fn observe(scenario: &str) -> Result<Observed, Failed> {
    let keep = tempfile::tempdir()?;
    let root = keep.path().canonicalize()?;
    let directory = root.join("child");
    let mut sensor = Sensor::load(&SensorOptions::default())?;
    let mut child = start(scenario, &directory)?;
    let mut sibling = start(scenario, &root.join("sibling"))?;
    let start_ticks = sensor::process_facts(child.id()).ok_or("the child is gone")?.start_ticks;
    sensor.enrol(child.id(), SESSION)?;
    for process in [&mut child, &mut sibling] {
        process.stdin.take().ok_or("no pipe")?.write_all(b"\n")?;
    }
    for (name, process) in [("child", &mut child), ("sibling", &mut sibling)] {
        let status = process.wait()?;
        if !status.success() {
            return Err(format!("the {name} failed in {scenario}: {status}").into());
        }
    }

    let (mut events, deadline) = (Vec::new(), Deadline::new());
    let ended = |events: &[Event]| {
        let end = |event: &Event| {
            matches!(event.action, Action::ProcessExit { .. }) && event.process.tgid == child.id()
        };
        events.iter().any(end)
    };
    while !ended(&events) || !sensor.is_drained()? {
        if sensor.read(&mut events, 4096) == 0 {
            let mut readable = [PollFd::new(sensor.descriptor(), PollFlags::POLLIN)];
            poll(&mut readable, 5u8)?;
            deadline.wait(|| format!("no end of the child in {events:#?}"))?;
        }
    }
    if !sensor.enrolled().is_empty() {
        return Err(format!("still enrolled after the end: {:?}", sensor.enrolled()).into());
    }
    let (child, sibling, level) = (child.id(), sibling.id(), sensor.protection().level);
    let (losses, stats) = (sensor.losses(BootTime(1))?, sensor.stats()?);
    Ok(Observed { level, child, sibling, start_ticks, directory, events, losses, stats, keep })
}

/// It waits for a byte before it does anything.
fn start(scenario: &str, directory: &Path) -> Result<Child, Failed> {
    fs::create_dir(directory)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--child", scenario]).arg(directory).stdin(Stdio::piped()).env_clear();
    command.envs([("CODEX_THREAD_ID", "t1"), ("CODEX_SECRET", "never to be seen")]);
    if let Some(path) = std::env::var_os("LD_LIBRARY_PATH") {
        command.env("LD_LIBRARY_PATH", path);
    }
    Ok(command.spawn()?)
}

/// Ids of the programs that descriptors of this process hold, through links or directly. Of all loaded programs only
/// these are ours: others come and go on a busy machine.
pub(crate) fn own_programs() -> Result<Vec<u32>, Failed> {
    let mut ids = Vec::new();
    for entry in fs::read_dir("/proc/self/fdinfo")? {
        // The descriptor of this very listing is gone by now.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        ids.extend(text.lines().filter_map(|line| line.strip_prefix("prog_id:")?.trim().parse::<u32>().ok()));
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
