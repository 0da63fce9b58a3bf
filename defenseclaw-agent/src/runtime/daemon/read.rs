//! Reading the audit for who asks: what a user may see is decided here, and nothing else. Everybody sees the sessions of
//! their own processes, their own hooks, and losses that may concern any session; who controls the daemon sees everything.

use std::{collections::HashMap, ops::ControlFlow, path::Path, time::Duration};

use tokio::{task::spawn_blocking, time};

use super::Daemon;
use crate::{
    api::{Page, Peer, Unread, Wanted},
    model::{AuditRecord, Origin, SessionId, SessionStart},
    store::{Filter, Reader, StoreError, Stored},
};

/// Who reads at once; others wait. Each takes a thread.
pub(super) const READERS_MAX: usize = 4;
/// Bytes of an answer, but for its last line.
const PAGE_MAX: usize = 4 << 20;
/// Rows that are looked at for one answer: who may see few of them must not hold a reader for long.
const ROWS_MAX: u64 = 200_000;
/// How often new rows are looked for.
const POLL: Duration = Duration::from_millis(100);

impl Daemon {
    pub(super) async fn read_sessions(&self, peer: &Peer) -> Result<Vec<u8>, Unread> {
        let (path, user) = (self.database.clone(), self.user(peer));
        self.reading(move || {
            let mut all = Reader::open(&path)?.sessions()?;
            all.retain(|known| is_of(&known.start, user));
            Ok(serde_json::to_vec(&all).map_err(|err| Unread::Failed(err.to_string())))
        })
        .await
    }

    pub(super) async fn read_events(&self, peer: &Peer, mut wanted: Wanted) -> Result<Page, Unread> {
        let user = self.user(peer);
        let deadline = time::Instant::now() + wanted.wait;
        loop {
            let (path, asked) = (self.database.clone(), wanted.clone());
            let (page, more) = self.reading(move || page(&path, user, &asked)).await?;
            if !page.lines.is_empty() || more || time::Instant::now() >= deadline {
                return Ok(page);
            }
            wanted.after = page.after;
            time::sleep(POLL).await;
        }
    }

    /// Whose rows only; none for who sees everything.
    pub(super) fn user(&self, peer: &Peer) -> Option<u32> {
        use crate::api::Answers as _;
        Some(peer.caller.uid).filter(|_| !self.controls(peer))
    }

    async fn reading<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<Result<R, Unread>, StoreError> + Send + 'static,
    ) -> Result<R, Unread> {
        let failed = |why: &dyn std::fmt::Display| Unread::Failed(format!("the audit cannot be read: {why}"));
        let _place = self.readers.acquire().await.map_err(|err| failed(&err))?;
        match spawn_blocking(work).await {
            Ok(Ok(read)) => read,
            Ok(Err(err)) => Err(failed(&err)),
            Err(err) => Err(failed(&err)),
        }
    }
}

fn is_of(start: &SessionStart, user: Option<u32>) -> bool {
    match (user, &start.origin) {
        (None, _) => true,
        (Some(user), Origin::Adopted { uid, .. }) => user == *uid,
        // Whose it was is not known.
        (Some(_), Origin::Launched) => false,
    }
}

/// What one user may see.
struct Sight<'a> {
    reader: &'a Reader,
    user: Option<u32>,
    known: HashMap<SessionId, bool>,
}

impl Sight<'_> {
    fn sees_session(&mut self, session: SessionId) -> Result<bool, StoreError> {
        if self.user.is_none() {
            return Ok(true);
        }
        if let Some(known) = self.known.get(&session) {
            return Ok(*known);
        }
        let start = self.reader.session_start(session)?;
        let own = start.is_some_and(|start| is_of(&start, self.user));
        self.known.insert(session, own);
        Ok(own)
    }

    fn sees(&mut self, stored: &Stored) -> Result<bool, StoreError> {
        match stored.session() {
            Some(session) => self.sees_session(session),
            None => Ok(self.user.is_none_or(|user| {
                let record = &stored.record;
                // A loss may be theirs.
                matches!(record, AuditRecord::Loss(_))
                    || matches!(record, AuditRecord::Hook(call) if call.caller.uid == user)
            })),
        }
    }
}

/// The page, and whether there may be more behind it.
fn page(path: &Path, user: Option<u32>, wanted: &Wanted) -> Result<Result<(Page, bool), Unread>, StoreError> {
    let reader = Reader::open(path)?;
    let mut sight = Sight { reader: &reader, user, known: HashMap::new() };
    if let Some(session) = wanted.session
        && (reader.session_start(session)?.is_none() || !sight.sees_session(session)?)
    {
        return Ok(Err(Unread::Unknown));
    }
    let mut filter = Filter {
        session: wanted.session,
        kinds: wanted.kinds.clone(),
        records: wanted.records.clone(),
        blocked: wanted.blocked,
        alerts: wanted.alerts,
        ..Filter::default()
    };
    if let Some(pattern) = &wanted.path {
        filter = match filter.with_path(pattern) {
            Ok(filter) => filter,
            Err(err) => return Ok(Err(Unread::Wrong(err.to_string()))),
        };
    }
    let (mut lines, mut left, mut looked, mut more) = (Vec::new(), wanted.limit, 0, false);
    let after = reader.records::<StoreError>(&filter, wanted.after, None, |stored| {
        looked += 1;
        if sight.sees(&stored)? {
            serde_json::to_writer(&mut lines, &stored).map_err(|source| StoreError::Encode { source })?;
            lines.push(b'\n');
            left -= 1;
        }
        more = left == 0 || lines.len() >= PAGE_MAX || looked >= ROWS_MAX;
        Ok(if more { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(Ok((Page { lines, after }, more)))
}
