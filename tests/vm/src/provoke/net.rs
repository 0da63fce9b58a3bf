//! Internet sockets, in a network namespace of their own so that nothing of the machine is touched.

use std::{
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result, ensure};
use defenseclaw::model::{Action, NamespaceOp, Namespaces, NetEndpoint, Transport};
use nix::sched::{CloneFlags, unshare};

use super::Stage;
use crate::{
    sys::{self, sys},
    truth::switched,
};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// Moves this process into a new network namespace whose loopback device is up.
pub(crate) fn own_network(stage: &mut Stage) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("unshare of the network namespace")?;
    let [first, second] = switched(Namespaces::NET, NamespaceOp::Unshare);
    stage.claim("own network namespace", "unshare", first).or(second).result(0);
    let socket = sys::owned(sys!(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0)?);
    // SAFETY: zeroes are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    sys!(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
        .context("loopback up")?;
    Ok(())
}

pub(crate) fn endpoint(transport: Transport, address: IpAddr, port: u16) -> NetEndpoint {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    NetEndpoint { transport, address: Some(address), port, family: family as u16 }
}

/// A socket address in the kernel's form, and its length.
pub(crate) fn kernel_address(address: SocketAddr) -> (libc::sockaddr_storage, u32) {
    // SAFETY: zeroes are valid.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    let length = match address {
        SocketAddr::V4(v4) => {
            let to = (&raw mut storage).cast::<libc::sockaddr_in>();
            // SAFETY: the storage is larger than and aligned for any address.
            unsafe {
                (*to).sin_family = libc::AF_INET as u16;
                (*to).sin_port = v4.port().to_be();
                (*to).sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            }
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            let to = (&raw mut storage).cast::<libc::sockaddr_in6>();
            // SAFETY: as above.
            unsafe {
                (*to).sin6_family = libc::AF_INET6 as u16;
                (*to).sin6_port = v6.port().to_be();
                (*to).sin6_addr.s6_addr = v6.ip().octets();
            }
            size_of::<libc::sockaddr_in6>()
        }
    };
    (storage, length as u32)
}

pub(crate) fn socket(family: i32, kind: i32) -> Result<OwnedFd> {
    Ok(sys::owned(sys!(libc::SYS_socket, family, kind | libc::SOCK_CLOEXEC, 0)?))
}

fn connect(fd: &OwnedFd, address: SocketAddr) -> std::io::Result<i64> {
    let (storage, length) = kernel_address(address);
    sys!(libc::SYS_connect, fd.as_raw_fd(), &raw const storage, length)
}

/// Whether this namespace has `::1`; it comes up with the device unless IPv6 is switched off.
fn has_ipv6(stage: &mut Stage, step: &str) -> bool {
    let up = sys::wait_until(2, || UdpSocket::bind((V6, 0)).is_ok());
    if !up {
        stage.skip(step, "ipv6", "::1 cannot be bound");
    }
    up
}

pub(crate) fn tcp(stage: &mut Stage) -> Result<()> {
    own_network(stage)?;
    let listener = TcpListener::bind((V4, 4101))?;
    let client = socket(libc::AF_INET, libc::SOCK_STREAM)?;
    connect(&client, (V4, 4101).into())?;
    let connected = |address, port| Action::NetConnect { endpoint: endpoint(Transport::Tcp, address, port) };
    stage.claim("connect", "connect", connected(V4, 4101)).result(0);

    let client = socket(libc::AF_INET, libc::SOCK_STREAM)?;
    let refused = connect(&client, (V4, 4102).into());
    ensure!(sys::errno(&refused) == libc::ECONNREFUSED, "nobody listens at port 4102: {refused:?}");
    stage.claim("refused", "connect", connected(V4, 4102)).result(sys::raw(&refused));

    let client = socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK)?;
    let pending = connect(&client, (IpAddr::from([127, 9, 8, 7]), 4101).into());
    stage
        .claim("without blocking", "connect", connected([127, 9, 8, 7].into(), 4101))
        .result(sys::raw(&pending));

    let _second = TcpListener::bind((V4, 4106))?;
    // Ends an association: the address family is AF_UNSPEC.
    let client = socket(libc::AF_INET, libc::SOCK_STREAM)?;
    connect(&client, (V4, 4106).into())?;
    stage.claim("connect again", "connect", connected(V4, 4106)).result(0);
    let nowhere = [0_u8; 16];
    sys!(libc::SYS_connect, client.as_raw_fd(), nowhere.as_ptr(), 16)?;
    let endpoint_none = NetEndpoint { transport: Transport::Tcp, address: None, port: 0, family: 0 };
    stage.claim("disconnect", "connect", Action::NetConnect { endpoint: endpoint_none }).result(0);

    let listener_fast = TcpListener::bind((V4, 4103))?;
    fast_open(stage)?;
    drop((listener, listener_fast));

    if has_ipv6(stage, "IPv6") {
        let _listener = TcpListener::bind((V6, 4104))?;
        let client = socket(libc::AF_INET6, libc::SOCK_STREAM)?;
        connect(&client, (V6, 4104).into())?;
        stage.claim("IPv6", "connect", connected(V6, 4104)).result(0);

        let _listener = TcpListener::bind((V4, 4105))?;
        let client = socket(libc::AF_INET6, libc::SOCK_STREAM)?;
        let mapped = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
        connect(&client, (mapped, 4105).into())?;
        stage.claim("IPv4 in IPv6", "connect", connected(V4, 4105)).or(as_family(V4, 4105)).result(0);
    }
    Ok(())
}

/// The family that the socket has, where the address was IPv4 in IPv6.
fn as_family(address: IpAddr, port: u16) -> Action {
    let endpoint = NetEndpoint { family: libc::AF_INET6 as u16, ..endpoint(Transport::Tcp, address, port) };
    Action::NetConnect { endpoint }
}

/// A first send that connects as well, which does not pass where connect(2) does.
fn fast_open(stage: &mut Stage) -> Result<()> {
    let client = socket(libc::AF_INET, libc::SOCK_STREAM)?;
    let (storage, length) = kernel_address((V4, 4103).into());
    let data = b"fast open";
    let (fd, flags) = (client.as_raw_fd(), libc::MSG_FASTOPEN);
    let sent = sys!(libc::SYS_sendto, fd, data.as_ptr(), data.len(), flags, &raw const storage, length);
    match sent {
        Ok(sent) => {
            let endpoint = endpoint(Transport::Tcp, V4, 4103);
            stage.claim("fast open", "sendto", Action::NetSend { endpoint, bytes: sent as u64 }).result(sent);
        }
        Err(error) => stage.skip("fast open", "tcp_fastopen", format!("sendto with MSG_FASTOPEN: {error}")),
    }
    Ok(())
}

pub(crate) fn udp(stage: &mut Stage) -> Result<()> {
    own_network(stage)?;
    let udp = |address, port| endpoint(Transport::Udp, address, port);
    let client = socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    connect(&client, (V4, 4201).into())?;
    stage.claim("connect", "connect", Action::NetConnect { endpoint: udp(V4, 4201) }).result(0);
    // Without an address: the connect said where to.
    sys!(libc::SYS_sendto, client.as_raw_fd(), b"x".as_ptr(), 1, 0, 0, 0)?;
    stage.never("send on a connected socket", defenseclaw::model::EventKind::NetSend, "\"port\":4201");

    let sender = socket(libc::AF_INET, libc::SOCK_DGRAM)?;
    let (storage, length) = kernel_address((V4, 4202).into());
    let data = [7_u8; 33];
    sys!(libc::SYS_sendto, sender.as_raw_fd(), data.as_ptr(), 33, 0, &raw const storage, length)?;
    let sent = |address, port, bytes| Action::NetSend { endpoint: udp(address, port), bytes };
    stage.claim("sendto", "sendto", sent(V4, 4202, 33)).result(33);

    let message = |storage: &libc::sockaddr_storage, length: u32, vector: &libc::iovec| {
        // SAFETY: zeroes are a valid message.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_name = std::ptr::from_ref(storage).cast_mut().cast();
        message.msg_namelen = length;
        message.msg_iov = std::ptr::from_ref(vector).cast_mut();
        message.msg_iovlen = 1;
        message
    };
    let vector = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: 21 };
    let (storage, length) = kernel_address((V4, 4203).into());
    let header = message(&storage, length, &vector);
    sys!(libc::SYS_sendmsg, sender.as_raw_fd(), &raw const header, 0)?;
    stage.claim("sendmsg", "sendmsg", sent(V4, 4203, 21)).result(21);

    // Two messages to two places, in one call.
    let (first, first_length) = kernel_address((V4, 4204).into());
    let (second, second_length) = kernel_address((IpAddr::from([127, 1, 2, 3]), 4205).into());
    let short = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: 5 };
    let mut messages = [
        libc::mmsghdr { msg_hdr: message(&first, first_length, &vector), msg_len: 0 },
        libc::mmsghdr { msg_hdr: message(&second, second_length, &short), msg_len: 0 },
    ];
    let count = sys!(libc::SYS_sendmmsg, sender.as_raw_fd(), messages.as_mut_ptr(), 2, 0)?;
    ensure!(count == 2, "sendmmsg sent {count} messages");
    stage.claim("sendmmsg, first", "sendmmsg", sent(V4, 4204, 21));
    stage.claim("sendmmsg, second", "sendmmsg", sent([127, 1, 2, 3].into(), 4205, 5));

    if has_ipv6(stage, "IPv6") {
        let sender = socket(libc::AF_INET6, libc::SOCK_DGRAM)?;
        let (storage, length) = kernel_address((V6, 4206).into());
        sys!(libc::SYS_sendto, sender.as_raw_fd(), data.as_ptr(), 12, 0, &raw const storage, length)?;
        stage.claim("sendto, IPv6", "sendto", sent(V6, 4206, 12)).result(12);

        let mapped = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
        let (storage, length) = kernel_address((mapped, 4207).into());
        sys!(libc::SYS_sendto, sender.as_raw_fd(), data.as_ptr(), 13, 0, &raw const storage, length)?;
        let endpoint = NetEndpoint { family: libc::AF_INET6 as u16, ..udp(V4, 4207) };
        stage
            .claim("sendto, IPv4 in IPv6", "sendto", sent(V4, 4207, 13))
            .or(Action::NetSend { endpoint, bytes: 13 })
            .result(13);
    }
    Ok(())
}

pub(crate) fn bind(stage: &mut Stage) -> Result<()> {
    own_network(stage)?;
    let mut binds = vec![
        ("TCP", libc::SOCK_STREAM, Transport::Tcp, V4, 4301),
        ("UDP", libc::SOCK_DGRAM, Transport::Udp, V4, 4302),
        ("any address", libc::SOCK_STREAM, Transport::Tcp, IpAddr::V4(Ipv4Addr::UNSPECIFIED), 4303),
    ];
    if has_ipv6(stage, "IPv6") {
        binds.push(("TCP, IPv6", libc::SOCK_STREAM, Transport::Tcp, V6, 4304));
        binds.push(("UDP, IPv6", libc::SOCK_DGRAM, Transport::Udp, V6, 4305));
    }
    for (step, kind, transport, address, port) in binds {
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let fd = socket(family, kind)?;
        let (storage, length) = kernel_address((address, port).into());
        sys!(libc::SYS_bind, fd.as_raw_fd(), &raw const storage, length).context(step)?;
        stage.claim(step, "bind", Action::NetBind { endpoint: endpoint(transport, address, port) }).result(0);
    }

    // What comes in is not what this process connects to.
    let listener = TcpListener::bind((V4, 4306))?;
    let child = stage.start_child("client", |_| {
        let mut stream = std::net::TcpStream::connect((V4, 4306))?;
        stream.read_to_end(&mut Vec::new())?;
        Ok(())
    })?;
    drop(listener.accept()?);
    stage.finish_child("client", child)?;
    stage.never("accept", defenseclaw::model::EventKind::NetConnect, "\"port\":4306");
    Ok(())
}
