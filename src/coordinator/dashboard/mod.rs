//! The plain listener: /metrics, /healthz, /readyz and the page at /.  No secrets, no scripts, and nothing to change.

mod page;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use prometheus::TEXT_FORMAT;

use super::metrics::gauges::{self, Scraped};
use super::pool::{StoreDown, Summary};
use super::routes::Api;
use super::server::{Refusal, Server};
use tfo_model::ids::{NodeId, PoolName};
use tfo_tls::server::ServerTls;
use tfo_wire::error::ErrorKind;

/// A driver whose store has not worked for this long is not ready, in milliseconds: ten ticks.
const GOOD_MS_MAX: u64 = 10_000;

/// Longest wait for a driver, which may be at a slow commit: a page without its pool is better than none.
const PATIENCE: Duration = Duration::from_secs(5);

/// The page loads nothing and runs nothing.
const PAGE_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Sources of the page and the metrics.
pub struct Observed {
    /// Pools and counters.
    pub api: Arc<Api>,
    /// Connections and refusals.
    pub server: Arc<Server>,
    /// Certificates.
    pub tls: Arc<ServerTls>,
    /// Names under which it may be asked, besides those that it has by itself.
    pub names: BTreeSet<NodeId>,
}

/// All routes of the plain listener.
pub fn router(observed: Arc<Observed>) -> Router {
    Router::new()
        .route("/", get(shown))
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .layer(middleware::from_fn_with_state(Arc::clone(&observed), only_under_our_names))
        .with_state(observed)
}

/// Refuses requests for other hosts: a web page could give its own name this listener's address, and a browser beside it
/// would show the page what it reads here (DNS rebinding).  That needs a name; an address in its place is harmless.
async fn only_under_our_names(State(observed): State<Arc<Observed>>, request: Request, next: Next) -> Response {
    // Probes may send none; a browser always does.
    let host = request.headers().get(HOST).map(|host| host.to_str().map(name_of).unwrap_or_default());
    if host.is_none_or(|host| observed.is_ours(&host)) {
        return next.run(request).await;
    }
    let message = "this listener does not answer to that Host: use its address, or add the name to [observe] names";
    Refusal::new(ErrorKind::NotAllowed, message).into_response()
}

/// The name in a Host header, without its port, in lower case.
fn name_of(host: &str) -> String {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    name.trim_end_matches('.').to_ascii_lowercase()
}

impl Observed {
    fn is_ours(&self, host: &str) -> bool {
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host == "localhost" || address.parse::<IpAddr>().is_ok() {
            return true;
        }
        let this_host = rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase();
        let listed = |name: NodeId| self.names.contains(&name) || self.tls.is_own_name(&name);
        host == this_host || host.parse().is_ok_and(listed)
    }

    /// Every pool at a glance, where the driver and its store answer.
    async fn summaries(&self) -> Vec<(PoolName, Result<Summary, StoreDown>)> {
        let mut summaries = Vec::new();
        for pool in self.api.pools.load_full().values() {
            let summary = tokio::time::timeout(PATIENCE, pool.summary()).await;
            let summary = summary.ok().and_then(Result::ok).and_then(Result::ok);
            summaries.push((pool.name().clone(), summary.ok_or_else(|| pool.store_down())));
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

#[cfg(test)]
mod tests {
    use super::name_of;

    #[test]
    fn a_host_is_a_name_without_its_port() {
        for (host, name) in [
            ("coord1.Example.org:9441", "coord1.example.org"),
            ("coord1.example.org.", "coord1.example.org"),
            ("127.0.0.1:9441", "127.0.0.1"),
            ("[::1]:9441", "[::1]"),
            ("[::1]", "[::1]"),
            ("evil.example:80:80", "evil.example:80"),
            ("", ""),
        ] {
            assert_eq!(name_of(host), name, "{host}");
        }
    }
}
