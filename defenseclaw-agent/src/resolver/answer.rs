//! What a server answers: which names lead from the question to which addresses. Pure: bytes in, facts out.
//!
//! Reading is hickory-proto's. A message that it cannot read to its end is not passed on, for then we and the task
//! could read different things in it.

use std::{collections::HashMap, net::IpAddr};

use hickory_proto::{
    op::{Header, Message, MessageType},
    rr::{DNSClass, RData, Record, rdata::svcb::SvcParamValue},
    serialize::binary::{BinDecodable, BinDecoder},
};

use super::{name::HostName, question::Question};

/// Records of one message that are read.
const MOST_RECORDS: u32 = 512;
/// Aliases between the question and its addresses; resolvers give up earlier.
const MOST_ALIASES: usize = 16;
/// Types whose additional addresses are used by who asked.
const SRV: u16 = 33;
const SVCB: u16 = 64;
const HTTPS: u16 = 65;

/// An answer that belongs to the question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// Response code.
    pub(super) code: u16,
    /// The server says that this is not all.
    pub(super) truncated: bool,
    /// Names from the question to the addresses, without the question.
    pub(super) aliases: Vec<HostName>,
    /// Addresses of the last of them, or of one on the way, and for how many seconds.
    pub(super) addresses: Vec<(IpAddr, u32)>,
    /// Addresses of other names in the same message, which who asked might use.
    pub(super) others: Vec<IpAddr>,
}

/// Why a message is not an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotAnAnswer {
    /// Not to this question: another server's, or forged. The right one may still come.
    Foreign,
    /// To this question, but it cannot be read.
    Unreadable,
}

/// Reads the answer to `question`, asked under the id `id`.
pub(super) fn read(message: &[u8], question: &Question, id: u16) -> Result<Answer, NotAnAnswer> {
    let header = Header::read(&mut BinDecoder::new(message)).map_err(|_error| NotAnAnswer::Foreign)?;
    let Header { metadata, counts } = header;
    if metadata.id != id || metadata.message_type != MessageType::Response {
        return Err(NotAnAnswer::Foreign);
    }
    let records = u32::from(counts.answers) + u32::from(counts.authorities) + u32::from(counts.additionals);
    // A server that cannot even read the question may leave it out, and says nothing else.
    let bare = counts.queries == 0 && counts.answers == 0 && u16::from(metadata.response_code) != 0;
    if !bare && (counts.queries != 1 || !says_back(message, &question.section)) {
        return Err(NotAnAnswer::Foreign);
    }
    if records > MOST_RECORDS {
        return Err(NotAnAnswer::Unreadable);
    }
    let message = Message::from_vec(message).map_err(|_error| NotAnAnswer::Unreadable)?;
    let mut answer = chain(&question.name, &message.answers).ok_or(NotAnAnswer::Unreadable)?;
    if matches!(question.kind, SRV | SVCB | HTTPS) {
        answer.others.extend(message.additionals.iter().flat_map(addresses_of));
    }
    answer.code = message.metadata.response_code.into();
    answer.truncated = message.metadata.truncation;
    Ok(answer)
}

/// Whether the message repeats the question, in whatever case.
fn says_back(message: &[u8], section: &[u8]) -> bool {
    message.get(12..12 + section.len()).is_some_and(|said| {
        let (name, rest) = said.split_at(section.len().saturating_sub(4));
        section.strip_suffix(rest).is_some_and(|asked| asked.eq_ignore_ascii_case(name))
    })
}

/// Follows aliases by name, in whatever order they stand. None if they lead in a circle or too far.
fn chain(asked: &HostName, records: &[Record]) -> Option<Answer> {
    let mut targets: HashMap<HostName, HostName> = HashMap::new();
    for record in records.iter().filter(|record| record.dns_class == DNSClass::IN) {
        if let RData::CNAME(target) = &record.data {
            let target = HostName::from(&target.0);
            let earlier = targets.insert(HostName::from(&record.name), target.clone());
            // Two aliases of one name: who asked may follow either.
            if earlier.is_some_and(|earlier| earlier != target) {
                return None;
            }
        }
    }
    let mut path = vec![asked.clone()];
    while let Some(next) = path.last().and_then(|name| targets.get(name)) {
        if path.len() > MOST_ALIASES || path.contains(next) {
            return None;
        }
        path.push(next.clone());
    }
    let mut answer = Answer::default();
    for record in records {
        let ours = record.dns_class == DNSClass::IN && path.contains(&HostName::from(&record.name));
        for address in addresses_of(record) {
            if ours {
                answer.addresses.push((address, record.ttl));
            } else {
                answer.others.push(address);
            }
        }
    }
    answer.aliases = path.split_off(1);
    Some(answer)
}

/// Addresses in a record: its own, or the hints of a service.
fn addresses_of(record: &Record) -> Vec<IpAddr> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "no other type holds addresses")]
    let service = match &record.data {
        RData::A(address) => return vec![address.0.into()],
        RData::AAAA(address) => return vec![IpAddr::from(address.0).to_canonical()],
        RData::SVCB(service) => service,
        RData::HTTPS(service) => &service.0,
        _ => return Vec::new(),
    };
    service
        .svc_params
        .iter()
        .flat_map(|(_, value)| -> Vec<IpAddr> {
            #[expect(clippy::wildcard_enum_match_arm, reason = "no other parameter holds addresses")]
            match value {
                SvcParamValue::Ipv4Hint(hints) => hints.0.iter().map(|hint| hint.0.into()).collect(),
                SvcParamValue::Ipv6Hint(hints) => {
                    hints.0.iter().map(|hint| IpAddr::from(hint.0).to_canonical()).collect()
                }
                _ => Vec::new(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
