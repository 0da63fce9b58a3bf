//! What is asked of whoever keeps a question, for one that the person is answering.

use crate::{
    cli::describe,
    model::{Approval, AuditRecord, Ruling, Via},
    runtime::{Client, ClientError, Lasting, Said},
};

use super::message::{Answer, Key};

/// Answers a question if it is still the one that was seen. What is said against it otherwise.
pub(super) fn answer(answer: &Answer) -> Result<(), String> {
    let client = same(&answer.key, &answer.approval)?;
    let said =
        Said { ruling: answer.ruling, message: answer.message.clone(), expires_s: None, via: Via::View };
    client.rule(answer.key.id, &said).map_err(|err| words(&err))
}

/// The rule that [`Ruling::Always`] would write.
pub(super) fn lasting(key: &Key, approval: &Approval) -> Result<Lasting, String> {
    let client = same(key, approval)?;
    client.lasting(key.id).map_err(|err| format!("`{}`: {}", Ruling::Always, words(&err)))
}

/// A watcher that has started anew counts from the beginning: its question of that id is another one.
fn same(key: &Key, seen: &Approval) -> Result<Client, String> {
    let client = Client::connect(&key.from).map_err(|err| words(&err))?;
    let now = client.question(key.id).map_err(|err| words(&err))?;
    if let Some(settled) = now.settled {
        return Err(describe::record(&AuditRecord::Settled(settled)));
    }
    let now = now.pending.approval;
    if (now.session, now.since, &now.subject) == (seen.session, seen.since, &seen.subject) {
        Ok(client)
    } else {
        Err("it is another question now: nothing was answered".to_owned())
    }
}

fn words(err: &ClientError) -> String {
    match err {
        ClientError::Refused { said, .. } => said.clone(),
        ClientError::Unreachable { .. }
        | ClientError::Impostor { .. }
        | ClientError::Broken(_)
        | ClientError::Unusable(_) => err.to_string(),
    }
}
