//! Certificates of nodes: `POST /v1/enrol` on the enrolment port, for any client that has a token, and
//! `POST /v1/pools/{pool}/certificate` on the API's, for the name of the certificate in use.
//!
//! The token is judged first, and costs a stranger nothing but a look into the store; what comes after it is for those who
//! have a good one.  Nothing is changed before the certificate is recorded.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use axum::routing::post;
use axum::{Extension, Json, Router};

use super::fleet::{busy, store_down};
use super::{Api, FromNode, FromOperator};
use crate::enrolment::{Attempt, Enrolment, InHand, Left, News, NotCertified, digest};
use crate::pool::{CommandError, Pool};
use crate::server::{CameFrom, JsonBody, Refusal};
use tfo_host::runtime::clock;
use tfo_model::ids::{NodeId, PoolName, TokenId};
use tfo_model::problem::Problem;
use tfo_pki::token::{SecretHash, TokenSecret};
use tfo_store::StoreError;
use tfo_store::enrolment::{Claim, CutOff, Digest, EnrolError, EnrolRefused, TokenFault};
use tfo_wire::error::ErrorKind;
use tfo_wire::v1::enrol::{Certified, EnrolRequest, REQUEST_BYTES_MAX, RenewRequest, TokenText};

pub(super) type Body<T> = JsonBody<T, REQUEST_BYTES_MAX>;

/// The only route of the enrolment port.
pub fn enrolment_router(api: Arc<Api>) -> Router {
    Router::new().route("/v1/enrol", post(enrol)).with_state(api)
}

/// Runs blocking work of the authority.
async fn run<T: Send + 'static>(
    enrolment: &Arc<Enrolment>,
    work: impl FnOnce(&Enrolment) -> T + Send + 'static,
) -> Result<T, Refusal> {
    let enrolment = Arc::clone(enrolment);
    tokio::task::spawn_blocking(move || work(&enrolment)).await.map_err(|_| busy())
}

/// The same, for work that may be refused.
pub(super) async fn blocking<T: Send + 'static>(
    enrolment: &Arc<Enrolment>,
    work: impl FnOnce(&Enrolment) -> Result<T, NotCertified> + Send + 'static,
) -> Result<T, Refusal> {
    run(enrolment, work).await?.map_err(refusal)
}

/// `POST /v1/enrol`.
async fn enrol(
    State(api): State<Arc<Api>>,
    Extension(from): Extension<CameFrom>,
    JsonBody(body): Body<EnrolRequest>,
) -> Result<Json<Certified>, Refusal> {
    let (node, token) = (body.name.clone(), body.token_id.clone());
    let mut asked = Asked { node, from, token: None, pool: None };
    let answer = enrol_by_token(&api, &mut asked, body).await;
    let result = answer.as_ref().map_or_else(|refused| refused.kind().as_str(), |_| "done");
    api.metrics.certified("enrol", result);
    match &answer {
        Ok(Json(certified)) => {
            let pool = certified.pools.first().map(PoolName::as_str);
            tracing::info!(node = %asked.node, pool, %token, "a node has enrolled");
        }
        Err(refusal) => note(&api, &asked, refusal),
    }
    answer
}

/// What is known of a request, for the log of refused ones.
struct Asked {
    node: NodeId,
    from: CameFrom,
    /// The token, once it is known that there is one.
    token: Option<TokenId>,
    pool: Option<PoolName>,
}

/// Counts a refused request for the log.  One that can be tried again as it is is none.
fn note(api: &Api, asked: &Asked, refusal: &Refusal) {
    let Some(enrolment) = api.enrolment.as_ref().filter(|_| refusal.kind().status() < 500) else { return };
    let cause = refusal.cause().map(|cause| format!(": {cause}")).unwrap_or_default();
    let attempt = Attempt {
        token: asked.token.clone(),
        pool: asked.pool.clone(),
        reason: format!("{}{cause}", refusal.kind().as_str()),
    };
    // Names are a stranger's free choice, and worth a place only beside a token or a certificate.
    let name = (refusal.kind() != ErrorKind::TokenRefused).then_some(&asked.node);
    if enrolment.refused(attempt, name, Some(asked.from.0), clock::now()) == News::New {
        api.keep.notify_one();
    }
}

async fn enrol_by_token(api: &Api, asked: &mut Asked, body: EnrolRequest) -> Result<Json<Certified>, Refusal> {
    let EnrolRequest { token_id, secret, name, csr } = body;
    let enrolment = api.enrolment()?;
    let hash = hash_of(&secret);
    drop(secret);
    let (id, node) = (token_id.clone(), name.clone());
    let found = run(enrolment, move |enrolment| enrolment.pool_of((&id, &hash), &node, clock::now())).await?;
    let unknown = EnrolRefused::Token(TokenFault::Unknown);
    if !matches!(&found, Err(NotCertified::Enrol(EnrolError::Refused(refused))) if *refused == unknown) {
        asked.token = Some(token_id.clone());
    }
    let pool = found.map_err(refusal)?;
    asked.pool = Some(pool.clone());
    let pool = api.pools.load().get(&pool).cloned();
    let pool = pool.ok_or_else(|| {
        let message = "the token's pool is not in the coordinator's configuration";
        Refusal::new(ErrorKind::NameNotAllowed, message).with_remedy(None, "ask for a token of another pool")
    })?;
    let known = judge_name(api, &pool, &name).await?;
    let (id, node, from) = (token_id, name.clone(), asked.from.0);
    let certificate = blocking(enrolment, move |enrolment| {
        let claim = Claim::Token { id: &id, hash: &hash, known };
        enrolment.certify((&node, &csr), claim, Some(from), clock::now())
    })
    .await?;
    Ok(Json(certified(api, enrolment, (certificate, &name), pool.name())))
}

/// A text that is not a secret has the hash of another one.
fn hash_of(secret: &TokenText) -> Digest {
    let hash = TokenSecret::parse(secret.expose()).map(|secret| secret.hash());
    digest(hash.unwrap_or_else(|| SecretHash::of(b"not the secret of a token")))
}

/// Whether the pool takes a node of this name, and has a record of it.
async fn judge_name(api: &Api, pool: &Pool, node: &NodeId) -> Result<bool, Refusal> {
    let refuse =
        |message: String, remedy: &str| Err(Refusal::new(ErrorKind::NameNotAllowed, message).with_remedy(None, remedy));
    if api.role_of_name(node).is_some() {
        return refuse(format!("{node} is not a name for nodes here"), "use the name of the host that is to be a node");
    }
    if node.as_str().rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return refuse(format!("{node} ends in a number, as an address does"), "use the DNS name of the host");
    }
    if !pool.policy().nodes.iter().any(|pattern| pattern.matches(node)) {
        let message = format!("the `nodes` patterns of pool {} match no such name", pool.name());
        return refuse(message, "add it there and reload the coordinator, or use another name");
    }
    let welcome = pool.welcome(BTreeSet::from([node.clone()])).await.map_err(|_| busy())?.map_err(store_down)?;
    if !welcome.denied.is_empty() {
        return refuse(format!("{node} is denied in pool {}", pool.name()), "`tfoctl allow` it there first");
    }
    Ok(!welcome.known.is_empty())
}

fn certified(api: &Api, enrolment: &Enrolment, (certificate, node): (String, &NodeId), first: &PoolName) -> Certified {
    let pools = api.pools.load();
    let fits = |pool: &&Arc<Pool>| pool.policy().nodes.iter().any(|pattern| pattern.matches(node));
    let others = pools.values().filter(fits).map(|pool| pool.name()).filter(|name| *name != first);
    let pools = std::iter::once(first).chain(others).cloned().collect();
    Certified { certificate, chain: enrolment.chain(), pools, urls: enrolment.api_urls() }
}

/// `POST /v1/pools/{pool}/certificate`.
pub(super) async fn renew(
    State(api): State<Arc<Api>>,
    Extension(address): Extension<CameFrom>,
    from: FromNode,
    JsonBody(body): Body<RenewRequest>,
) -> Result<Json<Certified>, Refusal> {
    let asked = Asked { node: from.node.clone(), from: address, token: None, pool: Some(from.pool.name().clone()) };
    let answer = renew_by_certificate(&api, &from, address, body).await;
    let result = answer.as_ref().map_or_else(|refused| refused.kind().as_str(), |_| "done");
    api.metrics.certified("renewal", result);
    match &answer {
        Ok(_) => tracing::info!(node = %from.node, pool = %from.pool.name(), "a node has renewed its certificate"),
        Err(refusal) => note(&api, &asked, refusal),
    }
    answer
}

async fn renew_by_certificate(
    api: &Api,
    from: &FromNode,
    address: CameFrom,
    body: RenewRequest,
) -> Result<Json<Certified>, Refusal> {
    let (enrolment, asked_at) = (api.enrolment()?, clock::now());
    judge_name(api, &from.pool, &from.node).await?;
    let (node, csr, pool) = (from.node.clone(), body.csr, from.pool.name().clone());
    let certificate = blocking(enrolment, move |enrolment| {
        let claim = Claim::Renewal { pool: Some(&pool), asked_at };
        enrolment.certify((&node, &csr), claim, Some(address.0), clock::now())
    })
    .await?;
    Ok(Json(certified(api, enrolment, (certificate, &from.node), from.pool.name())))
}

/// The answer to a claim that does not hold.  What is wrong with a token stays here: to the one that tries, all tokens that are of
/// no use look alike.
fn refusal(error: NotCertified) -> Refusal {
    use EnrolRefused::{CutOff, Full, KeyUsed, Name, Taken, Token, TooMany};
    let new_key = "ask again with a new key and a new request, as `tfo-agent join` does";
    match error {
        NotCertified::Enrol(EnrolError::Refused(refused)) => match refused {
            Token(fault) => {
                let message = "the token is not valid: it is wrong, used up, expired or revoked";
                let remedy = "ask an operator for a new one: `tfoctl token create`";
                Refusal::new(ErrorKind::TokenRefused, message).with_remedy(None, remedy).because(fault)
            }
            Name => Refusal::new(ErrorKind::NameNotAllowed, refused.to_string())
                .with_remedy(None, "ask an operator for a token whose --nodes fits this name"),
            Taken => Refusal::new(ErrorKind::NameTaken, refused.to_string()).with_remedy(
                None,
                "if it is this node, made again: `tfoctl forget` it first, or use a token made with --replace",
            ),
            KeyUsed => Refusal::new(ErrorKind::BadRequestKey, refused.to_string()).with_remedy(None, new_key),
            TooMany => Refusal::new(ErrorKind::Refused, refused.to_string())
                .with_remedy(None, "wait until one ends, or `tfoctl forget` the node and let it join again"),
            CutOff | Full => Refusal::new(ErrorKind::Unavailable, refused.to_string()),
        },
        NotCertified::Enrol(EnrolError::Store(error)) => store_failed(&error),
        NotCertified::Request(bad) => {
            Refusal::new(ErrorKind::BadRequestKey, bad.to_string()).with_remedy(None, new_key)
        }
        NotCertified::Domain(domains) => {
            let message = format!("the authority issues only names in {domains}");
            Refusal::new(ErrorKind::NameNotAllowed, message).with_remedy(None, "use a name in that domain")
        }
        NotCertified::NoKey => {
            let remedy = "ask another coordinator of this fleet, one that has the authority's key";
            Refusal::new(ErrorKind::NoAuthority, error.to_string()).with_remedy(None, remedy)
        }
        NotCertified::Ended(at) => {
            Refusal::new(ErrorKind::Unavailable, format!("the authority's own certificate ended at {at}"))
        }
        NotCertified::Sign(error) => {
            tracing::error!(%error, "the authority cannot sign");
            Refusal::new(ErrorKind::Internal, "the authority cannot sign; the coordinator's log has more")
        }
    }
}

pub(super) fn store_failed(error: &StoreError) -> Refusal {
    tracing::warn!(%error, "the store of enrolments failed");
    Refusal::new(ErrorKind::StoreUnavailable, "the store cannot be reached; nothing was changed; ask again")
}

/// Plans to revoke the certificates of nodes that an operator is about to deny or to make unknown; none where there is nothing
/// to revoke.
pub(super) async fn plan(
    api: &Api,
    from: &FromOperator,
    order: &'static str,
    nodes: BTreeSet<NodeId>,
) -> Result<Option<InHand>, Refusal> {
    let Some(enrolment) = api.enrolment.as_ref().filter(|_| !nodes.is_empty()) else { return Ok(None) };
    let (pool, operator) = (from.pool.name().clone(), from.operator.clone());
    let shown = from.pool.coordinators().await.map_err(|_| busy())?.map_err(store_down)?;
    let life = shown.coordinators.iter().find(|one| one.answers).and_then(|own| own.life);
    let planned =
        run(enrolment, move |enrolment| enrolment.plan_cut_off((pool, nodes), (operator, order), (life, clock::now())));
    let planned = planned.await?;
    planned.map(Some).map_err(|problem| {
        tfo_host::runtime::log::problem(&problem);
        Refusal::new(ErrorKind::StoreUnavailable, "the store cannot be written; nothing was changed")
    })
}

/// Ends a plan after its order: carries it out, drops it if nothing was done, or leaves it to the keeper, who looks.
pub(super) async fn follow<T>(
    api: &Api,
    planned: Option<InHand>,
    done: &Result<T, CommandError>,
) -> Result<(), Refusal> {
    let (Some(enrolment), Some(planned)) = (&api.enrolment, planned) else { return Ok(()) };
    let nodes = match done {
        Ok(_) => planned.plan().nodes.clone(),
        Err(CommandError::Refused(_) | CommandError::NotPossible(_) | CommandError::Overtaken) => BTreeSet::new(),
        Err(CommandError::StoreDown | CommandError::OutcomeOpen | CommandError::Internal) => return Ok(()),
    };
    let cut = run(enrolment, move |enrolment| enrolment.cut_off(planned.plan(), &nodes, clock::now())).await?;
    match cut {
        Ok(0) => Ok(()),
        Ok(certificates) => {
            tracing::info!(certificates, "the certificates of these nodes are revoked");
            Ok(())
        }
        Err(problem) => {
            tfo_host::runtime::log::problem(&problem);
            if done.is_err() {
                return Ok(());
            }
            let message = "the order was done, but the nodes' certificates are not on the revocation list yet";
            let remedy = "see the coordinator's log; it tries again each minute";
            Err(Refusal::new(ErrorKind::Unavailable, message).with_remedy(None, remedy))
        }
    }
}

/// Finishes what requests have left behind: a coordinator that ended between an order and its revocations, for one.
pub async fn finish_cut_offs(api: &Api) -> Result<(), Problem> {
    let Some(enrolment) = &api.enrolment else { return Ok(()) };
    let stopping = |_| Problem::warning("stopping", "the coordinator stops", "nothing to do");
    let plans = run(enrolment, |enrolment| enrolment.left_cut_offs()).await.map_err(stopping)?;
    for left in plans.map_err(|error| error.problem())? {
        if left.is_foreign && !is_over(api, &left).await {
            continue;
        }
        let plan = left.plan;
        let Some(nodes) = took_effect(api, &plan).await else { continue };
        tracing::info!(pool = %plan.pool, order = plan.order, nodes = nodes.len(), "an order is finished that was left behind");
        let cut = run(enrolment, move |enrolment| enrolment.cut_off(&plan, &nodes, clock::now())).await;
        cut.map_err(stopping)??;
    }
    Ok(())
}

/// Whether the coordinator of a plan has ended, as far as its pool can tell; of a pool that is not served here the others tell.
async fn is_over(api: &Api, left: &Left) -> bool {
    let pools = api.pools.load_full();
    if let Some(pool) = pools.get(&left.plan.pool) {
        return pool.coordinators().await.is_ok_and(|shown| shown.is_ok_and(|shown| left.is_over(&shown.coordinators)));
    }
    // Lives are counted in each pool by itself.
    let left = Left { plan: CutOff { life: None, ..left.plan.clone() }, ..*left };
    for pool in pools.values() {
        let shown = pool.coordinators().await;
        if !shown.is_ok_and(|shown| shown.is_ok_and(|shown| left.is_over(&shown.coordinators))) {
            return false;
        }
    }
    true
}

/// The nodes of a plan that its pool has denied, or does not know.  None if the pool cannot tell.  A pool that is not served
/// any more has no node to keep.
async fn took_effect(api: &Api, plan: &CutOff) -> Option<BTreeSet<NodeId>> {
    let Some(pool) = api.pools.load().get(&plan.pool).cloned() else { return Some(plan.nodes.clone()) };
    let welcome = pool.welcome(plan.nodes.clone()).await.ok()?.ok()?;
    let stays = |node: &&NodeId| welcome.known.contains(*node) && !welcome.denied.contains(*node);
    Some(plan.nodes.iter().filter(|node| !stays(node)).cloned().collect())
}

/// The id of a token in a path.
pub(super) fn token_id(text: &str) -> Option<TokenId> {
    text.parse().ok()
}
