//! Sockets of other families and kinds: what rules about addresses do not see. The twin is the spared executable.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result, bail, ensure};

use super::{Case, HAPPENED, Proof, Target, case, net, steps::unsupported};
use crate::{arena::Class::Files, sys::sys};

pub(super) const CASES: &[Case] = &[
    case("raw-udp", Files, Proof::Service, raw_datagram).privileged(),
    case("raw-icmp", Files, Proof::Happened, |_| made(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP))
        .privileged(),
    case("raw-v6", Files, Proof::Happened, |_| made(libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_RAW))
        .privileged(),
    case("packet", Files, Proof::Happened, |_| {
        made(libc::AF_PACKET, libc::SOCK_RAW, i32::from(0x0003_u16.to_be()))
    })
    .privileged(),
    case("packet-in-namespace", Files, Proof::Happened, |_| {
        super::steps::namespaces(nix::sched::CloneFlags::CLONE_NEWNET)?;
        made(libc::AF_PACKET, libc::SOCK_DGRAM, i32::from(0x0003_u16.to_be()))
    })
    .privileged(),
    case("netlink-uevent", Files, Proof::Happened, |_| made(libc::AF_NETLINK, libc::SOCK_RAW, 15))
        .privileged(),
    case("netlink-audit", Files, Proof::Happened, |_| made(libc::AF_NETLINK, libc::SOCK_RAW, 9)).privileged(),
    case("netlink-netfilter", Files, Proof::Happened, |_| made(libc::AF_NETLINK, libc::SOCK_RAW, 12))
        .privileged(),
    case("vsock", Files, Proof::Happened, |_| made(libc::AF_VSOCK, libc::SOCK_STREAM, 0)).privileged(),
    case("alg", Files, Proof::Happened, |_| made(libc::AF_ALG, libc::SOCK_SEQPACKET, 0)).privileged(),
    case("xdp", Files, Proof::Happened, |_| made(libc::AF_XDP, libc::SOCK_RAW, 0)).privileged(),
    case("tipc", Files, Proof::Happened, |_| made(libc::AF_TIPC, libc::SOCK_RDM, 0)).privileged(),
    case("bluetooth", Files, Proof::Happened, |_| made(libc::AF_BLUETOOTH, libc::SOCK_RAW, 1)).privileged(),
    case("sctp", Files, Proof::Happened, |_| made(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_SCTP))
        .privileged(),
];

/// Makes a socket, and lets the kernel say what it is.
fn made(family: i32, kind: i32, protocol: i32) -> Result<Vec<u8>> {
    let fd = match net::socket(family, kind, protocol) {
        Err(error) => match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) {
            Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT) => {
                return unsupported(format!("no sockets of family {family}, protocol {protocol}: {error}"));
            }
            _ => return Err(error),
        },
        Ok(fd) => fd,
    };
    let (mut domain, mut length) = (0_i32, 4_u32);
    let option = libc::SO_DOMAIN;
    sys!(libc::SYS_getsockopt, fd.as_raw_fd(), libc::SOL_SOCKET, option, &raw mut domain, &raw mut length)?;
    ensure!(domain == family, "family {domain}");
    Ok(HAPPENED.to_vec())
}

/// A datagram made by hand, from the port of an ordinary socket, which receives the answer.
fn raw_datagram(target: &Target) -> Result<Vec<u8>> {
    let SocketAddr::V4(to) = target.endpoints().v4 else { bail!("not IPv4") };
    let receiver = UdpSocket::bind("0.0.0.0:0")?;
    let raw = net::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_UDP).context("a raw socket")?;
    let payload = b"nonce";
    let mut datagram = Vec::new();
    datagram.extend(receiver.local_addr()?.port().to_be_bytes());
    datagram.extend(to.port().to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    // No checksum.
    datagram.extend([0, 0]);
    datagram.extend(payload);
    let (address, length) = net::kernel_address(to.into());
    sys!(libc::SYS_sendto, raw.as_raw_fd(), datagram.as_ptr(), datagram.len(), 0, address.as_ptr(), length)?;
    receiver.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    let mut answer = vec![0_u8; 4096];
    let length = receiver.recv(&mut answer).context("no answer")?;
    answer.truncate(length);
    Ok(answer)
}
