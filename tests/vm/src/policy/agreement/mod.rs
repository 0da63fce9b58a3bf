//! Random policies and random operations: what the kernel does is what `policy` says.

mod expect;
mod generate;
mod operation;
mod random;
mod tree;
pub(super) mod worker;

use std::{
    env, fs,
    io::{BufRead, BufReader, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use defenseclaw::model::{Level, Mode};
use expect::{Expected, Judge, Natural, Who};
use generate::{Alphabet, Draft};
use operation::Operation;
pub(crate) use random::Random;
use tempfile::TempDir;
use tree::Tree;

use super::kernel::{self, Kernel, place_program};
use crate::{
    check::{
        Setting,
        session::{Companion, own_program, run_dir},
    },
    sys,
};

/// Policies of one trial, and operations under each.
const POLICIES: usize = 72;
const OPERATIONS: usize = 80;
/// Operations that must have had an answer that only policy gives.
const PAIRS_MIN: usize = 5000;

pub(super) fn agreement(setting: &Setting) -> Result<()> {
    let seed = match env::var("SUITE_SEED") {
        Ok(text) => text.parse().context("SUITE_SEED is a number")?,
        Err(_) => sys::boottime(),
    };
    println!("seed {seed}; SUITE_SEED={seed} does the same again");
    let level = setting.level;
    kernel::with(level, |kernel| {
        let tried = Trials::new(level, seed, kernel)?.run(kernel);
        kernel.withdraw()?;
        tried.with_context(|| format!("seed {seed}"))
    })
}

struct Trials {
    level: Level,
    seed: u64,
    dir: TempDir,
    root: PathBuf,
    bin: PathBuf,
    prefix: String,
    tree: Tree,
    workers: Vec<Worker>,
    abstracts: Vec<UnixListener>,
}

/// A process that is judged, and ends with the trial.
struct Worker {
    who: Who,
    stream: UnixStream,
    answers: BufReader<UnixStream>,
    _process: Option<Companion>,
}

#[derive(Debug, Default)]
struct Totals {
    pairs: usize,
    blocked: usize,
    failed: usize,
    refused: usize,
}

impl Trials {
    fn new(level: Level, seed: u64, kernel: &mut Kernel) -> Result<Self> {
        let dir = run_dir()?;
        let base = fs::canonicalize(dir.path())?;
        let (root, bin) = (base.join("p"), base.join("bin"));
        fs::create_dir(&root)?;
        fs::create_dir(&bin)?;
        for name in ["one", "two"] {
            place_program(&bin.join(name))?;
        }
        let tree = Tree::new(&root)?;
        let control = UnixListener::bind(base.join("control"))?;
        let process = Companion(
            Command::new(bin.join("one"))
                .args(["policy", "worker"])
                .arg(&base)
                .args(["one", "two"])
                .stdin(Stdio::null())
                .spawn()?,
        );
        let pid = process.0.id();
        let one = Who { executable: bin.join("one"), parent: own_program()? };
        let mut first = Worker::accept(&control, "one", one, Some(process))?;
        kernel.enrol(pid)?;
        writeln!(first.stream)?;
        let two = Who { executable: bin.join("two"), parent: bin.join("one") };
        let mut second = Worker::accept(&control, "two", two, None)?;
        writeln!(second.stream)?;
        let prefix = base.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let listen = |name: &&str| -> Result<UnixListener> {
            let listener =
                UnixListener::bind_addr(&SocketAddr::from_abstract_name(format!("{prefix}{name}"))?)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        let abstracts = tree::ABSTRACT.iter().map(listen).collect::<Result<_>>()?;
        Ok(Self { level, seed, dir, root, bin, prefix, tree, workers: vec![first, second], abstracts })
    }

    fn run(&mut self, kernel: &mut Kernel) -> Result<()> {
        let mut totals = Totals::default();
        for number in 0..POLICIES {
            self.policy(kernel, number, &mut totals)?;
        }
        println!("{totals:?}");
        ensure!(totals.pairs >= PAIRS_MIN, "too few operations were judged: {totals:?}");
        let share = totals.blocked * 100 / totals.pairs;
        ensure!((5..90).contains(&share), "{share} % of the answers were refusals: {totals:?}");
        ensure!(self.dir.path().exists(), "the directory of the trial is gone");
        Ok(())
    }

    fn draft(&self, random: &mut Random) -> Draft {
        self.alphabet().policy(random)
    }

    fn alphabet(&self) -> Alphabet<'_> {
        Alphabet {
            root: &self.root,
            bin: &self.bin,
            prefix: &self.prefix,
            only_addresses: self.level != Level::Lsm,
        }
    }

    fn policy(&mut self, kernel: &mut Kernel, number: usize, totals: &mut Totals) -> Result<()> {
        let mut random = Random(self.seed.wrapping_add((number as u64) << 32));
        let files = random.clone();
        let mode = match random.below(10) {
            0 => Mode::Observe,
            1 | 2 => Mode::Hitl,
            _ => Mode::Action,
        };
        let (draft, judge) = loop {
            let draft = self.draft(&mut random);
            // Nothing is known of files that are not there yet.
            self.tree.rebuild(&mut files.clone())?;
            let Some(judge) = Judge::new(&draft.text(), &self.root, mode).with_context(|| draft.text())?
            else {
                totals.refused += 1;
                continue;
            };
            match kernel.install(&judge.image) {
                Ok(()) => break (draft, judge),
                // One file that more rules are about than there is room for: refused as a whole, too.
                Err(err) if format!("{err:#}").contains("there is room for") => totals.refused += 1,
                Err(err) => return Err(err).with_context(|| draft.text()),
            }
        };
        let mut done = 0;
        while done < OPERATIONS {
            let operation = Operation::random(&self.alphabet(), &self.tree, &mut random);
            let worker = random.below(self.workers.len());
            let Some(expected) = judge.expect(&self.workers[worker].who, &operation) else { continue };
            // What fails for everybody says little, and there is much of it.
            if expected.natural == Natural::Fails && !random.percent(5) {
                continue;
            }
            done += 1;
            let found = self.workers[worker].does(&operation)?;
            match agree(&expected, found) {
                Ok(true) => {
                    totals.pairs += 1;
                    totals.blocked += usize::from(expected.is_blocked());
                }
                Ok(false) => totals.failed += 1,
                Err(why) => {
                    let mismatch = Mismatch { mode, files, worker, operation, expected, found, why };
                    bail!("policy {number}: {}", self.explain(kernel, draft, &mismatch)?);
                }
            }
        }
        for listener in &self.abstracts {
            while listener.accept().is_ok() {}
        }
        kernel.drain();
        Ok(())
    }

    /// The mismatch in full; where it comes back on fresh files, with as few rules as still show it.
    fn explain(&mut self, kernel: &mut Kernel, draft: Draft, mismatch: &Mismatch) -> Result<String> {
        let mut least = draft;
        let mut shown = None;
        if let Some(again) = self.again(kernel, &least, mismatch)? {
            shown = Some(again);
            let mut at = 0;
            while at < least.rules.len() {
                let mut fewer = least.clone();
                fewer.rules.remove(at);
                match self.again(kernel, &fewer, mismatch)? {
                    Some(again) => (least, shown) = (fewer, Some(again)),
                    None => at += 1,
                }
            }
        }
        let alone = shown.is_some();
        let (expected, found, why) =
            shown.unwrap_or((mismatch.expected.clone(), mismatch.found, mismatch.why.clone()));
        let asked: Vec<String> = expected
            .asked
            .iter()
            .map(|(object, answer)| match answer {
                Some(entry) => format!("  {object}: {} by number {}", entry.action, entry.rule),
                None => format!("  {object}: nothing"),
            })
            .collect();
        let came = if alone { "on fresh files" } else { "only after the operations before it" };
        Ok(format!(
            "{why} ({came})\noperation: {:?}\nby: {:?}\nmode: {}\npolicy says:\n{}\nerrno: {found}\npolicy:\n{}",
            mismatch.operation,
            self.workers[mismatch.worker].who,
            mismatch.mode,
            asked.join("\n"),
            least.text(),
        ))
    }

    /// Whether the operation alone, on fresh files, disagrees as well.
    fn again(
        &mut self,
        kernel: &mut Kernel,
        draft: &Draft,
        mismatch: &Mismatch,
    ) -> Result<Option<(Expected, i32, String)>> {
        self.tree.rebuild(&mut mismatch.files.clone())?;
        let Some(judge) = Judge::new(&draft.text(), &self.root, mismatch.mode)? else { return Ok(None) };
        kernel.install(&judge.image)?;
        let worker = &mut self.workers[mismatch.worker];
        let Some(expected) = judge.expect(&worker.who, &mismatch.operation) else { return Ok(None) };
        let found = worker.does(&mismatch.operation)?;
        Ok(agree(&expected, found).err().map(|why| (expected, found, why)))
    }
}

/// A disagreement, and all that led to it.
struct Mismatch {
    mode: Mode,
    files: Random,
    worker: usize,
    operation: Operation,
    expected: Expected,
    found: i32,
    why: String,
}

/// Whether the outcome is as expected; false where policy did not decide it.
fn agree(expected: &Expected, errno: i32) -> Result<bool, String> {
    let blocked = expected.is_blocked();
    match (expected.natural, blocked, errno) {
        (Natural::Succeeds | Natural::Either, true, libc::EPERM) | (Natural::Succeeds, false, 0) => Ok(true),
        (Natural::Either, false, errno) if errno != libc::EPERM => Ok(true),
        // What comes first, the mistake or the question, is the kernel's business.
        (Natural::Fails, true, errno) if errno != 0 => Ok(false),
        (Natural::Fails, false, errno) if errno != 0 && errno != libc::EPERM => Ok(false),
        (Natural::Succeeds | Natural::Either, true, _) => Err("should be refused, and is not".to_owned()),
        (_, false, libc::EPERM) => Err("should not be refused, and is".to_owned()),
        (Natural::Succeeds, false, _) => Err("should succeed, and does not".to_owned()),
        (Natural::Either, false, _) => Err("cannot happen".to_owned()),
        (Natural::Fails, ..) => Err("should fail, and does not".to_owned()),
    }
}

impl Worker {
    fn accept(control: &UnixListener, name: &str, who: Who, process: Option<Companion>) -> Result<Self> {
        let (stream, _) = control.accept()?;
        stream.set_read_timeout(Some(std::time::Duration::from_mins(2)))?;
        let mut answers = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        answers.read_line(&mut line)?;
        ensure!(line.trim() == name, "{line:?} connects in place of {name}");
        Ok(Self { who, stream, answers, _process: process })
    }

    fn does(&mut self, operation: &Operation) -> Result<i32> {
        let mut line = serde_json::to_vec(operation)?;
        line.push(b'\n');
        self.stream.write_all(&line)?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).with_context(|| format!("no answer to {operation:?}"))?;
        answer.trim().parse().with_context(|| format!("{operation:?}: {answer:?}"))
    }
}
