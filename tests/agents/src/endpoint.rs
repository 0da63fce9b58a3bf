//! The scripted model's HTTP server on loopback. It speaks no vendor's protocol itself: a `Protocol` makes the reply.

use std::{
    io::Read,
    net::Ipv4Addr,
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use tiny_http::{Header, Response, Server};

use crate::script::{Script, ToolResult};

/// More than any request of these tests; a client that sends more is answered as if it had sent nothing.
const LONGEST_BODY: u64 = 32 << 20;

/// How long a port may take to become free.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes the reply to a request, in one vendor's protocol.
pub(crate) type Protocol = fn(&Script, &Request) -> Reply;

/// What a client asked.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Without the query.
    pub(crate) path: String,
    /// `null` if it was not JSON.
    pub(crate) body: Value,
}

/// What it is answered.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
    /// Why this was the answer, for the log.
    pub(crate) note: String,
    /// Results of tools that the request carried.
    pub(crate) results: Vec<ToolResult>,
}

impl Reply {
    /// A JSON reply to a request that is no part of the script.
    pub(crate) fn aside(status: u16, body: &Value) -> Self {
        Self {
            status,
            content_type: "application/json",
            body: body.to_string(),
            note: "no part of the script".into(),
            results: Vec::new(),
        }
    }
}

/// One request with its answer, as the log keeps it.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) request: String,
    pub(crate) status: u16,
    pub(crate) note: String,
    pub(crate) results: Vec<ToolResult>,
}

/// A running endpoint.
pub(crate) struct Endpoint {
    pub(crate) port: u16,
    server: Arc<Server>,
    thread: JoinHandle<Vec<Exchange>>,
}

impl Endpoint {
    /// Listens on a free port of 127.0.0.1, in the network of the calling thread.
    pub(crate) fn start(protocol: Protocol, script: Script) -> Result<Self> {
        Self::at(0, protocol, script)
    }

    /// Likewise, on this port.
    pub(crate) fn at(port: u16, protocol: Protocol, script: Script) -> Result<Self> {
        let deadline = Instant::now() + PATIENCE;
        let server = loop {
            match Server::http((Ipv4Addr::LOCALHOST, port)) {
                Ok(server) => break server,
                // The server that had the port before closes it on a thread of its own.
                Err(_) if port != 0 && Instant::now() < deadline => thread::yield_now(),
                Err(err) => return Err(anyhow!("cannot listen on 127.0.0.1: {err}")),
            }
        };
        let port = server.server_addr().to_ip().context("the endpoint has no address")?.port();
        let server = Arc::new(server);
        let thread = thread::spawn({
            let server = Arc::clone(&server);
            move || server.incoming_requests().map(|request| answer(protocol, &script, request)).collect()
        });
        Ok(Self { port, server, thread })
    }

    /// Where clients find it.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Stops, and says what was asked.
    pub(crate) fn finish(self) -> Vec<Exchange> {
        self.server.unblock();
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn answer(protocol: Protocol, script: &Script, mut request: tiny_http::Request) -> Exchange {
    let method = request.method().to_string();
    let path = request.url().split('?').next().unwrap_or_default().to_owned();
    let mut bytes = Vec::new();
    // A body that cannot be read is one that is not JSON: the protocol says what to do with it.
    let body = match request.as_reader().take(LONGEST_BODY).read_to_end(&mut bytes) {
        Ok(_) => serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        Err(_) => Value::Null,
    };
    let asked = Request { method, path, body };
    let reply = protocol(script, &asked);
    let mut exchange = Exchange {
        request: format!("{} {}", asked.method, asked.path),
        status: reply.status,
        note: reply.note,
        results: reply.results,
    };
    let mut response = Response::from_string(reply.body).with_status_code(reply.status);
    if let Ok(header) = Header::from_bytes("content-type", reply.content_type) {
        response = response.with_header(header);
    }
    if let Err(err) = request.respond(response) {
        exchange.note = format!("{}; the client went away: {err}", exchange.note);
    }
    exchange
}
