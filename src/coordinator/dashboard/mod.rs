//! The plain listener: /metrics, /healthz, /readyz and the page at /.  No secrets, no scripts, and nothing to change.

mod page;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use prometheus::TEXT_FORMAT;

use super::metrics::gauges::{self, Scraped};
use super::pool::Summary;
use super::routes::Api;
use super::server::Server;
use tfo_model::ids::PoolName;
use tfo_tls::server::ServerTls;

/// A driver whose store has not worked for this long is not ready, in milliseconds: ten ticks.
const GOOD_MS_MAX: u64 = 10_000;

/// Longest wait for a driver, which may be at a slow commit: a page without its pool is better than none.
const PATIENCE: Duration = Duration::from_secs(5);

/// The page loads nothing and runs nothing.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static("default-src 'none'; style-src 'unsafe-inline'");

/// Sources of the page and the metrics.
pub struct Observed {
    /// Pools and counters.
    pub api: Arc<Api>,
    /// Connections and refusals.
    pub server: Arc<Server>,
    /// Certificates.
    pub tls: Arc<ServerTls>,
}

/// All routes of the plain listener.
pub fn router(observed: Arc<Observed>) -> Router {
    Router::new()
        .route("/", get(shown))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(observed)
}

impl Observed {
    /// Every pool at a glance; none where the driver or its store does not answer.
    async fn summaries(&self) -> Vec<(PoolName, Option<Summary>)> {
        let mut summaries = Vec::new();
        for pool in self.api.pools.load_full().values() {
            let summary = tokio::time::timeout(PATIENCE, pool.summary()).await;
            let summary = summary.ok().and_then(Result::ok).and_then(Result::ok);
            summaries.push((pool.name().clone(), summary));
        }
        summaries
    }
}

/// Ready: every pool's driver reaches its store.
async fn ready(State(observed): State<Arc<Observed>>) -> Response {
    let pools = observed.api.pools.load_full();
    let bad: Vec<&str> = pools
        .values()
        .filter(|pool| pool.has_ended() || pool.good_ms_ago().is_none_or(|ago| ago > GOOD_MS_MAX))
        .map(|pool| pool.name().as_str())
        .collect();
    if bad.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("these pools cannot reach their store: {}\n", bad.join(", ")))
        .into_response()
}

async fn metrics(State(observed): State<Arc<Observed>>) -> Response {
    let summaries = observed.summaries().await;
    let scraped = Scraped { server: &observed.server, tls: &observed.tls, pools: &summaries };
    match gauges::encode(&scraped, &observed.api.metrics) {
        Ok(text) => ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::warn!(%error, "cannot encode the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn shown(State(observed): State<Arc<Observed>>) -> Response {
    let page = page::page(&observed.summaries().await);
    ([(CONTENT_SECURITY_POLICY, PAGE_POLICY)], Html(page.into_string())).into_response()
}
