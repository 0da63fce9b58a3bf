//! Asking the server that the task meant. A fresh socket and a fresh id for each question, so that nobody off the path can
//! answer in its place; the sockets are made by the thread that runs this, in its network namespace.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time,
};

use super::{
    answer::{self, Answer, NotAnAnswer},
    question::Question,
};
use crate::model::Transport;

/// A lost datagram is sent again once after this long.
const AGAIN: Duration = Duration::from_secs(2);
/// Programs wait five seconds; an answer after that helps nobody.
const PATIENCE: Duration = Duration::from_secs(5);
/// Datagrams that are no answer, after which we stop listening.
const NOISE: usize = 64;

/// Why there is no answer to pass on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unanswered {
    /// Nothing came in time.
    #[error("the server did not answer within {PATIENCE:?}")]
    Late,
    /// The network says no.
    #[error("the server cannot be reached: {0}")]
    Unreachable(#[source] io::Error),
    /// Something came that cannot be read.
    #[error("the server's answer cannot be read")]
    Unreadable,
}

/// Puts the question and returns the answer, as bytes under the question's own id and as facts.
pub(super) async fn ask(
    server: SocketAddr,
    transport: Transport,
    question: &Question,
    message: &[u8],
) -> Result<(Vec<u8>, Answer), Unanswered> {
    let mut fresh = [0; 2];
    getrandom::fill(&mut fresh).map_err(|err| Unanswered::Unreachable(io::Error::other(err)))?;
    let mut message = message.to_vec();
    rename(&mut message, fresh);
    let id = u16::from_be_bytes(fresh);
    let asked = async {
        match transport {
            Transport::Tcp => over_tcp(server, question, &message, id).await,
            Transport::Udp | Transport::Other(_) => over_udp(server, question, &message, id).await,
        }
    };
    let (mut bytes, answer) = time::timeout(PATIENCE, asked).await.map_err(|_elapsed| Unanswered::Late)??;
    rename(&mut bytes, question.id.to_be_bytes());
    Ok((bytes, answer))
}

fn rename(message: &mut [u8], id: [u8; 2]) {
    if let Some(place) = message.first_chunk_mut() {
        *place = id;
    }
}

async fn over_udp(
    server: SocketAddr,
    question: &Question,
    message: &[u8],
    id: u16,
) -> Result<(Vec<u8>, Answer), Unanswered> {
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await.map_err(Unanswered::Unreachable)?;
    // A connected socket takes datagrams of this server alone.
    socket.connect(server).await.map_err(Unanswered::Unreachable)?;
    socket.send(message).await.map_err(Unanswered::Unreachable)?;
    let mut buffer = vec![0; usize::from(u16::MAX)];
    let (mut noise, mut sent_again) = (0, false);
    loop {
        let received = if sent_again {
            socket.recv(&mut buffer).await
        } else if let Ok(received) = time::timeout(AGAIN, socket.recv(&mut buffer)).await {
            received
        } else {
            sent_again = true;
            socket.send(message).await.map_err(Unanswered::Unreachable)?;
            continue;
        };
        let len = received.map_err(Unanswered::Unreachable)?;
        let bytes = buffer.get(..len).unwrap_or_default();
        match answer::read(bytes, question, id) {
            Ok(answer) => return Ok((bytes.to_vec(), answer)),
            Err(NotAnAnswer::Foreign) if noise < NOISE => noise += 1,
            Err(NotAnAnswer::Foreign | NotAnAnswer::Unreadable) => return Err(Unanswered::Unreadable),
        }
    }
}

async fn over_tcp(
    server: SocketAddr,
    question: &Question,
    message: &[u8],
    id: u16,
) -> Result<(Vec<u8>, Answer), Unanswered> {
    let mut stream = TcpStream::connect(server).await.map_err(Unanswered::Unreachable)?;
    write_framed(&mut stream, message).await.map_err(Unanswered::Unreachable)?;
    let bytes = read_framed(&mut stream).await.map_err(Unanswered::Unreachable)?;
    let answer = answer::read(&bytes, question, id).map_err(|_not| Unanswered::Unreadable)?;
    Ok((bytes, answer))
}

/// Writes a message behind its length, as DNS does over TCP.
pub(super) async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = len.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

/// Reads such a message.
pub(super) async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let len = stream.read_u16().await?;
    let mut message = vec![0; usize::from(len)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
