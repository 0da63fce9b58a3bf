//! Reaching an internet address that policy blocks, by every way to name it and every call that sends.

use std::{
    ffi::CString,
    io::{IoSlice, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
};

use anyhow::{Context, Result, bail, ensure};

use super::{Case, Proof, Target, case, descriptors::passed, steps::unsupported};
use crate::{
    arena::Class::Files,
    sys::{self, sys},
};

pub(super) const CASES: &[Case] = &[
    case("tcp4", Files, Proof::Service, |target| tcp(target.endpoints().v4)),
    case("tcp6", Files, Proof::Service, |target| tcp(v6(target)?)),
    case("tcp-v4-mapped", Files, Proof::Service, |target| tcp(mapped(target))),
    case("tcp-nonblocking", Files, Proof::Service, |target| {
        let fd = socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
        let connected = connect(&fd, target.endpoints().v4);
        let pending =
            connected.as_ref().err().and_then(std::io::Error::raw_os_error) == Some(libc::EINPROGRESS);
        ensure!(connected.is_ok() || pending, "{connected:?}");
        sys!(libc::SYS_fcntl, fd.as_raw_fd(), libc::F_SETFL, 0)?;
        let mut wait = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        sys!(libc::SYS_poll, &raw mut wait, 1, 10_000)?;
        ask(&fd)
    }),
    case("tcp-reconnect", Files, Proof::Service, |target| {
        // First to an address that is allowed, then away from it, then to the other.
        let fd = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        connect(&fd, target.arena.open.v4)?;
        let nowhere = [0_u8; 16];
        sys!(libc::SYS_connect, fd.as_raw_fd(), nowhere.as_ptr(), 16)?;
        connect(&fd, target.endpoints().v4)?;
        ask(&fd)
    }),
    case("tcp-fast-open", Files, Proof::Service, |target| {
        let fd = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        let (address, length) = kernel_address(target.endpoints().v4);
        let (text, flags) = (b"nonce\n", libc::MSG_FASTOPEN);
        sys!(libc::SYS_sendto, fd.as_raw_fd(), text.as_ptr(), text.len(), flags, address.as_ptr(), length)
            .context("sendto with MSG_FASTOPEN")?;
        answer(&fd)
    }),
    case("mptcp", Files, Proof::Service, |target| {
        let fd = socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP);
        let fd = match fd {
            Err(error)
                if error.downcast_ref::<std::io::Error>().is_some_and(|error| {
                    [libc::EPROTONOSUPPORT, libc::ENOPROTOOPT].contains(&error.raw_os_error().unwrap_or(0))
                }) =>
            {
                return unsupported("no MPTCP");
            }
            other => other?,
        };
        connect(&fd, target.endpoints().v4)?;
        ask(&fd)
    }),
    case("tcp-bind-first", Files, Proof::Service, |target| {
        let fd = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        let (address, length) = kernel_address(SocketAddr::from(([127, 1, 2, 3], 0)));
        sys!(libc::SYS_bind, fd.as_raw_fd(), address.as_ptr(), length)?;
        connect(&fd, target.endpoints().v4)?;
        ask(&fd)
    }),
    case("tcp-bindtodevice", Files, Proof::Service, |target| {
        let fd = socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
        let (device, level, option) = (b"lo\0", libc::SOL_SOCKET, libc::SO_BINDTODEVICE);
        sys!(libc::SYS_setsockopt, fd.as_raw_fd(), level, option, device.as_ptr(), device.len())?;
        connect(&fd, target.endpoints().v4)?;
        ask(&fd)
    }),
    case("tcp-address-spelling", Files, Proof::Service, |target| {
        let SocketAddr::V4(v4) = target.endpoints().v4 else { bail!("not IPv4") };
        let number = u32::from(*v4.ip());
        let octets = v4.ip().octets();
        let short = u32::from_be_bytes([0, octets[1], octets[2], octets[3]]);
        let spellings =
            [format!("{number}"), format!("{number:#x}"), format!("0{number:o}"), format!("127.{short}")];
        let mut got = Vec::new();
        for spelling in spellings {
            got = tcp(SocketAddr::from((numeric(&spelling)?, v4.port()))).with_context(|| spelling)?;
        }
        Ok(got)
    }),
    case("tcp-thread", Files, Proof::Service, |target| {
        let to = target.endpoints().v4;
        std::thread::spawn(move || tcp(to))
            .join()
            .map_err(|panic| anyhow::anyhow!("the thread panicked: {panic:?}"))?
    }),
    case("tcp-passed-connection", Files, Proof::Service, |target| {
        let to = target.endpoints().v4.to_string();
        ask(&passed(target, "pass-connection", std::path::Path::new(&to))?)
    }),
    case("tcp-allowed-proxy", Files, Proof::Service, |target| {
        let mut stream = TcpStream::connect(target.arena.proxy)?;
        writeln!(stream, "CONNECT {}", target.endpoints().v4)?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text)?;
        Ok(text)
    }),
    case("udp-connected", Files, Proof::Service, |target| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(target.endpoints().v4)?;
        socket.send(b"nonce")?;
        datagram(&socket)
    }),
    case("udp-sendto", Files, Proof::Service, |target| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.send_to(b"nonce", target.endpoints().v4)?;
        datagram(&socket)
    }),
    case("udp-sendmsg", Files, Proof::Service, |target| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let to = nix::sys::socket::SockaddrStorage::from(target.endpoints().v4);
        let (payload, flags) = ([IoSlice::new(b"nonce")], nix::sys::socket::MsgFlags::empty());
        nix::sys::socket::sendmsg(socket.as_raw_fd(), &payload, &[], flags, Some(&to))?;
        datagram(&socket)
    }),
    case("udp-sendmmsg", Files, Proof::Service, |target| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // The first message of the two goes where it may.
        for to in [target.arena.open.v4, target.endpoints().v4] {
            send_many(&socket, to)?;
        }
        let mut got = datagram(&socket)?;
        got.extend(datagram(&socket)?);
        Ok(got)
    }),
    case("udp6-sendto", Files, Proof::Service, |target| {
        let socket = UdpSocket::bind("[::1]:0")?;
        socket.send_to(b"nonce", v6(target)?)?;
        datagram(&socket)
    }),
    case("udp-v4-mapped", Files, Proof::Service, |target| {
        let socket = UdpSocket::bind("[::]:0")?;
        socket.send_to(b"nonce", mapped(target))?;
        datagram(&socket)
    }),
    case("bind-tcp", Files, Proof::Happened, |target| {
        bound(TcpListener::bind((Ipv4Addr::LOCALHOST, port(target)))?.local_addr()?, target)
    }),
    case("bind-any", Files, Proof::Happened, |target| {
        bound(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port(target)))?.local_addr()?, target)
    }),
    case("bind-udp", Files, Proof::Happened, |target| {
        bound(UdpSocket::bind((Ipv4Addr::LOCALHOST, port(target)))?.local_addr()?, target)
    }),
    case("bind-v6", Files, Proof::Happened, |target| {
        let _ = v6(target)?;
        bound(TcpListener::bind(("::", port(target)))?.local_addr()?, target)
    }),
];

pub(super) fn socket(family: i32, kind: i32, protocol: i32) -> Result<OwnedFd> {
    Ok(sys::owned(sys!(libc::SYS_socket, family, kind | libc::SOCK_CLOEXEC, protocol)?))
}

/// A socket address in the kernel's form, and how much of it counts.
pub(super) fn kernel_address(address: SocketAddr) -> ([u8; 28], usize) {
    let mut bytes = [0_u8; 28];
    bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(v4) => {
            bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            bytes[4..8].copy_from_slice(&v4.octets());
            (bytes, 16)
        }
        IpAddr::V6(v6) => {
            bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            bytes[8..24].copy_from_slice(&v6.octets());
            (bytes, 28)
        }
    }
}

fn connect(fd: &OwnedFd, address: SocketAddr) -> std::io::Result<()> {
    let (address, length) = kernel_address(address);
    sys!(libc::SYS_connect, fd.as_raw_fd(), address.as_ptr(), length).map(drop)
}

/// Connects by the plainest calls there are, and asks who is there.
pub(super) fn tcp(address: SocketAddr) -> Result<Vec<u8>> {
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let fd = socket(family, libc::SOCK_STREAM, 0)?;
    connect(&fd, address).with_context(|| format!("connect {address}"))?;
    ask(&fd)
}

/// Asks a connected service for its nonce.
pub(super) fn ask(fd: &OwnedFd) -> Result<Vec<u8>> {
    let text = b"nonce\n";
    sys!(libc::SYS_sendto, fd.as_raw_fd(), text.as_ptr(), text.len(), libc::MSG_NOSIGNAL, 0, 0)?;
    answer(fd)
}

fn answer(fd: &OwnedFd) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    std::fs::File::from(fd.try_clone()?).read_to_end(&mut text)?;
    Ok(text)
}

fn datagram(socket: &UdpSocket) -> Result<Vec<u8>> {
    socket.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    let mut text = vec![0_u8; 4096];
    let length = socket.recv(&mut text).context("no answer")?;
    text.truncate(length);
    Ok(text)
}

/// sendmmsg(2) of one message.
fn send_many(socket: &UdpSocket, to: SocketAddr) -> Result<()> {
    let (mut address, length) = kernel_address(to);
    let mut part = libc::iovec { iov_base: b"nonce".as_ptr().cast_mut().cast(), iov_len: 5 };
    // SAFETY: zeroes are a valid header.
    let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
    message.msg_hdr.msg_name = address.as_mut_ptr().cast();
    message.msg_hdr.msg_namelen = length as u32;
    message.msg_hdr.msg_iov = &raw mut part;
    message.msg_hdr.msg_iovlen = 1;
    ensure!(sys!(libc::SYS_sendmmsg, socket.as_raw_fd(), &raw mut message, 1, 0)? == 1, "nothing was sent");
    Ok(())
}

fn v6(target: &Target) -> Result<SocketAddr> {
    match target.endpoints().v6 {
        Some(v6) => Ok(v6),
        None => unsupported("no IPv6"),
    }
}

/// The IPv4 address as an IPv6 socket takes it.
fn mapped(target: &Target) -> SocketAddr {
    match target.endpoints().v4 {
        SocketAddr::V4(v4) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
        v6 @ SocketAddr::V6(_) => v6,
    }
}

/// What a C program makes of an address.
fn numeric(text: &str) -> Result<Ipv4Addr> {
    unsafe extern "C" {
        fn inet_aton(text: *const libc::c_char, to: *mut libc::in_addr) -> libc::c_int;
    }
    let (text, mut to) = (CString::new(text)?, libc::in_addr { s_addr: 0 });
    // SAFETY: both outlive the call.
    ensure!(unsafe { inet_aton(text.as_ptr(), &raw mut to) } == 1, "{text:?} is no address");
    Ok(u32::from_be(to.s_addr).into())
}

/// The port to bind; nothing else is different.
fn port(target: &Target) -> u16 {
    if target.is_open() { target.arena.bind_ports.1 } else { target.arena.bind_ports.0 }
}

fn bound(address: SocketAddr, target: &Target) -> Result<Vec<u8>> {
    ensure!(address.port() == port(target), "bound to {address}");
    Ok(super::HAPPENED.to_vec())
}
