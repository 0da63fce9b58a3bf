//! Cases about internet addresses, all on this machine's own loopback network.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
};

use defenseclaw::model::EventKind;

use super::place::{Case, Object, Place, Rule, nothing};
use crate::{
    provoke::kernel_address,
    sys::{self, sys},
};

pub(super) const RULE_V4: &str = "proof.net.v4";
pub(super) const RULE_V6: &str = "proof.net.v6";
pub(super) const RULE_BIND: &str = "proof.net.bind";

const V4: Rule = Rule::Shared(RULE_V4);
const V6: Rule = Rule::Shared(RULE_V6);
const BIND: Rule = Rule::Shared(RULE_BIND);

fn v4(place: &Place) -> SocketAddr {
    *place.side.of(&place.shared.v4)
}

fn v6(place: &Place) -> SocketAddr {
    *place.side.of(&place.shared.v6)
}

fn mapped(place: &Place) -> SocketAddr {
    let IpAddr::V4(address) = v4(place).ip() else { unreachable!("made as IPv4") };
    SocketAddr::new(address.to_ipv6_mapped().into(), v4(place).port())
}

fn free(place: &Place) -> u16 {
    *place.side.of(&place.shared.free)
}

fn of_v4(place: &Place) -> Object {
    Object::Endpoint(v4(place))
}

fn of_v6(place: &Place) -> Object {
    Object::Endpoint(v6(place))
}

fn of_port(place: &Place) -> Object {
    Object::Port(free(place))
}

const CONNECT: EventKind = EventKind::NetConnect;
const SEND: EventKind = EventKind::NetSend;
const BOUND: EventKind = EventKind::NetBind;

pub(super) const CASES: &[Case] = &[
    Case::new("connect", V4, nothing, |place| connect(libc::SOCK_STREAM, v4(place)), CONNECT, of_v4),
    Case::new("connect by IPv6", V6, nothing, |place| connect(libc::SOCK_STREAM, v6(place)), CONNECT, of_v6),
    Case::new(
        "connect by a mapped address",
        V4,
        nothing,
        |place| connect(libc::SOCK_STREAM, mapped(place)),
        CONNECT,
        of_v4,
    ),
    Case::new("connect UDP", V4, nothing, |place| connect(libc::SOCK_DGRAM, v4(place)), CONNECT, of_v4),
    Case::new(
        "connect UDP by IPv6",
        V6,
        nothing,
        |place| connect(libc::SOCK_DGRAM, v6(place)),
        CONNECT,
        of_v6,
    ),
    Case::new("send", V4, nothing, |place| send(v4(place)), SEND, of_v4),
    Case::new("send by IPv6", V6, nothing, |place| send(v6(place)), SEND, of_v6),
    Case::new("send to a mapped address", V4, nothing, |place| send(mapped(place)), SEND, of_v4),
    Case::new("bind", BIND, nothing, |place| bind(libc::SOCK_STREAM, here(place, false)), BOUND, of_port),
    Case::new(
        "bind by IPv6",
        BIND,
        nothing,
        |place| bind(libc::SOCK_STREAM, here(place, true)),
        BOUND,
        of_port,
    ),
    Case::new("bind UDP", BIND, nothing, |place| bind(libc::SOCK_DGRAM, here(place, false)), BOUND, of_port),
    Case::new(
        "bind UDP by IPv6",
        BIND,
        nothing,
        |place| bind(libc::SOCK_DGRAM, here(place, true)),
        BOUND,
        of_port,
    ),
];

fn here(place: &Place, v6: bool) -> SocketAddr {
    let address = if v6 { IpAddr::V6(Ipv6Addr::LOCALHOST) } else { IpAddr::V4(Ipv4Addr::LOCALHOST) };
    SocketAddr::new(address, free(place))
}

fn socket(kind: i32, address: SocketAddr) -> io::Result<std::os::fd::OwnedFd> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    Ok(sys::owned(sys!(libc::SYS_socket, family, kind | libc::SOCK_CLOEXEC, 0)?))
}

pub(in crate::policy) fn connect(kind: i32, address: SocketAddr) -> io::Result<i64> {
    let (storage, length) = kernel_address(address);
    sys!(libc::SYS_connect, socket(kind, address)?.as_raw_fd(), &raw const storage, length)
}

fn send(address: SocketAddr) -> io::Result<i64> {
    let socket = socket(libc::SOCK_DGRAM, address)?;
    let (storage, length) = kernel_address(address);
    sys!(libc::SYS_sendto, socket.as_raw_fd(), b"x".as_ptr(), 1, 0, &raw const storage, length)
}

/// Others may be bound there, too, as long as nobody listens.
pub(in crate::policy) fn bind(kind: i32, address: SocketAddr) -> io::Result<i64> {
    let socket = socket(kind, address)?;
    let on = 1_i32;
    sys!(
        libc::SYS_setsockopt,
        socket.as_raw_fd(),
        libc::SOL_SOCKET,
        libc::SO_REUSEADDR,
        &raw const on,
        size_of::<i32>()
    )?;
    let (storage, length) = kernel_address(address);
    sys!(libc::SYS_bind, socket.as_raw_fd(), &raw const storage, length)
}
