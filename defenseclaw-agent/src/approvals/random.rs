//! Any order of anything.
