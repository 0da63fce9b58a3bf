//! The requests about questions and grants: which of them there are, and how their answers look.

use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
};

use super::{
    Asks, Peer, Untaken,
    asked::{SAID_MAX, Said, Since},
    serve::{body, text},
};
use crate::model::{ApprovalId, GrantId, Via};

const APPROVALS: &str = "/v1/approvals";
const GRANTS: &str = "/v1/grants";
/// What "always" would write is asked for below a question.
const LASTING: &str = "/rule";

/// Whether the path is one of these.
pub(super) fn is_ours(path: &str) -> bool {
    [APPROVALS, GRANTS]
        .iter()
        .any(|ours| path.strip_prefix(ours).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

pub(super) async fn answer<A: Asks>(
    asks: &A,
    peer: &Peer,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    if path == APPROVALS {
        return match (method, Since::parse(request.uri().query().unwrap_or_default())) {
            (Method::GET, Ok(since)) => json(&asks.open(peer, since).await),
            (Method::GET, Err(why)) => text(StatusCode::BAD_REQUEST, &why),
            _ => not_so(),
        };
    }
    if path == GRANTS {
        return if method == Method::GET { json(&asks.grants(peer)) } else { not_so() };
    }
    if let Some(name) = path.strip_prefix("/v1/grants/") {
        let Ok(id) = name.parse::<GrantId>() else { return untaken(Untaken::Unknown) };
        return match method {
            Method::DELETE => done(asks.revoke(peer, id, via(&request)).await),
            _ => not_so(),
        };
    }
    let name = path.strip_prefix("/v1/approvals/").unwrap_or_default();
    let (name, lasting) = name.strip_suffix(LASTING).map_or((name, false), |name| (name, true));
    let Ok(id) = name.parse::<ApprovalId>() else { return untaken(Untaken::Unknown) };
    match method {
        Method::GET if lasting => match asks.lasting(peer, id).await {
            Ok(lasting) => json(&lasting),
            Err(why) => untaken(why),
        },
        Method::GET => match asks.question(peer, id) {
            Some(question) => json(&question),
            None => untaken(Untaken::Unknown),
        },
        Method::POST if !lasting => {
            let said = match Limited::new(request.into_body(), SAID_MAX).collect().await {
                Ok(said) => said.to_bytes(),
                Err(err) => {
                    let why = format!("the answer cannot be taken: {err}");
                    return text(StatusCode::PAYLOAD_TOO_LARGE, &why);
                }
            };
            match Said::parse(&said) {
                Ok(said) => done(asks.rule(peer, id, said).await),
                Err(why) => text(StatusCode::BAD_REQUEST, &why),
            }
        }
        _ => not_so(),
    }
}

/// A request without a body says in its query how it came.
fn via(request: &Request<Incoming>) -> Via {
    match request.uri().query() {
        Some("via=command") => Via::Command,
        Some("via=view") => Via::View,
        _ => Via::Api,
    }
}

fn json(value: &impl serde::Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(mut bytes) => {
            bytes.push(b'\n');
            body("application/json", bytes)
        }
        Err(err) => text(StatusCode::INTERNAL_SERVER_ERROR, &err.to_string()),
    }
}

fn done(result: Result<(), Untaken>) -> Response<Full<Bytes>> {
    match result {
        Ok(()) => body("application/json", b"{}\n".to_vec()),
        Err(why) => untaken(why),
    }
}

fn untaken(why: Untaken) -> Response<Full<Bytes>> {
    match why {
        Untaken::Forbidden(why) => text(StatusCode::FORBIDDEN, &why),
        Untaken::Unknown => text(StatusCode::NOT_FOUND, "there is no such question or grant of yours"),
        Untaken::Settled(how) => text(StatusCode::CONFLICT, &how),
        Untaken::Impossible(why) => text(StatusCode::UNPROCESSABLE_ENTITY, &why),
        Untaken::Late => {
            text(StatusCode::SERVICE_UNAVAILABLE, "nobody has taken the answer in time; look again")
        }
    }
}

fn not_so() -> Response<Full<Bytes>> {
    text(StatusCode::METHOD_NOT_ALLOWED, "not with this method")
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_whole_names_are_ours() {
        for (path, ours) in [
            ("/v1/approvals", true),
            ("/v1/approvals/a1", true),
            ("/v1/grants/g1", true),
            ("/v1/approvalsx", false),
            ("/v1/status", false),
        ] {
            assert_eq!(super::is_ours(path), ours, "{path}");
        }
    }
}
