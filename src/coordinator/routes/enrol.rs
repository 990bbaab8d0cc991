//! Certificates of nodes: `POST /v1/enrol` on the enrolment port, for any client that has a token, and
//! `POST /v1/pools/{pool}/certificate` on the API's, for the name of the certificate in use.
//!
//! The token is judged first, and costs a stranger nothing but a look into the store; what comes after it is for those who
//! have a good one.  Nothing is changed before the certificate is recorded.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::routing::post;

use super::fleet::{busy, store_down};
use super::{Api, FromNode};
use crate::enrolment::{Enrolment, NotCertified, digest};
use crate::pool::Pool;
use crate::server::{JsonBody, Refusal};
use tfo_host::runtime::clock;
use tfo_model::ids::{NodeId, PoolName, TokenId};
use tfo_pki::token::{SecretHash, TokenSecret};
use tfo_store::StoreError;
use tfo_store::enrolment::{Claim, Digest, EnrolError, EnrolRefused};
use tfo_wire::error::ErrorKind;
use tfo_wire::v1::enrol::{Certified, EnrolRequest, REQUEST_BYTES_MAX, RenewRequest, TokenText};

pub(super) type Body<T> = JsonBody<T, REQUEST_BYTES_MAX>;

/// The only route of the enrolment port.
pub fn enrolment_router(api: Arc<Api>) -> Router {
    Router::new().route("/v1/enrol", post(enrol)).with_state(api)
}

/// Runs blocking work of the authority.
pub(super) async fn blocking<T: Send + 'static>(
    enrolment: &Arc<Enrolment>,
    work: impl FnOnce(&Enrolment) -> Result<T, NotCertified> + Send + 'static,
) -> Result<T, Refusal> {
    let enrolment = Arc::clone(enrolment);
    let done = tokio::task::spawn_blocking(move || work(&enrolment)).await;
    done.map_err(|_| busy())?.map_err(refusal)
}

/// `POST /v1/enrol`.
async fn enrol(State(api): State<Arc<Api>>, JsonBody(body): Body<EnrolRequest>) -> Result<Json<Certified>, Refusal> {
    let (node, token) = (body.name.clone(), body.token_id.clone());
    let answer = enrol_by_token(&api, body).await;
    let result = answer.as_ref().map_or_else(|refused| refused.kind().as_str(), |_| "done");
    api.metrics.certified("enrol", result);
    if let Ok(Json(certified)) = &answer {
        let pool = certified.pools.first().map(PoolName::as_str);
        tracing::info!(%node, pool, %token, "a node has enrolled");
    }
    answer
}

async fn enrol_by_token(api: &Api, body: EnrolRequest) -> Result<Json<Certified>, Refusal> {
    let EnrolRequest { token_id, secret, name, csr } = body;
    let enrolment = api.enrolment()?;
    let hash = hash_of(&secret);
    drop(secret);
    let (id, node) = (token_id.clone(), name.clone());
    let pool = blocking(enrolment, move |enrolment| enrolment.pool_of((&id, &hash), &node, clock::now())).await?;
    let pool = api.pools.load().get(&pool).cloned();
    let pool = pool.ok_or_else(|| {
        let message = "the token's pool is not in the coordinator's configuration";
        Refusal::new(ErrorKind::NameNotAllowed, message).with_remedy(None, "ask for a token of another pool")
    })?;
    let known = judge_name(api, &pool, &name).await?;
    let (id, node) = (token_id, name.clone());
    let certificate = blocking(enrolment, move |enrolment| {
        let claim = Claim::Token { id: &id, hash: &hash, known };
        enrolment.certify(&node, &csr, claim, clock::now())
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
    Certified { certificate, chain: enrolment.chain().to_owned(), pools, urls: enrolment.api_urls() }
}

/// `POST /v1/pools/{pool}/certificate`.
pub(super) async fn renew(
    State(api): State<Arc<Api>>,
    from: FromNode,
    JsonBody(body): Body<RenewRequest>,
) -> Result<Json<Certified>, Refusal> {
    let answer = renew_by_certificate(&api, &from, body).await;
    let result = answer.as_ref().map_or_else(|refused| refused.kind().as_str(), |_| "done");
    api.metrics.certified("renewal", result);
    if answer.is_ok() {
        tracing::info!(node = %from.node, pool = %from.pool.name(), "a node has renewed its certificate");
    }
    answer
}

async fn renew_by_certificate(api: &Api, from: &FromNode, body: RenewRequest) -> Result<Json<Certified>, Refusal> {
    let enrolment = api.enrolment()?;
    judge_name(api, &from.pool, &from.node).await?;
    let (node, csr) = (from.node.clone(), body.csr);
    let certificate =
        blocking(enrolment, move |enrolment| enrolment.certify(&node, &csr, Claim::Renewal, clock::now())).await?;
    Ok(Json(certified(api, enrolment, (certificate, &from.node), from.pool.name())))
}

/// The answer to a claim that does not hold.  What is wrong with a token stays here: to the one that tries, all tokens that are of
/// no use look alike.
fn refusal(error: NotCertified) -> Refusal {
    use EnrolRefused::{Full, KeyUsed, Name, Taken, Token, TooMany};
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
            Full => Refusal::new(ErrorKind::Unavailable, refused.to_string()),
        },
        NotCertified::Enrol(EnrolError::Store(error)) => store_failed(&error),
        NotCertified::Request(bad) => {
            Refusal::new(ErrorKind::BadRequestKey, bad.to_string()).with_remedy(None, new_key)
        }
        NotCertified::Domain(domains) => {
            let message = format!("the authority issues only names in {domains}");
            Refusal::new(ErrorKind::NameNotAllowed, message).with_remedy(None, "use a name in that domain")
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

/// Revokes the certificates of nodes that an operator has denied or made unknown.
pub(super) async fn cut_off(api: &Api, nodes: BTreeSet<NodeId>) -> Result<(), Refusal> {
    let Some(enrolment) = api.enrolment.clone().filter(|_| !nodes.is_empty()) else { return Ok(()) };
    let revoked = tokio::task::spawn_blocking(move || enrolment.revoke(&nodes, clock::now())).await;
    match revoked.map_err(|_| busy())? {
        Ok(0) => Ok(()),
        Ok(certificates) => {
            tracing::info!(certificates, "the certificates of these nodes are revoked");
            Ok(())
        }
        Err(problem) => {
            tfo_host::runtime::log::problem(&problem);
            let message = "the order was done, but the nodes' certificates are not on the revocation list yet";
            let remedy = "see the coordinator's log; it tries again each minute";
            Err(Refusal::new(ErrorKind::Unavailable, message).with_remedy(None, remedy))
        }
    }
}

/// The id of a token in a path.
pub(super) fn token_id(text: &str) -> Option<TokenId> {
    text.parse().ok()
}
