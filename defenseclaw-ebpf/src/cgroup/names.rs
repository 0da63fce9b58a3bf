//! Questions for names: led to the resolver of the task's network namespace, and answers led back, so that the task
//! believes it has spoken with the server it meant. Judges no name; the resolver does.

use aya_ebpf::{
    EbpfContext as _,
    bindings::BPF_SK_STORAGE_GET_F_CREATE,
    btf_maps::SkStorage,
    helpers::generated::{bpf_get_netns_cookie, bpf_sk_storage_get},
    macros::{btf_map, map},
    maps::HashMap,
    programs::SockAddrContext,
};
use defenseclaw_ebpf::redirect::{Asker, LANES, Origins, Redirect, RedirectKey};

use super::{
    endpoint::{Endpoint, LOOPBACK4, LOOPBACK6, kind, mapped},
    socket,
};
use crate::{
    scope::{self, Actor},
    shim::*,
    sockaddr::AF_INET,
};

/// Where the resolver is, by network namespace and profile.
#[map]
pub static DNS_REDIRECT: HashMap<RedirectKey, Redirect> = HashMap::with_max_entries(4096, 0);
/// What each socket asked; goes with the socket, so it cannot be full or stale.
#[btf_map]
pub static DNS_ORIGINS: SkStorage<Origins> = SkStorage::new();

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;

/// What became of a question.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Redirection {
    /// It goes to the resolver.
    Done,
    /// Names are resolved for this task, but not here.
    Impossible,
    /// Nothing is resolved for this task: an address like any other.
    None,
}

#[inline(always)]
fn profile(actor: &Actor) -> u32 {
    // SAFETY: the label stays in the map as long as its task, which is the current one, runs this program.
    unsafe { (*actor.label).profile }
}

/// Whether what this socket sends to port 53 is the cgroup's business and not that of an LSM program, which comes first and would
/// judge the server's address: names are resolved for this task. `sk` as in [`socket::is_held`].
#[inline(always)]
pub fn is_question(actor: &Actor, sk: Ptr) -> bool {
    let key = RedirectKey { netns: 0, profile: profile(actor), reserved: 0 };
    // SAFETY: the value is not read.
    unsafe { DNS_REDIRECT.get(&key) }.is_some() && socket::is_held(sk)
}

/// Key of the row for where the current task is.
#[inline(always)]
fn here(ctx: &SockAddrContext, actor: &Actor) -> RedirectKey {
    // SAFETY: the context of this program.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    RedirectKey { netns, profile: profile(actor), reserved: 0 }
}

/// What the socket asked before; null if nothing.
#[inline(always)]
pub fn origins(sk: *mut core::ffi::c_void, flags: u32) -> *mut Origins {
    let map = core::ptr::from_ref(&DNS_ORIGINS).cast_mut().cast();
    // SAFETY: the map is one of socket storage; without a value a new row is all zero.
    unsafe { bpf_sk_storage_get(map, sk, core::ptr::null_mut(), u64::from(flags)).cast() }
}

#[inline(always)]
fn socket_of(ctx: &SockAddrContext) -> *mut core::ffi::c_void {
    // SAFETY: the context of this program.
    unsafe { (&raw const (*ctx.sock_addr).__bindgen_anon_1.sk).read_volatile() }.cast()
}

/// Of a question that cannot be led to the resolver.
#[inline(always)]
fn impossible(found: &Redirect) -> Redirection {
    if found.lenient != 0 { Redirection::None } else { Redirection::Impossible }
}

/// Rewrites the address of a question, after it has noted whose it is and where it was to go.
#[inline(always)]
pub fn redirect(ctx: &SockAddrContext, actor: &Actor, family: u16, to: &Endpoint) -> Redirection {
    let (kind, _) = kind(ctx);
    let mut key = here(ctx, actor);
    // SAFETY: rows are replaced as a whole, and only while nobody asks.
    let Some(found) = (unsafe { DNS_REDIRECT.get(&key) }) else {
        key.netns = 0;
        // SAFETY: as above.
        return unsafe { DNS_REDIRECT.get(&key) }.map_or(Redirection::None, impossible);
    };
    let v4 = to.is_v4();
    if kind != SOCK_STREAM && kind != SOCK_DGRAM {
        return impossible(found);
    }
    let origins = origins(socket_of(ctx), BPF_SK_STORAGE_GET_F_CREATE);
    if origins.is_null() {
        return impossible(found);
    }
    // SAFETY: `origins` is the row of this socket. Threads that share a socket may write at once; whatever they mix is
    // theirs.
    let lane = if kind == SOCK_STREAM { 0 } else { unsafe { lane_of(origins, to) } };
    let port = match (kind == SOCK_STREAM, v4) {
        (true, true) => found.tcp4,
        (true, false) => found.tcp6,
        (false, true) => found.udp4[lane & (LANES - 1)],
        (false, false) => found.udp6[lane & (LANES - 1)],
    };
    if port == 0 {
        return impossible(found);
    }
    // SAFETY: as above; the mask bounds the index.
    unsafe {
        let server = (&raw mut (*origins).servers).cast::<defenseclaw_ebpf::redirect::Server>();
        let server = server.add(lane & (LANES - 1));
        (*server).address = to.address;
        (*server).port = to.port;
        (*server).lane = port;
        (*origins).netns = key.netns;
        ask(&raw mut (*origins).asker, actor);
    }
    if family == AF_INET {
        write4(ctx, LOOPBACK4, port);
    } else if v4 {
        write6(ctx, [0, mapped(LOOPBACK4)], port);
    } else {
        write6(ctx, [0, LOOPBACK6], port);
    }
    Redirection::Done
}

/// The row of this server, or the one that is replaced next.
#[inline(always)]
unsafe fn lane_of(origins: *mut Origins, to: &Endpoint) -> usize {
    let mut lane = 0;
    while lane < LANES {
        // SAFETY: the caller's row; the loop bounds the index.
        let server = unsafe { &(*origins).servers[lane] };
        if server.port == to.port && server.address[0] == to.address[0] && server.address[1] == to.address[1]
        {
            return lane;
        }
        lane += 1;
    }
    // SAFETY: as above.
    unsafe {
        let next = (*origins).next;
        (*origins).next = next.wrapping_add(1);
        next as usize & (LANES - 1)
    }
}

#[inline(always)]
unsafe fn ask(asker: *mut Asker, actor: &Actor) {
    let task = actor.task;
    // SAFETY: as in `profile`.
    let label = unsafe { &*actor.label };
    let start = match label.start_ns {
        0 => scope::start_ns_direct(task),
        known => known,
    };
    // SAFETY: the caller owns the row.
    unsafe {
        (*asker).session = label.session;
        (*asker).tool_call = label.tool_call;
        (*asker).start_ns = start;
        (*asker).owner = label.owner;
        (*asker).parent_owner = label.parent_owner;
        (*asker).cgroup = shim_task_struct_cgroup_direct(task);
        (*asker).tgid = actor.tgid;
        (*asker).tid = shim_task_struct_pid_direct(task);
        (*asker).uid = shim_cred_uid_direct(shim_task_struct_cred_direct(task));
        (*asker).profile = label.profile;
    }
}

#[inline(always)]
fn write4(ctx: &SockAddrContext, address: u32, port: u16) {
    // SAFETY: the context of this program, fields it may write.
    unsafe {
        (&raw mut (*ctx.sock_addr).user_ip4).write_volatile(address);
        (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(port.to_be()));
    }
}

#[inline(always)]
fn write6(ctx: &SockAddrContext, address: [u64; 2], port: u16) {
    // SAFETY: as above.
    unsafe {
        let words = (&raw mut (*ctx.sock_addr).user_ip6).cast::<u32>();
        words.write_volatile(address[0] as u32);
        words.add(1).write_volatile((address[0] >> 32) as u32);
        words.add(2).write_volatile(address[1] as u32);
        words.add(3).write_volatile((address[1] >> 32) as u32);
        (&raw mut (*ctx.sock_addr).user_port).write_volatile(u32::from(port.to_be()));
    }
}

/// The server that an answer from here stands for.
#[inline(always)]
fn meant(ctx: &SockAddrContext, from: &Endpoint) -> Option<Endpoint> {
    let loopback = from.address[1] == LOOPBACK6 || from.address[1] == mapped(LOOPBACK4);
    if from.address[0] != 0 || !loopback {
        return None;
    }
    let origins = origins(socket_of(ctx), 0);
    if origins.is_null() {
        return None;
    }
    let mut lane = 0;
    while lane < LANES {
        // SAFETY: the row of this socket; the loop bounds the index.
        let server = unsafe { &(*origins).servers[lane] };
        if server.port != 0 && server.lane == from.port {
            return Some(Endpoint { address: server.address, port: server.port });
        }
        lane += 1;
    }
    None
}

/// Puts the server back that the task meant.
#[inline(always)]
pub fn restore4(ctx: &SockAddrContext) {
    if let Some(server) = meant(ctx, &Endpoint::v4(ctx)) {
        write4(ctx, (server.address[1] >> 32) as u32, server.port);
    }
}

/// Likewise for IPv6, where an IPv4 address stays mapped.
#[inline(always)]
pub fn restore6(ctx: &SockAddrContext) {
    if let Some(server) = meant(ctx, &Endpoint::v6(ctx)) {
        write6(ctx, server.address, server.port);
    }
}

/// Whether the resolver of this namespace listens there, or did before it died: nobody we watch may take its place.
#[inline(always)]
pub fn is_resolver_port(ctx: &SockAddrContext, actor: &Actor, port: u16) -> bool {
    if port == 0 {
        return false;
    }
    // SAFETY: rows are replaced as a whole.
    let Some(found) = (unsafe { DNS_REDIRECT.get(&here(ctx, actor)) }) else { return false };
    let mut lane = 0;
    while lane < LANES {
        if found.udp4[lane] == port || found.udp6[lane] == port {
            return true;
        }
        lane += 1;
    }
    found.tcp4 == port || found.tcp6 == port
}
