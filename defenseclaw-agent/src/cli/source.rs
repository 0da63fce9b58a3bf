//! Where `sessions` and `events` read: the daemon that answers, or the audit database, if it is named or nobody answers.

use std::{
    io::{BufRead as _, Cursor},
    ops::ControlFlow,
};

use anyhow::Context as _;

use crate::{
    config::{self, Settings},
    model::{SessionId, SessionStart},
    runtime::{Client, ClientError, Wanted},
    store::{Filter, Reader, SessionSummary, StoreError, Stored},
};

/// An audit to read.
pub(super) enum Source {
    Audit(Reader),
    Daemon(Client),
}

/// The daemon that answers this user: its own, or root's. The last error if none does.
pub(super) fn daemon() -> Result<Client, ClientError> {
    let mut last = None;
    for socket in config::sockets() {
        match Client::connect(&socket) {
            Ok(client) => return Ok(client),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| ClientError::Unusable("nobody knows where its socket is".to_owned())))
}

impl Source {
    /// A database that somebody has named is read itself.
    pub(super) fn open(settings: &Settings) -> anyhow::Result<Self> {
        if settings.default_place
            && let Ok(client) = daemon()
        {
            return Ok(Self::Daemon(client));
        }
        Ok(Self::Audit(Reader::open(&settings.database)?))
    }

    pub(super) fn sessions(&self) -> anyhow::Result<Vec<SessionSummary>> {
        match self {
            Self::Audit(reader) => Ok(reader.sessions()?),
            Self::Daemon(client) => serde_json::from_value(client.sessions()?)
                .context("the daemon's list of sessions is not understood"),
        }
    }

    pub(super) fn resolve_session(&self, name: &str) -> anyhow::Result<SessionId> {
        let client = match self {
            Self::Audit(reader) => return Ok(reader.resolve_session(name)?),
            Self::Daemon(client) => client,
        };
        let all: Vec<_> = self.sessions()?.into_iter().map(|known| known.session).collect();
        let prefix = name.to_ascii_lowercase();
        let matches: Vec<_> = match name {
            "last" => all.last().copied().into_iter().collect(),
            _ => all.iter().filter(|id| id.to_string().starts_with(&prefix)).copied().collect(),
        };
        match matches.as_slice() {
            [session] => Ok(*session),
            [] if name == "last" => Err(StoreError::NoSession { path: client.socket().to_owned() }.into()),
            [] => Err(StoreError::UnknownSession { name: name.to_owned() }.into()),
            _ => Err(StoreError::AmbiguousSession { name: name.to_owned(), matches: matches.len() }.into()),
        }
    }

    pub(super) fn session_start(&self, session: SessionId) -> anyhow::Result<Option<SessionStart>> {
        match self {
            Self::Audit(reader) => Ok(reader.session_start(session)?),
            Self::Daemon(_) => {
                let known = self.sessions()?.into_iter().find(|known| known.session == session);
                Ok(known.map(|known| known.start))
            }
        }
    }

    /// As [`Reader::records`].
    pub(super) fn records(
        &self,
        filter: &Filter,
        after: u64,
        limit: u64,
        mut each: impl FnMut(Stored) -> anyhow::Result<ControlFlow<()>>,
    ) -> anyhow::Result<u64> {
        let client = match self {
            Self::Audit(reader) => return reader.records(filter, after, Some(limit), each),
            Self::Daemon(client) => client,
        };
        let mut wanted = Wanted {
            session: filter.session,
            after,
            kinds: filter.kinds.clone(),
            path: filter.path.as_ref().map(|path| path.glob().glob().to_owned()),
            blocked: filter.blocked,
            alerts: filter.alerts,
            ..Wanted::default()
        };
        let mut left = limit;
        loop {
            wanted.limit = left.min(1024);
            let page = client.events(&wanted)?;
            for line in Cursor::new(page.lines).lines() {
                let stored: Stored =
                    serde_json::from_str(&line?).context("a row of the daemon is not understood")?;
                let seq = stored.seq;
                left -= 1;
                if each(stored)?.is_break() || left == 0 {
                    return Ok(seq);
                }
            }
            // An answer can end early; only one that does not go on has reached the end.
            if page.after == wanted.after {
                return Ok(page.after);
            }
            wanted.after = page.after;
        }
    }
}
