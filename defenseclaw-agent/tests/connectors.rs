//! The payloads that agents sent, the replies they were seen to honour and to ignore, and what we make of both.
//! Without a record the payloads follow an agent's public reference; `tests/hooks/*/meta.json` says which.

#![cfg(test)]

#[path = "connectors/golden.rs"]
mod golden;
#[path = "connectors/hostile.rs"]
mod hostile;
#[path = "connectors/recorded.rs"]
mod recorded;
#[path = "connectors/replies.rs"]
mod replies;
