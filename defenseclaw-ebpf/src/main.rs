//! The programs: module list, licence, and nothing else.
//!
//! Each program asks first whether the current task is enrolled and returns at once if not. A refusal of another security
//! module before ours stands.
#![no_std]
#![no_main]
#![allow(unreachable_pub, reason = "maps and programs are found by name")]
#![allow(
    clippy::pedantic,
    clippy::inline_always,
    clippy::indexing_slicing,
    clippy::needless_borrows_for_generic_args,
    clippy::type_complexity,
    reason = "kernel side: truncating casts and forced inlining are the norm, the verifier checks every access, and \
              a key passed by reference is not copied on a stack of 512 bytes"
)]

mod cgroup;
mod emit;
mod lsm;
mod path;
mod pause;
mod probes;
mod scope;
mod shim;
mod sockaddr;
mod verdict;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
