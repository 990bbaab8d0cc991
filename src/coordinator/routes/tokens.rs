//! `/v1/tokens`: operators make, list and revoke enrolment tokens.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::enrol::{store_failed, token_id};
use super::fleet::{bad_request, busy};
use super::{Api, Commander};
use crate::enrolment::{NewToken, NoToken};
use crate::server::{JsonBody, Refusal};
use tfo_host::runtime::clock;
use tfo_model::time::UnixTime;
use tfo_store::enrolment::{Token, TokenError};
use tfo_wire::error::ErrorKind;
use tfo_wire::v1::enrol::{REQUEST_BYTES_MAX, TokenText};
use tfo_wire::v1::tokens::{
    LIFE_SECS_MAX, MadeToken, PATTERNS_MAX, TokenRequest, TokenState, TokenStatus, Tokens, USES_MAX,
};

/// `POST /v1/tokens`.
pub(super) async fn create(
    State(api): State<Arc<Api>>,
    from: Commander,
    JsonBody(body): JsonBody<TokenRequest, { 4 * REQUEST_BYTES_MAX }>,
) -> Result<Response, Refusal> {
    let enrolment = Arc::clone(api.enrolment()?);
    let TokenRequest { pool, nodes, uses, life_secs, replace } = body;
    if !(1..=USES_MAX).contains(&uses) || !(1..=LIFE_SECS_MAX).contains(&life_secs) || nodes.len() > PATTERNS_MAX {
        return Err(bad_request(format!(
            "uses is 1 to {USES_MAX}, life_secs 1 to {LIFE_SECS_MAX}, and nodes has at most {PATTERNS_MAX} patterns"
        )));
    }
    let found = api.pools.load().get(&pool).cloned();
    let policy = found.ok_or_else(|| Refusal::new(ErrorKind::UnknownPool, "unknown pool"))?.policy();
    if let Some(stray) = nodes.iter().find(|own| !policy.nodes.iter().any(|pattern| pattern.meets(own))) {
        let message = format!("no name fits \"{stray}\" and the `nodes` patterns of pool {pool}");
        let remedy = "give --nodes a pattern of the pool's nodes, or none for all of them";
        return Err(Refusal::new(ErrorKind::Refused, message).with_remedy(None, remedy));
    }
    let nodes = if nodes.is_empty() { policy.nodes.clone() } else { nodes };
    let now = clock::now();
    let wanted = NewToken { pool, nodes, uses, expires_at: now.plus(life_secs), replace, by: from.operator.clone() };
    let made = tokio::task::spawn_blocking(move || enrolment.make_token(wanted, now)).await.map_err(|_| busy())?;
    let (token, kept) = made.map_err(not_made)?;
    tracing::info!(
        token = %kept.id, actor = %from.operator, request_id = %from.id, pool = %kept.pool, uses, %kept.expires_at, replace,
        "an enrolment token was made"
    );
    let text = TokenText::new(token.reveal());
    // On its way it is in hyper's buffers, as keys are.
    Ok((StatusCode::OK, Json(MadeToken { token: text, kept: status(&kept, now) })).into_response())
}

fn not_made(error: NoToken) -> Refusal {
    match error {
        NoToken::Token(TokenError::TooMany) => Refusal::new(ErrorKind::Refused, error.to_string())
            .with_remedy(None, "revoke some: `tfoctl token list`, `tfoctl token revoke ID`"),
        NoToken::Token(TokenError::Store(error)) => store_failed(&error),
        NoToken::NoAddress => Refusal::new(ErrorKind::Refused, error.to_string())
            .with_remedy(None, "issue its certificate with its DNS name or address"),
        NoToken::Token(TokenError::Exists) | NoToken::NoRandomness(_) => busy(),
    }
}

/// `GET /v1/tokens`.
pub(super) async fn list(State(api): State<Arc<Api>>, _: Commander) -> Result<Json<Tokens>, Refusal> {
    let store = Arc::clone(api.enrolment()?.store());
    let tokens = tokio::task::spawn_blocking(move || store.tokens()).await.map_err(|_| busy())?;
    let now = clock::now();
    let tokens = tokens.map_err(|error| store_failed(&error))?;
    let listed = tokens.iter().filter(|token| !token.is_forgotten(now));
    Ok(Json(Tokens { tokens: listed.map(|token| status(token, now)).collect() }))
}

/// `DELETE /v1/tokens/{id}`.
pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    from: Commander,
) -> Result<Json<TokenStatus>, Refusal> {
    let enrolment = Arc::clone(api.enrolment()?);
    let unknown = || {
        let remedy = "`tfoctl token list` lists them; ended ones are dropped after a week";
        Refusal::new(ErrorKind::UnknownToken, "there is no token with this id").with_remedy(None, remedy)
    };
    let id = token_id(&id).ok_or_else(unknown)?;
    let (now, by) = (clock::now(), from.operator.clone());
    let revoked =
        tokio::task::spawn_blocking(move || enrolment.revoke_token(&id, by, now)).await.map_err(|_| busy())?;
    let token = revoked.map_err(|error| store_failed(&error))?.ok_or_else(unknown)?;
    tracing::info!(token = %token.id, actor = %from.operator, request_id = %from.id, "an enrolment token was revoked");
    Ok(Json(status(&token, now)))
}

fn status(token: &Token, now: UnixTime) -> TokenStatus {
    let state = if token.revoked.is_some() {
        TokenState::Revoked
    } else if token.used >= token.uses {
        TokenState::UsedUp
    } else if token.expires_at <= now {
        TokenState::Expired
    } else {
        TokenState::Active
    };
    let (revoked, last) = (token.revoked.clone(), token.last_use.clone());
    TokenStatus {
        id: token.id.clone(),
        state: state.into(),
        pool: token.pool.clone(),
        nodes: token.nodes.clone(),
        uses: token.uses,
        used: token.used,
        expires_at: token.expires_at,
        replace: token.replace,
        made_by: token.made_by.clone(),
        made_at: token.made_at,
        revoked_by: revoked.as_ref().and_then(|end| end.by.clone()),
        revoked_at: revoked.map(|end| end.at),
        last_node: last.as_ref().map(|last| last.node.clone()),
        last_used_at: last.map(|last| last.at),
    }
}
