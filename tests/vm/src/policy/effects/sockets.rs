//! Cases about unix sockets. Who listens there does so until the suite ends.

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram, UnixListener},
        },
    },
};

use anyhow::Result;
use defenseclaw::model::EventKind;

use super::place::{Case, Object, Place, Rule};
use crate::sys::{self, sys};

const SOCKET: &[&str] = &["socket"];

fn the_path(place: &Place) -> Object {
    Object::Path(place.path("socket"))
}

fn the_name(place: &Place) -> Object {
    Object::Abstract(place.abstract_name())
}

pub(super) const CASES: &[Case] = &[
    Case::new(
        "unix stream",
        Rule::Unix(SOCKET),
        |place| kept(UnixListener::bind(place.path("socket"))),
        |place| connect(libc::SOCK_STREAM, place.path("socket").as_os_str().as_bytes()),
        EventKind::UnixConnect,
        the_path,
    ),
    Case::new(
        "unix packets",
        Rule::Unix(&["**"]),
        |place| kept(UnixDatagram::bind(place.path("socket"))),
        |place| connect(libc::SOCK_DGRAM, place.path("socket").as_os_str().as_bytes()),
        EventKind::UnixConnect,
        the_path,
    ),
    Case::new(
        "unix datagram",
        Rule::Unix(SOCKET),
        |place| kept(UnixDatagram::bind(place.path("socket"))),
        |place| send(place.path("socket").as_os_str().as_bytes()),
        EventKind::UnixConnect,
        the_path,
    ),
    Case::new(
        "abstract stream",
        Rule::Abstract,
        |place| kept(UnixListener::bind_addr(&SocketAddr::from_abstract_name(place.abstract_name())?)),
        |place| connect(libc::SOCK_STREAM, format!("\0{}", place.abstract_name()).as_bytes()),
        EventKind::UnixConnect,
        the_name,
    ),
    Case::new(
        "abstract datagram",
        Rule::Abstract,
        |place| kept(UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(place.abstract_name())?)),
        |place| send(format!("\0{}", place.abstract_name()).as_bytes()),
        EventKind::UnixConnect,
        the_name,
    ),
];

fn kept<T>(listener: io::Result<T>) -> Result<()> {
    std::mem::forget(listener?);
    Ok(())
}

fn socket(kind: i32) -> io::Result<OwnedFd> {
    Ok(sys::owned(sys!(libc::SYS_socket, libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0)?))
}

/// A name in the kernel's form, and its length.
pub(in crate::policy) fn unix_address(name: &[u8]) -> (libc::sockaddr_un, u32) {
    // SAFETY: zeroes are valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    assert!(name.len() < address.sun_path.len(), "{} has no room", name.escape_ascii());
    for (to, from) in address.sun_path.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    (address, (size_of::<libc::sa_family_t>() + name.len()) as u32)
}

fn connect(kind: i32, name: &[u8]) -> io::Result<i64> {
    let (address, length) = unix_address(name);
    sys!(libc::SYS_connect, socket(kind)?.as_raw_fd(), &raw const address, length)
}

fn send(name: &[u8]) -> io::Result<i64> {
    let (address, length) = unix_address(name);
    let socket = socket(libc::SOCK_DGRAM)?;
    sys!(libc::SYS_sendto, socket.as_raw_fd(), b"x".as_ptr(), 1, 0, &raw const address, length)
}
