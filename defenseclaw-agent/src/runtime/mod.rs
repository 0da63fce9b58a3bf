//! Placeholder, filled by its own change.
pub mod clock;
