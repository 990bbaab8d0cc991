//! `POST /v1/certificate`: an operator or a viewer renews the certificate of this connection.
//!
//! The same name, the same rights, a new key; a node's certificate is renewed in its pool (`enrol`).  Only what this authority
//! has issued: a certificate of another PKI ends when that PKI says so.

use std::sync::Arc;

use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::{Extension, Json};

use super::enrol::{Body, blocking};
use super::{Api, Asking};
use crate::enrolment::Enrolment;
use crate::server::{CameFrom, JsonBody, Refusal, RequestId};
use tfo_host::runtime::clock;
use tfo_model::ids::NodeId;
use tfo_pki::role::Role;
use tfo_tls::identity::Peer;
use tfo_wire::error::ErrorKind;
use tfo_wire::v1::enrol::{Certified, RenewRequest};

/// A person, by the only name of the certificate.
pub(super) struct FromPerson {
    name: NodeId,
    role: Role,
    peer: Arc<Peer>,
    id: RequestId,
}

impl FromRequestParts<Arc<Api>> for FromPerson {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<Self, Refusal> {
        let asking = Asking::of(parts)?;
        if asking.peer.purpose.is_some() {
            let message = "your certificate has a SPIFFE ID: renew it where it was issued, because one of this authority would not \
                           have that ID";
            return Err(asking.refuse(ErrorKind::NotAllowed, message, parts.uri.path()));
        }
        let access = api.access.load();
        let role = |name: &NodeId| match (access.operators.contains(name), access.viewers.contains(name)) {
            (true, _) => Some(Role::Operator),
            (false, true) => Some(Role::Viewer),
            (false, false) => None,
        };
        let roles = asking.peer.names.iter().filter_map(|name| Some((name.clone(), role(name)?)));
        let roles: Vec<(NodeId, Role)> = roles.collect();
        let message = match &roles[..] {
            [(name, role)] if asking.peer.names.len() == 1 => {
                let (name, role) = (name.clone(), *role);
                return Ok(Self { name, role, peer: asking.peer, id: asking.id });
            }
            [] => "your certificate names neither an operator nor a viewer; agents renew those of nodes by themselves",
            _ => "your certificate has several names, and a renewed one would have one",
        };
        Err(asking.refuse(ErrorKind::NotAllowed, message, parts.uri.path()))
    }
}

/// `POST /v1/certificate`.
pub(super) async fn renew(
    State(api): State<Arc<Api>>,
    from: FromPerson,
    Extension(address): Extension<CameFrom>,
    JsonBody(body): Body<RenewRequest>,
) -> Result<Json<Certified>, Refusal> {
    let answer = renew_by_certificate(&api, &from, address, body).await;
    let result = answer.as_ref().map_or_else(|refused| refused.kind().as_str(), |_| "done");
    api.metrics.certified("person", result);
    if answer.is_ok() {
        let before = &from.peer.serial;
        tracing::info!(
            actor = %from.name, role = from.role.as_str(), request_id = %from.id, %before,
            "a person has renewed a certificate"
        );
    }
    answer
}

async fn renew_by_certificate(
    api: &Api,
    from: &FromPerson,
    address: CameFrom,
    body: RenewRequest,
) -> Result<Json<Certified>, Refusal> {
    let (enrolment, asked_at) = (api.enrolment()?, clock::now());
    if !enrolment.is_issuer(&from.peer.issuer) {
        let message = "your certificate is not of the authority of [enrolment]";
        let remedy = "renew it where it was issued: this coordinator does not prolong what another authority has given";
        return Err(Refusal::new(ErrorKind::Refused, message).with_remedy(None, remedy));
    }
    let (name, role, csr) = (from.name.clone(), from.role, body.csr);
    let renew = move |enrolment: &Enrolment| enrolment.renew(role, (&name, &csr), Some(address.0), asked_at);
    let certificate = blocking(enrolment, renew).await?;
    let (chain, urls) = (enrolment.chain(), enrolment.api_urls());
    Ok(Json(Certified { certificate, chain, pools: Vec::new(), urls }))
}
