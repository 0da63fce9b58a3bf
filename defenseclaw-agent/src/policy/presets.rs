//! The presets that come with the binary, and the cases that say what they do.

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

/// Files of cases: name and text.
pub const CASES: &[(&str, &str)] = &[
    ("ordinary.yaml", include_str!("../../../policies/tests/ordinary.yaml")),
    ("protected.yaml", include_str!("../../../policies/tests/protected.yaml")),
    ("observe.yaml", include_str!("../../../policies/tests/observe.yaml")),
    ("strict.yaml", include_str!("../../../policies/tests/strict.yaml")),
    ("texts.yaml", include_str!("../../../policies/tests/texts.yaml")),
];
