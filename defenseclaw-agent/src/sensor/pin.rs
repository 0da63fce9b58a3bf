//! Programs that outlive the process that loaded them: names in the BPF file system for every map and every attachment,
//! and taking over what another process has left there. Programs need no names of their own: their attachments and the
//! table of system calls hold them. Says nothing about sessions, and makes no directories but two.

use std::{
    collections::BTreeSet,
    fs,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, IterableMap, Map, MapData},
    pin::PinError,
    programs::{
        Program,
        links::{FdLink, LinkError, PinnedLink},
    },
};

use super::{Accounted, Sensor, SensorError, counters::Counting, hooks, map_error, refusal, ring::Rings};
use crate::model::{CapabilityState, Protection};

const MAPS: &str = "maps";
const LINKS: &str = "links";
/// A map of our own making with one word: where the programs' hashes start. They have it as a constant, and nobody else.
const SEED: &str = "SEED";

/// Where the programs and their maps are.
pub(super) enum Programs {
    /// This process has loaded them.
    Loaded(Ebpf),
    /// Another one has, and has left them here.
    Pinned(PathBuf),
}

impl Programs {
    /// A handle of a map that nobody has taken.
    pub(super) fn map(&self, name: &str) -> Option<MapData> {
        match self {
            Self::Loaded(object) => another(data(object.map(name)?)?),
            Self::Pinned(directory) => MapData::from_pin(directory.join(MAPS).join(name)).ok(),
        }
    }

    /// A program that is still to be attached.
    pub(super) fn program(&mut self, name: &str) -> Option<&mut Program> {
        match self {
            Self::Loaded(object) => object.program_mut(name),
            Self::Pinned(_) => None,
        }
    }
}

/// A second handle.
pub(super) fn another(map: &MapData) -> Option<MapData> {
    of_descriptor(map.fd().as_fd())
}

fn of_descriptor(descriptor: BorrowedFd<'_>) -> Option<MapData> {
    MapData::from_fd(descriptor.try_clone_to_owned().ok()?).ok()
}

/// What is in the types that our maps have.
pub(super) fn data(map: &Map) -> Option<&MapData> {
    if let Map::Array(data)
    | Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::PerCpuArray(data)
    | Map::ProgramArray(data)
    | Map::RingBuf(data) = map
    {
        Some(data)
    } else {
        None
    }
}

/// Attachments by the name of their program. Dropping one that is not pinned detaches it.
#[derive(Debug, Default)]
pub(super) struct Links(Vec<(String, FdLink)>);

impl Links {
    pub(super) fn add(&mut self, program: &str, link: FdLink) {
        self.0.push((program.to_owned(), link));
    }

    pub(super) fn hold<L>(&mut self, program: &str, link: L) -> Result<(), LinkError>
    where
        FdLink: TryFrom<L, Error = LinkError>,
    {
        self.add(program, FdLink::try_from(link)?);
        Ok(())
    }
}

impl Sensor {
    /// Programs that are attached: what [`Sensor::adopt`] expects to find.
    pub fn attached(&self) -> Vec<String> {
        self.links.0.iter().map(|(program, _)| program.clone()).collect()
    }

    /// Gives everything a name below this directory of a BPF file system: from now on the programs stay attached until
    /// the names are removed. Attachments come last, so that where they are, everything is.
    pub fn pin(&mut self, directory: &Path) -> Result<(), SensorError> {
        let maps = make(directory.join(MAPS))?;
        let links = make(directory.join(LINKS))?;
        if let Programs::Loaded(object) = &self.programs {
            for (name, map) in object.maps() {
                // The file system keeps names with dots to itself.
                let path = maps.join(name.trim_start_matches('.').replace('.', "_"));
                map.pin(&path).map_err(failed("pin a map at", &path))?;
            }
        }
        let pin = |name: &str, map: &MapData| {
            let path = maps.join(name);
            map.pin(&path).map_err(failed("pin a map at", &path))
        };
        pin("SCOPE", self.scope.map())?;
        pin("COUNTERS", self.counters.map())?;
        for (name, descriptor) in self.rings.descriptors() {
            pin(name, &of_descriptor(descriptor).ok_or_else(|| refusal::no_map(name))?)?;
        }
        if let Some(syscalls) = &self.syscalls {
            pin("SYSCALLS", syscalls)?;
        }
        let mut seed = Array::<_, u64>::create(1, 0).map_err(map_error("make the map of the seed"))?;
        seed.set(0, self.seed, 0).map_err(map_error("write the map of the seed"))?;
        pin(SEED, IterableMap::map(&seed))?;
        for (program, link) in std::mem::take(&mut self.links.0) {
            let path = links.join(&program);
            let pinned = link.pin(&path).map_err(failed("pin an attachment at", &path))?;
            self.links.0.push((program, pinned.into()));
        }
        Ok(())
    }

    /// Takes over what another process has pinned, while it stays attached: these programs are expected to be, and the
    /// audit has that much. What is not attached any more stands in [`Sensor::protection`].
    pub fn adopt(
        directory: &Path,
        expected: &[String],
        mut protection: Protection,
        accounted: &Accounted,
    ) -> Result<Self, SensorError> {
        let maps = directory.join(MAPS);
        let map = |name: &'static str| {
            let path = maps.join(name);
            MapData::from_pin(&path).and_then(Map::from_map_data).map_err(|error| SensorError::Pin {
                operation: "open the map at",
                path,
                reason: error.to_string(),
            })
        };
        let scope = HashMap::try_from(map("SCOPE")?).map_err(map_error("open the scope map"))?;
        let seed = Array::<_, u64>::try_from(map(SEED)?).and_then(|seed| seed.get(&0, 0));
        let mut links = Links::default();
        let mut missing = BTreeSet::new();
        for program in expected {
            match PinnedLink::from_pin(directory.join(LINKS).join(program)) {
                Ok(link) => links.add(program, link.into()),
                Err(_) => drop(missing.insert(hooks::capability(program))),
            }
        }
        for capability in &mut protection.capabilities {
            if missing.contains(&capability.name) {
                capability.state = CapabilityState::Missing;
                "it was taken off while nobody watched".clone_into(&mut capability.reason);
            }
        }
        Ok(Self {
            rings: Rings::open(map)?,
            counters: Counting::resume(map("COUNTERS")?, accounted)?,
            scope,
            running: super::running::Running::default(),
            seed: seed.map_err(map_error("read the map of the seed"))?,
            judges: true,
            // It has a name, which holds it open.
            syscalls: None,
            programs: Programs::Pinned(directory.to_owned()),
            links,
            protection,
        })
    }

    /// Capability names of the programs among `expected` that are not attached any more.
    pub fn missing(&self, expected: &[String]) -> Vec<String> {
        let held = |program: &String| self.links.0.iter().any(|(held, _)| held == program);
        expected.iter().filter(|program| !held(program)).map(|program| hooks::capability(program)).collect()
    }
}

fn make(directory: PathBuf) -> Result<PathBuf, SensorError> {
    match fs::DirBuilder::new().mode(0o700).create(&directory) {
        Ok(()) => Ok(directory),
        Err(error) => Err(SensorError::Pin { operation: "make", path: directory, reason: error.to_string() }),
    }
}

fn failed<'a>(operation: &'static str, path: &'a Path) -> impl Fn(PinError) -> SensorError + 'a {
    move |error| {
        let reason = match &error {
            PinError::SyscallError(error) => error.io_error.to_string(),
            PinError::NoFd { .. } | PinError::InvalidPinPath { .. } => error.to_string(),
        };
        SensorError::Pin { operation, path: path.to_owned(), reason }
    }
}
