//! A network with a loopback interface and nothing else: what runs in it cannot reach the internet, whatever it tries.

use std::{os::fd::AsRawFd, thread};

use anyhow::{Context, Result};
use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

nix::ioctl_write_ptr_bad!(set_interface_flags, libc::SIOCSIFFLAGS, libc::ifreq);

/// Does `work` on a thread in a new network. Threads and processes that it starts are in that network too.
pub(crate) fn of_its_own<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace for the run")?;
            raise_loopback()?;
            work()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn raise_loopback() -> Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut name = [0; libc::IFNAMSIZ];
    for (slot, byte) in name.iter_mut().zip(b"lo") {
        *slot = byte.cast_signed();
    }
    let flags = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING)?;
    let request =
        libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags } };
    // SAFETY: `socket` is open and `request` is an initialised ifreq that outlives the call, which only reads it.
    unsafe { set_interface_flags(socket.as_raw_fd(), &raw const request) }
        .context("cannot bring up the loopback interface of the run's network")?;
    Ok(())
}
