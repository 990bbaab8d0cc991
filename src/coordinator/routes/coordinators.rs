//! `/v1/pools/{pool}/coordinators`: readers list those that the pool's store knows, operators have one forgotten.

use axum::Json;

use super::fleet::{bad_request, busy, store_down, why};
use super::sync_request::check_reason;
use super::{FromOperator, ReadPool};
use crate::server::{JsonBody, Refusal};
use tfo_wire::v1::coordinators::{Coordinators, ForgetCoordinatorRequest};

/// Longest body: a name and a reason.
const REQUEST_BYTES_MAX: usize = 4_096;

/// `GET /v1/pools/{pool}/coordinators`.
pub(super) async fn list(ReadPool(pool): ReadPool) -> Result<Json<Coordinators>, Refusal> {
    pool.coordinators().await.map_err(|_| busy())?.map(Json).map_err(store_down)
}

/// `POST /v1/pools/{pool}/coordinators`.  It changes no document, so it has no entry in the audit log.
pub(super) async fn forget(
    from: FromOperator,
    JsonBody(body): JsonBody<ForgetCoordinatorRequest, REQUEST_BYTES_MAX>,
) -> Result<Json<Coordinators>, Refusal> {
    let ForgetCoordinatorRequest { forget, reason } = body;
    check_reason(&reason).map_err(bad_request)?;
    let left = from.pool.forget_coordinator(forget.clone()).await.map_err(|_| busy())?.map_err(why);
    let (pool, error) = (from.pool.name(), left.as_ref().err().map(Refusal::message));
    tracing::info!(%pool, request_id = %from.id, actor = %from.operator, coordinator = %forget, reason, error, "asked to forget a coordinator");
    left.map(Json)
}
