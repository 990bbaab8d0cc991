//! The plain listener: /metrics, /healthz, /readyz and the pages from / on.  No secrets, and nothing to change.  The API's
//! listener has the same pages below /page for operators and viewers, with what an operator can do.
//!
//! `look` is what the pages see of a pool, `history` and `log` what was before; `shown` are their routes, `page` is their
//! HTML, `events` tells them when they have changed; `visit` is who reads, `act` what an operator does.

mod act;
mod events;
mod history;
mod log;
mod look;
mod page;
mod shown;
mod visit;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::TEXT_FORMAT;
use tokio::sync::Semaphore;

use self::history::History;
use self::log::Rotations;
use self::look::{Look, Looks};
use self::page::cookies::Counted;

use super::metrics::gauges::{self, Remembered, Scraped};
use super::pool::{Pool, StoreDown, Summary};
use super::routes::Api;
use super::server::{Refusal, Server};
use tfo_host::runtime::clock;
use tfo_model::ids::{NodeId, PoolName};
use tfo_tls::server::ServerTls;
use tfo_wire::error::ErrorKind;

/// A driver whose store has not worked for this long is not ready, in milliseconds: ten ticks.
pub const GOOD_MS_MAX: u64 = 10_000;

/// Longest wait for a driver, which may be at a slow commit: a page without its pool is better than none.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often the nodes' counters are noted: a wave that is watched for a minute is seen several times.
const NOTE_EVERY: Duration = Duration::from_secs(10);
/// How old a note may be when a page shows it: it is a look at every node.
const NOTED_FOR: Duration = Duration::from_secs(1);

/// Sources of the page and the metrics.
pub struct Observed {
    /// Pools and counters.
    pub api: Arc<Api>,
    /// Connections and refusals.
    pub server: Arc<Server>,
    /// The same for the enrolment port, if there is one.
    pub strangers: Option<Arc<Server>>,
    /// Certificates.
    pub tls: Arc<ServerTls>,
    /// Names under which it may be asked, besides those that it has by itself.
    pub names: BTreeSet<NodeId>,
}

/// What the pages keep between two requests.
pub struct Dashboard {
    observed: Arc<Observed>,
    looks: Looks,
    histories: Mutex<BTreeMap<PoolName, Noted>>,
    rotations: Mutex<BTreeMap<PoolName, Arc<tokio::sync::Mutex<Rotations>>>>,
    /// Places for pages that are told of changes.
    streams: Arc<Semaphore>,
}

/// What the nodes of a pool have counted, and when that was noted last.
struct Noted {
    at: Instant,
    history: History,
}

/// The pages' routes, which all readers have.
fn pages() -> Router<Arc<Dashboard>> {
    Router::new()
        .route("/", get(shown::root))
        .route("/pools/{pool}", get(shown::pool))
        .route("/pools/{pool}/nodes", get(shown::list))
        .route("/pools/{pool}/nodes/{node}", get(shown::node))
        .route("/pools/{pool}/audit", get(shown::audit_log))
        .route("/docs/{*page}", get(shown::documentation))
        .route("/icon/{severity}", get(shown::icon))
        .route("/events", get(events::events))
}

/// All routes of the plain listener.
pub fn plain(dashboard: &Arc<Dashboard>) -> Router {
    let observed = Arc::clone(&dashboard.observed);
    let pages = pages().route("/metrics", get(metrics)).with_state(Arc::clone(dashboard));
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(Arc::clone(&observed))
        .merge(pages)
        .layer(middleware::from_fn_with_state(observed, only_under_our_names))
}

/// The routes of the API's listener: the pages, and what an operator does from them.
pub fn for_readers(dashboard: &Arc<Dashboard>) -> Router {
    let pages = pages()
        .route("/pools/{pool}/act/{act}", get(act::confirm).post(act::act))
        .route("/pools/{pool}/done/{revision}", get(act::done))
        .layer(middleware::from_fn_with_state(Arc::clone(dashboard), visit::only_readers));
    Router::new().nest("/page", pages).with_state(Arc::clone(dashboard))
}

/// Notes what the nodes have counted, until the dashboard has gone.
async fn note(dashboard: Weak<Dashboard>) {
    while let Some(dashboard) = dashboard.upgrade() {
        dashboard.note().await;
        drop(dashboard);
        tokio::time::sleep(NOTE_EVERY).await;
    }
}

impl Dashboard {
    /// Notes from now on what the nodes count, as long as the value is there.
    #[must_use]
    pub fn start(observed: Observed) -> Arc<Self> {
        let dashboard = Arc::new(Self {
            observed: Arc::new(observed),
            looks: Looks::default(),
            histories: Mutex::default(),
            rotations: Mutex::default(),
            streams: Arc::new(Semaphore::new(events::STREAMS_MAX)),
        });
        tokio::spawn(note(Arc::downgrade(&dashboard)));
        dashboard
    }

    async fn note(&self) {
        let pools = self.observed.api.pools.load_full();
        for pool in pools.values() {
            self.note_of(pool).await;
        }
        self.histories().retain(|name, _| pools.contains_key(name));
        self.looks.keep(|name| pools.contains_key(name));
        self.rotations.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| pools.contains_key(name));
    }

    async fn note_of(&self, pool: &Pool) {
        let cookies = tokio::time::timeout(PATIENCE, pool.cookies()).await;
        if let Ok(Ok(Ok(cookies))) = cookies {
            let at = clock::monotonic();
            let mut histories = self.histories();
            let noted =
                histories.entry(pool.name().clone()).or_insert_with(|| Noted { at, history: History::default() });
            noted.at = at;
            noted.history.note(clock::now(), cookies);
        }
    }

    /// What the nodes of a pool have counted by now, give or take a second.
    async fn counted(&self, pool: &Pool) -> Counted {
        let is_fresh = |noted: &Noted| clock::monotonic().duration_since(noted.at) < NOTED_FOR;
        if !self.histories().get(pool.name()).is_some_and(is_fresh) {
            self.note_of(pool).await;
        }
        self.histories().get(pool.name()).map_or_else(Counted::default, |noted| Counted::of(&noted.history))
    }

    /// What is known of all pools that answer, besides their documents.
    async fn remembered(&self) -> BTreeMap<PoolName, Remembered> {
        let mut all = BTreeMap::new();
        for (name, pool) in &*self.observed.api.pools.load_full() {
            if pool.good_ms_ago().is_none_or(|ago| ago > GOOD_MS_MAX) {
                continue;
            }
            let ended = self.ended(pool, pool.revision()).await.unwrap_or_default();
            let took_secs = ended.first().map(|last| last.at.secs_since(last.begun.at));
            let ever = self.histories().get(name).map(|noted| noted.history.ever());
            all.insert(name.clone(), Remembered { cookies: ever.unwrap_or_default(), took_secs });
        }
        all
    }

    fn histories(&self) -> MutexGuard<'_, BTreeMap<PoolName, Noted>> {
        // It is only shown: a panic in the middle of a note costs a part of a picture.
        self.histories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn rotations_of(&self, pool: &PoolName) -> Arc<tokio::sync::Mutex<Rotations>> {
        let mut rotations = self.rotations.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(rotations.entry(pool.clone()).or_default())
    }

    /// A pool as it was a moment ago.
    async fn look(&self, pool: &Pool) -> Result<Arc<Look>, StoreDown> {
        let names = self.observed.api.pools.load().values().map(|pool| (pool.pool_id(), pool.name().clone())).collect();
        self.looks.at(pool, names).await
    }

    /// What a page about this pool shows, or one about all pools; differs if that has changed.
    async fn stamp(&self, of: Option<&PoolName>) -> u64 {
        let pools = self.observed.api.pools.load_full();
        let mut stamps = Vec::new();
        for pool in pools.values().filter(|pool| of.is_none_or(|name| name == pool.name())) {
            stamps.push(self.look(pool).await.map_or(u64::MAX, |look| look.stamp));
        }
        match (of, &stamps[..]) {
            (Some(_), [only]) => *only,
            _ => {
                let mut hasher = DefaultHasher::new();
                stamps.hash(&mut hasher);
                hasher.finish()
            }
        }
    }
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

async fn metrics(State(dashboard): State<Arc<Dashboard>>) -> Response {
    let observed = &dashboard.observed;
    let summaries = observed.summaries().await;
    let remembered = dashboard.remembered().await;
    let scraped = Scraped {
        server: &observed.server,
        strangers: observed.strangers.as_deref(),
        tls: &observed.tls,
        pools: &summaries,
        remembered: &remembered,
    };
    match gauges::encode(&scraped, &observed.api.metrics) {
        Ok(text) => ([(CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::warn!(%error, "cannot encode the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
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
