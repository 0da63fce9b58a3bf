//! Start-up order, the loop, shutdown: the only room that knows every other one.

mod adopt;
mod asking;
mod begin;
mod changes;
pub mod clock;
mod confine;
mod daemon;
mod diagnose;
mod evasion;
mod guard;
mod guardian;
mod handed;
mod host;
mod manifest;
mod names;
mod pace;
mod persist;
mod policy;
mod recorder;
mod rootless;
mod run;
mod watch;
mod word;

pub use adopt::{Adopted, adopt, release};
pub use asking::AskingError;
pub use confine::ConfineError;
pub use daemon::{DaemonError, daemon};
pub use diagnose::{Check, Diagnosis, diagnose};
pub use guard::RuleVerdicts;
pub use guardian::guard;
pub use persist::{PersistError, PersistentSession, persistent_sessions};
pub use policy::{PolicyOptions, PolicyRejected, PolicySource};
pub use run::{RunError, RunOptions, RunOutcome, RunStats, run};

pub use crate::{
    api::{
        Client, ClientError, EXPIRES_MAX, Granted, Lasting, MESSAGE_MAX, Open, Page, Pending, Question, Said,
        Since, Wanted,
    },
    launcher::{
        UserChoice, choose_user, finish_like,
        landlock::{LandlockChoice, LandlockLevel, Siblings},
    },
    resolver::ResolverStats,
    sensor::SensorOptions,
};
