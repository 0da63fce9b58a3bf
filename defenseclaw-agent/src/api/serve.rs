//! Connections and requests, with limits on each. A request that does not fit is answered with what is wrong with it.

use std::{future::Future, io, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Body, Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::UnixStream, sync::Semaphore, task::JoinSet, time};

use super::{
    AFTER_HEADER, Answered, Answers, Asks, Listener, Peer, Unread, Wanted, approve,
    held::{Sent, held},
};
use crate::model::{Connector, EXIT_HEADER, HOLD_HEADER, HookOutput, PAYLOAD_MAX, REPORT_MAX, STDOUT_HEADER};

/// Bytes of a request's head.
const HEAD_MAX: usize = 16 << 10;

/// What peers may use up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; more wait at the socket.
    pub connections: usize,
    /// Bytes of payloads at once; more wait.
    pub payload_bytes: usize,
    /// For the head of a request.
    pub head_time: Duration,
    /// For a request with its reply.
    pub request_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            payload_bytes: 16 * PAYLOAD_MAX,
            head_time: Duration::from_secs(5),
            request_time: Duration::from_secs(15),
        }
    }
}

/// Who turns requests into responses.
trait Routes: Send + Sync + 'static {
    fn answer(&self, peer: &Peer, request: Request<Incoming>) -> impl Future<Output = Response<Sent>> + Send;
}

/// Everything that a daemon is asked.
struct Server<A> {
    answers: Arc<A>,
    payloads: Semaphore,
}

/// Questions and grants only.
struct Asking<A>(Arc<A>);

/// Answers until `stop` is ready, then lets requests that have begun end.
pub async fn serve<A: Answers>(
    listener: Listener,
    answers: Arc<A>,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let server = Server { answers, payloads: Semaphore::new(limits.payload_bytes) };
    accept(listener, Arc::new(server), limits, stop).await;
}

/// The same, of questions and grants only.
pub async fn serve_asks<A: Asks>(
    listener: Listener,
    asks: Arc<A>,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    accept(listener, Arc::new(Asking(asks)), limits, stop).await;
}

async fn accept<R: Routes>(
    listener: Listener,
    server: Arc<R>,
    limits: Limits,
    stop: impl Future<Output = ()>,
) {
    let mut connections = JoinSet::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        while connections.try_join_next().is_some() {}
        tokio::select! {
            () = &mut stop => break,
            _ = connections.join_next(), if connections.len() >= limits.connections => {}
            accepted = listener.socket.accept(), if connections.len() < limits.connections => match accepted {
                Ok((stream, _)) => drop(connections.spawn(connection(Arc::clone(&server), limits, stream))),
                Err(err) => {
                    tracing::warn!("cannot accept: {err}");
                    // Out of descriptors, most likely: some will be closed meanwhile.
                    time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    // Whoever comes now finds no socket, which callers answer by themselves.
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    time::timeout(limits.head_time, ended).await.ok();
}

async fn connection<R: Routes>(server: Arc<R>, limits: Limits, stream: UnixStream) {
    let peer = match Peer::of(&stream) {
        Ok(peer) => peer,
        Err(err) => return tracing::warn!("cannot tell who is at a connection: {err}"),
    };
    let service = service_fn(|request| {
        let (server, peer) = (&server, &peer);
        async move {
            let answered = time::timeout(limits.request_time, server.answer(peer, request));
            let late = |_| text(StatusCode::REQUEST_TIMEOUT, "the request took too long").map(Either::Left);
            Ok::<_, io::Error>(answered.await.unwrap_or_else(late))
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        .max_buf_size(HEAD_MAX)
        .max_headers(32)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(err) = served {
        tracing::debug!("connection of pid {} broke: {err}", peer.caller.pid);
    }
}

impl<A: Asks> Routes for Asking<A> {
    async fn answer(&self, peer: &Peer, request: Request<Incoming>) -> Response<Sent> {
        if approve::is_ours(request.uri().path()) {
            return approve::answer(&*self.0, peer, request).await.map(Either::Left);
        }
        text(StatusCode::NOT_FOUND, "there is nothing here").map(Either::Left)
    }
}

impl<A: Answers> Routes for Server<A> {
    /// Hooks are answered in a form of their own.
    async fn answer(&self, peer: &Peer, request: Request<Incoming>) -> Response<Sent> {
        let name =
            request.uri().path().strip_prefix("/v1/hooks/").filter(|_| request.method() == Method::POST);
        match name.map(Connector::from_name) {
            Some(Some(connector)) => self.hook(peer, connector, request).await,
            Some(None) => text(StatusCode::NOT_FOUND, "there is no such connector").map(Either::Left),
            None => self.other(peer, request).await.map(Either::Left),
        }
    }
}

impl<A: Answers> Server<A> {
    async fn other(&self, peer: &Peer, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        if approve::is_ours(&path) {
            return approve::answer(&*self.answers, peer, request).await;
        }
        match (request.method(), path.as_str()) {
            (&Method::GET, "/v1/status") => json(&self.answers.status(peer)),
            (&Method::GET, "/v1/sessions") => match self.answers.sessions(peer).await {
                Ok(list) => body("application/json", list),
                Err(why) => unread(why),
            },
            (&Method::GET, "/v1/events") => match Wanted::parse(request.uri().query().unwrap_or_default()) {
                Ok(wanted) => match self.answers.events(peer, wanted).await {
                    Ok(page) => {
                        let mut response = body("application/x-ndjson", page.lines);
                        response.headers_mut().insert(AFTER_HEADER, HeaderValue::from(page.after));
                        response
                    }
                    Err(why) => unread(why),
                },
                Err(why) => unread(Unread::Wrong(why)),
            },
            (&Method::POST, "/v1/reload") if !self.answers.controls(peer) => {
                text(StatusCode::FORBIDDEN, "only root and the control group may do this")
            }
            (&Method::POST, "/v1/reload") => match self.answers.reload().await {
                Ok(()) => json(&self.answers.status(peer)),
                Err(why) => text(StatusCode::UNPROCESSABLE_ENTITY, &why),
            },
            (&Method::POST, "/v1/missed") => {
                match Limited::new(request.into_body(), REPORT_MAX).collect().await {
                    Ok(lines) => {
                        let taken = self.answers.missed(peer.caller, lines.to_bytes().to_vec()).await;
                        json(&serde_json::json!({ "taken": taken }))
                    }
                    Err(err) => {
                        text(StatusCode::PAYLOAD_TOO_LARGE, &format!("the report cannot be taken: {err}"))
                    }
                }
            }
            (_, "/v1/status" | "/v1/reload" | "/v1/missed" | "/v1/sessions" | "/v1/events") => {
                text(StatusCode::METHOD_NOT_ALLOWED, "not with this method")
            }
            (_, path) if path.starts_with("/v1/hooks/") => {
                text(StatusCode::METHOD_NOT_ALLOWED, "hooks are posted")
            }
            _ => text(StatusCode::NOT_FOUND, "there is nothing here"),
        }
    }

    async fn hook(&self, peer: &Peer, connector: Connector, request: Request<Incoming>) -> Response<Sent> {
        let refused = |status, why: &str| text(status, why).map(Either::Left);
        let Some(length) = request.body().size_hint().exact() else {
            return refused(StatusCode::LENGTH_REQUIRED, "say the length of the payload");
        };
        let length = match u32::try_from(length) {
            Ok(length) if length as usize <= PAYLOAD_MAX => length,
            _ => return refused(StatusCode::PAYLOAD_TOO_LARGE, "a payload has at most 4 MiB"),
        };
        let hold = request.headers().get(HOLD_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        let hold = Duration::from_millis(hold.unwrap_or_default());
        // It is never closed.
        let Ok(_room) = self.payloads.acquire_many(length).await else {
            return refused(StatusCode::SERVICE_UNAVAILABLE, "the daemon is stopping");
        };
        match Limited::new(request.into_body(), PAYLOAD_MAX).collect().await {
            Ok(payload) => {
                let payload = payload.to_bytes().to_vec();
                match self.answers.hook(peer.caller, connector, payload, hold).await {
                    Answered::Now(output) => reply(output).map(Either::Left),
                    Answered::Held { within, output } => held(within, output),
                }
            }
            Err(err) => refused(StatusCode::BAD_REQUEST, &format!("the payload broke off: {err}")),
        }
    }
}

/// What the hook prints, so that it need not be parsed: stdout, then stderr, with the length of the first in a header.
fn reply(output: HookOutput) -> Response<Full<Bytes>> {
    let stdout = output.stdout.len();
    let mut body = output.stdout;
    body.extend(output.stderr);
    let mut response = Response::new(Full::from(body));
    let headers = response.headers_mut();
    headers.insert(EXIT_HEADER, HeaderValue::from(u16::from(output.exit_code)));
    headers.insert(STDOUT_HEADER, HeaderValue::from(stdout));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}

pub(super) fn text(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{text}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json(value: &serde_json::Value) -> Response<Full<Bytes>> {
    body("application/json", format!("{value}\n").into_bytes())
}

pub(super) fn body(kind: &'static str, bytes: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(bytes));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn unread(why: Unread) -> Response<Full<Bytes>> {
    match why {
        Unread::Unknown => text(StatusCode::NOT_FOUND, "there is no such session of yours"),
        Unread::Wrong(why) => text(StatusCode::BAD_REQUEST, &why),
        Unread::Failed(why) => text(StatusCode::INTERNAL_SERVER_ERROR, &why),
    }
}
