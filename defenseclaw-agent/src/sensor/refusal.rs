//! What a refusal of the kernel means: which capability is missing, which level is left, which error ends the start.
//! Decides only, over what `load.rs` was told; touches no kernel.

use std::{error::Error, io};

use aya::{BtfError, EbpfError, programs::ProgramError};

use super::{
    SensorError, hooks,
    hooks::{Hook, Place},
};
use crate::model::{Capability, CapabilityState, Level};

/// Why one program is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The kernel answered EPERM. It says so to those without the capabilities, and on hosts that allow nobody.
    pub(super) denied: bool,
    /// What was said, in one line.
    pub(super) text: String,
}

/// A program without which its level cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) hook: String,
    pub(super) refusal: Refusal,
}

impl From<String> for Refusal {
    fn from(text: String) -> Self {
        Self { denied: false, text }
    }
}

impl From<&ProgramError> for Refusal {
    fn from(error: &ProgramError) -> Self {
        Self { denied: denied(error), text: reason(error) }
    }
}

impl Missing {
    /// The level that remains when this was a program of level `lsm`, and why.
    pub(super) fn below_lsm(&self) -> (Level, String) {
        (Level::Tracepoint, format!("`{}` could not be attached: {}", self.hook, self.refusal.text))
    }
}

/// Where no level remains.
impl From<Missing> for SensorError {
    fn from(Missing { hook, refusal: Refusal { denied, text: reason } }: Missing) -> Self {
        if denied { Self::Privileges(format!("`{hook}`: {reason}")) } else { Self::Required { hook, reason } }
    }
}

impl Hook {
    pub(super) fn capability(&self) -> String {
        match self.place {
            Place::Tracepoint(name) if self.program == "process_start" => format!("hold/{name}"),
            Place::Tracepoint(name) => format!("tp_btf/{name}"),
            Place::Lsm(name) => format!("lsm/{name}"),
            Place::Fentry(name) => format!("fentry/{name}"),
        }
    }
}

/// What a hook's outcome adds to the capability table; an error if the level cannot do without it.
pub(super) fn of_hook(hook: &Hook, outcome: Result<(), Refusal>) -> Result<Capability, Missing> {
    let name = hook.capability();
    match outcome {
        Err(refusal) if hook.required => Err(Missing { hook: name, refusal }),
        Err(refusal) => {
            let instead = hooks::REPLACED_BEFORE.iter().find(|(program, _)| *program == hook.program);
            Ok(match instead {
                Some((_, instead)) => Capability {
                    name,
                    state: CapabilityState::Degraded,
                    reason: format!("{instead} ({})", refusal.text),
                },
                None => capability(&name, Some(refusal.text)),
            })
        }
        Ok(()) => Ok(capability(&name, None)),
    }
}

/// A line of the capability table.
pub(super) fn capability(name: &str, missing: Option<String>) -> Capability {
    Capability {
        name: name.to_owned(),
        state: if missing.is_some() { CapabilityState::Missing } else { CapabilityState::Available },
        reason: missing.unwrap_or_default(),
    }
}

/// What a level cannot see by its nature, as lines of the table.
pub(super) fn blind_spots(level: Level) -> impl Iterator<Item = Capability> {
    let of_level = if level == Level::Lsm { hooks::BLIND_LSM } else { hooks::BLIND_TRACEPOINT };
    hooks::BLIND_EVERYWHERE
        .iter()
        .chain(of_level)
        .map(|(name, reason)| capability(name, Some((*reason).to_owned())))
}

/// The object to load, if this binary has one.
pub(super) fn object(bytes: &[u8]) -> Result<&[u8], SensorError> {
    if bytes.is_empty() { Err(SensorError::NoObject) } else { Ok(bytes) }
}

/// A map the object must have.
pub(super) fn no_map(name: &str) -> SensorError {
    SensorError::Object(format!("it has no map {name}"))
}

pub(super) fn of_btf(error: &BtfError) -> SensorError {
    SensorError::Btf(chain(error))
}

/// Of the object as a whole. Its maps come first, so who may not use bpf at all ends here.
pub(super) fn of_object(error: &EbpfError) -> SensorError {
    match causes(error).find_map(|cause| cause.downcast_ref::<io::Error>()) {
        Some(io) if io.kind() == io::ErrorKind::PermissionDenied => SensorError::Privileges(chain(error)),
        _ => SensorError::Object(chain(error)),
    }
}

/// EPERM alone: EACCES is what the verifier says of a program it finds unsafe.
fn denied(error: &(dyn Error + 'static)) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|io| io.raw_os_error() == Some(libc::EPERM))
}

/// What the kernel said, in one line.
pub(super) fn reason(error: &ProgramError) -> String {
    if let ProgramError::LoadError { io_error, verifier_log } = error {
        return match verdict(&verifier_log.to_string()) {
            Some(line) => format!("{io_error}: {line}"),
            None => io_error.to_string(),
        };
    }
    chain(error)
}

/// Of a verifier log the last line that is not a statistic.
fn verdict(log: &str) -> Option<&str> {
    const STATISTICS: [&str; 3] = ["processed ", "stack depth ", "verification time "];
    log.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty() && !STATISTICS.iter().any(|statistic| line.starts_with(statistic)))
}

/// The error and its causes, without repeating what already stands there.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    causes(error).skip(1).fold(error.to_string(), |mut text, cause| {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        text
    })
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| <dyn Error>::source(*error))
}

#[cfg(test)]
mod tests;
