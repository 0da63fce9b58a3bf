//! Ends this process as the command ended, so that a shell or script sees no difference.

use std::{mem::MaybeUninit, ptr};

use nix::sys::resource::{Resource, setrlimit};

use super::inherited::sigset;
use crate::model::ExitStatus;

/// What a shell puts in `$?` for this end.
pub fn exit_code(status: ExitStatus) -> u8 {
    match status {
        ExitStatus::Code(code) => code,
        ExitStatus::Signal(signal) => signal.saturating_add(128),
    }
}

/// The very last call of `run`: exits with the command's code, or dies by the signal that killed it, without leaving
/// a core dump of our own. Destructors do not run; everything must be flushed before.
#[expect(clippy::exit, reason = "the one place whose job is to end the process")]
pub fn finish_like(status: ExitStatus) -> ! {
    if let ExitStatus::Signal(signal) = status {
        die_by(libc::c_int::from(signal));
    }
    std::process::exit(i32::from(exit_code(status)))
}

/// Returns if the signal did not kill us, which then has to be said with an exit code.
fn die_by(signal: libc::c_int) {
    // Both are needed: the limit does not hold for core dumps that are piped to a program. Neither can usefully fail:
    // at worst there is a core file too many.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).ok();
    nix::sys::prctl::set_dumpable(false).ok();
    let only = sigset(|member| member == signal);
    // SAFETY: all zero is the default action; the set is initialised. The default action installs no handler, so
    // whatever thread the signal reaches runs no code of ours.
    unsafe {
        let default: libc::sigaction = MaybeUninit::zeroed().assume_init();
        libc::sigaction(signal, &raw const default, ptr::null_mut());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const only, ptr::null_mut());
        libc::raise(signal);
    }
}
