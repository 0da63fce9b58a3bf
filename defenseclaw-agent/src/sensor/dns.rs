//! Name server answers: from the wire to names and addresses. Reading names and headers is hickory-proto's; this file
//! walks the records, keeps what the audit keeps, and stops where a message that was cut short ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::{
    op::{Header, MessageType, Query},
    rr::Name,
    serialize::binary::{BinDecodable, BinDecoder},
};

use crate::model::{Action, NetEndpoint, Text};

/// Answers kept of one message: more say nothing about what is connected to. Compression lets few bytes name long
/// names, so this also bounds what a hostile message costs.
const MOST: usize = 64;
/// Class of addresses and aliases.
const INTERNET: u16 = 1;
/// Types of records.
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const OPT: u16 = 41;

#[derive(Default)]
struct Found {
    aliases: Vec<Text>,
    addresses: Vec<IpAddr>,
    /// Upper bits of the response code, from the EDNS record.
    code: u8,
    /// More than [`MOST`].
    left_out: bool,
}

/// Data of one resource record.
enum Data {
    Address(IpAddr),
    Alias(Name),
    Edns { code: u8 },
    Other,
}

/// None if the message is not an answer that can be read. `cut`: its end is missing.
pub(super) fn answer(server: NetEndpoint, message: &[u8], cut: bool) -> Option<Action> {
    let mut decoder = BinDecoder::new(message);
    // Not `Message::read`: it makes room for as many questions as the header claims, and fails as a whole for a
    // record that is cut or odd.
    let Header { metadata, counts } = Header::read(&mut decoder).ok()?;
    if metadata.message_type != MessageType::Response || counts.queries == 0 {
        return None;
    }
    let name = text(Query::read(&mut decoder).ok()?.name());
    let mut found = Found::default();
    let whole = (1..counts.queries).try_for_each(|_| Query::read(&mut decoder).ok().map(drop)).is_some()
        && (0..counts.answers).try_for_each(|_| record(&mut decoder).map(|data| found.keep(&data))).is_some()
        && (0..u32::from(counts.authorities) + u32::from(counts.additionals))
            .try_for_each(|_| record(&mut decoder).map(|data| found.look(&data)))
            .is_some();
    let low = u16::from(metadata.response_code) & 0xf;
    Some(Action::DnsAnswer {
        server,
        name,
        code: u16::from(found.code) << 4 | low,
        aliases: found.aliases,
        addresses: found.addresses,
        truncated: cut || metadata.truncation || !whole || found.left_out,
    })
}

impl Found {
    /// A record of the answer section.
    fn keep(&mut self, data: &Data) {
        let room = self.aliases.len() + self.addresses.len() < MOST;
        match data {
            Data::Address(address) if room => self.addresses.push(*address),
            Data::Alias(alias) if room => self.aliases.push(text(alias)),
            Data::Address(_) | Data::Alias(_) => self.left_out = true,
            Data::Edns { .. } | Data::Other => {}
        }
    }

    /// A record of the other sections.
    fn look(&mut self, data: &Data) {
        if let Data::Edns { code } = data {
            self.code = *code;
        }
    }
}

/// The next record; none if there is no whole one.
fn record(decoder: &mut BinDecoder<'_>) -> Option<Data> {
    Name::read(decoder).ok()?;
    let kind = decoder.read_u16().ok()?.unverified();
    let class = decoder.read_u16().ok()?.unverified();
    let [code, ..] = decoder.read_u32().ok()?.unverified().to_be_bytes();
    let len = usize::from(decoder.read_u16().ok()?.unverified());
    let start = decoder.index();
    let data = decoder.read_slice(len).ok()?.unverified();
    Some(match (kind, class) {
        // The class of this one is a size.
        (OPT, _) => Data::Edns { code },
        (A, INTERNET) => Data::Address(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into()),
        (AAAA, INTERNET) => Data::Address(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into()),
        (CNAME, INTERNET) => {
            let mut inside = decoder.clone(u16::try_from(start).ok()?);
            let alias = Name::read(&mut inside).ok()?;
            (inside.index() == start + len).then_some(Data::Alias(alias))?
        }
        _ => Data::Other,
    })
}

/// Without the final dot, in lower case: names compare so.
fn text(name: &Name) -> Text {
    let text = name.to_lowercase().to_ascii();
    text.strip_suffix('.').filter(|text| !text.is_empty()).unwrap_or(&text).into()
}

#[cfg(test)]
pub(super) mod tests;
