//! What a task asks, and how it is told that it gets no answer. Pure: bytes in, bytes out.
//!
//! What cannot be read exactly as every server would read it is not forwarded: no pointers in the name, one question,
//! nothing in the sections that belong to answers.

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::rdata::opt::EdnsOption,
    serialize::binary::{BinDecodable, BinDecoder},
};

use super::name::HostName;

/// Longest question that is forwarded, in bytes.
pub(super) const LONGEST: usize = 4096;
/// What we say we take over UDP, as servers commonly do.
const PAYLOAD: u16 = 1232;
/// Bytes before the question.
const HEADER: u16 = 12;
const INTERNET: u16 = 1;
const IXFR: u16 = 251;
const AXFR: u16 = 252;
/// Option "extended error" of RFC 8914, and its code "blocked".
const EXTENDED_ERROR: u16 = 15;
const BLOCKED: [u8; 2] = [0, 15];

/// A question that can be forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Of the message.
    pub(super) id: u16,
    /// Name that is asked for.
    pub(super) name: HostName,
    /// Type that is asked for.
    pub(super) kind: u16,
    /// The question as it stands in the message: name, type, class.
    pub(super) section: Vec<u8>,
}

/// A message that is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Not a question at all, so nobody waits for an answer.
    Silent,
    /// Answered with this code.
    Code(ResponseCode),
}

/// Reads a question.
pub(super) fn read(message: &[u8]) -> Result<Question, Unfit> {
    let word = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let header = |at| word(at).filter(|_| message.len() >= usize::from(HEADER)).ok_or(Unfit::Silent);
    let (id, flags) = (header(0)?, header(2)?);
    if flags & 0x8000 != 0 {
        return Err(Unfit::Silent);
    }
    if flags >> 11 & 15 != 0 {
        return Err(Unfit::Code(ResponseCode::NotImp));
    }
    let malformed = Unfit::Code(ResponseCode::FormErr);
    if message.len() > LONGEST || (header(4)?, header(6)?, header(8)?) != (1, 0, 0) {
        return Err(malformed);
    }
    let (name, end) = name_at(message, HEADER.into()).ok_or(malformed)?;
    let (kind, class) = word(end).zip(word(end + 2)).ok_or(malformed)?;
    let section = message.get(usize::from(HEADER)..end + 4).ok_or(malformed)?.to_vec();
    if class != INTERNET || kind == AXFR || kind == IXFR {
        return Err(Unfit::Code(ResponseCode::Refused));
    }
    // The rest has to be readable, too: it goes to the server as it is.
    Message::from_vec(message).map_err(|_error| malformed)?;
    Ok(Question { id, name, kind, section })
}

/// A name without pointers, and where it ends.
fn name_at(message: &[u8], mut at: usize) -> Option<(HostName, usize)> {
    let mut labels = Vec::new();
    let start = at;
    loop {
        let len = usize::from(*message.get(at)?);
        if len > 63 || at - start > 254 {
            return None;
        }
        at += 1;
        if len == 0 {
            return Some((HostName::new(labels), at));
        }
        labels.push(message.get(at..at + len)?);
        at += len;
    }
}

/// The answer that there is none: `code`, and why if the task can be told. None if `message` has no header.
pub(super) fn refusal(message: &[u8], code: ResponseCode, why: &str) -> Option<Vec<u8>> {
    let word = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let (id, flags) = (word(0)?, word(2)?);
    if flags & 0x8000 != 0 || message.len() < usize::from(HEADER) {
        return None;
    }
    let mut reply = Message::response(id, OpCode::from_u8((flags >> 11 & 15) as u8));
    reply.metadata.message_type = MessageType::Response;
    reply.metadata.recursion_desired = flags & 0x0100 != 0;
    reply.metadata.recursion_available = true;
    reply.metadata.response_code = code;
    // As much of the question as can be said back.
    if let Some(query) = name_at(message, HEADER.into())
        .and_then(|_| Query::read(&mut BinDecoder::new(message).clone(HEADER)).ok())
    {
        reply.add_query(query);
    }
    if Message::from_vec(message).is_ok_and(|asked| asked.edns.is_some()) {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        if !why.is_empty() {
            let text: Vec<u8> = BLOCKED.into_iter().chain(why.bytes().take(200)).collect();
            edns.options_mut().insert(EdnsOption::Unknown(EXTENDED_ERROR, text));
        }
        reply.set_edns(edns);
    }
    reply.to_vec().ok()
}

#[cfg(test)]
pub(super) mod tests;
