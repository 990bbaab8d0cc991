//! Answers that many readers get: one body for all of them.
//!
//! The nodes of a large pool are megabytes.  A body for each reader that asks for them and does not read would be
//! gigabytes.  Must not know: what is in a body.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use bytes::Bytes;
use serde::Serialize;

use crate::server::Refusal;
use tfo_host::runtime::clock;
use tfo_model::count::Revision;
use tfo_wire::error::ErrorKind;

/// Smaller bodies are made for each request: they are fresh, and a few hundred of them cost little.
const SHARED_BYTES_MIN: usize = 64 << 10;
/// How long a body is given to others.  After a commit it is made afresh at once, whatever its age.
const SHARED_FOR: Duration = Duration::from_secs(1);
/// The same while [`READ_MAX`] bodies of a path are still being read: the server cuts those who do not read after that time.
const SHARED_LONG_FOR: Duration = Duration::from_secs(20);
/// Bodies of a path that may be read at a time before a new one waits for the end of another.
const READ_MAX: usize = 4;

/// The latest large body of each path.
#[derive(Debug, Default)]
pub struct SharedBodies {
    by_path: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Place>>>>,
}

#[derive(Debug, Default)]
struct Place {
    latest: Option<Kept>,
    /// All that a client may still be reading.
    read: Vec<Weak<Vec<u8>>>,
}

/// The bytes of a body, which live as long as a client reads them.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[derive(Debug)]
struct Kept {
    revisions: Vec<Revision>,
    made_at: Instant,
    body: Bytes,
}

impl Kept {
    fn is_good(&self, revisions: &[Revision], age_max: Duration) -> bool {
        self.revisions == revisions && clock::monotonic().duration_since(self.made_at) < age_max
    }
}

impl SharedBodies {
    /// The answer for `path`, which is that of a pool that exists: an earlier body if the pools are still at these
    /// revisions, or a new one.  One request makes it, the others wait for it.
    pub(super) async fn answer<T: Serialize>(
        &self,
        path: String,
        revisions: Vec<Revision>,
        make: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<Response, Refusal> {
        let place = {
            let mut by_path = self.by_path.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(by_path.entry(path).or_default())
        };
        let mut place = place.lock().await;
        place.read.retain(|body| body.strong_count() > 0);
        let age_max = if place.read.len() < READ_MAX { SHARED_FOR } else { SHARED_LONG_FOR };
        if let Some(latest) = place.latest.as_ref().filter(|latest| latest.is_good(&revisions, age_max)) {
            return Ok(json(latest.body.clone()));
        }
        place.latest = None;
        let body = serde_json::to_vec(&make.await?).map_err(|error| {
            tracing::error!(%error, "an answer cannot be written as JSON");
            Refusal::new(ErrorKind::Internal, "the coordinator's log has more")
        })?;
        if body.len() < SHARED_BYTES_MIN {
            return Ok(json(body.into()));
        }
        let bytes = Arc::new(body);
        place.read.push(Arc::downgrade(&bytes));
        let body = Bytes::from_owner(Shared(bytes));
        place.latest = Some(Kept { revisions, made_at: clock::monotonic(), body: body.clone() });
        Ok(json(body))
    }
}

fn json(body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The address of the answer's bytes: the same for one body.
    async fn ask(bodies: &SharedBodies, revision: u64, text: &str) -> (usize, usize) {
        let text = text.to_owned();
        let answer = bodies.answer("p".to_owned(), vec![Revision::new(revision)], async { Ok(text) }).await.unwrap();
        let mut body = answer.into_body();
        let frame = std::future::poll_fn(|cx| hyper::body::Body::poll_frame(std::pin::Pin::new(&mut body), cx)).await;
        let bytes = frame.unwrap().unwrap().into_data().unwrap();
        // Kept alive, so that no other body gets its place.
        let bytes = Box::leak(Box::new(bytes));
        (bytes.as_ptr() as usize, bytes.len())
    }

    /// Lets the latest body get older.
    async fn age(bodies: &SharedBodies, by: Duration) {
        let place = Arc::clone(&bodies.by_path.lock().unwrap()["p"]);
        place.lock().await.latest.as_mut().unwrap().made_at -= by;
    }

    #[tokio::test]
    async fn a_large_body_is_shared_until_the_pool_changes() {
        let bodies = SharedBodies::default();
        let (large, larger) = ("x".repeat(SHARED_BYTES_MIN), "x".repeat(2 * SHARED_BYTES_MIN));
        let first = ask(&bodies, 1, &large).await;
        assert_eq!(ask(&bodies, 1, &larger).await, first, "the bytes of the first");
        assert_eq!(ask(&bodies, 2, &larger).await.1, larger.len() + 2, "another revision");
        age(&bodies, SHARED_FOR).await;
        assert_eq!(ask(&bodies, 2, &large).await.1, large.len() + 2, "too old");
        // Small ones are always fresh.
        assert_eq!(ask(&bodies, 3, "a").await.1, 3);
        assert_eq!(ask(&bodies, 3, "ab").await.1, 4);
    }

    #[tokio::test]
    async fn few_bodies_of_a_path_are_read_at_a_time() {
        let bodies = SharedBodies::default();
        let large = "x".repeat(SHARED_BYTES_MIN);
        let mut different = std::collections::BTreeSet::new();
        for _ in 0..3 * READ_MAX {
            // No client gives one back.
            different.insert(ask(&bodies, 1, &large).await);
            age(&bodies, SHARED_FOR).await;
        }
        assert_eq!(different.len(), READ_MAX);
        assert!(different.insert(ask(&bodies, 2, &large).await), "what a commit changed is always shown");
        age(&bodies, SHARED_LONG_FOR).await;
        assert!(different.insert(ask(&bodies, 2, &large).await), "no client reads for longer");
    }

    #[tokio::test]
    async fn a_failure_is_not_kept() {
        let bodies = SharedBodies::default();
        let fails = async { Err::<String, _>(Refusal::new(ErrorKind::Unavailable, "busy")) };
        assert!(bodies.answer("p".to_owned(), Vec::new(), fails).await.is_err());
        assert_eq!(ask(&bodies, 0, "a").await.1, 3);
    }
}
