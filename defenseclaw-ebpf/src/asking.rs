//! What lies in maps while a person is asked: who is stopped and for what, and what was answered before. Used by both sides.
//! What stops and judges is in `pause.rs` of the programs; who asks and answers is user space.

/// Row of map `PAUSES`, by thread (`tgid << 32 | tid`; a held program has its leader's): one question that has no answer
/// yet, or whose answer has not been taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Pause {
    /// Hash of what is asked about.
    pub object: u64,
    /// Start of the process: with the key its identity.
    pub start_ns: u64,
    /// When it was asked, nanoseconds of `CLOCK_BOOTTIME`.
    pub since_ns: u64,
    /// From the label.
    pub session: u64,
    /// Generation of the policy that asked.
    pub generation: u64,
    /// What would be done: see [`what`].
    pub what: u32,
    /// Number of the rule.
    pub rule: u32,
    /// One of [`state`].
    pub state: u32,
    /// Hooks of one system call that have taken the answer: bits.
    pub used: u32,
    /// How often it was woken without an answer. User space sets it back when it was the one.
    pub stops: u32,
    /// Bits of [`pause_flags`].
    pub flags: u32,
}

/// Values of [`Pause::state`].
pub mod state {
    /// Nobody has answered.
    pub const WAITING: u32 = 1;
    /// It may happen.
    pub const ALLOW: u32 = 2;
    /// It may not.
    pub const BLOCK: u32 = 3;
    /// A program that is about to start, and to be stopped then.
    pub const STARTING: u32 = 4;
    /// It could not be stopped and was refused: nobody waits, but user space finds here what a grant is for.
    pub const REFUSED: u32 = 5;
}

/// Bits of [`Pause::flags`].
pub mod pause_flags {
    /// A program before its first instruction, not a system call.
    pub const HELD: u32 = 1;
    /// What becomes of it without an answer: it happens.
    pub const FALLBACK_ALLOW: u32 = 1 << 1;
}

/// What would be done, as a word: effects of an operation on a path (bits of [`super::image::effect`]), or [`what::KIND`] and
/// the number of a [`super::Kind`].
pub mod what {
    /// Not an operation on a path.
    pub const KIND: u32 = 1 << 31;
    /// A program that is held did something: nothing is asked about it.
    pub const HELD: u32 = 1 << 30;
}

/// Key of what was answered for more than once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct GrantKey {
    /// As in [`Pause`].
    pub session: u64,
    /// As in [`Pause`].
    pub object: u64,
    /// Numbers of rules mean something within a policy only.
    pub generation: u64,
    /// As in [`Pause`].
    pub what: u32,
    /// As in [`Pause`].
    pub rule: u32,
}

/// An answer that holds until it expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Granted {
    /// Nanoseconds of `CLOCK_BOOTTIME`.
    pub expires_ns: u64,
    /// 1: it may happen.
    pub allow: u64,
}

/// Threads that can be stopped at once; more get the fallback.
pub const PAUSES_MAX: usize = 4096;
/// Answers kept in the kernel; more are asked for each time.
pub const GRANTS_MAX: usize = 8192;
/// Numbers of system calls that are known to restart as if nothing had happened, for some kinds: rows of map `PAUSABLE`,
/// each a bit for each [`super::Kind`].
pub const SYSCALLS: usize = 512;
/// Wake-ups by others before the fallback applies.
pub const STOPS_MAX: u32 = 16;
/// Number of the rule in the image of held programs.
pub const HELD_RULE: u16 = 0xfffe;

const _: () = assert!(size_of::<Pause>() == 64);
const _: () = assert!(size_of::<GrantKey>() == 32);
