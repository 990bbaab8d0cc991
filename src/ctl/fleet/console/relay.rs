//! Asks the coordinators for a page, one after the other, and does nothing twice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::{HeaderMap, Method, StatusCode};
use bytes::Bytes;

use tfo_wire::base_url::BaseUrl;
use tfo_wire::client::{Client, ClientError, NoPage, PageRequest};

/// Longest time for an answer to its last byte: more than a page's stream of changes lasts, and than a coordinator waits for
/// its store.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The coordinators of a fleet, for a browser.
pub(in crate::fleet) struct Relay {
    client: Client,
    urls: Vec<BaseUrl>,
    /// Index of the address that answered last: it is asked first.
    preferred: AtomicUsize,
}

/// A request of the browser, as the coordinator is to get it.
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// No coordinator has answered.
pub(super) struct Failed {
    /// Why not, for each that was asked.
    pub(super) errors: Vec<ClientError>,
    /// Whether one may have done what it was asked for.
    pub(super) may_be_done: bool,
}

impl Relay {
    pub(in crate::fleet) fn new(client: Client, urls: Vec<BaseUrl>, preferred: usize) -> Self {
        Self { client, urls, preferred: AtomicUsize::new(preferred) }
    }

    /// The first answer.  A form is sent to another coordinator only if it has reached none: a page says from which pool it
    /// was made, so another fleet's coordinator refuses it.
    pub(super) async fn ask(&self, asked: &Asked<'_>) -> Result<reqwest::Response, Failed> {
        let (mut errors, mut busy) = (Vec::new(), None);
        let first = self.preferred.load(Ordering::Relaxed);
        for step in 0..self.urls.len() {
            let at = (first + step) % self.urls.len();
            let request = PageRequest {
                method: asked.method,
                path: asked.path,
                headers: asked.headers.clone(),
                body: asked.body.clone(),
                timeout: ANSWER_TIMEOUT,
            };
            match self.client.page(&self.urls[at], request).await {
                // Its store may be away, or it is ending: another one may know more.
                Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE && asked.method == Method::GET => {
                    busy.get_or_insert(answer);
                }
                Ok(answer) => {
                    self.preferred.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(NoPage { error, was_sent }) => {
                    errors.push(error);
                    if was_sent && asked.method != Method::GET {
                        return Err(Failed { errors, may_be_done: true });
                    }
                }
            }
        }
        busy.ok_or(Failed { errors, may_be_done: false })
    }
}
