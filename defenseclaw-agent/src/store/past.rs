//! What the audit knows of a session that another watcher is to go on with.

use std::collections::BTreeMap;

use rusqlite::params;

use super::{Reader, StoreError, presence, row};
use crate::model::{AuditRecord, BootTime, Loss, PolicyLoaded, Remembered, SessionId, SessionStart};

/// A session so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// How it began.
    pub start: SessionStart,
    /// It has an end: nothing is to be gone on with.
    pub ended: bool,
    /// Its last watcher said that it would go.
    pub left: bool,
    /// The latest time of any of its rows.
    pub last: BootTime,
    /// Events by wire name of their kind.
    pub events: BTreeMap<String, u64>,
    /// Answers of name servers among them that a resolver has written down: those of the kernel name no process.
    pub resolved: u64,
    /// What is said to be missing.
    pub losses: Vec<Loss>,
    /// Policies that were in force, the last one last.
    pub policies: Vec<PolicyLoaded>,
    /// Questions and grants that have no end.
    pub questions: Remembered,
}

impl Reader {
    /// Reads it; none if the audit has no such session.
    pub fn past(&self, session: SessionId) -> Result<Option<Past>, StoreError> {
        let Some(start) = self.session_start(session)? else { return Ok(None) };
        let mut past = Past {
            start,
            ended: false,
            left: false,
            last: BootTime(0),
            events: BTreeMap::new(),
            resolved: 0,
            losses: Vec::new(),
            policies: Vec::new(),
            questions: Remembered::default(),
        };
        for (seq, body) in
            self.sums(session, &mut past).map_err(|err| self.failed("reading a session", err))?
        {
            match row::decode(&self.path, seq, &body)? {
                AuditRecord::Loss(loss) => past.losses.push(loss),
                AuditRecord::PolicyLoaded(policy) => past.policies.push(*policy),
                AuditRecord::SessionEnd(_) => past.ended = true,
                AuditRecord::Asked(asked) => {
                    let questions = &mut past.questions;
                    questions.last_approval = questions.last_approval.max(asked.id.0);
                    questions.asked.push(*asked);
                }
                AuditRecord::Settled(settled) => {
                    past.questions.asked.retain(|asked| asked.id != settled.id);
                }
                AuditRecord::Granted(grant) => {
                    let questions = &mut past.questions;
                    questions.last_grant = questions.last_grant.max(grant.id.0);
                    questions.grants.push(grant);
                }
                AuditRecord::GrantEnded(ended) => {
                    past.questions.grants.retain(|grant| grant.id != ended.id);
                }
                AuditRecord::SessionStart(_)
                | AuditRecord::Event(_)
                | AuditRecord::PolicyRefused(_)
                | AuditRecord::Posture(_)
                | AuditRecord::Handover(_)
                | AuditRecord::Hook(_)
                | AuditRecord::Correlated(_)
                | AuditRecord::Finding(_) => {}
            }
        }
        Ok(Some(past))
    }

    /// Counts; returns the rows that are no events.
    fn sums(&self, session: SessionId, past: &mut Past) -> rusqlite::Result<Vec<(u64, String)>> {
        let session = row::session_column(session);
        past.left = self
            .connection
            .prepare_cached(&format!("SELECT {}", presence::left("?1")))?
            .query_row([session], |row| row.get(0))?;
        // `record <> 'event'` is what lets SQLite use the index of the few rows that are not events.
        let rows = self
            .connection
            .prepare_cached(
                "SELECT seq, body FROM log WHERE record <> 'event' AND session = ?1 ORDER BY seq",
            )?
            .query_map([session], |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get(1)?)))?
            .collect::<rusqlite::Result<Vec<(u64, String)>>>()?;
        let mut statement = self.connection.prepare_cached(
            "SELECT coalesce(kind, ''), record = 'event', count(*), max(time), kind = 'dns_answer' AND tgid <> 0
             FROM log WHERE session = ?1 GROUP BY 1, 2, 5",
        )?;
        let mut groups = statement.query(params![session])?;
        while let Some(group) = groups.next()? {
            past.last = past.last.max(BootTime(group.get::<_, i64>(3)?.cast_unsigned()));
            if group.get(1)? {
                let count = group.get::<_, i64>(2)?.cast_unsigned();
                *past.events.entry(group.get(0)?).or_default() += count;
                if group.get::<_, Option<bool>>(4)? == Some(true) {
                    past.resolved += count;
                }
            }
        }
        Ok(rows)
    }
}
