//! Refusals as answers: `{kind, message, request_id}` with the status that goes with the kind.

use std::fmt;

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use tfo_crypto::random;
use tfo_model::time::UnixTime;
use tfo_wire::error::{ErrorBody, ErrorKind, MovedTo};

/// Header of every answer: the request's id, under which the log has more.
pub(super) const REQUEST_ID_HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Retry-After of a 503, unless the handler sets another.  Clients add jitter of their own.
const RETRY_AFTER_SECS: u32 = 5;

/// Identity of one request: 16 random hex digits.  Generated here, never taken from the request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// A new id.
    #[must_use]
    pub(super) fn fresh() -> Self {
        let mut bytes = [0; 8];
        // It only helps to find a line in a log: without randomness all are zero, and key generation reports that.
        if random::fill(&mut bytes).is_err() {
            bytes = [0; 8];
        }
        Self(format!("{:016x}", u64::from_be_bytes(bytes)))
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a request is refused.  As a handler's error it becomes the answer; the server adds the request's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    kind: ErrorKind,
    message: String,
    ordinal: Option<u64>,
    moved: Option<Box<MovedTo>>,
    until: Option<UnixTime>,
    remedy: Option<String>,
    retry_after_secs: u32,
    cause: Option<String>,
}

impl Refusal {
    /// A refusal; `message` is for people and goes to the peer: no internals, nothing secret.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let message = message.into();
        let retry_after_secs = RETRY_AFTER_SECS;
        Self { kind, message, ordinal: None, moved: None, until: None, remedy: None, retry_after_secs, cause: None }
    }

    /// With a refused command: when its reason ends by time alone, if it does, and what to do about it.
    #[must_use]
    pub fn with_remedy(mut self, until: Option<UnixTime>, remedy: impl Into<String>) -> Self {
        self.until = until;
        self.remedy = Some(remedy.into());
        self
    }

    /// With `session_closed`: the session that is open.
    #[must_use]
    pub fn with_ordinal(mut self, ordinal: u64) -> Self {
        self.ordinal = Some(ordinal);
        self
    }

    /// With `node_moved`: which pool the node asks from now on.
    #[must_use]
    pub fn with_moved(mut self, moved: MovedTo) -> Self {
        self.moved = Some(Box::new(moved));
        self
    }

    /// With 503: when to try again, in seconds.
    #[must_use]
    pub fn with_retry_after(mut self, secs: u32) -> Self {
        self.retry_after_secs = secs;
        self
    }

    /// What the log has besides, and the peer does not get.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// See [`Self::because`].
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// Kind, for programs.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Message, for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it, for people; none if the message says it.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        self.remedy.as_deref()
    }

    /// The answer to the request `id`.
    #[must_use]
    pub fn answer(&self, id: &RequestId) -> Response {
        let status = StatusCode::from_u16(self.kind.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = ErrorBody {
            kind: self.kind,
            message: self.message.clone(),
            request_id: id.as_str().to_owned(),
            ordinal: self.ordinal,
            moved: self.moved.as_deref().cloned(),
            until: self.until,
            remedy: self.remedy.clone(),
        };
        let mut response = (status, Json(body)).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(self.retry_after_secs));
        }
        response
    }
}

impl IntoResponse for Refusal {
    /// Incomplete: the server adds the body with the request's id.
    fn into_response(self) -> Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Turns a handler's [`Refusal`] into its answer, and puts the request's id on every answer.
#[must_use]
pub(super) fn complete(id: &RequestId, response: Response) -> Response {
    let mut response = match response.extensions().get::<Refusal>() {
        Some(refusal) => refusal.answer(id),
        None => response,
    };
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    response
}
