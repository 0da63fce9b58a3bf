//! The presets that come with the binary.

/// Their names.
pub const NAMES: &[&str] = &["observe", "default", "strict"];

/// The text of a preset.
pub fn preset(name: &str) -> Option<&'static str> {
    match name {
        "observe" => Some(include_str!("../../../policies/observe.yaml")),
        "default" => Some(include_str!("../../../policies/default.yaml")),
        "strict" => Some(include_str!("../../../policies/strict.yaml")),
        _ => None,
    }
}
