//! API v1: which handler gets a request, and which peers may send it.
//!
//! A peer is identified by its certificate's subjectAltName, never by a body.  Its rights are checked before the body is
//! read.  Must not know: TLS, stores, the decisions of the rules.

mod audit;
mod coordinators;
mod enrol;
mod fleet;
mod moving;
mod node;
mod person;
mod shared_body;
mod sync_request;
mod tokens;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::routing::{delete, get, post};
use tokio::sync::Notify;

pub use self::enrol::{enrolment_router, finish_cut_offs};
pub(super) use self::fleet::ordered;
pub use self::shared_body::SharedBodies;
use super::connections::Connections;
use super::enrolment::Enrolment;
use super::metrics::counters::Metrics;
use super::pool::{Pool, Pools};
use super::server::{Refusal, RequestId};
use tfo_config::coordinator::AccessSettings;
use tfo_model::ids::NodeId;
use tfo_tls::identity::Peer;
use tfo_tls::spiffe::Purpose;
use tfo_wire::error::ErrorKind;

/// What the routes work with; pools and access change with the configuration.
pub struct Api {
    /// The pools of the configuration.
    pub pools: ArcSwap<Pools>,
    /// Names of operators, who may command, and of viewers, who may read.
    pub access: ArcSwap<AccessSettings>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Answers that readers share.
    pub bodies: SharedBodies,
    /// Names of the coordinator's own certificate.
    pub own_names: Box<dyn Fn(&NodeId) -> bool + Send + Sync>,
    /// The connections of each name.
    pub connections: Arc<Connections>,
    /// The authority; none if certificates come from elsewhere.
    pub enrolment: Option<Arc<Enrolment>>,
    /// Wakes what keeps the authority's books.
    pub keep: Notify,
}

/// All routes of API v1.  The fallbacks are the server's.
pub fn router(api: Arc<Api>) -> Router {
    let router = Router::new()
        .route("/v1/pools/{pool}/sync", post(node::sync))
        .route("/v1/pools/{pool}/self", get(node::itself))
        .route("/v1/pools/{pool}/certificate", post(enrol::renew))
        .route("/v1/certificate", post(person::renew))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{id}", delete(tokens::revoke))
        .route("/v1/enrolment/audit", get(audit::enrolment))
        .route("/v1/enrolment/audit/chain", get(audit::enrolment_chain))
        .route("/v1/pools", get(fleet::pools))
        .route("/v1/pools/{pool}", get(fleet::pool))
        .route("/v1/pools/{pool}/nodes", get(fleet::nodes).post(fleet::order_nodes))
        .route("/v1/pools/{pool}/coordinators", get(coordinators::list).post(coordinators::forget))
        .route("/v1/pools/{pool}/expect", fleet::command(fleet::expect))
        .route("/v1/pools/{pool}/audit", get(audit::audit))
        .route("/v1/pools/{pool}/audit/chain", get(audit::chain))
        .route("/v1/pools/{pool}/rotations", fleet::command(fleet::rotate))
        .route("/v1/pools/{pool}/pause", fleet::command(fleet::pause))
        .route("/v1/pools/{pool}/resume", fleet::command(fleet::resume))
        .route("/v1/pools/{pool}/abort", fleet::command(fleet::abort))
        .route("/v1/pools/{pool}/advance", fleet::command(fleet::advance))
        .route("/v1/pools/{pool}/import", fleet::command(fleet::import))
        .route("/v1/pools/{pool}/recover", fleet::command(fleet::recover));
    router.with_state(api)
}

/// An operator or a viewer, by a name of the certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// The name.
    pub name: NodeId,
    /// Whether it may command, too.
    pub is_operator: bool,
}

impl Api {
    /// Whom a certificate names as an operator, or else as a viewer; none if it names neither.
    pub(super) fn reader(&self, peer: &Peer) -> Option<Reader> {
        let access = self.access.load();
        let viewer = || {
            let mut names = peer.names.iter().filter(|_| peer.may_be(Purpose::Viewer));
            names.find(|name| access.viewers.contains(*name)).cloned()
        };
        match operator_in(peer, &access) {
            Some(name) => Some(Reader { name, is_operator: true }),
            None => viewer().map(|name| Reader { name, is_operator: false }),
        }
    }

    /// What a certificate is for, if it is not for a node, whatever the pools' patterns say.
    fn role_of(&self, peer: &Peer) -> Option<&'static str> {
        match peer.purpose {
            Some(Purpose::Operator) => Some("your certificate's SPIFFE ID is an operator's"),
            Some(Purpose::Viewer) => Some("your certificate's SPIFFE ID is a viewer's"),
            Some(Purpose::Coordinator) => Some("your certificate's SPIFFE ID is a coordinator's"),
            None | Some(Purpose::Node) => peer.names.iter().find_map(|name| self.role_of_name(name)),
        }
    }

    fn role_of_name(&self, name: &NodeId) -> Option<&'static str> {
        let access = self.access.load();
        let roles = [
            (access.operators.contains(name), "your certificate names an operator"),
            (access.viewers.contains(name), "your certificate names a viewer"),
            ((self.own_names)(name), "your certificate names the coordinator"),
        ];
        roles.into_iter().find_map(|(is, role)| is.then_some(role))
    }

    fn enrolment(&self) -> Result<&Arc<Enrolment>, Refusal> {
        self.enrolment.as_ref().ok_or_else(|| {
            let message = "this coordinator issues no certificates: its configuration has no [enrolment]";
            let remedy = "certificates come from the fleet's own PKI; or add [enrolment] with the authority's certificate and key";
            Refusal::new(ErrorKind::Refused, message).with_remedy(None, remedy)
        })
    }
}

/// The name under which a peer may command, if it may.
pub fn operator_in(peer: &Peer, access: &AccessSettings) -> Option<NodeId> {
    let mut names = peer.names.iter().filter(|_| peer.may_be(Purpose::Operator));
    names.find(|name| access.operators.contains(*name)).cloned()
}

/// A request of an identified peer.
struct Asking {
    peer: Arc<Peer>,
    id: RequestId,
}

impl Asking {
    fn of(parts: &Parts) -> Result<Self, Refusal> {
        let peer = parts.extensions.get::<Arc<Peer>>().cloned();
        let id = parts.extensions.get::<RequestId>().cloned();
        match (peer, id) {
            (Some(peer), Some(id)) => Ok(Self { peer, id }),
            // The server adds both; without them the peer is unknown.
            _ => Err(Refusal::new(ErrorKind::NotAllowed, "no client certificate")),
        }
    }

    fn refuse(&self, kind: ErrorKind, message: &str, path: &str) -> Refusal {
        // The server logs it, at a bounded rate.
        tracing::debug!(request_id = %self.id, peer = %self.peer, ?kind, path, "refused: {message}");
        Refusal::new(kind, message)
    }
}

async fn pool_of(parts: &mut Parts, api: &Api) -> Result<Arc<Pool>, Refusal> {
    let unknown = || Refusal::new(ErrorKind::UnknownPool, "unknown pool");
    // A tuple would insist on the number of segments.
    let segments = Path::<std::collections::BTreeMap<String, String>>::from_request_parts(parts, &()).await;
    let name = segments.ok().and_then(|segments| segments.get("pool")?.parse().ok());
    name.and_then(|name| api.pools.load().get(&name).cloned()).ok_or_else(unknown)
}

/// A node of the pool: exactly one name of its certificate matches the pool's patterns.
pub(super) struct FromNode {
    pub(super) pool: Arc<Pool>,
    pub(super) node: NodeId,
    pub(super) peer: Arc<Peer>,
    pub(super) id: RequestId,
}

impl FromRequestParts<Arc<Api>> for FromNode {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refusal> {
        let asking = Asking::of(parts)?;
        let pool = pool_of(parts, api).await?;
        if let Some(role) = api.role_of(&asking.peer) {
            api.metrics.sync_answered(pool.name(), "not_a_node");
            let message = format!("{role}: such a certificate is never a node's, and gets no keys");
            return Err(asking.refuse(ErrorKind::NotANode, &message, parts.uri.path()));
        }
        let policy = pool.policy();
        let mut fitting = asking.peer.names.iter().filter(|name| policy.nodes.iter().any(|one| one.matches(name)));
        let (first, second) = (fitting.next().cloned(), fitting.next());
        match (first, second) {
            (Some(node), None) => {
                let (peer, id) = (Arc::clone(&asking.peer), asking.id);
                Ok(Self { pool, node, peer, id })
            }
            (found, _) => {
                let message = if found.is_none() {
                    "your certificate has no name that the pool's `nodes` patterns match"
                } else {
                    "your certificate has several names that the pool's `nodes` patterns match; only one may"
                };
                api.metrics.sync_answered(pool.name(), "not_in_pool");
                Err(asking.refuse(ErrorKind::NotInPool, message, parts.uri.path()))
            }
        }
    }
}

/// An operator.
pub(super) struct Commander {
    pub(super) operator: NodeId,
    pub(super) id: RequestId,
}

impl FromRequestParts<Arc<Api>> for Commander {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refusal> {
        let asking = Asking::of(parts)?;
        match api.reader(&asking.peer) {
            Some(Reader { name: operator, is_operator: true }) => Ok(Self { operator, id: asking.id }),
            Some(_) | None => {
                let message = "your certificate does not name an operator";
                Err(asking.refuse(ErrorKind::NotAllowed, message, parts.uri.path()))
            }
        }
    }
}

/// An operator, and the pool that the command is for.
pub(super) struct FromOperator {
    pub(super) pool: Arc<Pool>,
    pub(super) operator: NodeId,
    pub(super) id: RequestId,
}

impl FromRequestParts<Arc<Api>> for FromOperator {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refusal> {
        let Commander { operator, id } = Commander::from_request_parts(parts, api).await?;
        let pool = pool_of(parts, api).await?;
        Ok(Self { pool, operator, id })
    }
}

/// An operator or a viewer, for reading.
pub(super) struct FromReader;

impl FromRequestParts<Arc<Api>> for FromReader {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refusal> {
        let asking = Asking::of(parts)?;
        if api.reader(&asking.peer).is_some() {
            return Ok(Self);
        }
        let message = "your certificate names neither an operator nor a viewer";
        Err(asking.refuse(ErrorKind::NotAllowed, message, parts.uri.path()))
    }
}

/// The pool of a reader's request.
pub(super) struct ReadPool(pub(super) Arc<Pool>);

impl FromRequestParts<Arc<Api>> for ReadPool {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refusal> {
        FromReader::from_request_parts(parts, api).await?;
        pool_of(parts, api).await.map(Self)
    }
}
