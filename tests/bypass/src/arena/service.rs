//! Services that cases reach or do not reach. Who connects gets what it asks for: a nonce of that socket, a file of the
//! arena, a descriptor. They run outside of every enrolled tree and stand for the brokers of a real machine.

use std::{
    fs::File,
    io::{BufRead, BufReader, IoSlice, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsRawFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::socket::{self, ControlMessage, MsgFlags};

/// What a service needs to answer.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    /// Only files below may be asked for.
    pub(crate) root: PathBuf,
    /// What proves that this very side was reached.
    pub(crate) nonce: String,
}

const PATIENCE: Duration = Duration::from_secs(20);

impl Service {
    /// A file that may be asked for.
    fn file(&self, path: &str) -> Result<File> {
        let path = std::fs::canonicalize(path)?;
        anyhow::ensure!(path.starts_with(&self.root), "not below the arena");
        Ok(File::open(path)?)
    }

    /// The text that answers a request.
    fn answer(&self, request: &str) -> Vec<u8> {
        match request.trim_end().split_once(' ') {
            Some(("cat", path)) => {
                let mut content = Vec::new();
                match self.file(path).map(|mut file| file.read_to_end(&mut content)) {
                    Ok(_) => content,
                    Err(error) => format!("{error:#}").into_bytes(),
                }
            }
            _ => self.nonce.clone().into_bytes(),
        }
    }

    /// The descriptor that answers a request for one.
    fn descriptor(&self, request: &str) -> Result<OwnedFd> {
        Ok(match request.trim_end().split_once(' ') {
            Some(("pass", path)) => self.file(path)?.into(),
            Some(("pass-connection", to)) => TcpStream::connect(to)?.into(),
            Some(("pass-socket", to)) => UnixStream::connect(to)?.into(),
            _ => anyhow::bail!("what is {request:?}?"),
        })
    }

    fn unix(&self, mut stream: UnixStream) -> Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut request = String::new();
        BufReader::new(stream.try_clone()?).read_line(&mut request)?;
        if request.starts_with("pass") {
            let passed = self.descriptor(&request)?;
            let (fds, payload) = ([passed.as_raw_fd()], [IoSlice::new(b"x")]);
            let message = [ControlMessage::ScmRights(&fds)];
            socket::sendmsg::<()>(stream.as_raw_fd(), &payload, &message, MsgFlags::MSG_NOSIGNAL, None)?;
            return Ok(());
        }
        stream.write_all(&self.answer(&request))?;
        Ok(())
    }

    fn tcp(&self, mut stream: TcpStream) -> Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut request = String::new();
        BufReader::new(stream.try_clone()?).read_line(&mut request)?;
        // An HTTP proxy in two lines: it relays one exchange to wherever it is asked to.
        if let Some(target) = request.strip_prefix("CONNECT ") {
            let mut next = TcpStream::connect(target.trim_end())?;
            next.write_all(b"nonce\n")?;
            let mut answer = Vec::new();
            next.read_to_end(&mut answer)?;
            stream.write_all(&answer)?;
            return Ok(());
        }
        stream.write_all(&self.answer(&request))?;
        Ok(())
    }

    pub(crate) fn listen_unix(&self, listener: UnixListener) {
        let service = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = service.unix(stream);
            }
        });
    }

    pub(crate) fn listen_path(&self, path: &Path) -> Result<()> {
        self.listen_unix(UnixListener::bind(path).with_context(|| format!("{}", path.display()))?);
        anyone_may(path)
    }

    pub(crate) fn listen_abstract(&self, name: &str) -> Result<()> {
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        self.listen_unix(UnixListener::bind_addr(&address)?);
        Ok(())
    }

    /// A packet socket keeps the borders of messages.
    pub(crate) fn listen_packets(&self, path: &Path) -> Result<()> {
        use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr};
        let flags = SockFlag::SOCK_CLOEXEC;
        let listener = socket::socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        socket::bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
        socket::listen(&listener, Backlog::new(8)?)?;
        anyone_may(path)?;
        self.listen_unix(UnixListener::from(listener));
        Ok(())
    }

    /// Datagrams are answered to the sender's own name.
    pub(crate) fn listen_datagrams(&self, listener: UnixDatagram) {
        let service = self.clone();
        thread::spawn(move || {
            let mut request = [0_u8; 4096];
            while let Ok((length, sender)) = listener.recv_from(&mut request) {
                let answer = service.answer(&String::from_utf8_lossy(&request[..length]));
                let _ = listener.send_to_addr(&answer, &sender);
            }
        });
    }

    pub(crate) fn listen_tcp(&self, address: SocketAddr) -> Result<SocketAddr> {
        let listener = TcpListener::bind(address).with_context(|| format!("{address}"))?;
        let bound = listener.local_addr()?;
        let service = self.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let service = service.clone();
                thread::spawn(move || drop(service.tcp(stream)));
            }
        });
        Ok(bound)
    }

    pub(crate) fn listen_udp(&self, address: SocketAddr) -> Result<()> {
        let listener = UdpSocket::bind(address).with_context(|| format!("udp {address}"))?;
        let service = self.clone();
        thread::spawn(move || {
            let mut request = [0_u8; 4096];
            while let Ok((length, sender)) = listener.recv_from(&mut request) {
                let answer = service.answer(&String::from_utf8_lossy(&request[..length]));
                let _ = listener.send_to(&answer, sender);
            }
        });
        Ok(())
    }
}

/// Only policy stands between a process and the socket.
pub(crate) fn anyone_may(path: &Path) -> Result<()> {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    Ok(())
}
