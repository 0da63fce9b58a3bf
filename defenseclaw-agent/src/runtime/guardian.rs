//! What remains to be done when a watcher is killed while the kernel has stopped processes for it: each gets the fallback, and
//! none stays stopped. Nobody is asked any more. Then the programs go, unless the session is persistent.

use std::io::Read;

use super::{adopt, persist};
use crate::{enforce::Pauses, launcher::GUARDIAN_DONE, model::SessionId};

/// Waits for the end of who has started us, and settles what is left. `asked` is its pipe.
pub fn guard(session: SessionId, release: bool, mut asked: impl Read) {
    let mut word = [0];
    if asked.read(&mut word).is_ok_and(|len| len == 1) && word == [GUARDIAN_DONE] {
        return;
    }
    match Pauses::inherit(&persist::pins(session).join("maps")).and_then(|mut pauses| pauses.leave()) {
        Ok(settled) => tracing::warn!(%session, settled = settled.len(), "the watcher is gone"),
        Err(error) => {
            tracing::error!(%session, %error, "the watcher is gone, and paused processes cannot be told");
        }
    }
    if release && let Err(error) = adopt::release(session) {
        tracing::error!(%session, %error, "the programs stay in force; `defenseclaw release` takes them off");
    }
}
