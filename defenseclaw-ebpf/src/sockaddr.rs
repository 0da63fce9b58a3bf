//! Socket addresses in records: the same fields at every level.

use defenseclaw_ebpf::flags;

use crate::{emit::Record, shim::*};

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
    pub const EMPTY: Self = Self { family: 0, port_be: 0, word: 0, v6: [0; 2], scope: 0 };
    /// Bytes to read for any address we know: `sizeof(struct sockaddr_in6)`.
    pub const SIZE: u32 = 28;

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

/// Name of a unix socket as string 0: its path as the kernel resolved it, or its abstract name with the leading NUL.
/// False if it has none.
#[inline(always)]
pub fn unix_name(record: &mut Record, sk: Ptr) -> bool {
    let path = shim_unix_sock_path(sk);
    let dentry = shim_path_dentry(path);
    if !dentry.is_null() {
        record.path(dentry, shim_path_mnt(path));
        return true;
    }
    let address = shim_unix_sock_addr(sk);
    if address.is_null() {
        record.none();
        return false;
    }
    let len = shim_unix_address_len(address);
    if len <= 2 {
        record.none();
        return false;
    }
    // Behind `sun_family`.
    let name = shim_unix_address_name(address).wrapping_byte_add(2);
    record.kernel_bytes(name.cast(), (len - 2) as u64 & 0x7f);
    true
}

const _: () = assert!(flags::PER_STRING == 4);
