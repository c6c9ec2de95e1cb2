//! The service that makes requests go wrong.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use serde_json::json;

use crate::api::respond::{self, Body};
use crate::faults::call::Call;
use crate::faults::script::{Fault, Faults, Moment, Refusal};
use crate::status::Status;

/// How many requests came, and what went wrong with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Those of a client that was stopped are no longer counted.
    pub requests: u64,
    pub writes: u64,
    /// In the order of the requests.
    pub fired: Vec<Fired>,
}

/// A fault that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fired {
    pub call: Call,
    pub fault: Fault,
}

/// A service some of whose requests go wrong.
#[derive(Debug, Clone)]
pub struct Faulty<S> {
    inner: S,
    faults: Faults,
}

impl<S> Faulty<S> {
    pub(crate) fn new(inner: S, faults: Faults) -> Faulty<S> {
        Faulty { inner, faults }
    }
}

impl<S, B> tower::Service<Request<B>> for Faulty<S>
where
    S: tower::Service<Request<Full<Bytes>>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<tower::BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<tower::BoxError>,
{
    type Response = Response<Body>;
    type Error = tower::BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, tower::BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), tower::BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // The one that was made ready answers; its clone is made ready for the next request.
        let ready = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, ready);
        let faults = self.faults.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(Into::into)?.to_bytes();
            let mut call = Call::of(&parts, &body);
            let fault = faults.meet(&mut call);
            let mut forward = || inner.call(Request::from_parts(parts.clone(), Full::new(body.clone())));
            match fault {
                None => forward().await.map_err(Into::into),
                Some(Fault::Drop | Fault::Stop(Moment::Before)) => Err(reset().into()),
                Some(Fault::LoseAnswer | Fault::Stop(Moment::AfterEffect)) => {
                    forward().await.map_err(Into::into)?;
                    Err(reset().into())
                }
                Some(Fault::Delay(time)) => {
                    tokio::time::sleep(time).await;
                    forward().await.map_err(Into::into)
                }
                Some(Fault::DelayAnswer(time)) => {
                    let answer = forward().await.map_err(Into::into)?;
                    tokio::time::sleep(time).await;
                    Ok(answer)
                }
                Some(Fault::Refuse(refusal)) => Ok(refuse(refusal, &call)),
                Some(Fault::CutWatch { pieces }) => {
                    let (head, body) = forward().await.map_err(Into::into)?.into_parts();
                    let kept = body
                        .into_data_stream()
                        .filter_map(|piece| futures::future::ready(piece.ok()))
                        .take(pieces);
                    Ok(Response::from_parts(head, Body::stream(kept)))
                }
            }
        })
    }
}

fn reset() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "connection reset by peer")
}

/// The answers of a real API server.
fn refuse(refusal: Refusal, call: &Call) -> Response<Body> {
    let (plural, group) = call.resource.split_once('.').unwrap_or((&call.resource, ""));
    let details = |seconds: Option<u32>| {
        let mut details = json!({ "name": call.name, "group": group, "kind": plural });
        if let Some(seconds) = seconds {
            details = json!({ "retryAfterSeconds": seconds });
        }
        details
    };
    let status = |code, reason, message: &str, details| Status {
        details,
        ..Status::new(code, reason, message)
    };
    match refusal {
        Refusal::TooManyRequests { retry_after } => {
            let status = status(
                429,
                "TooManyRequests",
                "Too many requests, please try again later.",
                details(Some(retry_after)),
            );
            let mut response = respond::status(&status);
            let seconds = HeaderValue::from(retry_after);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
            response
        }
        Refusal::Internal => {
            let status = status(500, "", "etcdserver: leader changed", serde_json::Value::Null);
            respond::status(&status)
        }
        Refusal::Unavailable => {
            let message = "apiserver is shutting down";
            let status = status(503, "ServiceUnavailable", message, serde_json::Value::Null);
            respond::status(&status)
        }
        Refusal::Conflict => {
            let message = format!(
                "Operation cannot be fulfilled on {} \"{}\": the object has been modified; please apply your changes \
                 to the latest version and try again",
                call.resource, call.name
            );
            respond::status(&status(409, "Conflict", &message, details(None)))
        }
    }
}
