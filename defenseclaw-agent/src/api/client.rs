//! Asking a daemon to be read: one request over its socket, and its whole answer. Hooks have their own, smaller way.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::geteuid,
};

use super::{AFTER_HEADER, Granted, Lasting, Open, Page, Question, Said, Since, Wanted};
use crate::model::{ApprovalId, GrantId, Via};

/// Longest answer that is taken.
const REPLY_MAX: u64 = 256 << 20;
/// Longer than the daemon takes for any request.
const PATIENCE: Duration = Duration::from_secs(20);

/// There is no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("no daemon answers at {}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody else listens.
    #[error("what answers at {} is no daemon of root or of this user", path.display())]
    Impostor {
        /// The socket.
        path: PathBuf,
    },
    /// It broke off.
    #[error("the daemon's answer broke off")]
    Broken(#[source] io::Error),
    /// It is none.
    #[error("the daemon's answer cannot be used: {0}")]
    Unusable(String),
    /// It says no.
    #[error("the daemon says: {said}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words.
        said: String,
    },
}

/// A daemon that answers. Each request has its own connection.
#[derive(Clone, Debug)]
pub struct Client {
    path: PathBuf,
}

struct Reply {
    body: Vec<u8>,
    after: Option<u64>,
}

impl Client {
    /// The daemon at this socket, if one answers.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let client = Self { path: path.to_owned() };
        client.stream().map(|_| client)
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.path
    }

    /// How it is.
    pub fn status(&self) -> Result<serde_json::Value, ClientError> {
        value(&self.get("/v1/status")?.body)
    }

    /// The sessions that this user may read, as JSON.
    pub fn sessions(&self) -> Result<serde_json::Value, ClientError> {
        value(&self.get("/v1/sessions")?.body)
    }

    /// Rows of its audit that this user may read.
    pub fn events(&self, wanted: &Wanted) -> Result<Page, ClientError> {
        let reply = self.get(&format!("/v1/events?{}", wanted.query()))?;
        let after =
            reply.after.ok_or_else(|| ClientError::Unusable("it does not say where it ends".into()))?;
        Ok(Page { lines: reply.body, after })
    }

    /// The questions that are open, at once or when they have changed.
    pub fn open(&self, since: Since) -> Result<Open, ClientError> {
        typed(&self.get(&format!("/v1/approvals?{}", since.query()))?.body)
    }

    /// One question.
    pub fn question(&self, id: ApprovalId) -> Result<Question, ClientError> {
        typed(&self.get(&format!("/v1/approvals/{id}"))?.body)
    }

    /// What "always" would write.
    pub fn lasting(&self, id: ApprovalId) -> Result<Lasting, ClientError> {
        typed(&self.get(&format!("/v1/approvals/{id}/rule"))?.body)
    }

    /// Answers a question.
    pub fn rule(&self, id: ApprovalId, said: &Said) -> Result<(), ClientError> {
        let body = serde_json::to_string(said).map_err(|err| ClientError::Unusable(err.to_string()))?;
        self.ask("POST", &format!("/v1/approvals/{id}"), &body).map(drop)
    }

    /// What is granted.
    pub fn grants(&self) -> Result<Granted, ClientError> {
        typed(&self.get("/v1/grants")?.body)
    }

    /// Takes a grant back.
    pub fn revoke(&self, id: GrantId, via: Via) -> Result<(), ClientError> {
        self.ask("DELETE", &format!("/v1/grants/{id}?via={via}"), "").map(drop)
    }

    fn stream(&self) -> Result<UnixStream, ClientError> {
        let unreachable = |source| ClientError::Unreachable { path: self.path.clone(), source };
        let stream = UnixStream::connect(&self.path).map_err(unreachable)?;
        let peer = getsockopt(&stream, PeerCredentials).map_err(|err| unreachable(err.into()))?;
        if ![0, geteuid().as_raw()].contains(&peer.uid()) {
            return Err(ClientError::Impostor { path: self.path.clone() });
        }
        Ok(stream)
    }

    fn get(&self, target: &str) -> Result<Reply, ClientError> {
        self.ask("GET", target, "")
    }

    fn ask(&self, method: &str, target: &str, body: &str) -> Result<Reply, ClientError> {
        let mut stream = self.stream()?;
        let mut exchange = || {
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let length = body.len();
            let head = format!(
                "{method} {target} HTTP/1.1\r\nhost: defenseclaw\r\ncontent-length: {length}\r\n\r\n"
            );
            stream.write_all(format!("{head}{body}").as_bytes())?;
            let mut bytes = Vec::new();
            (&mut stream).take(REPLY_MAX).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read(&exchange().map_err(ClientError::Broken)?)
    }
}

fn value(body: &[u8]) -> Result<serde_json::Value, ClientError> {
    typed(body)
}

fn typed<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(body).map_err(|err| ClientError::Unusable(err.to_string()))
}

fn read(bytes: &[u8]) -> Result<Reply, ClientError> {
    let unusable = |why: &str| ClientError::Unusable(why.to_owned());
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err(unusable("it broke off")),
        Err(err) => return Err(unusable(&err.to_string())),
    };
    let number = |name: &str| {
        let header = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()?.parse::<u64>().ok()
    };
    let body = bytes.get(length..).unwrap_or_default();
    if number("content-length") != Some(body.len() as u64) {
        return Err(unusable("it broke off"));
    }
    match head.code {
        Some(200) => Ok(Reply { body: body.to_vec(), after: number(AFTER_HEADER) }),
        status => {
            let said = String::from_utf8_lossy(body.get(..400).unwrap_or(body)).trim().to_owned();
            Err(ClientError::Refused { status: status.unwrap_or(0), said })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_answer_is_one() {
        let reply =
            read(b"HTTP/1.1 200 OK\r\nDefenseclaw-After: 12\r\ncontent-length: 3\r\n\r\n{}\n").unwrap();
        assert_eq!((&*reply.body, reply.after), (&b"{}\n"[..], Some(12)));
        let refused = read(b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\nnone\n");
        assert!(matches!(refused, Err(ClientError::Refused { status: 404, said }) if said == "none"));
        for bytes in
            [&b""[..], b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n{}\n", b"HTTP/1.1 200 OK\r\n\r\n", b"x"]
        {
            assert!(matches!(read(bytes), Err(ClientError::Unusable(_))));
        }
    }
}
