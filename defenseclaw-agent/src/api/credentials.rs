//! Who is at the other end of a connection: what the kernel says, never what the peer says.

use std::{
    fs, io, mem,
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{getsockopt, sockopt::PeerCredentials},
};

use crate::model::Caller;

/// A peer.
#[derive(Debug)]
pub struct Peer {
    /// Its process.
    pub caller: Caller,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
}

impl Peer {
    /// Of a connected socket, as it was when it connected.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let found = getsockopt(socket, PeerCredentials)?;
        let pid = u32::try_from(found.pid()).unwrap_or(0);
        // Opened before /proc is read: if the process still lives afterwards, what was read was about it.
        let handle = pidfd(socket);
        let start = start_ticks(pid).filter(|_| handle.as_ref().is_none_or(lives));
        let caller = Caller { pid, start_ticks: start.unwrap_or(0), uid: found.uid(), gid: found.gid() };
        Ok(Self { caller, groups: groups(socket) })
    }

    /// Whether it is in a group.
    pub fn is_in(&self, gid: u32) -> bool {
        self.caller.gid == gid || self.groups.contains(&gid)
    }
}

/// A handle of the peer's process; none before Linux 6.5 and when it has been reaped.
fn pidfd(socket: &impl AsFd) -> Option<OwnedFd> {
    let mut found: libc::c_int = -1;
    let mut length = libc::socklen_t::try_from(mem::size_of::<libc::c_int>()).ok()?;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of `found`, to it.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERPIDFD,
            (&raw mut found).cast(),
            &raw mut length,
        )
    };
    // SAFETY: the kernel has just made this descriptor for us, and nothing else owns it.
    (done == 0 && found >= 0).then(|| unsafe { OwnedFd::from_raw_fd(found) })
}

/// A handle is readable once its process has ended.
fn lives(handle: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(handle.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready == 0)
}

fn groups(socket: &impl AsFd) -> Vec<u32> {
    // NGROUPS_MAX is 65536; who is in that many groups is not asked for the rest.
    let mut found = vec![0_u32; 1024];
    let Ok(mut length) = libc::socklen_t::try_from(found.len() * mem::size_of::<u32>()) else {
        return Vec::new();
    };
    // SAFETY: the kernel writes at most `length` bytes, which is the size of the buffer, to it.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            found.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let count = usize::try_from(length).unwrap_or(0) / mem::size_of::<u32>();
    found.truncate(if done == 0 { count } else { 0 });
    found
}

/// Field 22 of its stat. The name before it may contain anything, so fields are counted from its last parenthesis.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}
