//! Names that policy blocks: asked for in every way, behind other names, with answers that lie.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{Case, HAPPENED, Proof, Target, case, steps::unsupported};
use crate::arena::Class::Files;

pub(super) const CASES: &[Case] = &[
    case("dns-udp", Files, Proof::Service, |target| udp(server(target)?, &name(target, "secret"), TXT)),
    case("dns-connected", Files, Proof::Service, |target| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(server(target)?)?;
        socket.send(&query(&name(target, "secret"), TXT))?;
        received(&socket)
    }),
    case("dns-tcp", Files, Proof::Service, |target| tcp(server(target)?, &name(target, "secret"))),
    case("dns-spelling", Files, Proof::Service, |target| {
        let name = name(target, "SeCrEt").to_uppercase();
        udp(server(target)?, &name, TXT)
    }),
    case("dns-cname", Files, Proof::Service, |target| {
        let which = if target.is_open() { "alias-open" } else { "alias-blocked" };
        udp(server(target)?, &format!("{which}.open.test"), TXT)
    }),
    case("dns-rebinding", Files, Proof::Happened, |target| {
        let which = if target.is_open() { "public" } else { "private" };
        let answer = udp(server(target)?, &format!("{which}.{PUBLIC}"), A)?;
        let expected: &[u8] = if target.is_open() { &[203, 0, 113, 7] } else { &[169, 254, 169, 254] };
        ensure!(answer.windows(4).any(|bytes| bytes == expected), "another address");
        Ok(HAPPENED.to_vec())
    }),
    case("dns-tunnel", Files, Proof::Happened, |target| {
        // Data leave in the labels of a name whose zone is allowed; whoever runs the zone reads them.
        let name = "exfiltrated-data-in-a-label.and-in-another-one.open.test";
        ensure!(udp(server(target)?, name, TXT)?.len() > 60, "the name server did not answer");
        Ok(HAPPENED.to_vec())
    }),
    case("dns-other-port", Files, Proof::Service, |target| {
        udp(target.arena.dns_elsewhere, &name(target, "secret"), TXT)
    }),
    case("dns-over-connection", Files, Proof::Service, |target| {
        // What DNS over HTTPS comes to: a name server behind a port that means something else.
        tcp(target.arena.dns_elsewhere, &name(target, "secret"))
    }),
];

/// A zone that is allowed, and public by its name: what ends in `test` never is.
pub(crate) const PUBLIC: &str = "open.bypass-suite.com";

const TXT: u16 = 16;
const A: u16 = 1;

fn server(target: &Target) -> Result<SocketAddr> {
    match target.arena.dns {
        Some(server) => Ok(server),
        None => unsupported("port 53 is taken"),
    }
}

fn name(target: &Target, first: &str) -> String {
    format!("{first}.{}.test", if target.is_open() { "open" } else { "blocked" })
}

/// A question with recursion.
fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

fn udp(server: SocketAddr, name: &str, kind: u16) -> Result<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.send_to(&query(name, kind), server)?;
    received(&socket)
}

fn received(socket: &UdpSocket) -> Result<Vec<u8>> {
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut answer = vec![0_u8; 1500];
    let length = socket.recv(&mut answer).context("no answer")?;
    answer.truncate(length);
    Ok(answer)
}

fn tcp(server: SocketAddr, name: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let message = query(name, TXT);
    stream.write_all(&(message.len() as u16).to_be_bytes())?;
    stream.write_all(&message)?;
    let mut length = [0_u8; 2];
    stream.read_exact(&mut length).context("no answer")?;
    let mut answer = vec![0_u8; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
