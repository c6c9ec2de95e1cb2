//! `/metrics`, `/healthz` and `/readyz`.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context as _;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};

use super::metrics::Metrics;

/// What the endpoints answer from.
#[derive(Clone)]
pub(super) struct Served {
    pub metrics: Arc<Metrics>,
    /// Whether the API server has answered this replica. One that does not lead is ready as well: it can take over.
    pub ready: Arc<AtomicBool>,
}

/// Serves until the process ends. Gives the address, which matters where the port was 0.
///
/// # Errors
/// The address cannot be listened on.
pub(super) async fn serve(address: SocketAddr, served: Served) -> anyhow::Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}\nhint: choose another one with --metrics-address")
    })?;
    let address = listener.local_addr().context("the listener has no address")?;
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok"))
        .route("/readyz", get(ready))
        .with_state(served);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "metrics and health are no longer served");
        }
    });
    Ok(address)
}

async fn metrics(State(served): State<Served>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], served.metrics.text()).into_response()
}

async fn ready(State(served): State<Served>) -> Response {
    if served.ready.load(Ordering::Relaxed) {
        "ok".into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "the API server has not answered yet",
        )
            .into_response()
    }
}
