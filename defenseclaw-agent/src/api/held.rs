//! The reply to a hook whose answer a person gives: its head goes out at once, so that who asked knows that it is worth
//! waiting, and its body when there is an answer. Who does not wait any more closes the connection; then nobody receives here.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body_util::{Either, Full};
use hyper::{
    Response,
    body::{Body, Bytes, Frame},
    header::{CONTENT_TYPE, HeaderValue},
};
use tokio::sync::oneshot;

use crate::model::{HELD_HEADER, HookOutput};

/// What becomes of a hook.
#[derive(Debug)]
pub enum Answered {
    /// It is answered.
    Now(HookOutput),
    /// A person is asked.
    Held {
        /// There is an answer at the latest after this.
        within: Duration,
        /// The answer. If its sender goes, the caller gets none, and is left to its fail mode.
        output: oneshot::Receiver<HookOutput>,
    },
}

/// What is sent as the body of any reply.
pub(super) type Sent = Either<Full<Bytes>, Held>;

/// An answer that is not there yet.
pub(super) struct Held(Option<oneshot::Receiver<HookOutput>>);

impl Body for Held {
    type Data = Bytes;
    type Error = oneshot::error::RecvError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(receiver) = &mut self.0 else { return Poll::Ready(None) };
        let Poll::Ready(output) = Pin::new(receiver).poll(context) else { return Poll::Pending };
        self.0 = None;
        Poll::Ready(Some(output.map(|output| Frame::data(whole(&output).into()))))
    }
}

/// With what stands in the head of an answer that is not held.
fn whole(output: &HookOutput) -> Vec<u8> {
    let mut body = format!("{} {}\n", output.exit_code, output.stdout.len()).into_bytes();
    body.extend(&output.stdout);
    body.extend(&output.stderr);
    body
}

pub(super) fn held(within: Duration, output: oneshot::Receiver<HookOutput>) -> Response<Sent> {
    let mut response = Response::new(Either::Right(Held(Some(output))));
    let headers = response.headers_mut();
    let millis = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
    headers.insert(HELD_HEADER, HeaderValue::from(millis));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}
