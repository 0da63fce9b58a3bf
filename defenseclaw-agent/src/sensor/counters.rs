//! Loss accounting: the kernel's counters, ours, and the difference since last time.
//!
//! Per kind, `seen = submitted + ring_full + folded + oversized + unreadable + map_full` and
//! `submitted = received + in flight`. A loss is never inferred: each of these numbers is counted where it happens.

use std::collections::BTreeMap;

use aya::maps::{Array, IterableMap, Map, MapData};
use defenseclaw_ebpf::{Count, Counters, KINDS, Kind};
use serde::{Deserialize, Serialize};

use super::{DecodeError, SensorError};
use crate::model::{BootTime, EventKind, Loss, LossReason};

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

/// What the audit has of a session whose watcher has gone: its rows are the state of that watcher.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounted {
    /// Events that were stored, or deliberately left out, by wire name of their kind.
    pub events: BTreeMap<String, u64>,
    /// Losses that were stored.
    pub losses: Vec<Loss>,
    /// When the last of it happened.
    pub last: BootTime,
}

type Totals = [[u64; Count::ALL.len()]; KINDS];

pub(super) struct Counting {
    map: Array<MapData, Row>,
    reported: Box<Totals>,
    received: [u64; KINDS],
    undecodable: BTreeMap<String, u64>,
    undecodable_total: u64,
    since: BootTime,
    /// Where another watcher was before us.
    before: Option<Box<Before>>,
}

/// Records that the watcher before us took out of the rings.
struct Before {
    /// It stored them, or said what became of them.
    settled: [u64; KINDS],
    /// All that were put into the rings, when this was last noted.
    submitted: [u64; KINDS],
    /// Those of which nothing is known, as far as we have said so.
    missed: [u64; KINDS],
    last: BootTime,
}

impl Counting {
    pub(super) fn map(&self) -> &MapData {
        IterableMap::map(&self.map)
    }

    pub(super) fn open(map: Map) -> Result<Self, SensorError> {
        Ok(Self {
            map: Array::try_from(map).map_err(super::map_error("open the counters"))?,
            reported: Box::new([[0; Count::ALL.len()]; KINDS]),
            received: [0; KINDS],
            undecodable: BTreeMap::new(),
            undecodable_total: 0,
            since: BootTime::default(),
            before: None,
        })
    }

    /// Goes on from what another watcher has said.
    pub(super) fn resume(map: Map, accounted: &Accounted) -> Result<Self, SensorError> {
        let mut counting = Self::open(map)?;
        let mut settled = [0; KINDS];
        for (kind, count) in &accounted.events {
            if let Some(slot) = EventKind::from_name(kind).and_then(|kind| settled.get_mut(of(kind) as usize))
            {
                *slot += count;
            }
        }
        for loss in &accounted.losses {
            let Some(kind) = Kind::ALL.into_iter().find(|kind| name(*kind) == loss.kind) else { continue };
            if let Some(what) = Count::ALL.into_iter().find(|what| reason(*what) == Some(loss.reason)) {
                let row = counting.reported.get_mut(kind as usize);
                if let Some(count) = row.and_then(|row| row.get_mut(what as usize)) {
                    *count += loss.count;
                }
            } else if matches!(
                loss.reason,
                LossReason::DecodeError | LossReason::StoreError | LossReason::Unclean
            ) && let Some(slot) = settled.get_mut(merged(kind) as usize)
            {
                // It was taken out of the ring, and is said to be missing.
                *slot += loss.count;
            }
        }
        let last = accounted.last;
        counting.since = last;
        counting.before = Some(Box::new(Before { settled, submitted: [0; KINDS], missed: [0; KINDS], last }));
        Ok(counting)
    }

    /// Notes what the kernel has put into the rings so far.
    pub(super) fn note_submitted(&mut self) -> Result<(), SensorError> {
        let totals = self.totals()?;
        if let Some(before) = &mut self.before {
            let counted = |kind: Kind| totals.get(kind as usize)?.get(Count::Submitted as usize).copied();
            before.submitted = sums(counted);
        }
        Ok(())
    }

    /// What the watcher before us took out of the rings and did not store, as far as it was not said before. To be asked
    /// when everything has been read that was noted: each record is put into a ring before it is counted there.
    pub(super) fn missed(&mut self, now: BootTime) -> Vec<Loss> {
        let received = sums(|kind| self.received.get(kind as usize).copied());
        let Some(before) = &mut self.before else { return Vec::new() };
        let submitted = before.submitted;
        let mut losses = Vec::new();
        for kind in Kind::ALL {
            let at = kind as usize;
            let (Some(submitted), Some(received), Some(settled), Some(missed)) =
                (submitted.get(at), received.get(at), before.settled.get(at), before.missed.get_mut(at))
            else {
                continue;
            };
            let all = submitted.saturating_sub(received + settled);
            let count = all.saturating_sub(*missed);
            if count > 0 {
                *missed = all;
                losses.push(Loss {
                    kind: name(kind).to_owned(),
                    reason: LossReason::Unclean,
                    count,
                    first: before.last,
                    last: now,
                    session: None,
                });
            }
        }
        losses
    }

    pub(super) fn received(&mut self, kind: Kind) {
        if let Some(count) = self.received.get_mut(kind as usize) {
            *count += 1;
        }
    }

    pub(super) fn undecodable(&mut self, error: &DecodeError) {
        if let (Some(kind), Some(before)) = (error.kind, &mut self.before)
            && let Some(settled) = before.settled.get_mut(merged(kind) as usize)
        {
            *settled += 1;
        }
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

/// By merged kind.
fn sums(count: impl Fn(Kind) -> Option<u64>) -> [u64; KINDS] {
    let mut sums = [0; KINDS];
    for kind in Kind::ALL {
        if let (Some(sum), Some(count)) = (sums.get_mut(merged(kind) as usize), count(kind)) {
            *sum += count;
        }
    }
    sums
}

/// The kernel's kind of an event. Two of them make files; see [`merged`].
fn of(event: EventKind) -> Kind {
    let name_of = if event == EventKind::FileCreate { "file_open" } else { event.as_str() };
    Kind::ALL.into_iter().find(|kind| name(*kind) == name_of).unwrap_or(Kind::CompatSyscall)
}

/// Kinds whose events cannot be told apart in the audit are counted as one.
fn merged(kind: Kind) -> Kind {
    if kind == Kind::FileMknod { Kind::FileOpen } else { kind }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_has_a_kind_of_the_kernel() {
        for kind in EventKind::ALL {
            let of = of(*kind);
            assert_ne!(of, Kind::CompatSyscall, "{}", kind.as_str());
            assert_eq!(of, merged(of));
        }
    }
}
