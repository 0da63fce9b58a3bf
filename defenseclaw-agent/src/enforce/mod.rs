//! The writer of the kernel's verdict maps: lays a compiled policy out, swaps it in as a whole, numbers the executables
//! that rules spare, finds protected files by inode, counts verdicts, and says what proves that blocking works. ABI types
//! stay inside this room. It compiles no policy, loads no program, and starts no process.

mod adopt;
mod alias;
mod canary;
mod cells;
mod counters;
mod error;
mod grace;
mod hashes;
mod holds;
mod identity;
mod kill;
mod layout;
mod maps;
mod owners;
mod pause;
mod resolved;
mod running;
#[cfg(test)]
mod sample;
mod swap;
mod words;

pub use alias::PathEntries;
pub use canary::{Attempts, Trap, posture};
pub use counters::VerdictTotals;
pub use error::EnforceError;
pub use holds::{RESOLVER, holds};
pub use identity::{Bounds, Identities, Identity, find as find_identities, identity_of};
pub use kill::Held;
pub use maps::{MAPS, Maps};
pub use pause::{Pauses, Stopped};
pub use resolved::{Coming, Resolutions, Said};
pub use swap::{Enforcer, Swapped};

/// Profile of the one session that an embedded run judges.
pub const SESSION_PROFILE: u32 = 0;
/// Profile of the canary.
pub const CANARY_PROFILE: u32 = {
    // A `u32` in the kernel's label, a length here.
    #[expect(clippy::cast_possible_truncation, reason = "64")]
    let profiles = defenseclaw_ebpf::image::PROFILES as u32;
    profiles - 1
};
