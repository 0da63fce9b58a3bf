//! Socket addresses in records: the same fields at every level.

use defenseclaw_ebpf::{Kind, flags, image::effect};

use crate::{
    emit::Record,
    scope::Actor,
    shim::*,
    verdict::{Judged, Policy},
};

pub const AF_UNIX: u16 = 1;
pub const AF_INET: u16 = 2;
pub const AF_INET6: u16 = 10;

/// `struct sockaddr_in6`, of which `struct sockaddr_in` uses the first eight bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Address {
    pub family: u16,
    port_be: u16,
    /// IPv6: flow info. IPv4: the address.
    word: u32,
    v6: [u64; 2],
    scope: u32,
}

impl Address {
    /// One that says nothing. Word by word: LLVM would make a call of memset out of it, a byte loop in BPF.
    #[inline(always)]
    pub fn empty() -> Self {
        let zero = || core::hint::black_box(0);
        Self { family: 0, port_be: 0, word: 0, v6: [zero(), zero()], scope: 0 }
    }

    /// Bytes to read for any address we know: `sizeof(struct sockaddr_in6)`.
    pub const SIZE: u32 = 28;

    /// What policy says of an operation on it; nothing if it is of another family.
    #[inline(always)]
    pub fn judge(&self, policy: &Policy, effect: u16) -> Judged {
        let port = u16::from_be(self.port_be);
        if self.family == AF_INET {
            policy.address(effect, 0, mapped(self.word), port)
        } else if self.family == AF_INET6 {
            policy.address(effect, u64::from_be(self.v6[0]), u64::from_be(self.v6[1]), port)
        } else {
            Judged::NOTHING
        }
    }

    /// In host order; of internet addresses only.
    #[inline(always)]
    pub fn port(&self) -> u16 {
        u16::from_be(self.port_be)
    }

    /// Arguments of a record: socket, port, address, scope, bytes.
    #[inline(always)]
    pub fn args(&self, socket: u64, bytes: u64) -> [u64; 6] {
        let port = u64::from(u16::from_be(self.port_be));
        if self.family == AF_INET {
            [socket, port, u64::from(self.word), 0, 0, bytes]
        } else if self.family == AF_INET6 {
            [socket, port, self.v6[0], self.v6[1], u64::from(self.scope), bytes]
        } else {
            [socket, 0, 0, 0, 0, bytes]
        }
    }
}

/// An IPv4 address as it lies in memory, as the low word of an IPv6 address.
#[inline(always)]
pub fn mapped(address: u32) -> u64 {
    0xffff_0000_0000 | u64::from(u32::from_be(address))
}

/// Protocol, type and family of a socket as an argument word.
#[inline(always)]
pub fn socket_word(sk: Ptr, family: u16) -> u64 {
    let kind = u64::from(shim_sock_type(sk));
    let protocol = u64::from(shim_sock_protocol(sk));
    (protocol << 16 | kind) << 32 | u64::from(family)
}

/// The same, of a socket that the verifier knows.
#[inline(always)]
pub fn socket_word_direct(sk: Ptr, family: u16) -> u64 {
    let kind = u64::from(shim_sock_type_direct(sk));
    let protocol = u64::from(shim_sock_protocol_direct(sk));
    (protocol << 16 | kind) << 32 | u64::from(family)
}

/// A record about a unix socket, whose name is string 0: its path as the kernel resolved it, or its abstract name with the
/// leading NUL; and what policy says of it. A socket without a name has an empty one, and nothing is said of it.
#[inline(always)]
pub fn unix_record(actor: &Actor, sk: Ptr, policy: &Policy) -> Option<(Record, Judged)> {
    let path = shim_unix_sock_path(sk);
    let dentry = shim_path_dentry(path);
    if !dentry.is_null() {
        let record = Record::about(Kind::UnixConnect, actor, dentry, shim_path_mnt(path), policy.judge()?)?;
        let inode = shim_dentry_inode(dentry);
        let device = u64::from(shim_super_block_dev(shim_inode_sb(inode)));
        let judged = record.judge(policy, effect::UNIX, device, shim_inode_ino(inode));
        return Some((record, judged));
    }
    let mut record = Record::begin(Kind::UnixConnect, actor)?;
    let address = shim_unix_sock_addr(sk);
    let len = if address.is_null() { 0 } else { shim_unix_address_len(address) };
    if len <= 2 {
        record.none();
        return Some((record, Judged::NOTHING));
    }
    // Behind `sun_family`.
    let name: *const u8 = shim_unix_address_name(address).wrapping_byte_add(2).cast();
    let len = (len - 2) as u32 & 0x7f;
    record.kernel_bytes(name, u64::from(len));
    let judged = if policy.judges() { record.judge_abstract(policy, name, len) } else { Judged::NOTHING };
    Some((record, judged))
}

const _: () = assert!(flags::PER_STRING == 4);
