//! Tells a page that it has changed: one stream for each page, with a stamp of what it shows.
//!
//! The page then asks for itself again, so there is one way to make it, and a browser that is slow is told less often.  A
//! stream ends by itself before the server would cut it, and a browser comes back: so none stays with a coordinator that
//! ends.  Must not know: HTML.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Query, State};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::Dashboard;
use crate::server::{Draining, Refusal};
use tfo_model::ids::PoolName;
use tfo_wire::error::ErrorKind;

/// Streams at a time: they leave half of the listener's connections of an address to other requests.
pub(super) const STREAMS_MAX: usize = 32;
/// How long a stream lasts: less than `Limits::observe` allows for an answer.
const STREAM_FOR: Duration = Duration::from_secs(15);
/// How often a stream looks; looks at a large pool are shared for longer (`look`).
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a browser waits before it comes back.
const COME_BACK_AFTER: Duration = Duration::from_millis(250);

/// `/events?pool=NAME`; without a name: all pools.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Of {
    pool: Option<PoolName>,
}

struct Watch {
    dashboard: Arc<Dashboard>,
    pool: Option<PoolName>,
    draining: Draining,
    until: Instant,
    told: Option<u64>,
    _place: OwnedSemaphorePermit,
}

impl Watch {
    /// The next change; none at the end of the stream.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            let now = self.dashboard.stamp(self.pool.as_ref()).await;
            let is_first = self.told.is_none();
            if self.told != Some(now) {
                self.told = Some(now);
                let event = Event::default().data(format!("{now:016x}"));
                return Some((Ok(if is_first { event.retry(COME_BACK_AFTER) } else { event }), self));
            }
            if Instant::now() >= self.until {
                return None;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.draining.begun() => return None,
            }
        }
    }
}

/// `GET /events`.
pub(super) async fn events(
    State(dashboard): State<Arc<Dashboard>>,
    Extension(draining): Extension<Draining>,
    Query(Of { pool }): Query<Of>,
) -> Response {
    let Ok(place) = Arc::clone(&dashboard.streams).try_acquire_owned() else {
        let message = format!("{STREAMS_MAX} pages are live already: reload this one by hand, or close another");
        return Refusal::new(ErrorKind::Unavailable, message).into_response();
    };
    let until = Instant::now() + STREAM_FOR;
    let watch = Watch { dashboard, pool, draining, until, told: None, _place: place };
    Sse::new(stream::unfold(watch, Watch::next)).into_response()
}
