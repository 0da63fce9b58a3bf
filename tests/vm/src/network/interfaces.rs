//! A network namespace of one's own: loopback up, with the addresses of the scripted servers. Without `ip`, which guests
//! lack.

use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
};

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::scene::{DEAD4, SERVER4, SERVER6};
use crate::sys::{self, sys};

/// `struct in6_ifreq`.
#[repr(C)]
struct AddressRequest {
    address: [u8; 16],
    prefix: u32,
    interface: i32,
}

/// Enters new namespaces: loopback with the servers' addresses, and an `/etc` that names them.
pub(super) fn enter() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("unshare")?;
    up()?;
    add4(b"lo:1", SERVER4)?;
    add4(b"lo:2", DEAD4)?;
    add6(SERVER6)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .context("private mounts")?;
    mount(Some("none"), "/etc", Some("tmpfs"), MsFlags::empty(), None::<&str>).context("an own /etc")?;
    fs::write("/etc/nsswitch.conf", "hosts: dns\n")?;
    fs::write("/etc/resolv.conf", format!("nameserver {SERVER4}\n"))?;
    Ok(())
}

fn request(name: &[u8]) -> libc::ifreq {
    // SAFETY: zeroes are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    request
}

pub(super) fn up() -> Result<()> {
    let socket = sys::owned(sys!(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0)?);
    let mut request = request(b"lo");
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    sys!(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
        .context("loopback up")?;
    Ok(())
}

fn add4(name: &[u8], address: Ipv4Addr) -> Result<()> {
    let socket = sys::owned(sys!(libc::SYS_socket, libc::AF_INET, libc::SOCK_DGRAM, 0)?);
    let mut request = request(name);
    // Behind family and port; the rest is zero.
    let mut data = [0; 14];
    for (to, from) in data.iter_mut().skip(2).zip(address.octets()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_addr = libc::sockaddr { sa_family: libc::AF_INET as u16, sa_data: data };
    sys!(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCSIFADDR, &raw const request)
        .with_context(|| format!("add {address}"))?;
    Ok(())
}

fn add6(address: Ipv6Addr) -> Result<()> {
    let socket = sys::owned(sys!(libc::SYS_socket, libc::AF_INET6, libc::SOCK_DGRAM, 0)?);
    // Loopback is always the first interface of a namespace.
    let request = AddressRequest { address: address.octets(), prefix: 128, interface: 1 };
    sys!(libc::SYS_ioctl, socket.as_raw_fd(), libc::SIOCSIFADDR, &raw const request)
        .with_context(|| format!("add {address}"))?;
    Ok(())
}
