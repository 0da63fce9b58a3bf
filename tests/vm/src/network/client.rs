//! The program that asks: in every way that programs ask. It fails where what it gets is not what an unwatched program
//! would get, apart from what is refused.

use std::{
    io::{self, BufRead, Read, Write},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use hickory_proto::{
    op::{Edns, Message, Query, ResponseCode},
    rr::{Name, RecordType},
};

use super::{
    interfaces,
    scene::{DEAD4, SERVER4, SERVER6, WWW},
    server::{ALIASED, LONG, socket_address},
};
use crate::{
    provoke::kernel_address,
    sys::{self, sys},
};

/// Questions of the case `many`.
pub(super) const MANY: usize = 200;
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn main(arguments: &[&[u8]]) -> ExitCode {
    let case = String::from_utf8_lossy(arguments[0]).into_owned();
    sys::deadline(120);
    match play(&case) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            // The test may have failed earlier and not listen any more.
            writeln!(io::stdout(), "{case}: {err:#}").ok();
            ExitCode::FAILURE
        }
    }
}

fn play(case: &str) -> Result<()> {
    interfaces::enter()?;
    println!("ready");
    let mut lines = io::stdin().lock().lines();
    let mut told = lines.next().context("no word from the test")??;
    let mut ports = Vec::new();
    if told != "go" {
        ports = told.split(' ').map(str::parse::<u16>).collect::<Result<Vec<_>, _>>()?;
        told = lines.next().context("no word from the test")??;
    }
    ensure!(told == "go");
    match case {
        "none" => Ok(()),
        "getaddrinfo" => getaddrinfo(),
        "two servers" => two_servers(),
        "tcp" => tcp(),
        "ipv6" => ipv6(),
        "truncated" => truncated(),
        "known before" => known_before(),
        "blocked" => blocked(),
        "rebinding" => rebinding(),
        "other tcp" => other_tcp(),
        "many" => many(),
        "elsewhere" => elsewhere(),
        "gone" => gone(),
        "ports taken" => ports_taken(&ports),
        "silent" => silent(),
        "unwatched" => unwatched(),
        "stranger" => stranger(&ports),
        _ => bail!("no such case"),
    }
}

pub(super) fn question(id: u16, name: &str, kind: RecordType, edns: bool) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = id;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if edns {
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        message.set_edns(edns);
    }
    message.to_vec().unwrap()
}

pub(super) fn udp(bind: impl Into<IpAddr>) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((bind.into(), 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

pub(super) fn any4() -> IpAddr {
    [0; 4].into()
}

/// An answer as C libraries take it: from who was asked, with the right id.
pub(super) fn received(socket: &UdpSocket, from: SocketAddr, id: u16) -> Result<Message> {
    let mut buffer = [0; 4096];
    let (len, source) = socket.recv_from(&mut buffer).with_context(|| format!("no answer of {from}"))?;
    ensure!(source == from, "{source} answers in place of {from}");
    let message = Message::from_vec(&buffer[..len])?;
    ensure!(message.metadata.id == id, "another id");
    Ok(message)
}

pub(super) fn ask_udp(server: SocketAddr, name: &str, kind: RecordType, edns: bool) -> Result<Message> {
    let socket = udp(any4())?;
    socket.connect(server)?;
    ensure!(socket.peer_addr()? == server, "getpeername says {}", socket.peer_addr()?);
    socket.send(&question(7, name, kind, edns))?;
    received(&socket, server, 7)
}

pub(super) fn exchange_tcp(stream: &mut TcpStream, id: u16, name: &str) -> Result<Message> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let message = question(id, name, RecordType::A, false);
    stream.write_all(&(message.len() as u16).to_be_bytes())?;
    stream.write_all(&message)?;
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut answer)?;
    let answer = Message::from_vec(&answer)?;
    ensure!(answer.metadata.id == id, "another id");
    Ok(answer)
}

pub(super) fn leads_to(message: &Message, address: &str) -> Result<()> {
    let found: Vec<String> = message.answers.iter().map(|record| record.data.to_string()).collect();
    ensure!(found.iter().any(|data| data == address), "{found:?} instead of {address}");
    Ok(())
}

pub(super) fn getaddrinfo() -> Result<()> {
    let mut found: Vec<IpAddr> = ("www.example.com", 443).to_socket_addrs()?.map(|at| at.ip()).collect();
    found.sort_unstable();
    found.dedup();
    ensure!(found == WWW.map(|text| text.parse::<IpAddr>().unwrap()), "{found:?}");
    let missing = ("missing.example.com", 443).to_socket_addrs();
    ensure!(missing.is_err(), "{missing:?}");
    Ok(())
}

/// As musl does: one unconnected socket, every server at once, each answer checked against the list.
fn two_servers() -> Result<()> {
    let socket = udp(any4())?;
    let (good, dead) = (socket_address(SERVER4), socket_address(DEAD4));
    for turn in 0..3 {
        let message = question(100 + turn, "www.example.com.", RecordType::A, false);
        for server in [dead, good] {
            socket.send_to(&message, server)?;
        }
        let mut answers = Vec::new();
        for _ in 0..2 {
            let mut buffer = [0; 4096];
            let (len, from) = socket.recv_from(&mut buffer)?;
            answers.push((from, Message::from_vec(&buffer[..len])?));
        }
        let of = |server| answers.iter().find(|(from, _)| *from == server).map(|(_, message)| message);
        let from: Vec<_> = answers.iter().map(|(from, _)| from).collect();
        leads_to(of(good).with_context(|| format!("no answer of {good}, but of {from:?}"))?, WWW[0])?;
        let failed = of(dead).with_context(|| format!("no answer for {dead}, but of {from:?}"))?;
        ensure!(failed.metadata.response_code == ResponseCode::ServFail, "{failed:?}");
    }
    // More servers than a socket can tell apart: each answer comes from one that was asked.
    for last in 60..66 {
        socket.send_to(
            &question(9, "www.example.com.", RecordType::A, false),
            (IpAddr::from([192, 0, 2, last]), 53),
        )?;
    }
    socket.send_to(&question(10, "www.example.com.", RecordType::A, false), good)?;
    loop {
        let mut buffer = [0; 4096];
        let (len, from) = socket.recv_from(&mut buffer)?;
        ensure!(from.port() == 53 && !from.ip().is_loopback(), "an answer of {from}");
        if Message::from_vec(&buffer[..len])?.metadata.id == 10 {
            ensure!(from == good, "{from} answers in place of {good}");
            return Ok(());
        }
    }
}

fn tcp() -> Result<()> {
    let server = socket_address(SERVER4);
    let mut stream = TcpStream::connect(server)?;
    ensure!(stream.peer_addr()? == server, "getpeername says {}", stream.peer_addr()?);
    leads_to(&exchange_tcp(&mut stream, 1, "www.example.com.")?, WWW[0])?;
    leads_to(&exchange_tcp(&mut stream, 2, "WWW.Example.com.")?, WWW[0])?;
    let mut other = TcpStream::connect(server)?;
    leads_to(&exchange_tcp(&mut other, 3, "www.example.com.")?, WWW[0])
}

fn ipv6() -> Result<()> {
    let mapped = SERVER4.to_ipv6_mapped();
    for address in [SERVER6, mapped] {
        let server = socket_address(address);
        let connected = udp(Ipv6Addr::UNSPECIFIED)?;
        connected.connect(server)?;
        ensure!(connected.peer_addr()? == server, "getpeername says {}", connected.peer_addr()?);
        connected.send(&question(1, "www.example.com.", RecordType::AAAA, true))?;
        leads_to(&received(&connected, server, 1)?, WWW[1])?;

        let free = udp(Ipv6Addr::UNSPECIFIED)?;
        free.send_to(&question(2, "www.example.com.", RecordType::A, false), server)?;
        leads_to(&received(&free, server, 2)?, WWW[0])?;

        let mut stream = TcpStream::connect(server)?;
        ensure!(stream.peer_addr()? == server, "getpeername says {}", stream.peer_addr()?);
        leads_to(&exchange_tcp(&mut stream, 3, "www.example.com.")?, WWW[0])?;
    }
    Ok(())
}

fn truncated() -> Result<()> {
    let short = ask_udp(socket_address(SERVER4), "long.example.com.", RecordType::A, true)?;
    ensure!(short.metadata.truncation && short.answers.is_empty(), "{short:?}");
    let found = ("long.example.com", 80).to_socket_addrs()?.count();
    ensure!(found == LONG, "{found} addresses");
    Ok(())
}

fn known_before() -> Result<()> {
    let answer = ask_udp(socket_address(SERVER4), "alias.example.com.", RecordType::A, false)?;
    println!("{}", sys::boottime());
    leads_to(&answer, &ALIASED.to_string())
}

fn blocked() -> Result<()> {
    for edns in [false, true] {
        let answer = ask_udp(socket_address(SERVER4), "BLOCKED.example.com.", RecordType::A, edns)?;
        ensure!(
            answer.metadata.response_code == ResponseCode::Refused && answer.answers.is_empty(),
            "{answer:?}"
        );
        ensure!(answer.edns.is_some() == edns);
    }
    let found = ("blocked.example.com", 443).to_socket_addrs();
    ensure!(found.is_err(), "{found:?}");
    Ok(())
}

fn rebinding() -> Result<()> {
    for kind in [RecordType::A, RecordType::AAAA] {
        let answer = ask_udp(socket_address(SERVER4), "rebind.example.com.", kind, false)?;
        ensure!(
            answer.metadata.response_code == ResponseCode::Refused && answer.answers.is_empty(),
            "{answer:?}"
        );
    }
    Ok(())
}

fn raw_socket(protocol: i32) -> io::Result<OwnedFd> {
    sys!(libc::SYS_socket, libc::AF_INET, libc::SOCK_STREAM, protocol).map(sys::owned)
}

fn other_tcp() -> Result<()> {
    let (address, length) = kernel_address(socket_address(SERVER4));
    let message = question(5, "www.example.com.", RecordType::A, false);
    let framed = [&(message.len() as u16).to_be_bytes()[..], &message].concat();

    let fast = raw_socket(0)?;
    sys!(
        libc::SYS_sendto,
        fast.as_raw_fd(),
        framed.as_ptr(),
        framed.len(),
        libc::MSG_FASTOPEN,
        &raw const address,
        length
    )
    .context("fast open")?;
    answered_on(fast)?;

    // Not every kernel has it.
    if let Ok(multipath) = raw_socket(libc::IPPROTO_MPTCP) {
        sys!(libc::SYS_connect, multipath.as_raw_fd(), &raw const address, length).context("multipath")?;
        let mut stream = TcpStream::from(multipath);
        stream.write_all(&framed)?;
        answered_on(stream.into())?;
    }
    Ok(())
}

fn answered_on(socket: OwnedFd) -> Result<()> {
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut answer)?;
    leads_to(&Message::from_vec(&answer)?, WWW[0])
}

fn many() -> Result<()> {
    let server = socket_address(SERVER4);
    let sockets: Vec<_> = (0..MANY).map(|_| udp(any4())).collect::<Result<_>>()?;
    for (id, socket) in (0..).zip(&sockets) {
        socket.connect(server)?;
        socket.send(&question(id, "www.example.com.", RecordType::A, false))?;
    }
    let mut good = 0;
    for (id, socket) in (0..).zip(&sockets) {
        let answer = received(socket, server, id)?;
        match answer.metadata.response_code {
            ResponseCode::NoError => {
                leads_to(&answer, WWW[0])?;
                good += 1;
            }
            // More at once than one session may have.
            ResponseCode::ServFail => {}
            code => bail!("{code}"),
        }
    }
    ensure!(good >= 64, "{good} of {MANY} were answered");
    Ok(())
}

fn errno(result: io::Result<impl Sized>) -> i32 {
    result.err().and_then(|err| err.raw_os_error()).unwrap_or(0)
}

/// In a network namespace of its own making.
fn elsewhere() -> Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
    interfaces::up()?;
    let socket = udp(any4())?;
    let server = socket_address([127, 0, 0, 1]);
    ensure!(errno(socket.send_to(b"x", server)) == libc::EPERM, "a datagram was sent");
    ensure!(errno(socket.connect(server)) == libc::EPERM, "a socket was connected");
    ensure!(errno(TcpStream::connect(server)) == libc::EPERM, "a connection was made");
    let six = udp(Ipv6Addr::UNSPECIFIED)?;
    ensure!(
        errno(six.send_to(b"x", socket_address(Ipv6Addr::LOCALHOST))) == libc::EPERM,
        "an IPv6 datagram was sent"
    );
    ensure!(
        errno(socket.send_to(b"x", (IpAddr::from([127, 0, 0, 1]), 54))) == 0,
        "other ports are others' business"
    );
    Ok(())
}

/// Names do not resolve, and fail at once; everything else goes on.
fn gone() -> Result<()> {
    let server = socket_address(SERVER4);
    let socket = udp(any4())?;
    socket.connect(server)?;
    socket.send(&question(1, "www.example.com.", RecordType::A, false))?;
    let code = errno(socket.recv(&mut [0; 512]));
    ensure!(code == libc::ECONNREFUSED, "errno {code}");
    let code = errno(TcpStream::connect(server));
    ensure!(code == libc::ECONNREFUSED, "errno {code}");
    let found = ("www.example.com", 443).to_socket_addrs();
    ensure!(found.is_err(), "{found:?}");
    let listener = std::net::TcpListener::bind((SERVER4, 4443))?;
    TcpStream::connect(listener.local_addr()?)?;
    Ok(())
}

fn ports_taken(ports: &[u16]) -> Result<()> {
    for port in ports {
        for address in
            [any4(), [127, 0, 0, 1].into(), Ipv6Addr::UNSPECIFIED.into(), SERVER4.to_ipv6_mapped().into()]
        {
            let code = errno(UdpSocket::bind((address, *port)));
            ensure!(code == libc::EPERM, "bind to {address} port {port}: errno {code}");
            let code = errno(std::net::TcpListener::bind((address, *port)));
            ensure!(code == libc::EPERM, "bind to {address} port {port}: errno {code}");
        }
    }
    ensure!(ports.len() == 2);
    UdpSocket::bind((any4(), 0))?;
    Ok(())
}

fn silent() -> Result<()> {
    let answer = ask_udp(socket_address(SERVER4), "silent.example.com.", RecordType::A, false)?;
    ensure!(answer.metadata.response_code == ResponseCode::ServFail, "{answer:?}");
    Ok(())
}

fn unwatched() -> Result<()> {
    let answer = ask_udp(socket_address(SERVER4), "blocked.example.com.", RecordType::A, false)?;
    ensure!(answer.metadata.response_code == ResponseCode::NoError, "{answer:?}");
    leads_to(&ask_udp(socket_address(SERVER4), "rebind.example.com.", RecordType::A, false)?, "127.0.0.1")?;
    let mut stream = TcpStream::connect(socket_address(SERVER6))?;
    leads_to(&exchange_tcp(&mut stream, 1, "www.example.com.")?, WWW[0])
}

/// Asks the resolver itself.
fn stranger(ports: &[u16]) -> Result<()> {
    let [datagrams, connections] = *ports else { bail!("no ports") };
    let here = IpAddr::from([127, 0, 0, 1]);
    let socket = udp(here)?;
    socket.send_to(&question(1, "www.example.com.", RecordType::A, false), (here, datagrams))?;
    let answer = received(&socket, (here, datagrams).into(), 1)?;
    ensure!(answer.metadata.response_code == ResponseCode::Refused, "{answer:?}");
    let answer = exchange_tcp(&mut TcpStream::connect((here, connections))?, 2, "www.example.com.")?;
    ensure!(answer.metadata.response_code == ResponseCode::Refused, "{answer:?}");
    Ok(())
}
