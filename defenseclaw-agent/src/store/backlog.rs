//! What could not be written and must be accounted for as soon as writing works again. Pure bookkeeping.

use std::collections::BTreeMap;

use crate::model::{AuditRecord, BootTime, Loss, LossReason, SessionId};

/// Counts of lost events, hooks and what they were joined to, and the few rows that are kept whole: starts and ends of sessions, and other losses.
#[derive(Default)]
pub(super) struct Backlog {
    starts: Vec<AuditRecord>,
    losses: BTreeMap<(String, LossReason, Option<SessionId>), Loss>,
    ends: Vec<AuditRecord>,
    events: u64,
}

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.starts.is_empty() && self.losses.is_empty() && self.ends.is_empty()
    }

    /// Events, hooks and what they were joined to, counted here instead of stored.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// Rows other than events that wait here; the losses that stand for the events do not count.
    pub(super) fn others(&self) -> u64 {
        let losses = self.losses.values().filter(|loss| loss.reason != LossReason::StoreError).count();
        (self.starts.len() + losses + self.ends.len()) as u64
    }

    /// Takes records that could not be stored.
    pub(super) fn give_up(&mut self, records: impl IntoIterator<Item = AuditRecord>) {
        for record in records {
            match record {
                AuditRecord::Event(event) => {
                    self.events += 1;
                    self.count(lost(event.kind().as_str(), event.time, Some(event.session)));
                }
                AuditRecord::Hook(call) => {
                    self.events += 1;
                    self.count(lost("hook", call.boot, call.session));
                }
                AuditRecord::Correlated(row) => {
                    self.events += 1;
                    self.count(lost("correlated", row.boot, Some(row.session)));
                }
                AuditRecord::Finding(row) => {
                    self.events += 1;
                    self.count(lost("finding", row.boot, Some(row.session)));
                }
                AuditRecord::Asked(row) => {
                    self.events += 1;
                    self.count(lost("asked", row.since, row.session));
                }
                AuditRecord::Settled(row) => {
                    self.events += 1;
                    self.count(lost("settled", row.boot, row.session));
                }
                AuditRecord::Granted(row) => {
                    self.events += 1;
                    self.count(lost("granted", row.since, row.session));
                }
                AuditRecord::GrantEnded(row) => {
                    self.events += 1;
                    self.count(lost("grant_ended", row.boot, row.session));
                }
                AuditRecord::Loss(loss) => self.count(loss),
                AuditRecord::SessionStart(_)
                | AuditRecord::PolicyLoaded(_)
                | AuditRecord::PolicyRefused(_)
                | AuditRecord::Posture(_)
                | AuditRecord::Handover(_) => self.starts.push(record),
                AuditRecord::SessionEnd(_) => self.ends.push(record),
            }
        }
    }

    /// The rows to write, in an order that makes sense to a reader.
    pub(super) fn rows(&self) -> Vec<AuditRecord> {
        let losses = self.losses.values().cloned().map(AuditRecord::Loss);
        self.starts.iter().cloned().chain(losses).chain(self.ends.iter().cloned()).collect()
    }

    fn count(&mut self, loss: Loss) {
        self.losses
            .entry((loss.kind.clone(), loss.reason, loss.session))
            .and_modify(|sum| {
                // 0 means that nobody knows how many; no sum makes that known.
                sum.count = if sum.count == 0 || loss.count == 0 { 0 } else { sum.count + loss.count };
                sum.first = sum.first.min(loss.first);
                sum.last = sum.last.max(loss.last);
            })
            .or_insert(loss);
    }
}

fn lost(kind: &str, time: BootTime, session: Option<SessionId>) -> Loss {
    Loss { kind: kind.to_owned(), reason: LossReason::StoreError, count: 1, first: time, last: time, session }
}
