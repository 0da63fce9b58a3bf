//! Loading and attaching: one program at a time, so that one the kernel refuses costs only what it observes.

use std::{error::Error, io};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{HashMap, MapData, ProgramArray},
    programs::{BtfTracePoint, FEntry, Lsm, ProgramError},
};
use tracing::debug;

use super::{
    Sensor, SensorError, SensorOptions, counters, hooks,
    hooks::{Hook, Place},
    level, ring,
};
use crate::model::{Capability, CapabilityState, Level, Protection};

/// The object, aligned for the ELF reader. Empty if it was not built; see build.rs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/defenseclaw.bpf.o"));

pub(super) fn load(options: &SensorOptions) -> Result<Sensor, SensorError> {
    if OBJECT.is_empty() {
        return Err(SensorError::NoObject);
    }
    let btf = Btf::from_sys_fs().map_err(|error| SensorError::Btf(chain(&error)))?;
    let mut object = EbpfLoader::new()
        .btf(Some(&btf))
        .map_max_entries("SCOPE", options.processes)
        .map_max_entries("BULK", options.bulk_ring)
        .map_max_entries("PRIORITY", options.priority_ring)
        .load(OBJECT)
        .map_err(|error| object_error(&error))?;

    let (mut level, mut level_reason) = level::detect();
    let mut capabilities = Vec::new();
    if level == Level::Lsm {
        match attach_lsm(&mut object, &btf, &mut capabilities) {
            Ok(()) => {}
            Err(SensorError::Required { hook, reason }) => {
                level = Level::Tracepoint;
                level_reason = format!("`{hook}` could not be attached: {reason}");
                capabilities.clear();
            }
            Err(other) => return Err(other),
        }
    }
    let syscalls = match level {
        Level::Lsm => None,
        Level::Fentry | Level::Tracepoint => Some(attach_syscalls(&mut object, &btf, &mut capabilities)?),
    };
    // Last, so that enrolment works only once everything watches.
    for hook in hooks::COMMON {
        attach_into(&mut object, &btf, hook, &mut capabilities)?;
    }
    let blind = if level == Level::Lsm { hooks::BLIND_LSM } else { hooks::BLIND_TRACEPOINT };
    capabilities.extend(hooks::BLIND_EVERYWHERE.iter().chain(blind).map(|(name, reason)| Capability {
        name: (*name).to_owned(),
        state: CapabilityState::Missing,
        reason: (*reason).to_owned(),
    }));

    let scope = object.take_map("SCOPE").ok_or_else(|| missing("SCOPE"))?;
    let scope = HashMap::try_from(scope).map_err(super::map_error("open the scope map"))?;
    Ok(Sensor {
        rings: ring::Rings::open(&mut object)?,
        counters: counters::Counting::open(&mut object)?,
        scope,
        _syscalls: syscalls,
        object,
        protection: Protection { level, level_reason, capabilities },
    })
}

fn attach_lsm(object: &mut Ebpf, btf: &Btf, capabilities: &mut Vec<Capability>) -> Result<(), SensorError> {
    for hook in hooks::LSM {
        attach_into(object, btf, hook, capabilities)?;
    }
    Ok(())
}

/// Fills the jump table before the program that jumps is attached. The table must stay open: the kernel empties it when
/// user space lets go of it.
fn attach_syscalls(
    object: &mut Ebpf,
    btf: &Btf,
    capabilities: &mut Vec<Capability>,
) -> Result<ProgramArray<MapData>, SensorError> {
    let table = object.take_map("SYSCALLS").ok_or_else(|| missing("SYSCALLS"))?;
    let mut table = ProgramArray::try_from(table).map_err(super::map_error("open the system call table"))?;
    for (program, calls) in hooks::SYSCALLS {
        let loaded = load_syscall(object, btf, program);
        for (name, number) in *calls {
            let set = match &loaded {
                Ok(fd) => u32::try_from(*number)
                    .map_err(|error| error.to_string())
                    .and_then(|index| table.set(index, fd, 0).map_err(|error| chain(&error))),
                Err(error) => Err(error.clone()),
            };
            capabilities.push(capability(&format!("syscall/{name}"), set.err()));
        }
    }
    attach_into(object, btf, &hooks::SYSCALL_EXIT, capabilities)?;
    Ok(table)
}

fn load_syscall(object: &mut Ebpf, btf: &Btf, name: &str) -> Result<aya::programs::ProgramFd, String> {
    let program: &mut BtfTracePoint = object
        .program_mut(name)
        .ok_or_else(|| format!("the object has no program {name}"))?
        .try_into()
        .map_err(|error: ProgramError| reason(&error))?;
    program.load("sys_exit", btf).map_err(|error| reason(&error))?;
    let fd = program.fd().map_err(|error| reason(&error))?;
    fd.try_clone().map_err(|error| error.to_string())
}

fn attach_into(
    object: &mut Ebpf,
    btf: &Btf,
    hook: &Hook,
    capabilities: &mut Vec<Capability>,
) -> Result<(), SensorError> {
    let name = hook.capability();
    let outcome = attach(object, btf, hook);
    if let Err(reason) = &outcome {
        debug!(hook = name, reason, "not attached");
        if hook.required {
            return Err(SensorError::Required { hook: name, reason: reason.clone() });
        }
    }
    let mut found = capability(&name, outcome.err());
    if let (CapabilityState::Missing, Some((_, instead))) =
        (found.state, hooks::REPLACED_BEFORE.iter().find(|(program, _)| *program == hook.program))
    {
        found.state = CapabilityState::Degraded;
        found.reason = (*instead).to_owned();
    }
    capabilities.push(found);
    Ok(())
}

fn attach(object: &mut Ebpf, btf: &Btf, hook: &Hook) -> Result<(), String> {
    let program = object
        .program_mut(hook.program)
        .ok_or_else(|| format!("the object has no program {}", hook.program))?;
    let done = match hook.place {
        Place::Tracepoint(name) => <&mut BtfTracePoint>::try_from(program).and_then(|program| {
            program.load(name, btf)?;
            program.attach().map(drop)
        }),
        Place::Lsm(name) => <&mut Lsm>::try_from(program).and_then(|program| {
            program.load(name, btf)?;
            program.attach().map(drop)
        }),
        Place::Fentry(name) => <&mut FEntry>::try_from(program).and_then(|program| {
            program.load(name, btf)?;
            program.attach().map(drop)
        }),
    };
    done.map_err(|error| reason(&error))
}

impl Hook {
    fn capability(&self) -> String {
        match self.place {
            Place::Tracepoint(name) => format!("tp_btf/{name}"),
            Place::Lsm(name) => format!("lsm/{name}"),
            Place::Fentry(name) => format!("fentry/{name}"),
        }
    }
}

pub(super) fn capability(name: &str, missing: Option<String>) -> Capability {
    Capability {
        name: name.to_owned(),
        state: if missing.is_some() { CapabilityState::Missing } else { CapabilityState::Available },
        reason: missing.unwrap_or_default(),
    }
}

/// What the kernel said, in one line: of a verifier log the last line that is not a statistic.
pub(super) fn reason(error: &ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        let log = verifier_log.to_string();
        debug!(%io_error, log, "the kernel refused a program");
        let statistics = ["processed ", "stack depth ", "verification time "];
        let said = log
            .lines()
            .rev()
            .find(|line| !line.is_empty() && !statistics.iter().any(|statistic| line.starts_with(statistic)));
        return match said {
            Some(line) => format!("{io_error}: {line}"),
            None => io_error.to_string(),
        };
    }
    chain(error)
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

fn missing(map: &str) -> SensorError {
    SensorError::Object(format!("it has no map {map}"))
}

fn object_error(error: &aya::EbpfError) -> SensorError {
    let mut source: Option<&dyn Error> = Some(error);
    while let Some(inner) = source {
        if let Some(io) = inner.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::PermissionDenied
        {
            return SensorError::Privileges(io.to_string());
        }
        source = inner.source();
    }
    SensorError::Object(chain(error))
}
