//! What an operator does from a page: one page says what it will do and asks, a form does it, and leads to the entry that it
//! left in the audit log.
//!
//! A form carries what its page was made from.  If the pool has moved on since, nothing is done.  Must not know: HTML, what
//! a console checks before it passes a form on.

mod order;

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, Path, Query};
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use maud::Markup;
use serde::Deserialize;

pub(super) use self::order::{Act, SPANS};
use self::order::{EXCLUDE_SECS_MAX, Nothing, Order, Seen};
use super::log;
use super::look::Look;
use super::page::act::{self as page, Asked};
use super::shown::answer;
use super::visit::Visit;
use crate::pool::Pool;
use crate::routes;
use crate::server::{Refusal, RequestId};
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::time::{UnixTime, parse_duration};
use tfo_wire::error::ErrorKind;

/// What is asked for in an address.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct About {
    node: Option<NodeId>,
    #[serde(rename = "for")]
    span: Option<String>,
}

/// What a form carries.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Fields {
    /// What its page was made from: [`Seen`].
    seen: String,
    reason: String,
    /// The name of what a revoke is about, typed by the operator.
    typed: String,
    /// The end of an exclusion, as the page has said it.
    until: Option<UnixTime>,
    /// Of a forget: there if it is ticked.
    lower_expected: Option<String>,
}

impl Visit {
    /// A page about an order, which does not change by itself: what is agreed to must be what was read.
    fn page(&self, pool: &PoolName, status: StatusCode, heading: &str, main: &Markup) -> Response {
        let names = self.names();
        answer(status, self.frame(&names, Some(pool), format!("{heading} - tfo-coordinator")).around(main))
    }

    fn nothing(&self, pool: &PoolName, Nothing { status, heading, text }: Nothing) -> Response {
        self.page(pool, status, heading, &page::nothing(pool, heading, &text))
    }

    /// What all pages about an order begin with.
    fn prepare(&self, pool: &str, act: &str) -> Result<(Arc<Pool>, Act, NodeId), Response> {
        let pool = self.find(pool)?;
        let Some(act) = Act::ALL.into_iter().find(|known| known.name() == act) else {
            return Err(self.message(StatusCode::NOT_FOUND, "Unknown page", "There is no such button."));
        };
        let Some(operator) = self.operator() else {
            let text = "Your certificate names a viewer, who may only look. Nothing was done.";
            return Err(self.nothing(pool.name(), Nothing::new(StatusCode::FORBIDDEN, "Not allowed", text)));
        };
        Ok((pool, act, operator.clone()))
    }

    async fn looked(&self, pool: &Pool) -> Result<Arc<Look>, Response> {
        self.look(pool).await.map_err(|_| {
            let text = "The coordinator cannot reach its store. Nothing was done.";
            self.nothing(pool.name(), Nothing::new(StatusCode::SERVICE_UNAVAILABLE, "Not now", text))
        })
    }
}

/// `GET /pools/{pool}/act/{act}`: what it will do, and a form that does it.
pub(super) async fn confirm(
    visit: Visit,
    Path((pool, act)): Path<(String, String)>,
    Query(about): Query<About>,
) -> Response {
    let (pool, act, operator) = match visit.prepare(&pool, &act) {
        Ok(prepared) => prepared,
        Err(refused) => return refused,
    };
    let look = match visit.looked(&pool).await {
        Ok(look) => look,
        Err(refused) => return refused,
    };
    let span = SPANS.into_iter().find(|known| about.span.as_deref() == Some(known)).unwrap_or(SPANS[0]);
    let until = clock::now().plus(parse_duration(span).expect("a constant").as_secs());
    let planned = Order::of(act, &look, about.node.as_ref(), until).and_then(|order| Ok((order.plan()?, order)));
    let (plan, order) = match planned {
        Ok(planned) => planned,
        Err(nothing) => return visit.nothing(pool.name(), nothing),
    };
    let asked = Asked {
        act,
        pool: pool.name(),
        node: about.node.as_ref(),
        plan: &plan,
        operator: &operator,
        span,
        until,
        seen: Seen::of(act, order.status).to_string(),
        token: visit.token.as_deref(),
        to_type: order.to_type(),
        may_lower_expected: act == Act::Forget && order.meant().may_lower_expected(),
    };
    visit.page(pool.name(), StatusCode::OK, &asked.heading(), &page::confirm(&asked))
}

/// `POST /pools/{pool}/act/{act}`: does it, if the pool is as its page was made from.
pub(super) async fn act(
    visit: Visit,
    Path((pool, act)): Path<(String, String)>,
    Query(about): Query<About>,
    Extension(id): Extension<RequestId>,
    form: Result<Form<Fields>, FormRejection>,
) -> Response {
    let (pool, act, operator) = match visit.prepare(&pool, &act) {
        Ok(prepared) => prepared,
        Err(refused) => return refused,
    };
    let Ok(Form(fields)) = form else {
        let nothing =
            Nothing::new(StatusCode::BAD_REQUEST, "Unusable form", "The form cannot be read. Nothing was done.");
        return visit.nothing(pool.name(), nothing);
    };
    let look = match visit.looked(&pool).await {
        Ok(look) => look,
        Err(refused) => return refused,
    };
    let ready = judge(act, &look, &about, &fields);
    let (order, seen) = match ready {
        Ok(ready) => ready,
        Err(Stopped::Nothing(nothing)) => return visit.nothing(pool.name(), nothing),
        Err(Stopped::Moved(why)) => {
            let main = page::moved(act, pool.name(), about.node.as_ref(), &why);
            return visit.page(pool.name(), StatusCode::CONFLICT, page::MOVED, &main);
        }
    };
    let command = (fields.reason.trim().to_owned(), seen.revision, order.command());
    let from = (Arc::clone(&pool), operator, id);
    match routes::ordered(&visit.observed.api, from, act.name(), command).await {
        Ok(done) => {
            let to = format!("/pools/{}/done/{}", pool.name(), done.revision);
            let to = HeaderValue::from_str(&to).expect("names are ASCII");
            (StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response()
        }
        Err(refusal) => {
            let (status, main) = refused(act, &pool, &about, &refusal);
            visit.page(pool.name(), status, page::heading_of(&refusal), &main)
        }
    }
}

/// Why a form does nothing.
enum Stopped {
    Nothing(Nothing),
    Moved(String),
}

/// The order of a form, and what its operator saw.
fn judge<'a>(act: Act, look: &'a Look, about: &About, fields: &Fields) -> Result<(Order<'a>, Seen), Stopped> {
    let until = fields.until.unwrap_or(UnixTime::from_secs(0));
    let mut order = Order::of(act, look, about.node.as_ref(), until).map_err(Stopped::Nothing)?;
    order.lower_expected = fields.lower_expected.is_some();
    let longest = clock::now().plus(EXCLUDE_SECS_MAX);
    if act == Act::Exclude && !(clock::now()..=longest).contains(&until) {
        let text = "The form does not say until when, or that is over. Nothing was done.";
        return Err(Stopped::Nothing(Nothing::new(StatusCode::BAD_REQUEST, "Unusable form", text)));
    }
    let seen = Seen::of(act, order.status);
    if fields.seen != seen.to_string() {
        let now = format!("It is at revision {} now, {}", seen.revision, order.status.phase.as_str());
        let why = match act {
            Act::Advance => format!("{now}, and waits for {}.", tfo_cli::plain::names(&order.status.waiting_for)),
            _ => format!("{now}."),
        };
        return Err(Stopped::Moved(why));
    }
    if let Some(name) = order.to_type().filter(|name| *name != fields.typed.trim()) {
        let text = format!("You did not type {name}. Nothing was done.");
        return Err(Stopped::Nothing(Nothing::new(StatusCode::BAD_REQUEST, "Another name", text)));
    }
    // What has no meaning any more has no plan either.
    order.plan().map_err(Stopped::Nothing)?;
    Ok((order, seen))
}

fn refused(act: Act, pool: &Pool, about: &About, refusal: &Refusal) -> (StatusCode, Markup) {
    let status = StatusCode::from_u16(refusal.kind().status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let main = match refusal.kind() {
        ErrorKind::Moved => page::moved(act, pool.name(), about.node.as_ref(), &format!("{}.", refusal.message())),
        _ => page::refused(pool.name(), refusal),
    };
    (status, main)
}

/// `GET /pools/{pool}/done/{revision}`: the entry that an order has left in the audit log.
pub(super) async fn done(visit: Visit, Path((name, revision)): Path<(String, u64)>) -> Response {
    let pool = match visit.find(&name) {
        Ok(pool) => pool,
        Err(unknown) => return unknown,
    };
    let (store, name) = (pool.store(), pool.name().clone());
    let after = Revision::new(revision.saturating_add(1));
    let read = move || log::before(&*store, &name, after, &log::Wanted::default());
    let entry = visit.read_log(&pool, read).await.and_then(|page| page.entries.into_iter().next());
    match entry.filter(|entry| entry.revision == Revision::new(revision)) {
        Some(entry) => {
            let heading = format!("Done: {}", entry.action);
            visit.page(pool.name(), StatusCode::OK, &heading, &page::done(&entry, pool.name(), clock::now()))
        }
        None => {
            let text = format!("The audit log has no entry of revision {revision}, or cannot be read.");
            visit.nothing(pool.name(), Nothing::new(StatusCode::NOT_FOUND, "No such entry", text))
        }
    }
}
