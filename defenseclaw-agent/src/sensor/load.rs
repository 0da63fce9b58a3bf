//! Loading and attaching: one program at a time, so that one the kernel refuses costs only what it observes.

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, ProgramArray},
    programs::{BtfTracePoint, FEntry, Lsm, ProgramError, links::FdLink},
};
use sha2::{Digest, Sha256};
use tracing::debug;

use defenseclaw_ebpf::{KINDS, SCRATCH_SLOTS};

use super::{
    Sensor, SensorError, SensorOptions, counters, hooks,
    hooks::{Hook, Place},
    level,
    pin::{self, Links, Programs},
    refusal::{self, Missing, Refusal},
    ring,
};
use crate::model::{Capability, Level, Protection};

/// The object, aligned for the ELF reader. Empty if it was not built; see build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/defenseclaw.bpf.o"));

/// SHA-256 of the programs, hexadecimal: which build loaded them.
pub fn object_digest() -> String {
    use std::fmt::Write;
    Sha256::digest(OBJECT).iter().fold(String::new(), |mut digest, byte| {
        // Writing to a String cannot fail.
        write!(digest, "{byte:02x}").ok();
        digest
    })
}

pub(super) fn load(options: &SensorOptions) -> Result<Sensor, SensorError> {
    let bytes = refusal::object(OBJECT)?;
    let btf = Btf::from_sys_fs().map_err(|error| refusal::of_btf(&error))?;
    let processors = processors()?;
    let seed = seed()?;
    let judges = u64::from(options.judge);
    let mut object = EbpfLoader::new()
        .btf(Some(&btf))
        .override_global("SEED", &seed, true)
        .override_global("JUDGES", &judges, true)
        .map_max_entries("COUNTERS", rows(processors, KINDS))
        .map_max_entries("SCRATCH", rows(processors, SCRATCH_SLOTS))
        .map_max_entries("SCOPE", options.processes)
        .map_max_entries("BULK", options.bulk_ring)
        .map_max_entries("PRIORITY", options.priority_ring)
        .load(bytes)
        .map_err(|error| refusal::of_object(&error))?;

    let (mut level, mut level_reason) = level::detect();
    let (mut capabilities, mut links) = (Vec::new(), Links::default());
    if level == Level::Lsm
        && let Err(missing) = attach_lsm(&mut object, &btf, options.judge, &mut capabilities, &mut links)
    {
        (level, level_reason) = missing.below_lsm();
        capabilities.clear();
        links = Links::default();
    }
    let syscalls = match level {
        Level::Lsm => None,
        Level::Fentry | Level::Tracepoint | Level::None => {
            Some(attach_syscalls(&mut object, &btf, &mut capabilities, &mut links)?)
        }
    };
    if options.judge && level != Level::Lsm {
        for hook in hooks::HOLDING {
            attach_into(&mut object, &btf, hook, &mut capabilities, &mut links)?;
        }
    }
    // Last, so that enrolment works only once everything watches.
    for hook in hooks::COMMON {
        attach_into(&mut object, &btf, hook, &mut capabilities, &mut links)?;
    }
    capabilities.extend(refusal::blind_spots(level));

    let mut take = |name: &'static str| object.take_map(name).ok_or_else(|| refusal::no_map(name));
    let scope = HashMap::try_from(take("SCOPE")?).map_err(super::map_error("open the scope map"))?;
    Ok(Sensor {
        rings: ring::Rings::open(&mut take)?,
        counters: counters::Counting::open(take("COUNTERS")?)?,
        scope,
        running: super::running::Running::default(),
        seed,
        judges: options.judge,
        syscalls,
        programs: Programs::Loaded(object),
        links,
        protection: Protection { level, level_reason, capabilities, table: Vec::new(), rules: Vec::new() },
    })
}

/// Where hashes of paths and addresses start. A secret: who knew it could look for names that share a hash.
fn seed() -> Result<u64, SensorError> {
    let mut seed = [0; 8];
    getrandom::fill(&mut seed)
        .map_err(|error| SensorError::Map { operation: "choose a secret", reason: error.to_string() })?;
    Ok(u64::from_ne_bytes(seed).max(1))
}

/// How many processors this machine can have.
fn processors() -> Result<usize, SensorError> {
    aya::util::nr_cpus().map_err(|(file, error)| SensorError::Map {
        operation: "count the processors",
        reason: format!("{file}: {error}"),
    })
}

fn rows(processors: usize, each: usize) -> u32 {
    u32::try_from(processors.saturating_mul(each)).unwrap_or(u32::MAX)
}

fn attach_lsm(
    object: &mut Ebpf,
    btf: &Btf,
    judge: bool,
    capabilities: &mut Vec<Capability>,
    links: &mut Links,
) -> Result<(), Missing> {
    let judging = if judge { hooks::JUDGING } else { &[] };
    for hook in hooks::LSM.iter().chain(judging) {
        attach_into(object, btf, hook, capabilities, links)?;
    }
    Ok(())
}

/// Fills the jump table before the program that jumps is attached. The table must stay open: the kernel empties it when
/// user space lets go of it.
fn attach_syscalls(
    object: &mut Ebpf,
    btf: &Btf,
    capabilities: &mut Vec<Capability>,
    links: &mut Links,
) -> Result<MapData, SensorError> {
    let table = object.take_map("SYSCALLS").ok_or_else(|| refusal::no_map("SYSCALLS"))?;
    let held = pin::data(&table).and_then(pin::another).ok_or_else(|| refusal::no_map("SYSCALLS"))?;
    let mut table = ProgramArray::try_from(table).map_err(super::map_error("open the system call table"))?;
    let mut hooked = [0_u64; 8];
    for (program, calls) in hooks::SYSCALLS {
        let loaded = load_syscall(object, btf, program);
        for (name, number) in *calls {
            let set = match &loaded {
                Ok(fd) => u32::try_from(*number).map_err(|error| error.to_string()).and_then(|index| {
                    table.set(index, fd, 0).map_err(|error| refusal::chain(&error))?;
                    if let Some(word) = hooked.get_mut(index as usize >> 6) {
                        *word |= 1 << (index & 63);
                    }
                    Ok(())
                }),
                Err(error) => Err(error.clone()),
            };
            capabilities.push(refusal::capability(&format!("syscall/{name}"), set.err()));
        }
    }
    let map = object.map_mut("HOOKED").ok_or_else(|| refusal::no_map("HOOKED"))?;
    Array::<_, [u64; 8]>::try_from(map)
        .and_then(|mut calls| calls.set(0, hooked, 0))
        .map_err(super::map_error("say which system calls are hooked"))?;
    attach_into(object, btf, &hooks::SYSCALL_EXIT, capabilities, links)?;
    Ok(held)
}

fn load_syscall(object: &mut Ebpf, btf: &Btf, name: &str) -> Result<aya::programs::ProgramFd, String> {
    let program: &mut BtfTracePoint = object
        .program_mut(name)
        .ok_or_else(|| format!("the object has no program {name}"))?
        .try_into()
        .map_err(|error: ProgramError| refused(&error).text)?;
    program.load("sys_exit", btf).map_err(|error| refused(&error).text)?;
    let fd = program.fd().map_err(|error| refused(&error).text)?;
    fd.try_clone().map_err(|error| error.to_string())
}

fn attach_into(
    object: &mut Ebpf,
    btf: &Btf,
    hook: &Hook,
    capabilities: &mut Vec<Capability>,
    links: &mut Links,
) -> Result<(), Missing> {
    let attached = attach(object, btf, hook).map(|link| links.add(hook.program, link));
    capabilities.push(refusal::of_hook(hook, attached)?);
    Ok(())
}

fn attach(object: &mut Ebpf, btf: &Btf, hook: &Hook) -> Result<FdLink, Refusal> {
    let program = object
        .program_mut(hook.program)
        .ok_or_else(|| format!("the object has no program {}", hook.program))?;
    let done = match hook.place {
        Place::Tracepoint(name) => <&mut BtfTracePoint>::try_from(program).and_then(|program| {
            program.load(name, btf)?;
            let id = program.attach()?;
            program.take_link(id).map(FdLink::from)
        }),
        Place::Lsm(name) => <&mut Lsm>::try_from(program).and_then(|program| {
            program.load(name, btf)?;
            let id = program.attach()?;
            program.take_link(id).map(FdLink::from)
        }),
        Place::Fentry(name) => <&mut FEntry>::try_from(program).and_then(|program| {
            program.load(name, btf)?;
            let id = program.attach()?;
            program.take_link(id).map(FdLink::from)
        }),
    };
    done.map_err(|error| refused(&error))
}

fn refused(error: &ProgramError) -> Refusal {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        debug!(%io_error, log = %verifier_log, "the kernel refused a program");
    }
    let refusal = Refusal::from(error);
    debug!(reason = refusal.text, "not attached");
    refusal
}
