//! Names: a resolver that answers what this file scripts, on port 53 of a network namespace of its own.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{Action, LossReason, Text, Transport};

use super::{
    Stage,
    net::{endpoint, own_network},
};

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const RESPONSE: u16 = 0x8180;
const TRUNCATED: u16 = 0x0200;

fn encoded(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = Vec::new();
    for word in [id, 0x0100, 1, 0, 0, 0] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    message.extend(encoded(name));
    message.extend_from_slice(&[0, A as u8, 0, 1]);
    message
}

fn record(name: &str, kind: u16, data: &[u8]) -> Vec<u8> {
    let mut bytes = encoded(name);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1, 0, 0, 0, 60]);
    bytes.extend_from_slice(&(data.len() as u16).to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// The answer to `question`, with these flags and records.
fn answer(question: &[u8], flags: u16, records: &[Vec<u8>]) -> Vec<u8> {
    let mut message = question[..2].to_vec();
    for word in [flags, 1, records.len() as u16, 0, 0] {
        message.extend_from_slice(&word.to_be_bytes());
    }
    message.extend_from_slice(&question[12..]);
    message.extend(records.concat());
    message
}

/// Asks for `name` and has the resolver answer with what `reply` makes of the question.
fn ask(server: &UdpSocket, name: &str, reply: impl FnOnce(&[u8]) -> Vec<u8>) -> Result<()> {
    let client = UdpSocket::bind((SERVER, 0))?;
    client.set_read_timeout(Some(Duration::from_secs(10)))?;
    client.send_to(&question(4242, name), (SERVER, 53))?;
    let mut buffer = [0; 1500];
    let (length, from): (usize, SocketAddr) =
        server.recv_from(&mut buffer).context("the question has not arrived")?;
    let reply = reply(&buffer[..length]);
    server.send_to(&reply, from)?;
    let length = client.recv(&mut buffer).context("the answer has not arrived")?;
    ensure!(buffer[..length] == reply, "another answer has arrived");
    Ok(())
}

pub(crate) fn answers(stage: &mut Stage) -> Result<()> {
    own_network(stage)?;
    let server = UdpSocket::bind((SERVER, 53)).context("port 53 of an own network namespace")?;
    server.set_read_timeout(Some(Duration::from_secs(10)))?;
    let v4 = Ipv4Addr::new(192, 0, 2, 10);
    let v6: Ipv6Addr = "2001:db8::1234".parse()?;
    let seen =
        |name: &str, code: u16, aliases: &[&str], addresses: &[IpAddr], truncated: bool| Action::DnsAnswer {
            server: endpoint(Transport::Udp, SERVER, 53),
            name: Text::from(name),
            code,
            aliases: aliases.iter().map(|alias| Text::from(*alias)).collect(),
            addresses: addresses.to_vec(),
            truncated,
        };
    // The kernel cannot tell for whom an answer is.
    let claim = |stage: &mut Stage, step: &str, action: Action| {
        stage.claim(step, "cgroup_skb", action).tgid(0).uid = None;
    };

    ask(&server, "one.example.test", |question| {
        answer(question, RESPONSE, &[record("one.example.test", A, &v4.octets())])
    })?;
    claim(stage, "address", seen("one.example.test", 0, &[], &[v4.into()], false));

    ask(&server, "www.example.test", |question| {
        let records = [
            record("www.example.test", CNAME, &encoded("alias.example.test")),
            record("alias.example.test", CNAME, &encoded("host.example.test")),
            record("host.example.test", A, &v4.octets()),
            record("host.example.test", AAAA, &v6.octets()),
        ];
        answer(question, RESPONSE, &records)
    })?;
    let aliases = ["alias.example.test", "host.example.test"];
    claim(stage, "aliases", seen("www.example.test", 0, &aliases, &[v4.into(), v6.into()], false));

    ask(&server, "missing.example.test", |question| answer(question, RESPONSE | 3, &[]))?;
    claim(stage, "no such name", seen("missing.example.test", 3, &[], &[], false));

    ask(&server, "long.example.test", |question| answer(question, RESPONSE | TRUNCATED, &[]))?;
    claim(stage, "truncated", seen("long.example.test", 0, &[], &[], true));

    // Not answers at all; each has to be counted, none may harm.
    let garbage: [&[u8]; 3] = [b"", b"\xff\xff\xff\xff\xff", &[0xc0; 600]];
    for bytes in garbage {
        ask(&server, "garbage.example.test", |_| bytes.to_vec())?;
    }
    // A name that points to itself, and a record that promises more than there is.
    ask(&server, "loop.example.test", |question| {
        [&question[..2], &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1]].concat()
    })?;
    ask(&server, "short.example.test", |question| {
        let mut message = answer(question, RESPONSE, &[record("short.example.test", A, &v4.octets())]);
        message.truncate(message.len() - 3);
        message
    })?;
    // An empty datagram has nothing to decode.
    stage.loss("garbage", "dns_answer", 3, None).reason = Some(LossReason::DecodeError);
    Ok(())
}
