//! Reading the audit while it is being written: a connection of its own that cannot write.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use globset::{GlobBuilder, GlobMatcher};
use rusqlite::{Connection, params_from_iter, types::ValueRef};

use super::{StoreError, database, row};
use crate::model::{AuditRecord, EventKind, PolicyAction, SessionId, ToolCallId};

/// Records held in memory at once.
const CHUNK: u64 = 1024;

/// Which records to read; the default is all of them.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this session.
    pub session: Option<SessionId>,
    /// Of one of these kinds; a loss has the kind of what was lost.
    pub kinds: Vec<EventKind>,
    /// Of one of these types, wire names: `session_start`, `event`, `policy_loaded`, `policy_refused`, `posture`,
    /// `handover`, `hook`, `correlated`, `finding`, `loss`, `session_end`.
    pub records: Vec<&'static str>,
    /// About this call: its hooks, its events, and what was concluded of it.
    pub tool_call: Option<ToolCallId>,
    /// Only events and hooks that policy blocked.
    pub blocked: bool,
    /// Only events that went through although policy has something to say of them; with `blocked`, both.
    pub alerts: bool,
    /// About a path, or second path, that matches.
    pub path: Option<GlobMatcher>,
}

impl Filter {
    /// Sets the path pattern: `*` and `?` stay within one component, `**` spans several.
    pub fn with_path(mut self, pattern: &str) -> Result<Self, StoreError> {
        let glob = GlobBuilder::new(pattern)
            .literal_separator(true)
            .build()
            .map_err(|source| StoreError::Pattern { pattern: pattern.to_owned(), source })?;
        self.path = Some(glob.compile_matcher());
        Ok(self)
    }

    fn has_action(&self, record: &AuditRecord) -> bool {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the only rows with a decision")]
        let action = match record {
            AuditRecord::Event(event) => event.policy_action(),
            AuditRecord::Hook(call) => call.decision.as_ref().map(|decision| decision.action),
            _ => None,
        };
        match action {
            _ if !self.blocked && !self.alerts => true,
            Some(PolicyAction::Block) => self.blocked,
            Some(PolicyAction::Alert | PolicyAction::Confirm) => self.alerts,
            Some(PolicyAction::Allow) | None => false,
        }
    }

    fn has_call(&self, record: &AuditRecord) -> bool {
        let Some(call) = self.tool_call else { return true };
        #[expect(clippy::wildcard_enum_match_arm, reason = "the only rows about calls")]
        match record {
            AuditRecord::Event(event) => event.tool_call == Some(call),
            AuditRecord::Hook(hook) => hook.calls.contains(&call),
            AuditRecord::Correlated(row) => row.tool_call == Some(call),
            AuditRecord::Finding(finding) => finding.tool_call == Some(call),
            _ => false,
        }
    }

    fn query(&self, after: u64, end: u64) -> (String, Vec<rusqlite::types::Value>) {
        use std::fmt::Write;
        let mut sql = "SELECT seq, path, path2, body FROM log WHERE seq > ? AND seq <= ?".to_owned();
        let mut values: Vec<rusqlite::types::Value> =
            vec![after.cast_signed().into(), end.cast_signed().into()];
        if let Some(session) = self.session {
            sql.push_str(" AND session = ?");
            values.push(row::session_column(session).into());
        }
        let kinds: Vec<&str> = self.kinds.iter().map(|kind| kind.as_str()).collect();
        for (column, names) in [("kind", &kinds), ("record", &self.records)] {
            if let Some(rest) = names.len().checked_sub(1) {
                // Writing to a String cannot fail.
                write!(sql, " AND {column} IN (?{})", ", ?".repeat(rest)).ok();
                values.extend(names.iter().map(|name| (*name).to_owned().into()));
            }
        }
        // A first sieve: quotes within strings of the body are escaped, so no text of a process has this form.
        let has = |action: &str| format!("instr(body, '\"action\":\"{action}\"') > 0");
        let mut wanted = Vec::new();
        if self.blocked {
            wanted.push(has("block"));
        }
        if self.alerts {
            wanted.extend([has("alert"), has("confirm")]);
        }
        if !wanted.is_empty() {
            write!(sql, " AND record IN ('event', 'hook') AND ({})", wanted.join(" OR ")).ok();
        }
        if let Some(ToolCallId(call)) = self.tool_call {
            // A sieve as well: the number may stand for something else.
            let number = call.to_string();
            sql.push_str(" AND record IN ('event', 'hook', 'correlated', 'finding') AND instr(body, ?) > 0");
            values.push(number.into());
        }
        sql.push_str(" ORDER BY seq");
        (sql, values)
    }
}

/// A record and its number.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stored {
    /// Place in the audit, from 1.
    pub seq: u64,
    /// What was recorded.
    #[serde(flatten)]
    pub record: AuditRecord,
}

impl Stored {
    /// The session it belongs to, if to one.
    pub fn session(&self) -> Option<SessionId> {
        row::session_of(&self.record)
    }
}

/// How a person names a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallName {
    /// By its label.
    Label(ToolCallId),
    /// By the agent's own id.
    Own(String),
}

/// An open audit.
#[derive(Debug)]
pub struct Reader {
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
}

impl Reader {
    /// Opens an existing audit.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self { path: path.to_owned(), connection: database::open_for_reading(path)? })
    }

    /// Hands each record behind row `after` that `filter` lets through to `each`, in order, until there are no more,
    /// `limit` is reached or `each` breaks. Returns the number of the last row it has dealt with: where a later
    /// call goes on.
    pub fn records<E: From<StoreError>>(
        &self,
        filter: &Filter,
        after: u64,
        limit: Option<u64>,
        mut each: impl FnMut(Stored) -> Result<ControlFlow<()>, E>,
    ) -> Result<u64, E> {
        let end = self.last_seq()?;
        let mut after = after;
        let mut left = limit.unwrap_or(u64::MAX);
        // `each` may wait for somebody who reads slowly. While a query is open the write-ahead log cannot be cut
        // back, so no query is open then.
        while after < end && left > 0 {
            let (chunk, reached) = self.chunk(filter, after, end, left.min(CHUNK))?;
            for stored in chunk {
                left -= 1;
                let seq = stored.seq;
                if each(stored)?.is_break() {
                    return Ok(seq);
                }
            }
            after = reached;
        }
        Ok(after)
    }

    /// The row with this number, if there is one.
    pub fn record(&self, seq: u64) -> Result<Option<Stored>, StoreError> {
        let Some(before) = seq.checked_sub(1) else { return Ok(None) };
        let (found, _) = self.chunk(&Filter::default(), before, seq, 1)?;
        Ok(found.into_iter().next())
    }

    /// The row that announced a call, the last one if the number was given again after a boot. With a text instead of a
    /// label: the agent's own id of the call.
    pub fn announced(&self, call: &CallName) -> Result<Option<(Stored, ToolCallId)>, StoreError> {
        let filter = match call {
            CallName::Label(label) => {
                Filter { tool_call: Some(*label), records: vec!["hook"], ..Filter::default() }
            }
            CallName::Own(_) => Filter { records: vec!["hook"], ..Filter::default() },
        };
        let mut last = None;
        self.records::<StoreError>(&filter, 0, None, |stored| {
            if let AuditRecord::Hook(hook) = &stored.record {
                let tools = hook.event.iter().flat_map(|event| &event.tools);
                let found = match call {
                    CallName::Label(label) => Some(*label).filter(|label| hook.calls.contains(label)),
                    CallName::Own(own) => tools
                        .zip(&hook.calls)
                        .find(|(tool, _)| tool.id.as_ref() == Some(own))
                        .map(|(_, label)| *label),
                };
                if let Some(label) = found {
                    last = Some((stored, label));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(last)
    }

    /// Up to `limit` matching records with numbers from `after` (left out) to `end`, and how far it has looked.
    fn chunk(
        &self,
        filter: &Filter,
        after: u64,
        end: u64,
        limit: u64,
    ) -> Result<(Vec<Stored>, u64), StoreError> {
        let failed = |err| self.failed("reading its rows", err);
        let (sql, values) = filter.query(after, end);
        let mut statement = self.connection.prepare_cached(&sql).map_err(failed)?;
        let mut rows = statement.query(params_from_iter(values)).map_err(failed)?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            if let Some(glob) = &filter.path {
                let matches = |value| path_of(value).is_some_and(|path| glob.is_match(path));
                if !matches(row.get_ref(1).map_err(failed)?) && !matches(row.get_ref(2).map_err(failed)?) {
                    continue;
                }
            }
            let seq = row.get::<_, i64>(0).map_err(failed)?.cast_unsigned();
            let body = row.get_ref(3).and_then(|value| Ok(value.as_str()?)).map_err(failed)?;
            let record = row::decode(&self.path, seq, body)?;
            if !filter.has_action(&record) || !filter.has_call(&record) {
                continue;
            }
            found.push(Stored { seq, record });
            if found.len() as u64 == limit {
                return Ok((found, seq));
            }
        }
        Ok((found, end))
    }

    fn last_seq(&self) -> Result<u64, StoreError> {
        let failed = |err| self.failed("reading its rows", err);
        let last: i64 = self
            .connection
            .prepare_cached("SELECT coalesce(max(seq), 0) FROM log")
            .and_then(|mut statement| statement.query_row([], |row| row.get(0)))
            .map_err(failed)?;
        Ok(u64::try_from(last).unwrap_or(0))
    }

    pub(super) fn failed(&self, action: &'static str, err: rusqlite::Error) -> StoreError {
        StoreError::sqlite(&self.path, action, err)
    }
}

fn path_of(value: ValueRef<'_>) -> Option<&Path> {
    use std::os::unix::ffi::OsStrExt;
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(Path::new(std::ffi::OsStr::from_bytes(bytes))),
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => None,
    }
}
