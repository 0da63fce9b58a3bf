//! The rooms of `defenseclaw`. Imports run one way; `cargo xtask tidy` checks the table in ARCHITECTURE.md.
//!
//! Pure: `model`, `tree`, `policy`, `correlate`, `approvals`, `pipeline`, `report`, `connectors`. Edges: `api`, `hook`, `sensor`, `enforce`, `launcher`, `installer`, `store`, `telemetry`, `config`.
//! On top: `cli` and `runtime`.

pub mod api;
pub mod approvals;
pub mod cli;
pub mod config;
pub mod connectors;
pub mod correlate;
pub mod enforce;
pub mod hook;
pub mod installer;
pub mod launcher;
pub mod model;
pub mod pipeline;
pub mod policy;
pub mod report;
pub mod resolver;
pub mod runtime;
pub mod sensor;
pub mod store;
pub mod telemetry;
pub mod tree;
