//! Policy: what may be done. Reads YAML text that `config` or `cli` hands over, says every mistake at once, and answers.
//! Pure: no files, no clock, no kernel.
//!
//! Text becomes a [`Policy`] ([`load()`]), a policy with a session's directories, profile and mode a [`Session`]. A session
//! answers ([`evaluate()`], [`Session::judge`]) and is compiled to the [`Image`](image::Image) that the layers below hold.

mod announced;
mod cases;
mod compile;
mod content;
mod diff;
mod evaluate;
pub mod image;
mod layers;
mod load;
mod local;
pub mod lookup;
mod network;
mod object;
mod pattern;
mod presets;
mod problem;
mod rule;
mod session;
mod yaml;

pub use announced::{Announced, Whereabouts, announced};
pub use cases::{Outcome, Suite, suite};
pub use compile::compile;
pub use content::{
    Detector, Kind as DetectorKind, Match as TextMatch, TextPattern, TextPatterns, detect, inspect,
};
pub use diff::{Difference, OperationChange, RuleChange, diff};
pub use evaluate::{evaluate, stricter};
pub use layers::{Held, Landlock, Layers, held};
pub use load::load;
pub use local::{Addition, Local, add};
pub use network::{HostPattern, Network, canonical, labels};
pub use object::{Actor, Object};
pub use pattern::{DEPTH_MAX, Template, components};
pub use presets::{CASES, NAMES as PRESETS, preset};
pub use problem::{Position, Problem, Source};
pub use rule::{At, Defaults, Matches, Policy, Profile, Rule, Settings, Spared, Subject, Thresholds};
pub use session::{Bindings, Session};
pub use yaml::SIZE_MAX;

/// How YAML with positions is read, for other files of ours that are YAML.
pub(crate) mod document {
    pub(crate) use super::{
        load::fields::{Fields, Reader},
        problem::Problems,
        yaml::{Node, parse},
    };
}
