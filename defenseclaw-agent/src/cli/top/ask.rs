//! Asking for open questions, and answering them, over the socket of whoever keeps them. docs/api.md has the words.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::socket::{getsockopt, sockopt::PeerCredentials},
    unistd::geteuid,
};
use serde_json::{Value, json};

use super::message::{Answer, Open};
use crate::{
    model::{Approval, ApprovalId, Via},
    runtime::ClientError,
};

/// How long a question list waits for a change.
const WAIT: Duration = Duration::from_secs(10);
/// Longer than anybody takes for a request.
const PATIENCE: Duration = Duration::from_secs(15);
/// Longest list that is taken.
const REPLY_MAX: u64 = 64 << 20;

/// Open questions.
pub(super) struct Questions {
    pub(super) version: Option<u64>,
    pub(super) open: Vec<Open>,
    /// So many that could not be understood.
    pub(super) unread: usize,
}

/// All open questions; with the version that is known, once there is another one, or after a while.
pub(super) fn questions(socket: &Path, known: Option<u64>) -> Result<Questions, ClientError> {
    let target = match known {
        Some(version) => format!("/v1/approvals?after={version}&wait_ms={}", WAIT.as_millis()),
        None => "/v1/approvals".to_owned(),
    };
    let said: Value = serde_json::from_slice(&request(socket, "GET", &target, None)?)
        .map_err(|err| ClientError::Unusable(err.to_string()))?;
    let all = said
        .get("approvals")
        .and_then(Value::as_array)
        .ok_or_else(|| ClientError::Unusable("it has no list of approvals".to_owned()))?;
    let open: Vec<Open> = all.iter().filter_map(|one| serde_json::from_value(one.clone()).ok()).collect();
    let unread = all.len() - open.len();
    Ok(Questions { version: said.get("version").and_then(Value::as_u64), open, unread })
}

/// Answers a question if it is the one that was seen. What is said against it otherwise.
pub(super) fn answer(answer: &Answer) -> Result<(), String> {
    let socket = &answer.key.from;
    // A watcher that has started anew counts from the beginning: its question of that id is another one.
    let now = questions(socket, None).map_err(|err| words(&err))?;
    match now.open.iter().find(|one| one.approval.id == answer.key.id) {
        Some(one) if is_same(&one.approval, &answer.approval) => {}
        Some(_) => return Err("it has changed meanwhile: nothing was answered".to_owned()),
        // Whoever keeps it knows how it was settled.
        None => {}
    }
    post(socket, answer.key.id, answer).map_err(|err| words(&err))
}

fn is_same(one: &Approval, other: &Approval) -> bool {
    (one.session, one.since, &one.subject) == (other.session, other.since, &other.subject)
}

fn post(socket: &Path, id: ApprovalId, answer: &Answer) -> Result<(), ClientError> {
    let mut body = json!({"ruling": answer.ruling, "via": Via::View});
    if let (Some(message), Some(body)) = (&answer.message, body.as_object_mut()) {
        body.insert("message".to_owned(), message.as_str().into());
    }
    request(socket, "POST", &format!("/v1/approvals/{id}"), Some(&body.to_string())).map(drop)
}

fn words(err: &ClientError) -> String {
    match err {
        ClientError::Refused { said, .. } => said.clone(),
        ClientError::Unreachable { .. }
        | ClientError::Impostor { .. }
        | ClientError::Broken(_)
        | ClientError::Unusable(_) => err.to_string(),
    }
}

fn request(socket: &Path, method: &str, target: &str, body: Option<&str>) -> Result<Vec<u8>, ClientError> {
    let path = || -> PathBuf { socket.to_owned() };
    let unreachable = |source| ClientError::Unreachable { path: path(), source };
    let mut stream = UnixStream::connect(socket).map_err(unreachable)?;
    let peer = getsockopt(&stream, PeerCredentials).map_err(|err| unreachable(err.into()))?;
    if ![0, geteuid().as_raw()].contains(&peer.uid()) {
        return Err(ClientError::Impostor { path: path() });
    }
    let length = body.map_or_else(String::new, |body| format!("content-length: {}\r\n", body.len()));
    let body = body.unwrap_or_default();
    let mut exchange = || {
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let head = format!("{method} {target} HTTP/1.1\r\nhost: defenseclaw\r\n{length}\r\n{body}");
        stream.write_all(head.as_bytes())?;
        let mut bytes = Vec::new();
        (&mut stream).take(REPLY_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    reply(&exchange().map_err(ClientError::Broken)?)
}

fn reply(bytes: &[u8]) -> Result<Vec<u8>, ClientError> {
    let unusable = |why: &str| ClientError::Unusable(why.to_owned());
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut headers);
    let length = match head.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Err(unusable("it broke off")),
        Err(err) => return Err(unusable(&err.to_string())),
    };
    let status = head.code.unwrap_or(0);
    let body = bytes.get(length..).unwrap_or_default();
    let said = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let said = said.and_then(|header| std::str::from_utf8(header.value).ok()?.parse::<usize>().ok());
    if said != Some(body.len()) {
        return Err(unusable("it broke off"));
    }
    if status == 200 {
        return Ok(body.to_vec());
    }
    let said = String::from_utf8_lossy(body.get(..400).unwrap_or(body)).trim().to_owned();
    Err(ClientError::Refused { status, said })
}
