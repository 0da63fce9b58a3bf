//! The kernel under test, in this process: programs loaded, a cgroup, policies put in force. And the programs that act in
//! it. What a verdict should be is not known here.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use defenseclaw::{
    enforce::{Bounds, Enforcer, Maps, PathEntries, Pauses, SESSION_PROFILE, find_identities},
    model::{Event, Level, SessionId},
    policy::image::Image,
    sensor::{Sensor, SensorOptions},
};

use crate::sys;

/// The smallest program that the kernel starts: it ends at once, with success.
pub(crate) const PROGRAM: &[u8] = &program();

const fn program() -> [u8; 128] {
    // xor eax, eax; mov al, SYS_exit; xor edi, edi; syscall
    const CODE: [u8; 8] = [0x31, 0xc0, 0xb0, 0x3c, 0x31, 0xff, 0x0f, 0x05];
    const BASE: u64 = 0x40_0000;
    let mut file = [0; 128];
    // An ELF header of a 64-bit x86 executable with one program header, then that header: all of the file, executable.
    let fields: [(usize, u64); 11] = [
        (0, 0x0001_0102_464c_457f),
        (16, 2 | 62 << 16 | 1 << 32),
        (24, BASE + 120),
        (32, 64),
        (52, 64 | 56 << 16 | 1 << 32),
        (64, 1 | 5 << 32),
        (72, 0),
        (80, BASE),
        (88, BASE),
        (96, 128),
        (104, 128),
    ];
    let mut field = 0;
    while field < fields.len() {
        let (at, value) = fields[field];
        let bytes = value.to_le_bytes();
        let mut byte = 0;
        while byte < 8 {
            file[at + byte] = bytes[byte];
            byte += 1;
        }
        field += 1;
    }
    file[112] = 0;
    file[113] = 0x10;
    let mut byte = 0;
    while byte < CODE.len() {
        file[120 + byte] = CODE[byte];
        byte += 1;
    }
    file
}

/// Puts this program at a path.
pub(crate) fn place_program(to: &Path) -> Result<()> {
    let from = fs::read_link("/proc/self/exe")?;
    // Another name costs nothing, where that is possible.
    if fs::hard_link(&from, to).is_err() {
        fs::copy("/proc/self/exe", to).with_context(|| to.display().to_string())?;
        fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// Session of every process that is judged here.
const SESSION: SessionId = SessionId(0x0197_0000_0000_0060);

/// A cgroup of this suite. It goes when it is empty.
struct Cgroup(PathBuf);

impl Drop for Cgroup {
    fn drop(&mut self) {
        sys::wait_until(10, || fs::remove_dir(&self.0).is_ok() || !self.0.exists());
    }
}

/// Programs and maps. Loading takes a guest ten seconds, so trials share them.
pub(crate) struct Kernel {
    sensor: Sensor,
    enforcer: Enforcer,
    cgroup: Cgroup,
}

/// The one that trials share. [`unload`] ends it.
static LOADED: Mutex<Option<Kernel>> = Mutex::new(None);

/// Hands out the loaded programs.
pub(crate) fn with<T>(level: Level, act: impl FnOnce(&mut Kernel) -> Result<T>) -> Result<T> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if loaded.is_none() {
        *loaded = Some(Kernel::load(level)?);
    }
    act(loaded.as_mut().context("just loaded")?)
}

/// Detaches everything, and removes the cgroup.
pub(crate) fn unload() {
    *LOADED.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

impl Kernel {
    fn load(level: Level) -> Result<Self> {
        let mut sensor = Sensor::load(&SensorOptions { judge: true, ..SensorOptions::default() })?;
        ensure!(sensor.protection().level == level, "level {:?}", sensor.protection().level);
        let directory = sys::cgroup_mount()
            .context("no cgroup v2 hierarchy")?
            .join(format!("defenseclaw-proof-{}", std::process::id()));
        fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        let cgroup = Cgroup(directory);
        sensor.hold_cgroup(&cgroup.0);
        let enforcer = Enforcer::new(Maps::open(|name| sensor.map(name))?, sensor.seed());
        Ok(Self { sensor, enforcer, cgroup })
    }

    /// From here on a process and what it starts is judged.
    pub(crate) fn enrol(&mut self, pid: u32) -> Result<()> {
        fs::write(self.cgroup.0.join("cgroup.procs"), pid.to_string())?;
        self.sensor.enrol(pid, SESSION)?;
        Ok(())
    }

    /// Puts a policy in force in place of the one before, with its files as they are now.
    pub(crate) fn install(&mut self, image: &Image) -> Result<()> {
        let entries = PathEntries::new(image);
        let found = find_identities(&image.identities, Bounds::default(), &|path| entries.of(path));
        ensure!(found.skipped.is_empty(), "{:?}", found.skipped);
        self.enforcer.install(SESSION_PROFILE, image, &found.files)?;
        Ok(())
    }

    /// The kernel asks from now on, and whoever has what this returns answers.
    pub(crate) fn ask(&mut self) -> Result<Pauses> {
        let sensor = &self.sensor;
        Ok(self.enforcer.ask(|name| sensor.map(name))?)
    }

    /// What was recorded since the last call.
    pub(crate) fn read(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.sensor.read(&mut events, 1 << 12);
        events
    }

    /// Nothing is judged any more.
    pub(crate) fn withdraw(&mut self) -> Result<()> {
        Ok(self.enforcer.withdraw(SESSION_PROFILE)?)
    }

    /// Throws away what was recorded, so that the rings are not full. Who acts meanwhile may record faster than this.
    pub(crate) fn drain(&mut self) {
        self.sensor.read(&mut Vec::new(), 1 << 16);
    }
}
