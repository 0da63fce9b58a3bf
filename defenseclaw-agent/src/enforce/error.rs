//! What can go wrong on the way into the kernel's maps, in words that name the rule or the map.

use std::io;

/// A policy could not be put in force, or what is in force not be read.
#[derive(Debug, thiserror::Error)]
pub enum EnforceError {
    /// A rule, or a part of it, that the kernel's maps cannot hold.
    #[error("the kernel cannot hold rule `{rule}`: {reason}")]
    Rule {
        /// Its id.
        rule: String,
        /// What is too much, and what to do.
        reason: String,
    },
    /// The programs lack a map.
    #[error("the BPF programs have no map {map}, so no policy can be enforced with them; build them again")]
    NoMap {
        /// Its name.
        map: &'static str,
    },
    /// A map of another shape.
    #[error("map {map} of the BPF programs is not as this program knows it: {reason}; build them again")]
    Shape {
        /// Its name.
        map: &'static str,
        /// What differs.
        reason: String,
    },
    /// A map has no room.
    #[error(
        "map {map} is full at rule `{rule}`; the policy before it stays in force: shorten the policy, or protect fewer \
         files by inode"
    )]
    Full {
        /// Its name.
        map: &'static str,
        /// Rule of the row that did not fit.
        rule: String,
    },
    /// The kernel refused an operation.
    #[error("cannot {operation} map {map}: {reason}; the policy before it stays in force")]
    Map {
        /// What was tried.
        operation: &'static str,
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        reason: String,
    },
    /// What resolved names say could not be handed over with the policy.
    #[error("cannot make resolved names ready: {reason}; the policy before it stays in force")]
    Names {
        /// Why not.
        reason: String,
    },
    /// No such profile.
    #[error("profile {profile} does not exist; there are {}", defenseclaw_ebpf::image::PROFILES)]
    Profile {
        /// Its number.
        profile: u32,
    },
    /// The system.
    #[error("cannot {step}: {source}")]
    System {
        /// What was tried.
        step: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}
