//! The requests of nodes: `POST /v1/pools/{pool}/sync`, and `GET /v1/pools/{pool}/self`.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use futures_util::FutureExt as _;

use super::fleet::store_down;
use super::sync_request::sync_of;
use super::{Api, FromNode, moving};
use crate::pool::{Held, Pool, SyncError, Until};
use crate::server::{Draining, JsonBody, Refusal};
use tfo_engine::rollout::sync::SyncRefused;
use tfo_wire::error::{ErrorKind, MovedTo};
use tfo_wire::v1::sync::{ABSENT_AFTER_HEADER, REQUEST_BYTES_MAX, SelfAnswer, SyncRequest, WAIT_SECS_MAX};

/// Longest wait for the driver to record a sync.  Shorter than an agent's patience (10 s, `agent::contact::exchange`): the
/// node gets an answer to try again, and does not give up a request that is recorded after that.
const RECORD_PATIENCE: Duration = Duration::from_secs(8);
/// How often the handler checks meanwhile.
const RECORD_LOOKS: u32 = 80;

/// Retry-After of a 503, in seconds: agents add jitter of their own.
const RETRY_SECS: u32 = 2;

/// One request acknowledges and waits for the next change.
pub(super) async fn sync(
    State(api): State<Arc<Api>>,
    from: FromNode,
    Extension(draining): Extension<Draining>,
    JsonBody(request): JsonBody<SyncRequest, REQUEST_BYTES_MAX>,
) -> Result<Response, Refusal> {
    let result = answer(&api, &from, &draining, request).await;
    let pool = from.pool.name();
    match &result {
        Ok(Some(_)) => api.metrics.sync_answered(pool, "told"),
        Ok(None) => api.metrics.sync_answered(pool, "nothing"),
        Err(refusal) => {
            api.metrics.sync_answered(pool, refusal.kind().as_str());
            log(&from, refusal);
        }
    }
    result.map(|body| body.map_or_else(|| nothing(&from.pool), instruction))
}

/// `GET /v1/pools/{pool}/self`: what `tfo-agent check` asks; joins nothing, acknowledges nothing.
pub(super) async fn itself(State(api): State<Arc<Api>>, from: FromNode) -> Result<Json<SelfAnswer>, Refusal> {
    let busy = |_| Refusal::new(ErrorKind::Unavailable, "this coordinator is busy or stopping; ask again");
    from.pool.itself(from.node.clone(), moving::names(&api)).await.map_err(busy)?.map(Json).map_err(store_down)
}

async fn answer(
    api: &Api,
    from: &FromNode,
    draining: &Draining,
    request: SyncRequest,
) -> Result<Option<Bytes>, Refusal> {
    let wait_secs = request.wait_secs.min(WAIT_SECS_MAX);
    let (sync, described) = sync_of(request).map_err(|why| Refusal::new(ErrorKind::BadRequest, why))?;
    let held_pool = sync.report.fence.as_ref().map(|fence| fence.pool_id);
    let busy = || {
        Refusal::new(ErrorKind::Unavailable, "the coordinator is busy or stopping; try again")
            .with_retry_after(RETRY_SECS)
    };
    let patience = hold(&from.pool, wait_secs);
    let until = if patience.is_zero() { Until::Recorded } else { Until::News };
    let mut held = from.pool.sync(from.node.clone(), sync, described, until).map_err(|_| busy())?;
    let waited = wait(&mut held, draining, patience).await;
    let answer = if let Waited::For(answer) = waited { answer } else { taken_in(&mut held).await };
    match answer {
        Some(Ok(body)) => Ok(body),
        Some(Err(error)) => Err(match moving::order_to(api, from, held_pool, &error).await {
            Some(moved) => told_to_move(moved),
            None => refusal(error),
        }),
        // The driver may be stuck in a call to its store, and another coordinator be about to exclude this node.
        None if held.is_held() && from.pool.is_blind() => Err(refusal(SyncError::StoreDown)),
        None if held.is_held() => Ok(None),
        None if held.awaits_others() => Err(refusal(SyncError::Refused(SyncRefused::NotHeard))),
        // It may be recorded or not: the node tries again.
        None => Err(busy()),
    }
}

fn hold(pool: &Pool, wait_secs: u64) -> Duration {
    Duration::from_secs(wait_secs).min(pool.policy().hold_max())
}

/// How the wait of a request ended.
enum Waited {
    For(Option<Result<Option<Bytes>, SyncError>>),
    /// Without an answer: the time is over, or the server wants to end.
    InVain,
}

async fn wait(held: &mut Held, draining: &Draining, patience: Duration) -> Waited {
    // In two parts: a driver that is stuck gets less time than news do.
    let parts = [patience.min(RECORD_PATIENCE), patience.saturating_sub(RECORD_PATIENCE)];
    for time in parts.into_iter().filter(|time| !time.is_zero()) {
        tokio::select! {
            biased;
            answer = held.answer() => return Waited::For(answer),
            () = draining.begun() => return Waited::InVain,
            () = tokio::time::sleep(time) => {}
        }
        // One that waits for the other nodes ends here, too: another coordinator may have heard them.
        if !held.is_held() && time == RECORD_PATIENCE {
            return Waited::For(None);
        }
    }
    Waited::InVain
}

/// Waits until the driver holds or keeps the request, as it usually has for long; gives the answer if one comes meanwhile.
async fn taken_in(held: &mut Held) -> Option<Result<Option<Bytes>, SyncError>> {
    for _ in 0..RECORD_LOOKS {
        // In this order: an answer that came after the request was held counts.
        let is_held = held.is_held() || held.awaits_others();
        if let Some(answer) = held.answer().now_or_never() {
            return answer;
        }
        if is_held {
            break;
        }
        if let Ok(answer) = tokio::time::timeout(RECORD_PATIENCE / RECORD_LOOKS, held.answer()).await {
            return answer;
        }
    }
    None
}

/// 204, with what the node has to know all the same.
fn nothing(pool: &Pool) -> Response {
    let absent_after = HeaderValue::from(pool.policy().absent_after_secs);
    (StatusCode::NO_CONTENT, [(HeaderName::from_static(ABSENT_AFTER_HEADER), absent_after)]).into_response()
}

/// 200 with key bytes: for this node alone.
fn instruction(body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn told_to_move(moved: MovedTo) -> Refusal {
    let message = format!("an operator moved this node to pool {}", moved.pool);
    Refusal::new(ErrorKind::NodeMoved, message).with_moved(moved)
}

fn refusal(error: SyncError) -> Refusal {
    let SyncError::Refused(refused) = error else {
        let (kind, message) = match error {
            SyncError::StoreDown => (ErrorKind::StoreUnavailable, "the store cannot be reached; try again"),
            _ => (ErrorKind::Internal, "a key is missing; the coordinator's log has details"),
        };
        return Refusal::new(kind, message).with_retry_after(RETRY_SECS);
    };
    let kind = match refused {
        SyncRefused::Denied => ErrorKind::Denied,
        // Without a pool to name, or with the keys of a pool that has no order for it.
        SyncRefused::OtherPool | SyncRefused::Moved { .. } => ErrorKind::OtherPool,
        SyncRefused::TooFarAhead => ErrorKind::TooFarAhead,
        SyncRefused::PeriodTooLong { .. } => ErrorKind::PeriodTooLong,
        SyncRefused::SessionClosed { .. } => ErrorKind::SessionClosed,
        SyncRefused::Frozen => ErrorKind::PoolFrozen,
        SyncRefused::NotAdmitted => ErrorKind::Unavailable,
        SyncRefused::NotHeard => ErrorKind::NotHeard,
    };
    let answer = Refusal::new(kind, refused.to_string()).with_retry_after(RETRY_SECS);
    match refused {
        SyncRefused::SessionClosed { ordinal } => answer.with_ordinal(ordinal),
        _ => answer,
    }
}

/// For debugging; the server logs the refusals that need attention, at a bounded rate.
fn log(from: &FromNode, refusal: &Refusal) {
    let (pool, node, request_id, kind) = (from.pool.name(), &from.node, &from.id, refusal.kind());
    tracing::debug!(%pool, %node, %request_id, ?kind, "sync refused");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Reply;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn an_answer_that_came_while_the_request_was_held_is_not_lost() {
        let (reply, mut held) = Reply::new(Until::News);
        reply.hold();
        assert!(run(taken_in(&mut held)).is_none() && held.is_held(), "nothing new");
        reply.give(Err(SyncError::Internal));
        assert_eq!(run(taken_in(&mut held)), Some(Err(SyncError::Internal)));
    }

    #[test]
    fn who_waits_for_the_others_is_not_waited_for_longer_than_it_wants() {
        let (reply, mut held) = Reply::new(Until::News);
        reply.keep();
        let waited = run(async { tokio::time::timeout(RECORD_PATIENCE / 2, taken_in(&mut held)).await });
        assert!(matches!(waited, Ok(None)) && held.awaits_others() && !held.is_held());
    }

    #[test]
    fn a_driver_that_takes_its_time_is_waited_for() {
        let (reply, mut held) = Reply::new(Until::Recorded);
        let late = std::thread::spawn(move || {
            std::thread::sleep(RECORD_PATIENCE / RECORD_LOOKS * 2);
            reply.give(Ok(None));
        });
        assert_eq!(run(taken_in(&mut held)), Some(Ok(None)));
        late.join().unwrap();
    }

    #[test]
    fn a_request_that_no_driver_took_in_gets_no_answer() {
        let (reply, mut held) = Reply::new(Until::News);
        drop(reply);
        assert_eq!(run(taken_in(&mut held)), None);
        assert!(!held.is_held());
    }
}
