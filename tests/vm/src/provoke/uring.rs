//! Opens that no system call of their own makes: through an io_uring, in the caller and in a kernel worker.

use std::{
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Result, bail, ensure};
use defenseclaw::model::{Access, Action, Level};

use super::Stage;
use crate::{
    sys::{self, c, sys},
    truth::kernel_path,
};

const ENTRIES: u32 = 8;
const IORING_OFF_SQ_RING: i64 = 0;
const IORING_OFF_CQ_RING: i64 = 0x800_0000;
const IORING_OFF_SQES: i64 = 0x1000_0000;
const IORING_ENTER_GETEVENTS: u32 = 1;
const IORING_OP_OPENAT: u8 = 18;
const IOSQE_ASYNC: u8 = 1 << 4;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SqOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    reserved: u32,
    user_addr: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CqOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    overflow: u32,
    cqes: u32,
    flags: u32,
    reserved: u32,
    user_addr: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Parameters {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    reserved: [u32; 3],
    sq: SqOffsets,
    cq: CqOffsets,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Submission {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    off: u64,
    addr: u64,
    len: u32,
    open_flags: u32,
    user_data: u64,
    buf_index: u16,
    personality: u16,
    file_index: i32,
    rest: [u64; 2],
}

pub(crate) struct Ring {
    fd: OwnedFd,
    parameters: Parameters,
    sq: *mut u8,
    cq: *mut u8,
    entries: *mut Submission,
}

impl Ring {
    fn new(fd: OwnedFd, parameters: Parameters) -> Result<Self> {
        let map = |offset: i64, length: usize| -> Result<*mut u8> {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            Ok(sys!(libc::SYS_mmap, 0, length, protection, libc::MAP_SHARED, fd.as_raw_fd(), offset)?
                as *mut u8)
        };
        let sq = map(IORING_OFF_SQ_RING, parameters.sq.array as usize + ENTRIES as usize * 4)?;
        let cq = map(IORING_OFF_CQ_RING, parameters.cq.cqes as usize + parameters.cq_entries as usize * 16)?;
        let entries = map(IORING_OFF_SQES, ENTRIES as usize * size_of::<Submission>())?.cast();
        Ok(Self { fd, parameters, sq, cq, entries })
    }

    /// None where the kernel has none, or does not give one.
    pub(crate) fn setup() -> Result<Option<Self>> {
        let mut parameters = Parameters::default();
        match sys!(libc::SYS_io_uring_setup, ENTRIES, &raw mut parameters) {
            Ok(fd) => Self::new(sys::owned(fd), parameters).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// Opens a file to read, in the caller. What the kernel returns; the file is closed again.
    pub(crate) fn open(&self, path: &[u8]) -> Result<i32> {
        let name = c(path);
        let result = self.call(Submission {
            opcode: IORING_OP_OPENAT,
            fd: libc::AT_FDCWD,
            addr: name.as_ptr() as u64,
            open_flags: libc::O_RDONLY as u32,
            ..Submission::default()
        })?;
        if result >= 0 {
            drop(sys::owned(result.into()));
        }
        Ok(result)
    }

    #[expect(clippy::cast_ptr_alignment, reason = "the kernel aligns the words of a ring")]
    fn word(base: *mut u8, offset: u32) -> &'static AtomicU32 {
        // SAFETY: the offset is the kernel's own, into a mapping that lives as long as the process.
        unsafe { &*base.add(offset as usize).cast::<AtomicU32>() }
    }

    /// Submits one request and waits for its answer.
    fn call(&self, submission: Submission) -> Result<i32> {
        let tail = Self::word(self.sq, self.parameters.sq.tail);
        let at = tail.load(Ordering::Relaxed);
        let slot = at & (ENTRIES - 1);
        // SAFETY: the slot is below the number of entries that were mapped.
        unsafe { self.entries.add(slot as usize).write(submission) };
        Self::word(self.sq, self.parameters.sq.array + slot * 4).store(slot, Ordering::Relaxed);
        tail.store(at.wrapping_add(1), Ordering::Release);
        let (fd, none) = (self.fd.as_raw_fd(), std::ptr::null::<u8>());
        sys!(libc::SYS_io_uring_enter, fd, 1, 1, IORING_ENTER_GETEVENTS, none, 0)?;
        let head = Self::word(self.cq, self.parameters.cq.head);
        let at = head.load(Ordering::Relaxed);
        ensure!(Self::word(self.cq, self.parameters.cq.tail).load(Ordering::Acquire) != at, "no completion");
        let slot = at & (self.parameters.cq_entries - 1);
        // The result is the second word pair of a completion of 16 bytes.
        let result = Self::word(self.cq, self.parameters.cq.cqes + slot * 16 + 8).load(Ordering::Relaxed);
        head.store(at.wrapping_add(1), Ordering::Release);
        Ok(result as i32)
    }
}

pub(crate) fn open(stage: &mut Stage) -> Result<()> {
    let mut parameters = Parameters::default();
    let fd = match sys!(libc::SYS_io_uring_setup, ENTRIES, &raw mut parameters) {
        Ok(fd) => sys::owned(fd),
        Err(error) => {
            stage.skip("io_uring", "io_uring", format!("io_uring_setup: {error}"));
            return Ok(());
        }
    };
    let action = Action::IoUringSetup {
        submission_entries: ENTRIES,
        completion_entries: parameters.cq_entries,
        flags: 0,
    };
    stage.claim("setup", "io_uring_setup", action);
    stage.close(&[]);
    let ring = Ring::new(fd, parameters)?;
    for (step, flags) in [("open in the caller", 0), ("open in a worker", IOSQE_ASYNC)] {
        let path = stage.make(step)?;
        let text = path.as_os_str().as_bytes();
        let name = c(text);
        let result = ring.call(Submission {
            opcode: IORING_OP_OPENAT,
            flags,
            fd: libc::AT_FDCWD,
            addr: name.as_ptr() as u64,
            open_flags: libc::O_RDONLY as u32,
            ..Submission::default()
        })?;
        if result < 0 {
            bail!("{step}: errno {}", -result);
        }
        let file = Stage::file_behind(&sys::owned(result.into()), kernel_path(text))?;
        let claim = stage.claim(step, "io_uring_enter", Action::FileOpen { file, access: Access::READ });
        claim.only(Level::Lsm);
        if flags != 0 {
            // A worker is a thread of the process, with an id of its own.
            claim.tid = None;
        }
    }
    Ok(())
}
