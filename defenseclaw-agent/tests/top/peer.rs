//! Who is asked: the wire of docs/api.md over a unix socket, with questions and rows that the test makes.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use defenseclaw::model::{
    Ancestor, Approval, ApprovalId, BootTime, Connector, PolicyAction, ProcessKey, SessionId, Severity,
    Subject, Text, ToolCallId, Waiter, WallTime,
};
use serde_json::{Value, json};

/// Long enough for a busy machine; nothing that works waits for it.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Default)]
struct State {
    version: u64,
    open: BTreeMap<ApprovalId, Value>,
    status: Value,
    /// Rows, one of them for each number from 1.
    rows: Vec<Value>,
    refuses: Option<(u16, &'static str)>,
    posted: Vec<(String, Value)>,
    stopped: bool,
}

pub(crate) struct Peer {
    path: PathBuf,
    state: Arc<(Mutex<State>, Condvar)>,
}

pub(crate) fn session() -> SessionId {
    SessionId(0x00c0_ffee_0000_0001)
}

/// A question about reading a key.
pub(crate) fn question(id: u64, object: &[u8]) -> Approval {
    let process = ProcessKey { tgid: 4242, start_ns: 7 };
    Approval {
        id: ApprovalId(id),
        session: Some(session()),
        connector: Some(Connector::ClaudeCode),
        agent_session: Some("s-1".to_owned()),
        uid: 1000,
        subject: Subject {
            rule: "secret.ssh".to_owned(),
            effect: "file.read".to_owned(),
            object: Text(object.to_vec()),
        },
        severity: Severity::High,
        reason: "private keys stay private".to_owned(),
        waiter: Waiter::Paused { process, tid: 4243 },
        command: vec![Text(b"cat".to_vec()), Text(b"a b".to_vec())],
        ancestry: vec![
            Ancestor {
                process: ProcessKey { tgid: 4000, start_ns: 3 },
                exe: Text(b"/usr/bin/bash".to_vec()),
            },
            Ancestor {
                process: ProcessKey { tgid: 3000, start_ns: 2 },
                exe: Text(b"/usr/bin/node".to_vec()),
            },
        ],
        tool_call: Some(ToolCallId(0x17)),
        // Far away, so that its age is always the same.
        since: BootTime(u64::MAX / 2 + id),
        wall: WallTime(0),
        deadline: BootTime(u64::MAX / 2 + id + 90_000_000_000),
        fallback: PolicyAction::Block,
    }
}

impl Peer {
    pub(crate) fn start(directory: &Path, name: &str) -> Self {
        let path = directory.join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let state = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let shared = state.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.0.lock().unwrap().stopped {
                    return;
                }
                let shared = shared.clone();
                thread::spawn(move || drop(serve(&mut stream.unwrap(), &shared)));
            }
        });
        Self { path, state }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.0.lock().unwrap();
        change(&mut state);
        state.version += 1;
        self.state.1.notify_all();
    }

    pub(crate) fn asks(&self, approval: &Approval, waiters: u64) {
        let mut value = serde_json::to_value(approval).unwrap();
        value["waiters"] = waiters.into();
        value["remaining_ms"] = 3_600_000.into();
        self.change(|state| drop(state.open.insert(approval.id, value)));
    }

    pub(crate) fn settles(&self, id: u64) {
        self.change(|state| drop(state.open.remove(&ApprovalId(id))));
    }

    pub(crate) fn refuses(&self, refuses: Option<(u16, &'static str)>) {
        self.change(|state| state.refuses = refuses);
    }

    pub(crate) fn says(&self, status: Value) {
        self.change(|state| state.status = status);
    }

    pub(crate) fn tells(&self, record: &defenseclaw::model::AuditRecord) {
        self.change(|state| {
            let mut row = serde_json::to_value(record).unwrap();
            row["seq"] = (state.rows.len() + 1).into();
            state.rows.push(row);
        });
    }

    pub(crate) fn posted(&self) -> Vec<(String, Value)> {
        self.state.0.lock().unwrap().posted.clone()
    }

    /// Waits for so many answers.
    pub(crate) fn answers(&self, count: usize) -> Vec<(String, Value)> {
        let deadline = Instant::now() + PATIENCE;
        let mut state = self.state.0.lock().unwrap();
        while state.posted.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(state);
                panic!("no answer came");
            }
            state = self.state.1.wait_timeout(state, left).unwrap().0;
        }
        state.posted.clone()
    }

    pub(crate) fn stop(self) {
        self.change(|state| state.stopped = true);
        std::fs::remove_file(&self.path).unwrap();
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // A test that has failed may have left it in the middle of something.
        let mut state = self.state.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.stopped = true;
        self.state.1.notify_all();
    }
}

fn serve(stream: &mut UnixStream, shared: &(Mutex<State>, Condvar)) -> std::io::Result<()> {
    let (head, body) = request(stream)?;
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let number = |name: &str| {
        query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')?.parse::<u64>().ok())
    };
    let mut after = None;
    let mut state = shared.0.lock().unwrap();
    let found = state.open.iter().find(|(id, _)| path.split('/').nth(3) == Some(&id.to_string()));
    let one = found.map(|(_, question)| question.clone());
    let (status, said) = match (method, path) {
        ("GET", "/v1/status") => (200, state.status.to_string()),
        ("GET", "/v1/sessions") => (200, "[]".to_owned()),
        ("GET", "/v1/events") => {
            // Two kinds of rows are asked for one at a time; these are all of one kind.
            let told = query.contains("record=finding");
            let from = number("after").unwrap();
            let rows = state.rows.iter().filter(|row| told && row["seq"].as_u64().unwrap() > from);
            let lines: String = rows.flat_map(|row| [row.to_string(), "\n".to_owned()]).collect();
            after = Some((state.rows.len() as u64).max(from));
            (200, lines)
        }
        ("GET", "/v1/approvals") => {
            if let Some(known) = number("after") {
                let deadline = Instant::now() + Duration::from_millis(number("wait_ms").unwrap());
                while state.version == known && !state.stopped {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    state = shared.1.wait_timeout(state, left).unwrap().0;
                }
            }
            let open: Vec<_> = state.open.values().collect();
            (200, json!({"version": state.version, "approvals": open}).to_string())
        }
        ("GET", path) if path.ends_with("/rule") => (
            200,
            json!({"path": "/etc/defenseclaw/local.yaml", "diff": " rules:\n+  - id: local.1\n+    action: allow\n"})
                .to_string(),
        ),
        ("GET", _) => one.map_or((404, "no such approval".to_owned()), |one| (200, one.to_string())),
        ("POST", path) => {
            let id = path.rsplit('/').next().unwrap().to_owned();
            if let Some((status, why)) = state.refuses {
                (status, why.to_owned())
            } else {
                    state.open.remove(&id.parse().unwrap());
                    state.version += 1;
                    state.posted.push((id, serde_json::from_slice(&body).unwrap()));
                    shared.1.notify_all();
                    (200, "{}".to_owned())
            }
        }
        _ => (405, "what?".to_owned()),
    };
    let stopped = state.stopped;
    drop(state);
    if stopped {
        return Ok(());
    }
    let after = after.map(|after| format!("defenseclaw-after: {after}\r\n")).unwrap_or_default();
    let length = said.len();
    write!(stream, "HTTP/1.1 {status} x\r\n{after}content-length: {length}\r\n\r\n{said}")
}

fn request(stream: &mut UnixStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            let body = bytes[end + 4..].to_vec();
            if body.len() >= length.unwrap_or(0) {
                return Ok((head, body));
            }
        }
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        bytes.extend_from_slice(&buffer[..read]);
    }
}
