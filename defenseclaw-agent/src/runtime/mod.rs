//! Start-up order, the loop, shutdown: the only room that knows every other one.

pub mod clock;
mod diagnose;
mod host;
mod pace;
mod run;
mod watch;

pub use diagnose::{Check, Diagnosis, diagnose};
pub use run::{RunError, RunOptions, RunOutcome, RunStats, run};

pub use crate::{
    launcher::{UserChoice, choose_user, finish_like},
    sensor::SensorOptions,
};
