//! Instructions per operation: nothing attached, attached but the worker not enrolled, enrolled and fully recorded, and
//! the last judged by policies of different sizes as well.
//!
//! Runs in a guest whose clock counts executed instructions, so its nanoseconds are instructions and medians repeat to
//! the digit. The cost in time differs; a change of the number is a change of the work done.

mod judge;
mod operations;
mod rules;

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use defenseclaw::{
    model::{Event, SessionId},
    sensor::{Sensor, SensorOptions},
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

pub(crate) use judge::{Judge, judge};
use operations::Operation;
pub(crate) use operations::work;

use crate::statistics::median;

/// Rounds of all three states, one after the other, so that a drift hits all of them.
const ROUNDS: usize = 3;
/// Milliseconds between two looks at the rings; the product's pace.
const READ_EVERY: u16 = 5;
const SESSION: SessionId = SessionId(1);

/// Median instructions of one operation in each state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cost {
    /// Nothing attached.
    pub(crate) detached: u64,
    /// Attached; the task is not enrolled.
    pub(crate) attached: u64,
    /// Enrolled: every operation recorded and read.
    pub(crate) enrolled: u64,
    /// The same under a policy, by its number of rules.
    #[serde(default)]
    pub(crate) judged: BTreeMap<u32, u64>,
}

/// What one guest found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Kernel release.
    pub(crate) release: String,
    /// By operation.
    pub(crate) operations: BTreeMap<Operation, Cost>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Detached,
    Attached,
    Enrolled,
    Judged(u32),
}

/// Measures and prints the result.
pub(crate) fn measure() -> Result<()> {
    let mut worker = Worker::start()?;
    let mut samples: BTreeMap<(Operation, State), Vec<u64>> = BTreeMap::new();
    // Before anything was ever loaded: what is unloaded leaves the kernel's allocators in another state, and an exec
    // shows that.
    for _ in 0..ROUNDS {
        for operation in Operation::ALL {
            samples.entry((operation, State::Detached)).or_default().extend(worker.run(operation, None)?);
        }
    }
    let mut sensor = Sensor::load(&SensorOptions::default())?;
    for round in 1..=ROUNDS {
        for operation in Operation::ALL {
            samples.entry((operation, State::Attached)).or_default().extend(worker.run(operation, None)?);
        }
        if round == 1 {
            require(sensor.stats()?.kernel.is_empty(), "a task that is not enrolled was recorded")?;
        }
        sensor.enrol(worker.child.id(), SESSION)?;
        for operation in Operation::ALL {
            let found = worker.run(operation, Some(&mut sensor))?;
            samples.entry((operation, State::Enrolled)).or_default().extend(found);
        }
        sensor.release(worker.child.id())?;
        eprintln!("round {round} of {ROUNDS}");
    }
    account(&mut sensor)?;
    // Judging programs are others, so they are attached for this only.
    drop(sensor);
    let mut sensor = Sensor::load(&SensorOptions { judge: true, ..SensorOptions::default() })?;
    let mut policies = rules::Policies::new(&sensor)?;
    sensor.enrol(worker.child.id(), SESSION)?;
    for rules in rules::NUMBERS {
        policies.put_in_force(rules)?;
        for operation in Operation::ALL {
            let found = worker.run(operation, Some(&mut sensor))?;
            samples.entry((operation, State::Judged(rules))).or_default().extend(found);
        }
        eprintln!("{rules} rules");
    }
    account(&mut sensor)?;
    worker.end()?;

    let mut operations = BTreeMap::new();
    for operation in Operation::ALL {
        let mut cost = |state| {
            samples.get_mut(&(operation, state)).and_then(|values| median(values)).context("no samples")
        };
        let cost = Cost {
            detached: cost(State::Detached)?,
            attached: cost(State::Attached)?,
            enrolled: cost(State::Enrolled)?,
            judged: rules::NUMBERS
                .into_iter()
                .map(|rules| Ok((rules, cost(State::Judged(rules))?)))
                .collect::<Result<_>>()?,
        };
        operations.insert(operation, cost);
    }
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned();
    println!("{}", serde_json::to_string(&Measured { release, operations })?);
    Ok(())
}

fn require(condition: bool, otherwise: &str) -> Result<()> {
    if condition { Ok(()) } else { bail!("{otherwise}: the numbers would mean something else") }
}

/// Every operation must have left its records, or a cheap way out was measured.
fn account(sensor: &mut Sensor) -> Result<()> {
    let mut events = Vec::new();
    while sensor.read(&mut events, 4096) > 0 {
        events.clear();
    }
    let stats = sensor.stats()?;
    for (kind, counts) in &stats.kernel {
        let of = |name: &str| counts.get(name).copied().unwrap_or_default();
        require(
            of("seen") == of("submitted") && stats.received.get(kind) == Some(&of("seen")),
            &format!("{kind}: records were lost ({counts:?})"),
        )?;
    }
    for (kind, at_least) in Operation::expected_records() {
        let seen = stats.received.get(kind).copied().unwrap_or_default();
        require(seen >= at_least, &format!("{kind}: {seen} records of at least {at_least}"))?;
    }
    Ok(())
}

/// The process that is watched, or not.
struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("icount-worker")
            .env_clear()
            .envs(operations::environment())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        // SAFETY: one system call, which allocates nothing.
        unsafe { command.pre_exec(operations::fix_layout) };
        let mut child = command.spawn().context("cannot start the worker")?;
        let input = child.stdin.take().context("no pipe")?;
        let output = BufReader::new(child.stdout.take().context("no pipe")?);
        Ok(Self { child, input, output })
    }

    /// Instructions of each repetition. While it works, `sensor` is read as the product reads it.
    fn run(&mut self, operation: Operation, mut sensor: Option<&mut Sensor>) -> Result<Vec<u64>> {
        writeln!(self.input, "{}", operation.name())?;
        let mut events: Vec<Event> = Vec::new();
        while let Some(sensor) = &mut sensor {
            let mut ready = [PollFd::new(self.output.get_ref().as_fd(), PollFlags::POLLIN)];
            if poll(&mut ready, PollTimeout::from(READ_EVERY))? > 0 {
                break;
            }
            sensor.read(&mut events, 4096);
            events.clear();
        }
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the worker said {line:?}"))
    }

    fn end(mut self) -> Result<()> {
        drop(self.input);
        self.output.read_to_string(&mut String::new())?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { bail!("the worker ended with {status}") }
    }
}
