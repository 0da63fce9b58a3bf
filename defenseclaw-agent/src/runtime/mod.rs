//! Start-up order, the loop, shutdown: the only room that knows every other one.

mod changes;
pub mod clock;
mod confine;
mod diagnose;
mod guard;
mod handed;
mod host;
mod pace;
mod policy;
mod rootless;
mod run;
mod watch;

pub use confine::ConfineError;
pub use diagnose::{Check, Diagnosis, diagnose};
pub use guard::RuleVerdicts;
pub use policy::{PolicyOptions, PolicyRejected, PolicySource};
pub use run::{RunError, RunOptions, RunOutcome, RunStats, run};

pub use crate::{
    launcher::{
        UserChoice, choose_user, finish_like,
        landlock::{LandlockChoice, LandlockLevel, Siblings},
    },
    sensor::SensorOptions,
};
