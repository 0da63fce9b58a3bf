//! Loss accounting: the kernel's counters, ours, and the difference since last time.
//!
//! Per kind, `seen = submitted + ring_full + folded + oversized + unreadable + map_full` and
//! `submitted = received + in flight`. A loss is never inferred: each of these numbers is counted where it happens.

use std::collections::BTreeMap;

use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use defenseclaw_ebpf::{Count, Counters, KINDS, Kind};
use serde::{Deserialize, Serialize};

use super::{DecodeError, SensorError};
use crate::model::{BootTime, Loss, LossReason};

/// Totals since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SensorStats {
    /// Kernel kind, then counter name.
    pub kernel: BTreeMap<String, BTreeMap<String, u64>>,
    /// Records read from the rings and decoded, by kernel kind.
    pub received: BTreeMap<String, u64>,
    /// Records that could not be decoded.
    pub decode_error: u64,
}

#[derive(Clone, Copy)]
#[repr(transparent)]
struct Row(Counters);

// SAFETY: `Counters` is repr(C), an array of u64, valid for every bit pattern.
unsafe impl aya::Pod for Row {}

type Totals = [[u64; Count::ALL.len()]; KINDS];

pub(super) struct Counting {
    map: Array<MapData, Row>,
    reported: Box<Totals>,
    received: [u64; KINDS],
    undecodable: BTreeMap<String, u64>,
    undecodable_total: u64,
    since: BootTime,
}

impl Counting {
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, SensorError> {
        let map = object.take_map("COUNTERS").ok_or_else(|| super::refusal::no_map("COUNTERS"))?;
        Ok(Self {
            map: Array::try_from(map).map_err(super::map_error("open the counters"))?,
            reported: Box::new([[0; Count::ALL.len()]; KINDS]),
            received: [0; KINDS],
            undecodable: BTreeMap::new(),
            undecodable_total: 0,
            since: BootTime::default(),
        })
    }

    pub(super) fn received(&mut self, kind: Kind) {
        if let Some(count) = self.received.get_mut(kind as usize) {
            *count += 1;
        }
    }

    pub(super) fn undecodable(&mut self, error: &DecodeError) {
        let kind = error.kind.map_or("all", name).to_owned();
        *self.undecodable.entry(kind).or_default() += 1;
        self.undecodable_total += 1;
    }

    fn totals(&self) -> Result<Box<Totals>, SensorError> {
        let mut totals: Box<Totals> = Box::new([[0; Count::ALL.len()]; KINDS]);
        for kind in Kind::ALL {
            let Some(sums) = totals.get_mut(kind as usize) else { continue };
            // A row for each processor.
            for row in (u32::from(kind as u16)..self.map.len()).step_by(KINDS) {
                let row = self.map.get(&row, 0).map_err(super::map_error("read the counters"))?;
                for (sum, count) in sums.iter_mut().zip(row.0.counts) {
                    *sum += count;
                }
            }
        }
        Ok(totals)
    }

    pub(super) fn losses(&mut self, now: BootTime) -> Result<Vec<Loss>, SensorError> {
        let totals = self.totals()?;
        let mut losses = Vec::new();
        let mut lost = |kind: &str, reason, count| {
            if count > 0 {
                let (first, last) = (self.since, now);
                losses.push(Loss { kind: kind.to_owned(), reason, count, first, last, session: None });
            }
        };
        for kind in Kind::ALL {
            let (Some(now), Some(then)) = (totals.get(kind as usize), self.reported.get(kind as usize))
            else {
                continue;
            };
            for ((what, now), then) in Count::ALL.into_iter().zip(now).zip(then) {
                if let Some(reason) = reason(what) {
                    lost(name(kind), reason, now.saturating_sub(*then));
                }
            }
        }
        for (kind, count) in std::mem::take(&mut self.undecodable) {
            lost(&kind, LossReason::DecodeError, count);
        }
        self.reported = totals;
        self.since = now;
        Ok(losses)
    }

    pub(super) fn stats(&mut self) -> Result<SensorStats, SensorError> {
        let totals = self.totals()?;
        let mut stats = SensorStats { decode_error: self.undecodable_total, ..SensorStats::default() };
        for kind in Kind::ALL {
            let Some(row) = totals.get(kind as usize) else { continue };
            if row.iter().all(|count| *count == 0) {
                continue;
            }
            let counts =
                Count::ALL.into_iter().zip(row).map(|(what, count)| (column(what).to_owned(), *count));
            stats.kernel.insert(name(kind).to_owned(), counts.collect());
            if let Some(received) = self.received.get(kind as usize) {
                stats.received.insert(name(kind).to_owned(), *received);
            }
        }
        Ok(stats)
    }
}

fn reason(what: Count) -> Option<LossReason> {
    match what {
        Count::Seen | Count::Submitted => None,
        Count::RingFull => Some(LossReason::RingFull),
        Count::Folded => Some(LossReason::Folded),
        Count::Oversized => Some(LossReason::Oversized),
        Count::Unreadable => Some(LossReason::Unreadable),
        Count::MapFull => Some(LossReason::MapFull),
    }
}

fn column(what: Count) -> &'static str {
    match what {
        Count::Seen => "seen",
        Count::Submitted => "submitted",
        Count::RingFull => "ring_full",
        Count::Folded => "folded",
        Count::Oversized => "oversized",
        Count::Unreadable => "unreadable",
        Count::MapFull => "map_full",
    }
}

/// Name of a kernel kind in losses and statistics. `file_open` covers opens that make the file.
pub(super) fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::ProcessFork => "process_fork",
        Kind::ProcessExec => "process_exec",
        Kind::ProcessExit => "process_exit",
        Kind::FileOpen => "file_open",
        Kind::FileUnlink => "file_unlink",
        Kind::FileRename => "file_rename",
        Kind::FileLink => "file_link",
        Kind::FileSymlink => "file_symlink",
        Kind::FileChmod => "file_chmod",
        Kind::FileChown => "file_chown",
        Kind::FileTruncate => "file_truncate",
        Kind::DirMake => "dir_make",
        Kind::DirRemove => "dir_remove",
        Kind::FileMknod => "file_mknod",
        Kind::NetConnect => "net_connect",
        Kind::SocketCreate => "socket_create",
        Kind::NetBind => "net_bind",
        Kind::NetSend => "net_send",
        Kind::DnsAnswer => "dns_answer",
        Kind::UnixConnect => "unix_connect",
        Kind::Ptrace => "ptrace",
        Kind::Signal => "signal",
        Kind::Mount => "mount",
        Kind::Namespace => "namespace",
        Kind::Bpf => "bpf",
        Kind::ModuleLoad => "module_load",
        Kind::IoUringSetup => "io_uring_setup",
        Kind::PerfOpen => "perf_open",
        Kind::CredChange => "cred_change",
        Kind::CompatSyscall => "compat_syscall",
    }
}
