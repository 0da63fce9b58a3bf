//! ABI of name resolution: where questions of enrolled tasks are sent instead, and for whom and for which server each
//! one was. No logic.
//!
//! A question is what goes to port 53, over UDP or TCP. It reaches the resolver of its network namespace, on loopback;
//! the resolver finds the question's [`Flow`] by the addresses it sees, and the socket is told that the server it meant
//! has answered.

/// Servers that one socket can ask at once and still be told which of them answered: the resolver listens for datagrams
/// on so many ports, and each server a socket asks gets one of them.
pub const LANES: usize = 4;
/// The port that questions go to.
pub const PORT: u16 = 53;

/// Key of map `DNS_REDIRECT`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct RedirectKey {
    /// Cookie of the network namespace; 0: every namespace that has no row of its own. There nothing is answered, so
    /// questions are refused.
    pub netns: u64,
    /// Of the asking task.
    pub profile: u32,
    /// Zero.
    pub reserved: u32,
}

/// Ports of a resolver on loopback, in host order; 0: it does not listen there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Redirect {
    /// Datagrams to 127.0.0.1.
    pub udp4: [u16; LANES],
    /// Datagrams to ::1.
    pub udp6: [u16; LANES],
    /// Connections to 127.0.0.1.
    pub tcp4: u16,
    /// Connections to ::1.
    pub tcp6: u16,
    /// Not 0: a question that cannot be led there goes where it was to go, because nothing is to be blocked.
    pub lenient: u32,
}

/// Who asks. Fields as in [`super::Header`] and [`super::Label`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Asker {
    pub session: u64,
    pub tool_call: u64,
    pub start_ns: u64,
    pub owner: u64,
    pub parent_owner: u64,
    pub cgroup: u64,
    pub tgid: u32,
    pub tid: u32,
    pub uid: u32,
    pub profile: u32,
}

/// A name server that a socket asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Server {
    /// Address in network order; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u64; 2],
    /// Port in host order; 0: none.
    pub port: u16,
    /// Port of the resolver that stands for it.
    pub lane: u16,
    /// Zero.
    pub reserved: u32,
}

/// What a socket asked, stored with the socket: map `DNS_ORIGINS`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Origins {
    pub servers: [Server; LANES],
    /// Who asked last.
    pub asker: Asker,
    /// Cookie of the namespace.
    pub netns: u64,
    /// Which of `servers` is replaced next.
    pub next: u32,
    /// Zero.
    pub reserved: u32,
}

/// Key of map `DNS_FLOWS`: a packet to the resolver, as the resolver sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FlowKey {
    /// Cookie of the namespace.
    pub netns: u64,
    /// Address it came from, as in [`Server::address`].
    pub address: [u64; 2],
    /// Port it came from, in host order.
    pub port: u16,
    /// Port it went to.
    pub lane: u16,
    /// `IPPROTO_UDP` or `IPPROTO_TCP`.
    pub protocol: u32,
}

/// For whom and for which server the last packet of a [`FlowKey`] was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Flow {
    pub server: Server,
    pub asker: Asker,
    /// When it was sent, nanoseconds of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
}

const _: () = assert!(size_of::<RedirectKey>() == 16);
const _: () = assert!(size_of::<Redirect>() == 24);
const _: () = assert!(size_of::<Asker>() == 64);
const _: () = assert!(size_of::<Server>() == 24);
const _: () = assert!(size_of::<Origins>() == 176);
const _: () = assert!(size_of::<FlowKey>() == 32);
const _: () = assert!(size_of::<Flow>() == 96);
