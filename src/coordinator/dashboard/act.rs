//! What an operator does from a page: one page says what it will do and asks, a form does it, and leads to the entry that it
//! left in the audit log.
//!
//! A form carries what its page was made from.  If the pool has moved on since, nothing is done.  Must not know: HTML, what
//! a console checks before it passes a form on.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, Path, Query};
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use maud::Markup;
use serde::Deserialize;

use super::log;
use super::look::Look;
use super::page::act::{self as page, Asked};
use super::shown::answer;
use super::visit::Visit;
use crate::pool::Pool;
use crate::routes;
use crate::server::{Refusal, RequestId};
use tfo_cli::plan::members::{InFile, Meant, is_excluded, is_here};
use tfo_cli::plan::{Plan, rotations, steps};
use tfo_crypto::checksum::sha256;
use tfo_engine::rollout::input::{Command, Expectation, RevokeKeys};
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_model::ids::{NodeId, PoolName};
use tfo_model::node::KeySource;
use tfo_model::state::Phase;
use tfo_model::time::{UnixTime, parse_duration};
use tfo_wire::error::ErrorKind;
use tfo_wire::v1::fleet::{NodeStatus, PoolStatus};

/// How long a node can be excluded from a page; the first is what it begins with.
pub(super) const SPANS: [&str; 4] = ["24h", "1h", "8h", "7d"];

/// The longest of [`SPANS`], in seconds.
const EXCLUDE_SECS_MAX: u64 = 7 * 86_400;

/// What an operator can do from a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Pause,
    Resume,
    Abort,
    Advance,
    Rotate,
    Revoke,
    Exclude,
    Include,
    Forget,
}

impl Act {
    const ALL: [Self; 9] = [
        Self::Pause,
        Self::Resume,
        Self::Abort,
        Self::Advance,
        Self::Rotate,
        Self::Revoke,
        Self::Exclude,
        Self::Include,
        Self::Forget,
    ];

    /// Its name in an address, and in the log.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Abort => "abort",
            Self::Advance => "advance",
            Self::Rotate => "rotate",
            Self::Revoke => "revoke",
            Self::Exclude => "exclude",
            Self::Include => "include",
            Self::Forget => "forget",
        }
    }

    /// Whether it is about a node: never, always, or as it is asked (none).
    const fn is_about_node(self) -> Option<bool> {
        match self {
            Self::Pause | Self::Resume | Self::Abort | Self::Advance | Self::Rotate => Some(false),
            Self::Exclude | Self::Include | Self::Forget => Some(true),
            Self::Revoke => None,
        }
    }

    /// What has a meaning for a pool as it is.
    pub(super) fn of_pool(status: &PoolStatus) -> Vec<Self> {
        let runs = matches!(status.phase, Phase::Staged | Phase::Promoted);
        let stands = status.paused.is_some() || status.hold.is_some();
        let has_key = status.phase != Phase::Empty;
        let offered = [
            (has_key && status.paused.is_none(), Self::Pause),
            (has_key && stands, Self::Resume),
            (runs, Self::Abort),
            (!status.waiting_for.is_empty(), Self::Advance),
            (status.phase == Phase::Steady && !stands, Self::Rotate),
            (has_key, Self::Revoke),
        ];
        offered.into_iter().filter_map(|(is, act)| is.then_some(act)).collect()
    }

    /// What has a meaning for a node as it is.
    pub(super) fn of_node(node: &NodeStatus) -> Vec<Self> {
        let offered = [
            (is_here(node) && !is_excluded(node), Self::Exclude),
            (is_excluded(node), Self::Include),
            (true, Self::Forget),
            (is_here(node) && node.source == KeySource::Coordinator, Self::Revoke),
        ];
        offered.into_iter().filter_map(|(is, act)| is.then_some(act)).collect()
    }

    /// The command that does the same.
    pub(super) fn line(self, pool: &PoolName, node: Option<&NodeId>, span: &str) -> String {
        match (self, node) {
            (Self::Revoke, Some(node)) => format!("tfoctl rotate --mode revoke --deny {node} --pool {pool}"),
            (Self::Revoke, None) => format!("tfoctl rotate --mode revoke --pool {pool}"),
            (Self::Exclude, Some(node)) => format!("tfoctl exclude {node} --for {span} --pool {pool}"),
            (act, Some(node)) => format!("tfoctl {} {node} --pool {pool}", act.name()),
            (act, None) => format!("tfoctl {} --pool {pool}", act.name()),
        }
    }
}

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

/// What an operator saw: the document by its revision, and the rest of what an order depends on by a checksum.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    revision: Revision,
    rest: u64,
}

impl Seen {
    fn of(act: Act, status: &PoolStatus) -> Self {
        // Another store may have a pool of the same name, and who is behind changes without a commit.
        let mut rest = format!("{}\n{}\n", status.pool_id, status.generation);
        if act == Act::Advance {
            status.waiting_for.iter().for_each(|node| rest.extend([node.as_str(), "\n"]));
        }
        let sum = sha256(rest.as_bytes());
        let rest = u64::from_be_bytes(std::array::from_fn(|at| sum[at]));
        Self { revision: status.revision, rest }
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:016x}", self.revision, self.rest)
    }
}

/// An order as it is asked for, with the pool as it is.
struct Order<'a> {
    act: Act,
    status: &'a PoolStatus,
    nodes: &'a [NodeStatus],
    node: Option<&'a NodeStatus>,
    until: UnixTime,
    lower_expected: bool,
}

/// Why a page has nothing to offer.
struct Nothing {
    status: StatusCode,
    heading: &'static str,
    text: String,
}

impl Nothing {
    fn new(status: StatusCode, heading: &'static str, text: impl Into<String>) -> Self {
        Self { status, heading, text: text.into() }
    }
}

impl<'a> Order<'a> {
    fn of(act: Act, look: &'a Look, node: Option<&NodeId>, until: UnixTime) -> Result<Self, Nothing> {
        let (status, nodes) = (&look.summary.status, &look.nodes[..]);
        if act.is_about_node().is_some_and(|is| is != node.is_some()) {
            return Err(Nothing::new(
                StatusCode::BAD_REQUEST,
                "Which node?",
                "The address does not fit what it is to do.",
            ));
        }
        let known = node.map(|name| nodes.iter().find(|known| known.node == *name).ok_or(name));
        let node = known.transpose().map_err(|name| {
            let text = format!("This pool knows no node {name}: nothing was done.");
            Nothing::new(StatusCode::NOT_FOUND, "Unknown node", text)
        })?;
        Ok(Self { act, status, nodes, node, until, lower_expected: false })
    }

    fn meant(&self) -> Meant<'a> {
        Meant::new(self.status, self.node.into_iter().cloned().collect())
    }

    fn named(&self) -> BTreeSet<NodeId> {
        self.node.iter().map(|node| node.node.clone()).collect()
    }

    /// What it will do.
    fn plan(&self) -> Result<Plan, Nothing> {
        let (status, conflict) = (self.status, StatusCode::CONFLICT);
        let nothing = |text: String| Nothing::new(conflict, "There is nothing to do", text);
        Ok(match self.act {
            Act::Pause => steps::pause(status),
            Act::Resume => steps::resume(status, false),
            Act::Abort => steps::abort(status)
                .ok_or_else(|| nothing(format!("The pool is {}: no rotation runs.", status.phase.as_str())))?,
            Act::Advance => steps::advance(status, self.nodes, clock::now())
                .ok_or_else(|| nothing("The pool waits for no node: it has no barrier to pass.".to_owned()))?,
            Act::Rotate => rotations::rotate(status, false).harmless(),
            Act::Revoke => rotations::revoke(status, &BTreeSet::new(), &self.named()),
            Act::Exclude => self.meant().exclude(self.until),
            Act::Include => self.meant().include(),
            Act::Forget => self.meant().forget(self.lower_expected).map_err(|InFile { message, remedy }| {
                Nothing::new(conflict, "Refused", format!("{message}. What to do: {remedy}."))
            })?,
        })
    }

    fn command(&self) -> Command {
        let nodes = self.named();
        match self.act {
            Act::Pause => Command::Pause,
            Act::Resume => Command::Resume { force: false },
            Act::Abort => Command::Abort { force: false },
            Act::Advance => Command::Advance {
                generation: self.status.generation,
                leave: self.status.waiting_for.iter().cloned().collect(),
            },
            Act::Rotate => Command::Rotate { force: false },
            Act::Revoke => Command::Revoke { keys: RevokeKeys::AllInstructed, deny: nodes },
            Act::Exclude => Command::Exclude { nodes, until: self.until },
            Act::Include => Command::Include { nodes },
            Act::Forget => {
                let expected = if self.lower_expected { Expectation::Lower } else { Expectation::Keep };
                Command::Forget { nodes, expected }
            }
        }
    }

    /// What an operator has to type, where a click is not enough.
    fn to_type(&self) -> Option<&str> {
        let name = self.node.map_or(self.status.pool.as_str(), |node| node.node.as_str());
        (self.act == Act::Revoke).then_some(name)
    }
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
