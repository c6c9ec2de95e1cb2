//! The API as a tower service.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;

use crate::Shared;
use crate::access::User;
use crate::api::request::Query;
use crate::api::respond::{self, Body};
use crate::api::{self};
use crate::status::Status;

/// Answers Kubernetes API requests. Cheap to clone.
#[derive(Clone)]
pub struct Service {
    shared: Arc<Shared>,
    user: User,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Service")
            .field("user", &self.user.name)
            .finish_non_exhaustive()
    }
}

impl Service {
    pub(crate) fn new(shared: Arc<Shared>) -> Service {
        Service {
            shared,
            user: User::admin("kubernetes-admin"),
        }
    }
}

impl Service {
    /// The same for another user.
    pub(crate) fn for_user(&self, user: User) -> Service {
        Service {
            shared: Arc::clone(&self.shared),
            user,
        }
    }

    pub(crate) fn tick(&self) {
        self.shared.tick();
    }

    /// Whose token this is, if it is an account's.
    pub(crate) fn authenticate(&self, token: &str) -> Option<User> {
        self.shared.authenticate(token)
    }
}

impl<B> tower::Service<Request<B>> for Service
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::fmt::Display + Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Service { shared, user } = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let body = match body.collect().await {
                Ok(body) => body.to_bytes(),
                Err(error) => {
                    let status = Status::bad_request(format!("the request body cannot be read: {error}"));
                    return Ok(respond::status(&status));
                }
            };
            shared.count_request();
            let mut request = api::request::Request {
                method: parts.method,
                path: parts.uri.path().to_owned(),
                query: Query::parse(parts.uri.query().unwrap_or_default()),
                headers: parts.headers,
                body,
                user,
                warnings: RefCell::default(),
            };
            if let Some(user) = request.impersonated() {
                if let Err(status) = api::check_impersonation(&shared, &request, &user) {
                    return Ok(respond::status(&status));
                }
                request.user = user;
            }
            Ok(api::handle(&shared, &request))
        })
    }
}

impl crate::conformance::Send for Service {
    fn send(
        &self,
        request: Request<Bytes>,
    ) -> futures::future::BoxFuture<'_, Result<crate::conformance::Raw, String>> {
        let mut service = self.clone();
        Box::pin(async move {
            let request = request.map(http_body_util::Full::new);
            let answered = tower::Service::call(&mut service, request).await;
            let (parts, body) = answered.map_err(|never| never.to_string())?.into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?;
            Ok(crate::conformance::Raw {
                code: parts.status.as_u16(),
                headers: parts.headers,
                body: body.to_bytes(),
            })
        })
    }
}
