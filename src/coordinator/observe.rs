//! The plain listener: /metrics, /healthz, /readyz and the page at /.  No secrets, no scripts, nothing can be changed.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{TEXT_FORMAT, TextEncoder};

use super::routes::Api;

/// A driver that has not seen its store to be good for so long is not ready, in milliseconds: ten ticks.
const GOOD_MS_MAX: u64 = 10_000;

/// All routes of the plain listener.
pub fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(api)
}

/// Ready: every pool's driver reaches its store.
async fn ready(State(api): State<Arc<Api>>) -> Response {
    let pools = api.pools.load_full();
    let bad: Vec<&str> = pools
        .values()
        .filter(|pool| pool.has_ended() || pool.good_ms_ago().is_none_or(|ago| ago > GOOD_MS_MAX))
        .map(|pool| pool.name().as_str())
        .collect();
    if bad.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("the store is not reached by: {}\n", bad.join(", "))).into_response()
}

async fn metrics(State(api): State<Arc<Api>>) -> Response {
    match TextEncoder::new().encode_to_string(&api.metrics.gather()) {
        Ok(text) => ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::warn!(%error, "the metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
