//! The requests of nodes: `POST /v1/pools/{pool}/sync`, and `GET /v1/pools/{pool}/self`.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
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
use crate::server::{CameFrom, Draining, JsonBody, Later, Refusal};
use tfo_crypto::random;
use tfo_engine::rollout::sync::SyncRefused;
use tfo_engine::rollout::timing;
use tfo_model::ids::PoolId;
use tfo_wire::error::{ErrorKind, MovedTo};
use tfo_wire::v1::sync::{
    ABSENT_AFTER_HEADER, ELSEWHERE_HEADER, REQUEST_BYTES_MAX, SelfAnswer, SyncRequest, WAIT_SECS_MAX,
};

/// Longest wait for the driver to record a sync.  Shorter than an agent's patience (10 s, `agent::contact::exchange`): the
/// node gets an answer to try again, and does not give up a request that is recorded after that.
const RECORD_PATIENCE: Duration = Duration::from_secs(8);
/// How often the handler checks meanwhile.
const RECORD_LOOKS: u32 = 80;

/// How long a handler waits beyond the time for which the driver holds a request: for a driver that is stuck in a call to its
/// store.
const HOLD_PATIENCE: Duration = Duration::from_secs(2);

/// How often a handler whose request is held checks that the driver is not blind, in which case it lets all go itself, unless
/// it is stuck.
const BLIND_LOOKS: Duration = Duration::from_secs(60);

/// Retry-After of a 503, in seconds: agents add jitter of their own.
const RETRY_SECS: u32 = 2;

/// One request acknowledges and waits for the next change.  The wait is the connection's, without hyper.
pub(super) async fn sync(
    State(api): State<Arc<Api>>,
    from: FromNode,
    Extension(draining): Extension<Draining>,
    Extension(address): Extension<CameFrom>,
    JsonBody(request): JsonBody<SyncRequest, REQUEST_BYTES_MAX>,
) -> Later {
    if let Some(enrolment) = &api.enrolment {
        enrolment.meet(&from.peer, &from.node, address.0);
    }
    // What is refused at once is refused in the same way.
    let asked = match ask(&from, request) {
        Ok(asked) => asked,
        Err(refusal) => return Later::new(async move { told(&api, &from, Err(refusal)) }),
    };
    let AskedFor { held, held_pool, patience } = asked;
    let mut waits = Waits { from, held, is_answered: false };
    // What it holds while it waits is there ten thousand times: nothing is moved into it, and what comes after is on the heap.
    Later::new(async move {
        let pool = &waits.from.pool;
        let waited = wait(&mut waits.held, &draining, (patience, RECORD_PATIENCE), || pool.is_blind()).await;
        let answer = match waited {
            Waited::For(answer) => answer,
            Waited::InVain => Box::pin(taken_in(&mut waits.held)).await,
        };
        waits.is_answered = answer.is_some();
        let result = Box::pin(answered(&api, &waits, held_pool, answer)).await;
        told(&api, &waits.from, result)
    })
}

/// Counts and logs what a node is told.
fn told(api: &Api, from: &FromNode, result: Result<Option<Bytes>, Refusal>) -> Result<Response, Refusal> {
    let pool = from.pool.name();
    match &result {
        Ok(Some(_)) => api.metrics.sync_answered(pool, "told"),
        Ok(None) => api.metrics.sync_answered(pool, "nothing"),
        Err(refusal) => {
            api.metrics.sync_answered(pool, refusal.kind().as_str());
            log(from, refusal);
        }
    }
    result.map(|body| body.map_or_else(|| nothing(&from.pool), instruction))
}

/// `GET /v1/pools/{pool}/self`: what `tfo-agent check` asks; joins nothing, acknowledges nothing.
pub(super) async fn itself(State(api): State<Arc<Api>>, from: FromNode) -> Result<Json<SelfAnswer>, Refusal> {
    let busy = |_| Refusal::new(ErrorKind::Unavailable, "this coordinator is busy or stopping; ask again");
    from.pool.itself(from.node.clone(), moving::names(&api)).await.map_err(busy)?.map(Json).map_err(store_down)
}

/// A request that waits for its driver.  If nothing came of that before the connection ended, or its handler stopped waiting, the
/// driver is told: the node is not heard by it any more (docs/protocol.md#rule-11).
struct Waits {
    from: FromNode,
    held: Held,
    is_answered: bool,
}

impl Drop for Waits {
    fn drop(&mut self) {
        if !self.is_answered {
            self.from.pool.left(self.from.node.clone(), self.held.mark());
        }
    }
}

/// A sync that its pool's driver has.
struct AskedFor {
    held: Held,
    /// The pool whose keys the node reports.
    held_pool: Option<PoolId>,
    patience: Duration,
}

/// Gives a sync to its pool's driver.
fn ask(from: &FromNode, request: SyncRequest) -> Result<AskedFor, Refusal> {
    let wait_secs = request.wait_secs.min(WAIT_SECS_MAX);
    let (sync, described) = sync_of(request).map_err(|why| Refusal::new(ErrorKind::BadRequest, why))?;
    let held_pool = sync.report.fence.as_ref().map(|fence| fence.pool_id);
    let held_for = hold(&from.pool, wait_secs);
    let (until, patience) = if held_for.is_zero() {
        (Until::Recorded, Duration::ZERO)
    } else {
        (Until::News(held_for), held_for + HOLD_PATIENCE)
    };
    let held = from.pool.sync(from.node.clone(), sync, described, until).map_err(|_| busy())?;
    Ok(AskedFor { held, held_pool, patience })
}

fn busy() -> Refusal {
    Refusal::new(ErrorKind::Unavailable, "the coordinator is busy or stopping; try again").with_retry_after(RETRY_SECS)
}

/// What an answer of the driver means for the node, or that there is none.
async fn answered(
    api: &Api,
    Waits { from, held, .. }: &Waits,
    held_pool: Option<PoolId>,
    answer: Option<Result<Option<Bytes>, SyncError>>,
) -> Result<Option<Bytes>, Refusal> {
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

/// How long a request is held: this coordinator chooses, and not longer than its node bears.
fn hold(pool: &Pool, wait_secs: u64) -> Duration {
    // Without randomness (which does not happen) it is held for as long as it may be.
    let random = random::fresh_u64().map_or(0, |random| u32::try_from(random >> 32).expect("32 bits are left"));
    timing::hold(Duration::from_secs(wait_secs), pool.policy().hold_max(), random)
}

/// How the wait of a request ended.
enum Waited {
    For(Option<Result<Option<Bytes>, SyncError>>),
    /// Without an answer: the time is over, or the server wants to end.
    InVain,
}

/// Waits for so long, and for less where the driver has not taken the request in by then, or is blind.
async fn wait(
    held: &mut Held,
    draining: &Draining,
    (patience, for_record): (Duration, Duration),
    is_blind: impl Fn() -> bool,
) -> Waited {
    let (mut left, mut time) = (patience, patience.min(for_record));
    while !left.is_zero() {
        tokio::select! {
            biased;
            answer = held.answer() => return Waited::For(answer),
            // The connection wakes this task when the server begins to drain.
            () = poll_fn(|_| if draining.has_begun() { Poll::Ready(()) } else { Poll::Pending }) => return Waited::InVain,
            () = tokio::time::sleep(time) => {}
        }
        // One that waits for the other nodes ends here, too: another coordinator may have heard them.
        if !held.is_held() && time == for_record && left == patience {
            return Waited::For(None);
        }
        if is_blind() {
            return Waited::InVain;
        }
        left = left.saturating_sub(time);
        time = left.min(BLIND_LOOKS);
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
    let head = [(HeaderName::from_static(ABSENT_AFTER_HEADER), absent_after)];
    let elsewhere = [(HeaderName::from_static(ELSEWHERE_HEADER), HeaderValue::from_static("1"))];
    if pool.sends_elsewhere() {
        (StatusCode::NO_CONTENT, head, elsewhere).into_response()
    } else {
        (StatusCode::NO_CONTENT, head).into_response()
    }
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

    const LONG: Duration = Duration::from_secs(300);

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn an_answer_that_came_while_the_request_was_held_is_not_lost() {
        let (reply, mut held) = Reply::new(Until::News(LONG));
        reply.hold();
        assert!(run(taken_in(&mut held)).is_none() && held.is_held(), "nothing new");
        reply.give(Err(SyncError::Internal));
        assert_eq!(run(taken_in(&mut held)), Some(Err(SyncError::Internal)));
    }

    #[test]
    fn who_waits_for_the_others_is_not_waited_for_longer_than_it_wants() {
        let (reply, mut held) = Reply::new(Until::News(LONG));
        reply.keep();
        let waited = run(async { tokio::time::timeout(RECORD_PATIENCE / 2, taken_in(&mut held)).await });
        assert!(matches!(waited, Ok(None)) && held.awaits_others() && !held.is_held());
    }

    #[test]
    fn a_driver_that_is_stuck_gets_less_time_than_news() {
        let (patience, for_record) = (Duration::from_secs(3_600), Duration::from_millis(20));
        let draining = Draining::never();
        let (reply, mut stuck) = Reply::new(Until::News(LONG));
        let waited = run(async { wait(&mut stuck, &draining, (patience, for_record), || false).await });
        assert!(matches!(waited, Waited::For(None)) && !stuck.is_held() && !stuck.awaits_others());
        drop(reply);
        // One that holds the request is waited for, unless it is blind.
        let (reply, mut held) = Reply::new(Until::News(LONG));
        reply.hold();
        let waited = run(async { wait(&mut held, &draining, (patience, for_record), || true).await });
        assert!(matches!(waited, Waited::InVain) && held.is_held());
        let answers = std::thread::spawn(move || {
            std::thread::sleep(for_record * 3);
            reply.give(Ok(None));
        });
        let waited = run(async { wait(&mut held, &draining, (patience, for_record), || false).await });
        assert!(matches!(waited, Waited::For(Some(Ok(None)))));
        answers.join().unwrap();
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
        let (reply, mut held) = Reply::new(Until::News(LONG));
        drop(reply);
        assert_eq!(run(taken_in(&mut held)), None);
        assert!(!held.is_held());
    }
}
