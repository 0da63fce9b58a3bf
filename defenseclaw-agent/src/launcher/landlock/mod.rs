//! Landlock for what we start: policy, as far as Landlock can say it, becomes a domain that the command is born in.
//!
//! Landlock only ever allows, so three rules shape everything here. What policy allows stays possible, whatever that
//! leaves open; a rule that cannot be said is left to other layers and reported ([`LandlockPlan::rules`]); and what is
//! in force is tried from inside before the command runs ([`ProtectionRow::verified`]).
//!
//! The plan is a pure function; [`Domain::open`] opens what it names, while we still may, and makes the ruleset; the
//! child takes it on before its gate opens. `docs/landlock.md` is for users.
//!
//! [`ProtectionRow::verified`]: crate::model::ProtectionRow::verified

mod abi;
mod choice;
mod domain;
mod files;
mod holds;
mod path;
mod places;
mod plan;
mod ports;
mod selftest;
mod verdict;

pub use abi::Abi;
pub use choice::{LandlockChoice, choose_level};
pub(super) use domain::ChildDomain;
pub use domain::{Domain, LandlockError};
pub use files::{Class, FilePlan, Leak, Siblings, Skipped};
pub use path::Path;
pub use places::{Disk, Kind, Places};
pub use plan::{LandlockLevel, LandlockPlan, PlanOptions, Wanted};

#[cfg(test)]
mod tests;
