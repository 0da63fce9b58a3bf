//! One replay, in a process of its own, so that its memory is what a watcher of this load has: the programs are loaded
//! and their rings mapped as well.

use std::{fs, path::PathBuf, process::ExitCode, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, bail};
use defenseclaw::{
    model::{
        AuditRecord, BootTime, KernelPath, Level, Mode, PolicyLoaded, ProcessKey, Protection, SessionStart,
        Text, WallTime,
    },
    pipeline::{self, Effect, Input, State},
    policy,
    runtime::clock,
    sensor::{self, Sensor, SensorOptions},
    store::{Writer, WriterOptions},
    tree::ProcessFacts,
};
use defenseclaw_ebpf::{Body, Header, Kind};
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::capture::SESSION;
use crate::host::{field, usage};

/// Replay captured records.
#[derive(Debug, clap::Args)]
pub(crate) struct Stages {
    #[arg(long)]
    records: PathBuf,
    #[arg(long)]
    database: PathBuf,
    #[arg(long)]
    events: u64,
    #[arg(long)]
    policy: Option<String>,
}

/// What one replay gave.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) events: u64,
    pub(super) seconds: f64,
    pub(super) events_per_second: f64,
    /// Processor time of both threads.
    pub(super) cpu_seconds: f64,
    pub(super) live_processes: usize,
    pub(super) known_processes: usize,
    pub(super) resident_kib: u64,
    pub(super) peak_kib: u64,
    pub(super) database_mib: u64,
    pub(super) commits: u64,
    pub(super) programs_loaded: bool,
}

/// As the product takes them from the rings.
const BATCH: usize = 4096;
/// Processes that live all the time.
const LIVE: u32 = 10_000;
/// Pids of them: beyond what the capture uses.
const FIRST_PID: u32 = 10_000_000;
/// Between two passes through the capture: later than everything in it.
const PASS_NS: u64 = 3_600_000_000_000;

/// Replays and prints.
pub(crate) fn run(arguments: &Stages) -> Result<ExitCode> {
    let sensor = Sensor::load(&SensorOptions::default());
    let (wall, boot) = (clock::wall_now(), clock::boot_now());
    let writer = Writer::open(&arguments.database, &WriterOptions::new(boot, wall, clock::boot_id()?))?;
    let mut state = State::new();
    let mut effects = Vec::new();
    pipeline::step(&mut state, Input::Started(start(boot, wall)), boot, &mut effects);
    if let Some(preset) = &arguments.policy {
        let judge = judge(preset)?;
        let loaded = loaded(boot, judge.mode());
        pipeline::step(&mut state, Input::PolicyLoaded(Box::new(loaded), Some(judge)), boot, &mut effects);
    }
    for index in 0..LIVE {
        pipeline::step(&mut state, Input::Learned(Box::new(facts(index))), boot, &mut effects);
    }
    store(&writer, &mut effects)?;

    let capture = fs::read(&arguments.records)?;
    let input_kib = capture.len() as u64 / 1024;
    let started = Instant::now();
    let mut replay = Replay { bytes: &capture, at: 0, pass: 0, record: Vec::new() };
    let mut events = 0;
    while events < arguments.events {
        for _ in 0..BATCH {
            let event = sensor::decode_record(replay.next()?)?;
            pipeline::step(&mut state, Input::Event(Box::new(event)), boot, &mut effects);
            events += 1;
        }
        store(&writer, &mut effects)?;
    }
    let live_processes = state.tree().n_live();
    let known_processes = state.tree().len();
    let status = fs::read_to_string("/proc/self/status")?;
    let stats = writer.close()?;
    let seconds = started.elapsed().as_secs_f64();
    if stats.rows < events {
        bail!("{events} events, but {} rows", stats.rows);
    }
    let (cpu, peak) = usage();
    #[expect(clippy::cast_precision_loss, reason = "a rate, read by people")]
    let events_per_second = events as f64 / seconds;
    let found = Found {
        events,
        seconds,
        events_per_second,
        cpu_seconds: cpu.as_secs_f64(),
        live_processes,
        known_processes,
        // The capture is the benchmark's own.
        resident_kib: field(&status, "VmRSS:").context("no VmRSS")?.saturating_sub(input_kib),
        peak_kib: peak.saturating_sub(input_kib),
        database_mib: fs::metadata(&arguments.database)?.len() >> 20,
        commits: stats.commits,
        programs_loaded: sensor.is_ok(),
    };
    println!("{}", serde_json::to_string(&found)?);
    Ok(ExitCode::SUCCESS)
}

fn store(writer: &Writer, effects: &mut Vec<Effect>) -> Result<()> {
    let rows: Vec<AuditRecord> = effects
        .drain(..)
        .filter_map(|effect| match effect {
            Effect::Store(record) => Some(record),
            Effect::TreeEnded { .. }
            | Effect::Kill(_)
            | Effect::Settle { .. }
            | Effect::Ungrant(_)
            | Effect::Notify(..)
            | Effect::Answered { .. }
            | Effect::Label { .. } => None,
        })
        .collect();
    Ok(writer.append(rows)?)
}

fn judge(preset: &str) -> Result<Arc<policy::Session>> {
    let text = policy::preset(preset).with_context(|| format!("there is no preset {preset}"))?;
    let included = |name: &str| policy::preset(name).map(str::to_owned);
    let problems = |found: Vec<policy::Problem>| anyhow::anyhow!("{found:?}");
    let loaded = policy::load(preset, text, &included).map_err(problems)?;
    let bindings = policy::Bindings {
        home: b"/root".to_vec(),
        project: b"/nowhere".to_vec(),
        profile: "default".to_owned(),
        mode: Some(Mode::Observe),
    };
    Ok(Arc::new(policy::Session::new(&loaded, &bindings).map_err(problems)?))
}

fn loaded(boot: BootTime, mode: Mode) -> PolicyLoaded {
    PolicyLoaded {
        session: SESSION,
        // The capture is older.
        boot: BootTime(boot.0.min(1)),
        profile: 0,
        name: String::new(),
        mode,
        generation: 1,
        digest: String::new(),
        rules: Vec::new(),
    }
}

fn start(boot: BootTime, wall: WallTime) -> Box<SessionStart> {
    Box::new(SessionStart {
        session: SESSION,
        wall,
        boot,
        boot_id: String::new(),
        root: ProcessKey { tgid: FIRST_PID - 1, start_ns: 1 },
        command: vec![Text::from("replay")],
        project: Text::default(),
        home: Text::default(),
        host: String::new(),
        kernel: String::new(),
        version: String::new(),
        origin: defenseclaw::model::Origin::Launched,
        protection: Protection {
            level: Level::Tracepoint,
            level_reason: String::new(),
            capabilities: Vec::new(),
            table: Vec::new(),
            rules: Vec::new(),
        },
    })
}

/// A process that lives all the time, with a command line of common length.
fn facts(index: u32) -> ProcessFacts {
    let argument = "--an-option=/and/the/path/of/some/file.txt";
    ProcessFacts {
        key: ProcessKey { tgid: FIRST_PID + index, start_ns: 2 + u64::from(index) },
        session: SESSION,
        parent: Some(ProcessKey { tgid: FIRST_PID - 1, start_ns: 1 }),
        exe: KernelPath::from("/usr/lib/some/program/bin/program"),
        argv: vec![Text::from("program"), Text::from(argument), Text::from(argument), Text::from(argument)],
    }
}

/// The capture, again and again: each pass an hour later, with processes of its own.
struct Replay<'a> {
    bytes: &'a [u8],
    at: usize,
    pass: u64,
    record: Vec<u8>,
}

impl Replay<'_> {
    fn next(&mut self) -> Result<&[u8]> {
        if self.at >= self.bytes.len() {
            (self.at, self.pass) = (0, self.pass + 1);
        }
        let rest = self.bytes.get(self.at..).context("no records")?;
        let (length, rest) = rest.split_first_chunk::<4>().context("the capture is cut off")?;
        let length = usize::try_from(u32::from_ne_bytes(*length))?;
        self.record.clear();
        self.record.extend_from_slice(rest.get(..length).context("the capture is cut off")?);
        self.at += 4 + length;
        shift(&mut self.record, self.pass * PASS_NS).context("a record is too short")?;
        Ok(&self.record)
    }
}

fn shift(record: &mut [u8], by: u64) -> Option<()> {
    let (mut header, rest) = Header::read_from_prefix(record).ok()?;
    let (mut body, _) = Body::read_from_prefix(rest).ok()?;
    header.time_ns += by;
    header.start_ns += by;
    let start = match Kind::from_u16(header.kind) {
        Some(Kind::ProcessFork) => Some(1),
        Some(Kind::ProcessExec) => Some(4),
        _ => None,
    };
    if let Some(start) = start.and_then(|index: usize| body.args.get_mut(index)) {
        *start += by;
    }
    header.write_to_prefix(record).ok()?;
    body.write_to_prefix(record.get_mut(size_of::<Header>()..)?).ok()
}
