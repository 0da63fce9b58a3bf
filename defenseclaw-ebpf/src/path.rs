//! The one path resolver: from a dentry and its mount up to the root of the mount tree, across mounts, bounded.
//!
//! It ignores the root of the calling task: inside a chroot the result is still the path from the initial root. It does
//! not judge, and it does not follow what user space wrote.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_kernel};
use defenseclaw_ebpf::{STRING_MAX, flags};

use crate::shim::*;

/// Room for the path, and for one name that is copied past its end before its length is known to the verifier.
#[repr(C)]
pub struct Buffer {
    bytes: [u8; 4096 + 256],
}

/// Most steps of a walk: a path of STRING_MAX bytes has at most half as many names, plus the mounts on the way.
const STEPS: u32 = 2048 + 64;
/// `MAX_ERRNO` below the top of the address space: kernel pointers from here on are error numbers.
const ERROR_POINTERS: u64 = -4095i64 as u64;
const END: u32 = STRING_MAX as u32;

/// Where in the buffer the path stands.
pub struct Found {
    pub start: u32,
    pub len: u32,
    pub flags: u32,
}

struct Walk {
    buffer: *mut Buffer,
    dentry: Ptr,
    mnt: Ptr,
    start: u32,
    flags: u32,
    done: u32,
}

/// Address of the path inside the buffer.
#[inline(always)]
pub fn tail(buffer: *mut Buffer, start: u32) -> *const u8 {
    // SAFETY: the masked offset lies inside the buffer.
    unsafe { (&raw const (*buffer).bytes).cast::<u8>().add((start & 0xfff) as usize) }
}

/// Writes the path to the end of `buffer`.
#[inline(always)]
pub fn resolve(buffer: *mut Buffer, dentry: Ptr, mnt: Ptr) -> Found {
    let mut walk = Walk { buffer, dentry, mnt, start: END, flags: 0, done: 0 };
    if shim_dentry_hashed(dentry).is_null() && shim_dentry_parent(dentry) != dentry {
        walk.flags |= flags::DELETED;
    }
    // SAFETY: `step` has the signature the helper calls, and `walk` outlives the call.
    unsafe { bpf_loop(STEPS, step as *mut c_void, (&raw mut walk).cast(), 0) };
    if walk.done == 0 {
        walk.flags |= flags::TRUNCATED;
    }
    if walk.start >= END {
        // The root itself has no name.
        // SAFETY: END - 1 lies inside the buffer.
        unsafe { (*buffer).bytes[END as usize - 1] = b'/' };
        walk.start = END - 1;
    }
    Found { start: walk.start, len: END - walk.start, flags: walk.flags }
}

/// Whether a mount namespace holds a tree that has no place yet, or no more: from fsmount or open_tree.
#[inline(always)]
fn is_anonymous(namespace: Ptr) -> bool {
    if shim_mnt_namespace_seq_exists(namespace) {
        shim_mnt_namespace_seq(namespace) == 0
    } else if shim_mnt_namespace_id_exists(namespace) {
        shim_mnt_namespace_id(namespace) == 0
    } else {
        false
    }
}

/// One name or one mount. Returns 1 to stop.
unsafe extern "C" fn step(_index: u64, context: *mut c_void) -> i64 {
    // SAFETY: the helper passes the `Walk` that `resolve` gave it.
    let walk = unsafe { &mut *context.cast::<Walk>() };
    let dentry = walk.dentry;
    let parent = shim_dentry_parent(dentry);
    if dentry == shim_vfsmount_root(walk.mnt) {
        let mount = shim_vfsmount_mount(walk.mnt);
        let above = shim_mount_parent(mount);
        if above.is_null() || above == mount {
            walk.done = 1;
            // The end, if a task's namespace holds this mount; otherwise it is detached (null), the kernel's own (an
            // error pointer) or of an anonymous namespace, and the path says less than it seems to.
            let namespace = shim_mount_ns(mount);
            if namespace.is_null() || namespace as u64 >= ERROR_POINTERS || is_anonymous(namespace) {
                walk.flags |= flags::UNRESOLVED;
            }
            return 1;
        }
        walk.dentry = shim_mount_mountpoint(mount);
        walk.mnt = shim_mount_vfsmount(above);
        return 0;
    }
    if parent.is_null() {
        walk.flags |= flags::UNRESOLVED;
        walk.done = 1;
        return 1;
    }
    let root = parent == dentry;
    let len = shim_dentry_name_len(dentry) & 0xff;
    let mut start = walk.start;
    if start < len + 1 {
        return 1;
    }
    start -= len + 1;
    let offset = (start & 0xfff) as usize;
    // SAFETY: the masked offset plus a name of at most 255 bytes lies inside the buffer; the helper checks the source.
    unsafe {
        let to = (&raw mut (*walk.buffer).bytes).cast::<u8>().add(offset);
        *to = b'/';
        if bpf_probe_read_kernel(to.add(1).cast(), len, shim_dentry_name(dentry)) != 0 {
            walk.flags |= flags::UNRESOLVED;
        }
    }
    walk.start = start;
    if root {
        // The top of a file system that is not mounted where we came from: a pseudo file, or a detached tree.
        walk.flags |= flags::UNRESOLVED;
        walk.done = 1;
        return 1;
    }
    walk.dentry = parent;
    0
}
