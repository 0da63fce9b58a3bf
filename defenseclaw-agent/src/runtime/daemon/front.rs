//! The daemon's questions to a person, and who may see and answer them.

use super::Daemon;
use crate::{
    api::{Answers as _, Asks, Granted, Lasting, Open, Peer, Question, Said, Since, Untaken},
    config::Config,
    model::{ApprovalId, GrantId, Ruling, Via},
    pipeline::Limits,
    runtime::asking::Rights,
};

/// What the configuration says of them.
pub(super) fn limits(config: &Config) -> Limits {
    Limits { open_max: config.approvals.open_max, wait: config.approvals.timeout }
}

impl Daemon {
    fn rights(&self, peer: &Peer) -> Rights {
        Rights { all: self.controls(peer), own: self.in_force().config.approvals.owner }
    }
}

impl Asks for Daemon {
    async fn open(&self, peer: &Peer, since: Since) -> Open {
        self.desk.open(peer, self.rights(peer), since).await
    }

    fn question(&self, peer: &Peer, id: ApprovalId) -> Option<Question> {
        self.desk.question(peer, self.rights(peer), id)
    }

    async fn lasting(&self, peer: &Peer, id: ApprovalId) -> Result<Lasting, Untaken> {
        self.desk.lasting(peer, self.rights(peer), id).await
    }

    async fn rule(&self, peer: &Peer, id: ApprovalId, said: Said) -> Result<(), Untaken> {
        let always = said.ruling == Ruling::Always;
        self.desk.rule(peer, self.rights(peer), id, said).await?;
        if always {
            let read = self.read_again();
            read.map_err(|err| Untaken::Impossible(format!("written, and not in force: {err}")))?;
        }
        Ok(())
    }

    fn grants(&self, peer: &Peer) -> Granted {
        self.desk.grants(peer, self.rights(peer))
    }

    async fn revoke(&self, peer: &Peer, id: GrantId, via: Via) -> Result<(), Untaken> {
        self.desk.revoke(peer, self.rights(peer), id, via).await
    }
}
