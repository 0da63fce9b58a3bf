//! Signal dispositions and mask as this process was started with: what the command must be started with, too.
//!
//! They are read before `main`, because Rust's own start-up already ignores SIGPIPE.

use std::{
    mem::MaybeUninit,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
};

use libc::{c_int, sigset_t};

/// Highest signal number of Linux.
pub(super) const LAST_SIGNAL: c_int = 64;

// Bit `n - 1` stands for signal `n`.
static IGNORED: AtomicU64 = AtomicU64::new(0);
static BLOCKED: AtomicU64 = AtomicU64::new(0);

/// Runs as a constructor of the program, single-threaded and before Rust's start-up.
#[used]
#[unsafe(link_section = ".init_array")]
static RECORD: extern "C" fn() = record;

extern "C" fn record() {
    for signal in 1..=LAST_SIGNAL {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: with a null new action the call only writes the old one, into memory that is ours. It fails for the
        // two signals the C library keeps to itself; `action` stays zero then, which is the default disposition.
        let disposition = unsafe {
            libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
            action.assume_init().sa_sigaction
        };
        if disposition == libc::SIG_IGN {
            IGNORED.fetch_or(bit(signal), Ordering::Relaxed);
        }
    }
    let mut mask = MaybeUninit::<sigset_t>::zeroed();
    // SAFETY: with a null new set the call only writes the old one. All zero is a valid, empty set.
    let mask = unsafe {
        libc::sigprocmask(libc::SIG_BLOCK, ptr::null(), mask.as_mut_ptr());
        mask.assume_init()
    };
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: `mask` is initialised.
        if unsafe { libc::sigismember(&raw const mask, signal) } == 1 {
            BLOCKED.fetch_or(bit(signal), Ordering::Relaxed);
        }
    }
}

fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

/// Sets every disposition back. Called between fork and exec: async-signal-safe, does not allocate.
pub(super) fn restore_dispositions() {
    let ignored = IGNORED.load(Ordering::Relaxed);
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: all zero is a valid action without flags or handler; sigaction is async-signal-safe. It refuses
        // KILL, STOP and the C library's own signals, which have nothing to set back.
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = if ignored & bit(signal) == 0 { libc::SIG_DFL } else { libc::SIG_IGN };
            libc::sigaction(signal, &raw const action, ptr::null_mut());
        }
    }
}

/// Sets the mask back. Called between fork and exec: async-signal-safe, does not allocate.
pub(super) fn restore_mask() {
    let mask = sigset(|signal| BLOCKED.load(Ordering::Relaxed) & bit(signal) != 0);
    // SAFETY: `mask` is initialised; sigprocmask is async-signal-safe.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const mask, ptr::null_mut()) };
}

/// The set of signals for which `member` holds. Does not allocate.
pub(super) fn sigset(member: impl Fn(c_int) -> bool) -> sigset_t {
    let mut set = MaybeUninit::<sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set before anything reads it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in (1..=LAST_SIGNAL).filter(|signal| member(*signal)) {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        set.assume_init()
    }
}
