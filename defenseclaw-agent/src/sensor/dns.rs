//! Name server answers: from the wire to names and addresses. Parsing is hickory-proto's; this file picks what the
//! audit keeps.

use std::net::IpAddr;

use hickory_proto::{
    op::Message,
    rr::{Name, RData},
};

use crate::model::{Action, NetEndpoint, Text};

/// Answers kept of one message: more say nothing about what is connected to.
const MOST: usize = 64;

/// None if the message is not an answer that can be read.
pub(super) fn answer(server: NetEndpoint, message: &[u8], cut: bool) -> Option<Action> {
    let message = Message::from_vec(message).ok()?;
    let name = text(message.queries.first()?.name());
    let (mut aliases, mut addresses) = (Vec::new(), Vec::new());
    for record in message.answers.iter().take(MOST) {
        match &record.data {
            RData::A(address) => addresses.push(IpAddr::V4(address.0)),
            RData::AAAA(address) => addresses.push(IpAddr::V6(address.0)),
            RData::CNAME(alias) => aliases.push(text(&alias.0)),
            _ => {}
        }
    }
    let metadata = &message.metadata;
    let truncated = cut || metadata.truncation;
    Some(Action::DnsAnswer {
        server,
        name,
        code: metadata.response_code.into(),
        aliases,
        addresses,
        truncated,
    })
}

/// Without the final dot, in lower case: names compare so.
fn text(name: &Name) -> Text {
    let text = name.to_lowercase().to_ascii();
    text.strip_suffix('.').filter(|text| !text.is_empty()).unwrap_or(&text).into()
}
