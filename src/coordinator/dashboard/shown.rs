//! The routes of the pages: gathers what a page shows, and gives it its frame.

use std::sync::Arc;

use axum::extract::{Path, Query};
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use maud::{Markup, html};
use serde::Deserialize;
use tokio::time::timeout;

use super::act::Act;
use super::log::{self, Ended};
use super::look::Look;
use super::page::certificates::Expiring;
use super::page::overview::{self, Row};
use super::page::{self, Frame, POLICY, audit, docs, nodes};
use super::visit::Visit;
use super::{Dashboard, PATIENCE};
use crate::pool::{Pool, without_store};
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::fleet::{Action, NodeState};
use tfo_model::ids::{NodeId, PoolName};
use tfo_store::StoreError;

/// A page, with what its browser may do with it.
pub(super) fn answer(status: StatusCode, page: Markup) -> Response {
    let policy = HeaderValue::from_str(&POLICY).expect("it is ASCII");
    let headers = [
        (CONTENT_SECURITY_POLICY, policy),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    (status, headers, Html(page.into_string())).into_response()
}

impl Visit {
    pub(super) fn frame<'a>(&'a self, pools: &'a [PoolName], pool: Option<&'a PoolName>, title: String) -> Frame<'a> {
        Frame { title, severity: None, pools, pool, live: None, reader: self.reader.as_ref(), now: clock::now() }
    }

    /// A page that is only a message.
    pub(super) fn message(&self, status: StatusCode, heading: &str, text: &str) -> Response {
        let names = self.names();
        let frame = self.frame(&names, None, format!("{heading} - tfo-coordinator"));
        answer(status, frame.around(&page::message(heading, text)))
    }

    pub(super) fn find(&self, name: &str) -> Result<Arc<Pool>, Response> {
        let pools = self.observed.api.pools.load_full();
        let found = name.parse::<PoolName>().ok().and_then(|name| pools.get(&name).cloned());
        found.ok_or_else(|| {
            self.message(StatusCode::NOT_FOUND, "Unknown pool", "This coordinator has no pool of that name.")
        })
    }

    /// A page about a pool whose store answers; otherwise the verdict on one whose store does not.
    async fn of_pool(
        &self,
        pool: &Pool,
        what: &str,
        main: impl AsyncFnOnce(&Look) -> (StatusCode, Markup),
    ) -> Response {
        let (names, name) = (self.names(), pool.name());
        let look = self.look(pool).await;
        let (verdict, stamp) = match &look {
            Ok(look) => (look.summary.status.verdict.clone(), look.stamp),
            Err(down) => (without_store(name, *down), u64::MAX),
        };
        let (status, main) = match look {
            Ok(look) => main(&look).await,
            Err(_) => {
                let main = html! { h1 { "Pool " (name) } (page::verdict(name, &verdict, clock::now())) };
                (StatusCode::OK, main)
            }
        };
        let title = page::title(name, &verdict);
        let title = if what.is_empty() { title } else { format!("{what} - {title}") };
        let live = Some((format!("/events?pool={name}"), stamp));
        let severity = Some(verdict.severity.as_str());
        answer(status, Frame { severity, live, ..self.frame(&names, Some(name), title) }.around(&main))
    }

    async fn pool_page(&self, pool: &Pool) -> Response {
        self.of_pool(pool, "", async |look| {
            let rotations = self.ended(pool, look.summary.status.revision).await;
            let acts = if self.operator().is_some() { Act::of_pool(&look.summary.status) } else { Vec::new() };
            let of = page::pool::Pool {
                look,
                acts: &acts,
                policy: &pool.policy(),
                counted: self.counted(pool).await,
                rotations: rotations.as_deref(),
                expiring: self.expiring(Some(look)),
                now: clock::now(),
            };
            (StatusCode::OK, page::pool::main(&of))
        })
        .await
    }
}

impl Dashboard {
    pub(super) fn names(&self) -> Vec<PoolName> {
        self.observed.api.pools.load().keys().cloned().collect()
    }

    /// The latest rotations; none if the log cannot be read.
    pub(super) async fn ended(&self, pool: &Pool, revision: Revision) -> Option<Vec<Ended>> {
        // A store that hangs holds one thread, not one for each reader.
        let mut rotations = timeout(PATIENCE, self.rotations_of(pool.name()).lock_owned()).await.ok()?;
        let (store, name) = (pool.store(), pool.name().clone());
        self.read_log(pool, move || rotations.read(&*store, &name, revision)).await
    }

    pub(super) async fn read_log<T: Send + 'static>(
        &self,
        pool: &Pool,
        read: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
    ) -> Option<T> {
        match timeout(PATIENCE, tokio::task::spawn_blocking(read)).await {
            Ok(Ok(Ok(read))) => Some(read),
            Ok(Ok(Err(error))) => {
                tracing::warn!(pool = %pool.name(), %error, "the audit log cannot be read");
                None
            }
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Certificates, with those of the nodes of one pool.
    fn expiring(&self, look: Option<&Look>) -> Expiring {
        let ends = self.observed.tls.expiries();
        let mut own = vec![("This coordinator", ends.certificate), ("The first CA of clients", ends.client_ca)];
        own.extend(ends.crl.map(|crl| ("The revocation list", crl)));
        let broken = self.observed.tls.broken().iter().map(ToString::to_string).collect();
        let of_nodes = look.into_iter().flat_map(|look| &look.nodes);
        let of_nodes = of_nodes.filter_map(|node| Some((node.certificate_until?, &node.node)));
        Expiring::of(own, broken, of_nodes)
    }
}

/// `GET /`: the only pool, or all of them.
pub(super) async fn root(visit: Visit) -> Response {
    let pools = visit.observed.api.pools.load_full();
    if pools.len() == 1
        && let Some(only) = pools.values().next()
    {
        return visit.pool_page(only).await;
    }
    let mut rows = Vec::new();
    for pool in pools.values() {
        let look = visit.look(pool).await;
        let verdict = match &look {
            Ok(look) => look.summary.status.verdict.clone(),
            Err(down) => without_store(pool.name(), *down),
        };
        rows.push(Row { pool: pool.name().clone(), verdict, look: look.ok() });
    }
    let worst = overview::worst(&rows);
    let title = worst.map_or_else(|| "tfo-coordinator".to_owned(), |worst| page::title(&worst.pool, &worst.verdict));
    let severity = worst.map(|worst| worst.verdict.severity.as_str());
    let live = Some(("/events".to_owned(), visit.stamp(None).await));
    let names = visit.names();
    let frame = Frame { severity, live, ..visit.frame(&names, None, title) };
    answer(StatusCode::OK, frame.around(&overview::main(&rows, &visit.expiring(None), frame.now)))
}

/// `GET /pools/{pool}`.
pub(super) async fn pool(visit: Visit, Path(name): Path<String>) -> Response {
    match visit.find(&name) {
        Ok(pool) => visit.pool_page(&pool).await,
        Err(unknown) => unknown,
    }
}

/// The query of a list of nodes.  A browser sends empty fields, too.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NodesQuery {
    search: String,
    state: String,
    page: String,
}

/// `GET /pools/{pool}/nodes`.
pub(super) async fn list(visit: Visit, Path(name): Path<String>, Query(query): Query<NodesQuery>) -> Response {
    let pool = match visit.find(&name) {
        Ok(pool) => pool,
        Err(unknown) => return unknown,
    };
    let state = match query.state.as_str() {
        "" => None,
        state => match state.parse::<NodeState>() {
            Ok(state) => Some(state),
            Err(_) => return visit.message(StatusCode::BAD_REQUEST, "Unknown state", "No node has such a state."),
        },
    };
    if query.search.len() > nodes::SEARCH_BYTES_MAX {
        return visit.message(StatusCode::BAD_REQUEST, "Too long", "No name is as long as what you search for.");
    }
    let wanted = nodes::Wanted { search: query.search, state, page: query.page.parse().unwrap_or(1) };
    let main = async |look: &Look| (StatusCode::OK, nodes::list(look, &wanted, clock::now()));
    visit.of_pool(&pool, "Nodes", main).await
}

/// `GET /pools/{pool}/nodes/{node}`.
pub(super) async fn node(visit: Visit, Path((name, node)): Path<(String, String)>) -> Response {
    let pool = match visit.find(&name) {
        Ok(pool) => pool,
        Err(unknown) => return unknown,
    };
    let main = async |look: &Look| match look.nodes.iter().find(|known| known.node.as_str() == node) {
        Some(known) => {
            let acts = if visit.operator().is_some() { Act::of_node(known) } else { Vec::new() };
            (StatusCode::OK, nodes::one(known, pool.name(), &acts, clock::now()))
        }
        None => (StatusCode::NOT_FOUND, page::message("Unknown node", "This pool knows no node of that name.")),
    };
    let title = node.parse::<NodeId>().map_or_else(|_| "Unknown node".to_owned(), |node| node.to_string());
    visit.of_pool(&pool, &title, main).await
}

/// The query of the audit log.  A browser sends empty fields, too.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AuditQuery {
    action: String,
    operator: String,
    node: String,
    before: String,
}

impl AuditQuery {
    /// None: no entry can fit.
    fn wanted(&self) -> Option<log::Wanted> {
        fn part<T: std::str::FromStr>(text: &str) -> Option<Option<T>> {
            match text.trim() {
                "" => Some(None),
                text => text.parse().ok().map(Some),
            }
        }
        let action = part::<Action>(&self.action)?;
        Some(log::Wanted { action, operator: part(&self.operator)?, node: part(&self.node)? })
    }
}

/// `GET /pools/{pool}/audit`.
pub(super) async fn audit_log(visit: Visit, Path(name): Path<String>, Query(query): Query<AuditQuery>) -> Response {
    let pool = match visit.find(&name) {
        Ok(pool) => pool,
        Err(unknown) => return unknown,
    };
    let before = if query.before.is_empty() { Some(u64::MAX) } else { query.before.parse().ok() };
    let (Some(wanted), Some(before)) = (query.wanted(), before) else {
        let text = "An action is one of the list, an operator and a node are whole names.";
        return visit.message(StatusCode::BAD_REQUEST, "No entry can fit", text);
    };
    let is_first = query.before.is_empty();
    let main = async |look: &Look| {
        let latest = look.summary.status.revision.get().saturating_add(1);
        let (store, name, before) = (pool.store(), pool.name().clone(), Revision::new(before.min(latest)));
        let enrolment = visit.observed.api.enrolment.clone().filter(|_| is_first);
        let read = move || {
            let page = log::before(&*store, &name, before, &wanted)?;
            let enrolment = enrolment.map(|own| log::enrolment(&**own.store(), &name, &wanted)).transpose()?;
            Ok((page, enrolment, wanted))
        };
        match visit.read_log(&pool, read).await {
            Some((page, enrolment, wanted)) => {
                let shown = audit::main(&page, enrolment.as_deref(), (pool.name(), &wanted), clock::now());
                (StatusCode::OK, shown)
            }
            None => (
                StatusCode::SERVICE_UNAVAILABLE,
                page::message("No audit log", "The store cannot be read; the coordinator's log has the reason."),
            ),
        }
    };
    visit.of_pool(&pool, "Audit log", main).await
}

/// `GET /docs/{page}`.
pub(super) async fn documentation(visit: Visit, Path(path): Path<String>) -> Response {
    let Some(text) = docs::find(&path) else {
        return visit.message(StatusCode::NOT_FOUND, "Unknown page", "The coordinator has no page of that name.");
    };
    let names = visit.names();
    let title = format!("{} - tfo-coordinator", text.lines().next().unwrap_or_default().trim_start_matches("# "));
    answer(StatusCode::OK, visit.frame(&names, None, title).around(&docs::main(&path, text)))
}

/// `GET /icon/{severity}`.
pub(super) async fn icon(Path(severity): Path<String>) -> Response {
    match page::icon(&severity) {
        Some(icon) => ([(CONTENT_TYPE, "image/svg+xml")], icon).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
