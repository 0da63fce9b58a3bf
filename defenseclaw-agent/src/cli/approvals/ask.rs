//! Whom to ask: the daemon that answers this user, and every run that asks a person. A question is named by its id, with its
//! session in front where several watchers have that id.

use std::{path::Path, process::ExitCode};

use anyhow::bail;

use crate::{
    cli::{NEGATIVE, output, source},
    config,
    model::ApprovalId,
    runtime::{Client, ClientError, Pending, Question, Since},
};

/// Those who may have questions.
#[derive(Debug)]
pub(in super::super) struct Watchers(Vec<Watcher>);

/// One of them.
#[derive(Clone, Debug)]
pub(in super::super) struct Watcher(pub(in super::super) Client);

/// A question, and who has it.
#[derive(Debug)]
pub(in super::super) struct Found {
    pub(in super::super) client: Client,
    pub(in super::super) question: Question,
}

impl Watchers {
    /// At one socket, or at all that this user may open.
    pub(in super::super) fn find(socket: Option<&Path>) -> Self {
        if let Some(socket) = socket {
            return Self(Client::connect(socket).ok().map(Watcher).into_iter().collect());
        }
        let runs = config::run_sockets();
        let runs = runs.iter().filter_map(|socket| Client::connect(socket).ok());
        Self(source::daemon().ok().into_iter().chain(runs).map(Watcher).collect())
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(in super::super) fn all(&self) -> &[Watcher] {
        &self.0
    }

    /// The question of this name, open or not.
    pub(super) fn question(&self, name: &str) -> anyhow::Result<Option<Found>> {
        if self.is_empty() {
            bail!("no daemon answers, and no run asks");
        }
        let (session, id) = name.rsplit_once('/').map_or((None, name), |(session, id)| (Some(session), id));
        let id: ApprovalId = id.parse()?;
        let mut found = Vec::new();
        for Watcher(client) in &self.0 {
            match client.question(id) {
                Ok(question) => found.push(Found { client: client.clone(), question }),
                Err(ClientError::Refused { status: 404, .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(session) = session {
            found.retain(|found| {
                let own = found.question.pending.approval.session;
                own.is_some_and(|own| own.to_string().starts_with(&session.to_ascii_lowercase()))
            });
        }
        // Who has an open one is meant.
        if found.len() > 1 && found.iter().filter(|found| found.question.settled.is_none()).count() == 1 {
            found.retain(|found| found.question.settled.is_none());
        }
        if found.len() > 1 {
            let names = found.iter().map(|found| super::words::name(&found.question.pending.approval, true));
            let names: Vec<_> = names.collect();
            bail!("several watchers have a question {id}; name one of {}, or its --socket", names.join(", "));
        }
        Ok(found.pop())
    }
}

impl Watcher {
    /// What is open there; nothing if it has gone meanwhile.
    pub(super) fn open(&self) -> Result<Vec<Pending>, ClientError> {
        match self.0.open(Since::default()) {
            Ok(open) => Ok(open.approvals),
            Err(ClientError::Unreachable { .. } | ClientError::Broken(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// Somebody has said no. Everything else is an error.
pub(in super::super) fn refused(error: ClientError) -> anyhow::Result<ExitCode> {
    let ClientError::Refused { said, .. } = error else { return Err(error.into()) };
    output::note(&said);
    Ok(ExitCode::from(NEGATIVE))
}
