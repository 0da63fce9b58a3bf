//! Unix sockets: reached by path, by abstract name, as stream and as datagram.

use std::os::{
    fd::{AsRawFd, OwnedFd},
    linux::net::SocketAddrExt,
    unix::{
        ffi::OsStrExt,
        net::{SocketAddr, UnixDatagram, UnixListener, UnixStream},
    },
};

use anyhow::{Result, ensure};
use defenseclaw::model::{Action, Text, UnixName};

use super::Stage;
use crate::{
    sys::{self, sys},
    truth::kernel_path,
};

fn address(name: &[u8]) -> (libc::sockaddr_un, u32) {
    // SAFETY: zeroes are valid.
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as u16;
    for (to, from) in address.sun_path.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    (address, (size_of::<libc::sa_family_t>() + name.len()) as u32)
}

fn socket(kind: i32) -> Result<OwnedFd> {
    Ok(sys::owned(sys!(libc::SYS_socket, libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0)?))
}

fn connect(fd: &OwnedFd, name: &[u8]) -> std::io::Result<i64> {
    let (address, length) = address(name);
    sys!(libc::SYS_connect, fd.as_raw_fd(), &raw const address, length)
}

pub(crate) fn sockets(stage: &mut Stage) -> Result<()> {
    // Relative names, because a socket address has room for 107 bytes only.
    let by_path = |stage: &Stage, name: &str, datagram: bool| Action::UnixConnect {
        name: UnixName::Path(kernel_path(stage.path(name).as_os_str().as_bytes())),
        datagram,
    };
    let _listener = UnixListener::bind("stream")?;
    connect(&socket(libc::SOCK_STREAM)?, b"stream\0")?;
    let action = by_path(stage, "stream", false);
    stage.claim("stream by path", "connect", action).given("stream").result(0);

    let _listener = UnixListener::bind("packets-not-used")?;
    let refused = connect(&socket(libc::SOCK_STREAM)?, b"nobody\0");
    ensure!(sys::errno(&refused) == libc::ENOENT, "nobody listens: {refused:?}");

    // Unique on this machine: abstract names are shared by all processes of a network namespace.
    let name = format!("suite-vm {}\n", sys::pid());
    let _listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    connect(&socket(libc::SOCK_STREAM)?, &[b"\0", name.as_bytes()].concat())?;
    let abstract_name =
        |datagram| Action::UnixConnect { name: UnixName::Abstract(Text::from(name.as_str())), datagram };
    stage.claim("stream by abstract name", "connect", abstract_name(false)).result(0);

    let _receiver = UnixDatagram::bind("datagram")?;
    let sender = socket(libc::SOCK_DGRAM)?;
    let (to, length) = address(b"datagram\0");
    sys!(libc::SYS_sendto, sender.as_raw_fd(), b"hello".as_ptr(), 5, 0, &raw const to, length)?;
    let action = by_path(stage, "datagram", true);
    stage.claim("datagram by path", "sendto", action).given("datagram").result(5);

    let _receiver = UnixDatagram::bind("datagram-2")?;
    connect(&socket(libc::SOCK_DGRAM)?, b"datagram-2\0")?;
    let action = by_path(stage, "datagram-2", true);
    // At the system call the type of the socket need not be known.
    let stream = by_path(stage, "datagram-2", false);
    stage.claim("connect of a datagram socket", "connect", action).or(stream).given("datagram-2").result(0);

    let name = format!("suite-vm datagram {}", sys::pid());
    let _receiver = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    let (to, length) = address(&[b"\0", name.as_bytes()].concat());
    sys!(libc::SYS_sendto, sender.as_raw_fd(), b"hello".as_ptr(), 5, 0, &raw const to, length)?;
    let action = Action::UnixConnect { name: UnixName::Abstract(Text::from(name.as_str())), datagram: true };
    stage.claim("datagram by abstract name", "sendto", action).result(5);

    // Both ends of a pair are this process's own: nothing was reached.
    let (mut one, _other) = UnixStream::pair()?;
    std::io::Write::write_all(&mut one, b"x")?;
    let (one, _other) = UnixDatagram::pair()?;
    one.send(b"x")?;
    stage.never("socket pair", defenseclaw::model::EventKind::UnixConnect, "unnamed");
    Ok(())
}
