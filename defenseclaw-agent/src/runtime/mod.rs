//! Start-up order, the loop, shutdown: the only room that knows every other one.

pub mod clock;
mod confine;
mod diagnose;
mod host;
mod pace;
mod rootless;
mod run;
mod watch;

pub use confine::{ConfineError, PolicyOptions};
pub use diagnose::{Check, Diagnosis, diagnose};
pub use run::{RunError, RunOptions, RunOutcome, RunStats, run};

pub use crate::{
    launcher::{
        UserChoice, choose_user, finish_like,
        landlock::{LandlockChoice, LandlockLevel, Siblings},
    },
    sensor::SensorOptions,
};
