//! The tree that works while policies change, and its counts, in memory that the suite sees. It expects nothing.

use std::{
    fs::{File, OpenOptions},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use anyhow::{Context, Result};
use defenseclaw::model::Level;

use super::PORTS;
use crate::{
    policy::effects::{connect, open},
    sys::{self, c, sys},
};

/// What an operation may end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum May {
    /// Refused by both policies, each for a reason of its own or for the same.
    Never,
    /// Allowed by both.
    Always,
    /// It tells which policy is in force: A or B refuses it.
    Tells,
}

struct Operation {
    name: &'static str,
    may: May,
    by_address: bool,
    act: fn(&Path) -> io::Result<i64>,
}

/// The first refuses under A only, the second under B only.
pub(super) const TELLS: [usize; 2] = [0, 1];

fn to(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 66, 0, 1)), port)
}

fn port(at: usize) -> io::Result<i64> {
    connect(libc::SOCK_DGRAM, to(PORTS[at]))
}

fn opened(path: &Path, flags: i32) -> io::Result<i64> {
    let fd = open(path, flags)?;
    drop(sys::owned(fd));
    Ok(0)
}

fn of(name: &'static str, may: May, act: fn(&Path) -> io::Result<i64>) -> Operation {
    Operation { name, may, by_address: false, act }
}

fn at(name: &'static str, may: May, act: fn(&Path) -> io::Result<i64>) -> Operation {
    Operation { by_address: true, ..of(name, may, act) }
}

fn operations() -> [Operation; OPERATIONS] {
    [
        at("connect that A refuses", May::Tells, |_| port(1)),
        at("connect that B refuses", May::Tells, |_| port(2)),
        at("connect that both refuse", May::Never, |_| port(0)),
        at("connect that none refuses", May::Always, |_| port(3)),
        of("read that both refuse", May::Never, |dir| opened(&dir.join("z/f"), libc::O_RDONLY)),
        of("rename from what A protects to what B protects", May::Never, |dir| {
            two(libc::SYS_renameat, dir, "x/f", "y/new")
        }),
        of("link from what A protects to what B protects", May::Never, |dir| {
            let (from, to) = (path(dir, "x/f"), path(dir, "y/new"));
            sys!(libc::SYS_linkat, libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), 0)
        }),
        of("rename from what B protects to what A protects", May::Never, |dir| {
            two(libc::SYS_renameat, dir, "y/f", "x/new")
        }),
        of("exchange of both", May::Never, |dir| {
            let (from, to) = (path(dir, "x/f"), path(dir, "y/f"));
            let flags = libc::RENAME_EXCHANGE;
            sys!(libc::SYS_renameat2, libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr(), flags)
        }),
        of("open for both, of which A refuses one and B the other", May::Never, |dir| {
            opened(&dir.join("rw"), libc::O_RDWR)
        }),
        of("exception inside what A protects", May::Always, |dir| {
            opened(&dir.join("deep/er/f"), libc::O_RDWR)
        }),
        of("what A protects inside what B protects", May::Never, |dir| {
            opened(&dir.join("exact/f"), libc::O_RDONLY)
        }),
        of("what spares this program", May::Always, |dir| opened(&dir.join("spared"), libc::O_RDWR)),
        of("what spares another program", May::Never, |dir| opened(&dir.join("not-spared"), libc::O_RDONLY)),
    ]
}

const OPERATIONS: usize = 14;
/// Successes, refusals, and anything else.
const ENDS: usize = 3;
/// Words of the shared memory: stop, round of the slowest thread, and the counts.
const STOP: usize = 0;
const PROBE: usize = 1;
const COUNTS: usize = 2;
const WORDS: usize = COUNTS + OPERATIONS * ENDS;

fn path(dir: &Path, name: &str) -> std::ffi::CString {
    use std::os::unix::ffi::OsStrExt;
    c(dir.join(name).as_os_str().as_bytes())
}

fn two(call: libc::c_long, dir: &Path, from: &str, to: &str) -> io::Result<i64> {
    let (from, to) = (path(dir, from), path(dir, to));
    sys!(call, libc::AT_FDCWD, from.as_ptr(), libc::AT_FDCWD, to.as_ptr())
}

/// Counts of a load, in a file that both sides have mapped.
pub(super) struct Outcomes {
    words: &'static [AtomicU64; WORDS],
    _file: File,
}

impl Outcomes {
    pub(super) fn make(dir: &Path) -> Result<Self> {
        let file = File::create_new(place(dir))?;
        file.set_len((WORDS * 8) as u64)?;
        Self::open(dir)
    }

    fn open(dir: &Path) -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(place(dir))?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let at = sys!(libc::SYS_mmap, 0, WORDS * 8, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)?;
        // SAFETY: the mapping is that large and aligned to a page, is never unmapped, and only used atomically.
        let words = unsafe { &*(at as *const [AtomicU64; WORDS]) };
        Ok(Self { words, _file: file })
    }

    pub(super) fn stop(&self) {
        self.words[STOP].store(1, Ordering::SeqCst);
    }

    /// Rounds of all threads.
    pub(super) fn rounds(&self) -> u64 {
        self.words[PROBE].load(Ordering::SeqCst)
    }

    fn count(&self, operation: usize, end: usize) -> u64 {
        self.words[COUNTS + operation * ENDS + end].load(Ordering::SeqCst)
    }

    /// How often one of [`TELLS`] was let through, and refused.
    pub(super) fn told(&self, tell: usize) -> (u64, u64) {
        (self.count(TELLS[tell], 0), self.count(TELLS[tell], 1))
    }

    /// What no single policy explains.
    pub(super) fn wrong(&self, level: Level) -> Vec<String> {
        let mut wrong = Vec::new();
        for (number, operation) in operations().iter().enumerate() {
            if level != Level::Lsm && !operation.by_address {
                continue;
            }
            let [passed, refused, other] = [0, 1, 2].map(|end| self.count(number, end));
            let right = other == 0
                && match operation.may {
                    May::Never => passed == 0 && refused > 0,
                    May::Always => refused == 0 && passed > 0,
                    May::Tells => passed > 0 && refused > 0,
                };
            if !right {
                wrong.push(format!(
                    "{} ({:?}): passed {passed}, refused {refused}, otherwise {other}",
                    operation.name, operation.may
                ));
            }
        }
        wrong
    }

    pub(super) fn total(&self) -> u64 {
        (0..OPERATIONS).flat_map(|number| (0..ENDS).map(move |end| self.count(number, end))).sum()
    }
}

fn place(dir: &Path) -> PathBuf {
    dir.join("counts")
}

/// `DIR THREADS LEVEL [PAUSE_MS]`: works until it is told to stop.
pub(in crate::policy) fn main(words: &[&str]) -> ExitCode {
    match work(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("error: load: {err:#}");
            ExitCode::from(3)
        }
    }
}

fn work(words: &[&str]) -> Result<()> {
    let [dir, threads, level, pause @ ..] = words else { anyhow::bail!("DIR THREADS LEVEL [PAUSE_MS]") };
    let dir = Path::new(dir);
    sys::deadline(900);
    let outcomes = Outcomes::open(dir)?;
    let pause: u64 = pause.first().map_or(Ok(0), |text| text.parse())?;
    let threads: usize = threads.parse().context("how many threads")?;
    // It is judged from now on, or will be soon: where it is not, what both refuse would count as a failure.
    let judged = sys::wait_until(300, || port(0).is_err());
    anyhow::ensure!(judged, "nothing is judged");
    // The swaps go first; what they leave is enough.
    sys!(libc::SYS_setpriority, libc::PRIO_PROCESS, 0, 19)?;
    let only_addresses = *level != "lsm";
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| rounds(dir, &outcomes, only_addresses, pause));
        }
    });
    Ok(())
}

fn rounds(dir: &Path, outcomes: &Outcomes, only_addresses: bool, pause: u64) {
    let operations = operations();
    while outcomes.words[STOP].load(Ordering::Relaxed) == 0 {
        for (number, operation) in operations.iter().enumerate() {
            if only_addresses && !operation.by_address {
                continue;
            }
            let end = match sys::errno(&(operation.act)(dir)) {
                0 => 0,
                libc::EPERM => 1,
                _ => 2,
            };
            outcomes.words[COUNTS + number * ENDS + end].fetch_add(1, Ordering::Relaxed);
        }
        outcomes.words[PROBE].fetch_add(1, Ordering::SeqCst);
        if pause > 0 {
            // So that the audit is not flooded; nothing waits for this.
            thread::park_timeout(std::time::Duration::from_millis(pause));
        }
    }
}
