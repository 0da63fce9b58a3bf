//! The scripted name server: what it answers, and what it heard.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::BorrowedFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result};
use hickory_proto::{
    op::{Message, OpCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME},
    },
};
use nix::sched::{CloneFlags, setns};

use super::scene::{SERVER4, SERVER6, WWW};
use crate::sys;

/// Addresses of `long.example.com`: too many for a datagram.
pub(super) const LONG: usize = 100;
/// Where `alias.example.com` leads.
pub(super) const ALIASED: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));

/// A question that arrived.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) name: String,
    pub(super) at: IpAddr,
    pub(super) tcp: bool,
}

pub(super) struct Server {
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Server {
    /// Listens on port 53 of a network namespace.
    pub(super) fn start(namespace: BorrowedFd<'_>) -> Result<Self> {
        let sockets = std::thread::scope(|scope| {
            scope
                .spawn(|| -> Result<_> {
                    setns(namespace, CloneFlags::CLONE_NEWNET).context("setns")?;
                    let listen = || -> Result<Vec<_>> {
                        [IpAddr::from(SERVER4), SERVER6.into()]
                            .into_iter()
                            .map(|at| Ok((at, UdpSocket::bind((at, 53))?, TcpListener::bind((at, 53))?)))
                            .collect()
                    };
                    // A new IPv6 address is there a moment later.
                    let mut sockets = listen();
                    sys::wait_until(10, || {
                        if sockets.is_err() {
                            sockets = listen();
                        }
                        sockets.is_ok()
                    });
                    sockets.context("port 53")
                })
                .join()
                .unwrap()
        })?;
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let mut threads = Vec::new();
        for (at, udp, tcp) in sockets {
            udp.set_read_timeout(Some(Duration::from_millis(20)))?;
            tcp.set_nonblocking(true)?;
            let shared = (Arc::clone(&asked), Arc::clone(&stop));
            threads.push(std::thread::spawn(move || datagrams(at, &udp, &shared.0, &shared.1)));
            let shared = (Arc::clone(&asked), Arc::clone(&stop));
            threads.push(std::thread::spawn(move || connections(at, &tcp, &shared.0, &shared.1)));
        }
        Ok(Self { asked, stop, threads })
    }

    /// Says how many questions have arrived, whenever it is asked.
    pub(super) fn counter(&self) -> impl Fn() -> usize + use<> {
        let asked = Arc::clone(&self.asked);
        move || asked.lock().unwrap().len()
    }

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

fn datagrams(at: IpAddr, socket: &UdpSocket, asked: &Mutex<Vec<Asked>>, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        if let Some(reply) = answer(at, &buffer[..len], false, asked) {
            socket.send_to(&reply, from).ok();
        }
    }
}

fn connections(at: IpAddr, listener: &TcpListener, asked: &Mutex<Vec<Asked>>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => drop(connection(at, stream, asked)),
            Err(err) if err.kind() == ErrorKind::WouldBlock => {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            Err(_) => {}
        }
    }
}

fn connection(at: IpAddr, mut stream: TcpStream, asked: &Mutex<Vec<Asked>>) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut message)?;
    if let Some(reply) = answer(at, &message, true, asked) {
        stream.write_all(&(reply.len() as u16).to_be_bytes())?;
        stream.write_all(&reply)?;
    }
    Ok(())
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn record(owner: &Name, address: &str) -> Record {
    let data = match address.parse().unwrap() {
        IpAddr::V4(v4) => RData::A(A(v4)),
        IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
    };
    Record::from_rdata(owner.clone(), 5, data)
}

fn answer(at: IpAddr, message: &[u8], tcp: bool, asked: &Mutex<Vec<Asked>>) -> Option<Vec<u8>> {
    let question = Message::from_vec(message).ok()?;
    let query = question.queries.first()?.clone();
    let text = query.name.to_lowercase().to_ascii();
    asked.lock().unwrap().push(Asked { name: text.clone(), at, tcp });
    let mut reply = Message::response(question.metadata.id, OpCode::Query);
    reply.metadata.recursion_available = true;
    reply.add_query(query.clone());
    let owner = &query.name;
    match (text.as_str(), query.query_type) {
        ("silent.example.com.", _) => return None,
        ("www.example.com.", RecordType::A) => reply.answers.push(record(owner, WWW[0])),
        ("www.example.com.", RecordType::AAAA) => reply.answers.push(record(owner, WWW[1])),
        ("alias.example.com.", RecordType::A) => {
            let middle = name("middle.example.net.");
            reply.add_answer(Record::from_rdata(owner.clone(), 5, RData::CNAME(CNAME(middle.clone()))));
            reply.add_answer(record(&middle, &ALIASED.to_string()));
        }
        ("inside.example.com.", RecordType::A) => reply.answers.push(record(owner, "192.0.2.66")),
        ("pinned.example.com.", RecordType::A) => reply.answers.push(record(owner, "192.0.2.70")),
        ("port.example.com.", RecordType::A) => reply.answers.push(record(owner, "192.0.2.30")),
        ("blocked.example.com.", RecordType::A) => reply.answers.push(record(owner, "192.0.2.20")),
        ("spared.example.com.", RecordType::A) => reply.answers.push(record(owner, "192.0.2.21")),
        ("chain.example.com.", RecordType::A) => {
            let hop = name("hop.example.net.");
            reply.add_answer(Record::from_rdata(owner.clone(), 5, RData::CNAME(CNAME(hop.clone()))));
            reply.add_answer(record(&hop, "192.0.2.22"));
        }
        ("long.example.com.", RecordType::A) if tcp => {
            for last in 0..LONG {
                reply.add_answer(record(owner, &format!("203.0.113.{last}")));
            }
        }
        ("long.example.com.", RecordType::A) => reply.metadata.truncation = true,
        ("rebind.example.com.", RecordType::A) => reply.answers.push(record(owner, "127.0.0.1")),
        ("rebind.example.com.", RecordType::AAAA) => {
            reply.answers.push(record(owner, "::ffff:169.254.169.254"));
        }
        _ => {}
    }
    reply.to_vec().ok()
}

/// Where the servers are, for who asks them.
pub(super) fn socket_address(at: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(at.into(), 53)
}
