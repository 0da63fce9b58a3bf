//! Those whom the kernel has stopped until a person decides: who they are, and how they go on. Truth about questions and
//! grants is the pipeline's; what is in the kernel is what it has been told. Nobody is asked here.

mod syscalls;
mod task;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    time::{Duration, Instant},
};

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use defenseclaw_ebpf::{
    Kind,
    asking::{GrantKey, Granted, HELD_RULE, Pause, SYSCALLS, pause_flags, state},
    image::{self as abi, PRIVILEGES, PROFILES, SLOTS, action, has},
};
use tracing::{debug, warn};

use super::{
    EnforceError, Maps,
    maps::{CURRENT, GrantKeyPod, GrantedPod, IMAGES, ImagePod, PausePod, failed, is_absent, shape},
};
use crate::model::{ProcessKey, Settlement, Waiter};
use task::Task;

const PAUSES: &str = "PAUSES";
const GRANTS: &str = "GRANTS";
const PAUSABLE: &str = "PAUSABLE";
const ASKING: &str = "ASKING";

/// Only if the row is there.
const EXIST: u64 = 2;
/// Signals of the stopped are looked for this often.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Who is not stopped yet is looked at again so soon.
const AGAIN: Duration = Duration::from_millis(1);
/// An answer to an operation that could not wait holds this long, if it was for once.
const RETRY: Duration = Duration::from_mins(1);
/// How long those who waited get to take the fallback.
const LEAVE: Duration = Duration::from_secs(5);
/// Of grants that end with their session.
const FOREVER: u64 = u64::MAX;

/// Somebody whom the kernel has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The process.
    pub process: ProcessKey,
    /// The thread; of a held program the first one.
    pub tid: u32,
    /// A program before its first instruction.
    pub held: bool,
    /// What becomes of it without an answer.
    pub fallback: Settlement,
}

/// The questions that the kernel has open.
pub struct Pauses {
    open: HashMap<MapData, u64, PausePod>,
    grants: Option<HashMap<MapData, GrantKeyPod, GrantedPod>>,
    asking: Array<MapData, u32>,
    /// Processes that are to go on, once nothing holds them, and their threads that have an answer.
    wakes: BTreeMap<u32, BTreeSet<u32>>,
    /// Held programs that ran although nobody had let them.
    ran: BTreeMap<u32, u32>,
    looked: Instant,
}

impl fmt::Debug for Pauses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pauses").field("wakes", &self.wakes).finish_non_exhaustive()
    }
}

fn key(tgid: u32, tid: u32) -> u64 {
    u64::from(tgid) << 32 | u64::from(tid)
}

fn tgid(key: u64) -> u32 {
    // The upper half.
    u32::try_from(key >> 32).unwrap_or(u32::MAX)
}

fn tid(key: u64) -> u32 {
    u32::try_from(key & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

impl Pauses {
    /// From the maps of loaded programs. From now on the kernel asks instead of applying the fallback at once.
    pub fn begin(
        mut map: impl FnMut(&'static str) -> Option<MapData>,
        verdicts: &mut Maps,
        seed: u64,
    ) -> Result<Self, EnforceError> {
        let mut typed = |name| {
            let data = map(name).ok_or(EnforceError::NoMap { map: name })?;
            Map::from_map_data(data).map_err(shape(name))
        };
        let mut pausable: Array<MapData, u64> = typed(PAUSABLE)?.try_into().map_err(shape(PAUSABLE))?;
        for (number, kinds) in syscalls::restartable() {
            let kinds = kinds.iter().fold(0_u64, |bits, kind: &Kind| bits | 1 << (*kind as u16));
            if (number as usize) < SYSCALLS {
                pausable.set(number, kinds, 0).map_err(failed("write", PAUSABLE))?;
            }
        }
        let slot = u32::try_from(SLOTS + 1).unwrap_or(u32::MAX);
        verdicts.images.set(slot, ImagePod(*held_image(seed)), 0).map_err(failed("write", IMAGES))?;
        let row = u32::try_from(PROFILES).unwrap_or(u32::MAX);
        verdicts.current.set(row, slot, 0).map_err(failed("write", CURRENT))?;
        let mut pauses = Self {
            open: typed(PAUSES)?.try_into().map_err(shape(PAUSES))?,
            grants: Some(typed(GRANTS)?.try_into().map_err(shape(GRANTS))?),
            asking: typed(ASKING)?.try_into().map_err(shape(ASKING))?,
            wakes: BTreeMap::new(),
            ran: BTreeMap::new(),
            looked: Instant::now(),
        };
        pauses.asking.set(0, 1, 0).map_err(failed("write", ASKING))?;
        Ok(pauses)
    }

    /// From the names of maps in the BPF file system, for whoever settles what a watcher that is gone has left.
    pub fn inherit(maps: &Path) -> Result<Self, EnforceError> {
        let typed = |name: &'static str| {
            let data = MapData::from_pin(maps.join(name)).map_err(failed("open", name))?;
            Map::from_map_data(data).map_err(shape(name))
        };
        Ok(Self {
            open: typed(PAUSES)?.try_into().map_err(shape(PAUSES))?,
            grants: None,
            asking: typed(ASKING)?.try_into().map_err(shape(ASKING))?,
            wakes: BTreeMap::new(),
            ran: BTreeMap::new(),
            looked: Instant::now(),
        })
    }

    /// From now on the kernel applies the fallback at once.
    pub fn stop_asking(&mut self) -> Result<(), EnforceError> {
        self.asking.set(0, 0, 0).map_err(failed("write", ASKING))
    }

    /// Lets somebody go on, or refuses. With `expires` (nanoseconds of the boot clock) the kernel need not ask again until
    /// then. Whether there was such a question.
    pub fn settle(
        &mut self,
        waiter: &Waiter,
        decided: Settlement,
        grant: Option<Option<u64>>,
        now_ns: u64,
    ) -> Result<bool, EnforceError> {
        let (process, tid) = match waiter {
            Waiter::Paused { process, tid } | Waiter::Retry { process, tid } => (*process, *tid),
            Waiter::Held { process } => (*process, process.tgid),
            Waiter::Hook { .. } | Waiter::Agent { .. } => return Ok(false),
        };
        let key = key(process.tgid, tid);
        let Some(pause) = self.row(key)?.filter(|pause| pause.start_ns == process.start_ns) else {
            return Ok(false);
        };
        let retry = pause.state == state::REFUSED;
        let expires = match grant {
            Some(expires) => Some(expires.unwrap_or(FOREVER)),
            None if retry && decided == Settlement::Allow => {
                Some(now_ns.saturating_add(u64::try_from(RETRY.as_nanos()).unwrap_or(u64::MAX)))
            }
            None => None,
        };
        if let (Some(expires_ns), true) = (expires, decided != Settlement::AskAgain) {
            self.grant(&pause, expires_ns, decided == Settlement::Allow);
        }
        if retry {
            self.forget(key)?;
            return Ok(true);
        }
        if pause.state != state::WAITING {
            return Ok(false);
        }
        self.apply(key, pause, decided)?;
        Ok(true)
    }

    fn apply(&mut self, key: u64, pause: Pause, decided: Settlement) -> Result<(), EnforceError> {
        let process = tgid(key);
        let held = pause.flags & pause_flags::HELD != 0;
        match (decided, held) {
            (Settlement::Block, true) => {
                // Not the other way round: without its row it would run.
                if let Ok(task) = Task::open(process) {
                    task.signal(libc::SIGKILL).ok();
                }
                self.forget(key)?;
                return Ok(());
            }
            (Settlement::Allow, true) | (Settlement::AskAgain, _) => self.forget(key)?,
            (Settlement::Allow | Settlement::Block, false) => {
                let state = if decided == Settlement::Allow { state::ALLOW } else { state::BLOCK };
                let row = Pause { state, used: 0, stops: 0, ..pause };
                self.open.insert(key, PausePod(row), EXIST).map_err(failed("update", PAUSES))?;
            }
        }
        self.wakes.entry(process).or_default().insert(tid(key));
        self.wake();
        Ok(())
    }

    fn grant(&mut self, pause: &Pause, expires_ns: u64, allow: bool) {
        let Some(grants) = &mut self.grants else { return };
        let key = GrantKey {
            session: pause.session,
            object: pause.object,
            generation: pause.generation,
            what: pause.what,
            rule: pause.rule,
        };
        let granted = Granted { expires_ns, allow: u64::from(allow) };
        if let Err(error) = grants.insert(GrantKeyPod(key), GrantedPod(granted), 0) {
            // The pipeline answers such a question by itself, only later.
            debug!(%error, "a grant does not fit into the kernel");
        }
    }

    /// The kernel asks again about everything: grants that still hold are the pipeline's to know.
    pub fn forget_grants(&mut self) {
        let Some(grants) = &mut self.grants else { return };
        let keys: Vec<_> = grants.keys().filter_map(Result::ok).collect();
        for key in keys {
            grants.remove(&key).ok();
        }
    }

    /// Everybody who waits.
    pub fn waiting(&self) -> Result<Vec<Stopped>, EnforceError> {
        let mut all = Vec::new();
        for (key, pause) in self.rows()? {
            if pause.state == state::WAITING {
                let allow = pause.flags & pause_flags::FALLBACK_ALLOW != 0;
                all.push(Stopped {
                    process: ProcessKey { tgid: tgid(key), start_ns: pause.start_ns },
                    tid: tid(key),
                    held: pause.flags & pause_flags::HELD != 0,
                    fallback: if allow { Settlement::Allow } else { Settlement::Block },
                });
            }
        }
        Ok(all)
    }

    /// Applies the fallback to everybody who waits, and says to whom.
    pub fn settle_all(&mut self) -> Result<Vec<Stopped>, EnforceError> {
        let waiting = self.waiting()?;
        for one in &waiting {
            let key = key(one.process.tgid, one.tid);
            if let Some(pause) = self.row(key)? {
                self.apply(key, pause, one.fallback)?;
            }
        }
        Ok(waiting)
    }

    /// From now on nobody answers. Returns when everybody who waited has taken the fallback, or after some seconds.
    pub fn leave(&mut self) -> Result<Vec<Stopped>, EnforceError> {
        self.stop_asking()?;
        let mut settled = self.settle_all()?;
        let end = Instant::now() + LEAVE;
        // Who was about to be stopped may come late; an answer is taken when the system call starts again.
        while Instant::now() < end {
            settled.extend(self.settle_all()?);
            self.tend(Instant::now());
            let taken = self.rows()?.iter().all(|(_, pause)| pause.state == state::REFUSED);
            if taken && self.wakes.is_empty() {
                break;
            }
            std::thread::park_timeout(AGAIN);
        }
        Ok(settled)
    }

    /// Wakes who has an answer, lets signals through to the stopped, and forgets who has ended. When to come back; none: when
    /// something was asked.
    pub fn tend(&mut self, now: Instant) -> Option<Instant> {
        let soon = self.wake();
        if now.duration_since(self.looked) >= LOOK_EVERY {
            self.looked = now;
            if let Err(error) = self.look() {
                warn!(%error, "cannot look after paused processes");
            }
        }
        if soon {
            return Some(now + AGAIN);
        }
        self.open.keys().next().map(|_| self.looked + LOOK_EVERY)
    }

    /// A process goes on when none of its threads waits any more. Whether some are to be looked at again soon.
    fn wake(&mut self) -> bool {
        if self.wakes.is_empty() {
            return false;
        }
        let Ok(rows) = self.rows() else { return true };
        let mut soon = false;
        let waits: BTreeSet<u32> = rows
            .iter()
            .filter(|(_, pause)| pause.state == state::WAITING)
            .map(|(key, _)| tgid(*key))
            .collect();
        self.wakes.retain(|process, threads| {
            // Woken with the last of its answers.
            if waits.contains(process) {
                return true;
            }
            let Ok(task) = Task::open(*process) else { return false };
            // The signal that stops it is on its way; if this came first, it would be lost.
            if threads.iter().any(|thread| task.is_stopped(*thread) == Some(false)) {
                soon = true;
                return true;
            }
            task.go_on();
            false
        });
        soon
    }

    fn look(&mut self) -> Result<(), EnforceError> {
        for (key, pause) in self.rows()? {
            let (process, thread) = (tgid(key), tid(key));
            let task = Task::open(process).ok().filter(|task| task.is(pause.start_ns));
            let Some(task) = task else {
                self.forget(key)?;
                continue;
            };
            if pause.state != state::WAITING {
                continue;
            }
            if task.has_signals(thread) {
                // It handles them, or ends; then the system call starts again, and it is stopped again.
                let row = Pause { stops: 0, ..pause };
                self.open.insert(key, PausePod(row), EXIST).ok();
                task.signal(libc::SIGCONT).ok();
            } else if pause.flags & pause_flags::HELD != 0 && task.is_stopped(thread) == Some(false) {
                let ran = self.ran.entry(process).or_default();
                *ran += 1;
                if *ran > 1 {
                    warn!(process, "a held program was woken by somebody else, and is stopped again");
                    task.stop(thread).ok();
                }
            }
        }
        let held: BTreeSet<u32> = self.rows()?.iter().map(|(key, _)| tgid(*key)).collect();
        self.ran.retain(|process, _| held.contains(process));
        Ok(())
    }

    fn row(&self, key: u64) -> Result<Option<Pause>, EnforceError> {
        match self.open.get(&key, 0) {
            Ok(PausePod(pause)) => Ok(Some(pause)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(failed("read", PAUSES)(error)),
        }
    }

    fn rows(&self) -> Result<Vec<(u64, Pause)>, EnforceError> {
        let rows = self.open.iter().filter(|row| !matches!(row, Err(error) if is_absent(error)));
        rows.map(|row| row.map(|(key, PausePod(pause))| (key, pause)))
            .collect::<Result<_, MapError>>()
            .map_err(failed("read", PAUSES))
    }

    fn forget(&mut self, key: u64) -> Result<(), EnforceError> {
        match self.open.remove(&key) {
            Err(error) if !is_absent(&error) => Err(failed("update", PAUSES)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// The image of programs that are held: it asks about everything, and the answer is to wait.
#[expect(clippy::large_stack_arrays, reason = "32 KiB, moved to the heap at once")]
fn held_image(seed: u64) -> Box<abi::Image> {
    let entry = abi::Entry {
        effects: u16::MAX,
        rule: HELD_RULE,
        action: action::CONFIRM,
        raw_and_reach: action::CONFIRM,
        unless: 0,
        flags: 0,
    };
    Box::new(abi::Image {
        seed,
        generation: 0,
        defaults: [entry; 16],
        privileges: [[entry; 2]; PRIVILEGES],
        unresolved: entry,
        // Without the second nobody looks at the defaults, and a program that somebody else woke would run.
        has: has::POLICY | has::DEFAULTS | has::BLOCKS,
        lengths: [0; abi::LENGTHS_MAX],
        lengths4: [0; abi::LENGTHS_MAX],
        n_lengths: 0,
        n_lengths4: 0,
        bloom: [0; abi::BLOOM_BITS / 64],
    })
}
