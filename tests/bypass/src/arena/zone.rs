//! A name server with one small zone, over UDP and TCP. Just enough of the protocol for questions of one name.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, UdpSocket},
    thread,
};

use anyhow::{Context, Result};

/// What the names of the zone carry.
#[derive(Clone, Debug)]
pub(super) struct Zone {
    /// Text of `secret.blocked.test` and of every name below it.
    pub(super) blocked: String,
    /// The same of `secret.open.test`.
    pub(super) open: String,
}

const TXT: u16 = 16;
const A: u16 = 1;
const CNAME: u16 = 5;

impl Zone {
    /// Answers at this address; port 0 takes a free one.
    pub(super) fn serve(&self, address: SocketAddr) -> Result<SocketAddr> {
        let datagrams = UdpSocket::bind(address).with_context(|| format!("udp {address}"))?;
        let bound = datagrams.local_addr()?;
        let streams = TcpListener::bind(bound).with_context(|| format!("tcp {bound}"))?;
        let zone = self.clone();
        thread::spawn(move || {
            let mut query = [0_u8; 1500];
            while let Ok((length, sender)) = datagrams.recv_from(&mut query) {
                if let Some(answer) = zone.answer(&query[..length]) {
                    let _ = datagrams.send_to(&answer, sender);
                }
            }
        });
        let zone = self.clone();
        thread::spawn(move || {
            for mut stream in streams.incoming().flatten() {
                let zone = zone.clone();
                thread::spawn(move || {
                    let mut length = [0_u8; 2];
                    while stream.read_exact(&mut length).is_ok() {
                        let mut query = vec![0; u16::from_be_bytes(length).into()];
                        let Ok(()) = stream.read_exact(&mut query) else { return };
                        let Some(answer) = zone.answer(&query) else { return };
                        let _ = stream.write_all(&(answer.len() as u16).to_be_bytes());
                        let _ = stream.write_all(&answer);
                    }
                });
            }
        });
        Ok(bound)
    }

    fn answer(&self, query: &[u8]) -> Option<Vec<u8>> {
        let question = query.get(12..)?;
        let (mut labels, mut at) = (Vec::new(), 0);
        while let Some(&length) = question.get(at).filter(|length| **length != 0) {
            let label = question.get(at + 1..at + 1 + usize::from(length))?;
            labels.push(String::from_utf8_lossy(label).to_lowercase());
            at += 1 + usize::from(length);
        }
        let kind = u16::from_be_bytes(question.get(at + 1..at + 3)?.try_into().ok()?);
        let name = labels.join(".");
        let records = self.records(&name, kind);
        let mut answer = query.get(..2)?.to_vec();
        // A recursive answer: NOERROR, or NXDOMAIN; one question, so many answers.
        answer.extend([0x81, if records.is_empty() { 0x83 } else { 0x80 }, 0, 1, 0, records.len() as u8]);
        answer.extend([0; 4]);
        answer.extend(question.get(..at + 5)?);
        for (name, kind, data) in records {
            answer.extend(name);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1, 0, 0, 0, 1]);
            answer.extend((data.len() as u16).to_be_bytes());
            answer.extend(data);
        }
        Some(answer)
    }

    /// Name, type and data of each record.
    fn records(&self, name: &str, kind: u16) -> Vec<(Vec<u8>, u16, Vec<u8>)> {
        // A pointer to the name in the question.
        let asked = vec![0xc0, 12];
        let text = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
        match (name, kind) {
            (name, TXT) if name.ends_with("blocked.test") => vec![(asked, TXT, text(&self.blocked))],
            ("alias-blocked.open.test", TXT) => alias(asked, "secret.blocked.test", &text(&self.blocked)),
            ("alias-open.open.test", TXT) => alias(asked, "secret.open.test", &text(&self.open)),
            (name, TXT) if name.ends_with("open.test") => vec![(asked, TXT, text(&self.open))],
            ("private.open.bypass-suite.com", A) => vec![(asked, A, vec![169, 254, 169, 254])],
            ("public.open.bypass-suite.com", A) => vec![(asked, A, vec![203, 0, 113, 7])],
            _ => Vec::new(),
        }
    }
}

fn alias(asked: Vec<u8>, real: &str, data: &[u8]) -> Vec<(Vec<u8>, u16, Vec<u8>)> {
    let mut encoded = Vec::new();
    for label in real.split('.') {
        encoded.push(label.len() as u8);
        encoded.extend(label.as_bytes());
    }
    encoded.push(0);
    vec![(asked, CNAME, encoded.clone()), (encoded, TXT, data.to_vec())]
}
