//! Answers that come later: a handler hands the rest of its work over, and the connection waits for it without hyper.
//!
//! What reaches the peer is what hyper would have sent: the same head but for the order of its lines.

use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use axum::body::to_bytes;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, DATE, EXPECT};
use axum::http::{Request, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use zeroize::Zeroizing;

use tfo_host::runtime::clock;

/// Longest body of such an answer, in bytes: those of nodes have less than one KiB.
const BODY_BYTES_MAX: usize = 16 << 10;
/// Room for the status line, and for what is added to each line of the head.
const HEAD_ROOM: usize = 128;

/// The rest of a handler's work.
pub(super) type Rest = Pin<Box<dyn Future<Output = Response> + Send>>;

/// What a handler returns that has nothing more to do than to wait.
///
/// The future is polled in the task of the connection, which may drop it: when its peer leaves, or when it takes too long.
#[derive(Clone)]
pub struct Later(Arc<Mutex<Option<Rest>>>);

impl Later {
    /// The answer is what this comes to.
    #[must_use]
    pub fn new<A: IntoResponse + 'static>(answer: impl Future<Output = A> + Send + 'static) -> Self {
        // Not an async block: it would keep the future twice, as what it took and as what it waits for.
        Self(Arc::new(Mutex::new(Some(Box::pin(answer.map(IntoResponse::into_response))))))
    }

    /// The rest, once.
    pub(super) fn take(&self) -> Option<Rest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl IntoResponse for Later {
    /// Incomplete: the server waits for the answer.
    fn into_response(self) -> Response {
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Whether an answer to this request may be given without hyper: nothing in its head says how the connection continues.
pub(super) fn may_wait<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    let keeps_alive = headers.get(CONNECTION).is_none_or(|value| value.as_bytes().eq_ignore_ascii_case(b"keep-alive"));
    request.version() == Version::HTTP_11 && keeps_alive && !headers.contains_key(EXPECT)
}

/// The bytes of an answer; none if its body is too large, or fails.  They may have keys: wiped when dropped.
pub(super) async fn text(answer: Response, is_last: bool) -> Option<Zeroizing<Vec<u8>>> {
    let (head, body) = answer.into_parts();
    let body = to_bytes(body, BODY_BYTES_MAX).await.ok()?;
    let mut lines = String::with_capacity(HEAD_ROOM);
    let (status, reason) = (head.status.as_u16(), head.status.canonical_reason().unwrap_or_default());
    write!(lines, "HTTP/1.1 {status} {reason}\r\n").ok()?;
    for (name, value) in &head.headers {
        write!(lines, "{name}: {}\r\n", value.to_str().ok()?).ok()?;
    }
    if head.status != StatusCode::NO_CONTENT {
        write!(lines, "{CONTENT_LENGTH}: {}\r\n", body.len()).ok()?;
    }
    if is_last {
        write!(lines, "{CONNECTION}: close\r\n").ok()?;
    }
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(clock::now().secs());
    write!(lines, "{DATE}: {}\r\n\r\n", httpdate::fmt_http_date(now)).ok()?;
    // Room from the start: a vector that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(lines.len() + body.len()));
    text.extend_from_slice(lines.as_bytes());
    text.extend_from_slice(&body);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn an_answer_is_written_as_hyper_would() {
        let told = |is_last| {
            let mut answer = (StatusCode::OK, "{}").into_response();
            answer.headers_mut().insert("x-request-id", HeaderValue::from_static("0123"));
            String::from_utf8(run(text(answer, is_last)).unwrap().to_vec()).unwrap()
        };
        let (head, body) =
            told(false).split_once("\r\n\r\n").map(|(head, body)| (head.to_owned(), body.to_owned())).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && body == "{}", "{head}");
        for line in ["\r\ncontent-length: 2\r\n", "\r\nx-request-id: 0123\r\n", "\r\ndate: "] {
            assert!(head.contains(line), "{line}: {head}");
        }
        assert!(head.ends_with(" GMT") && !head.contains("connection"), "{head}");
        assert!(told(true).contains("\r\nconnection: close\r\n"));
        let nothing = String::from_utf8(run(text(StatusCode::NO_CONTENT.into_response(), false)).unwrap().to_vec());
        assert!(!nothing.unwrap().contains("content-length"), "RFC 9110 section 8.6");
        let large = "x".repeat(BODY_BYTES_MAX + 1).into_response();
        assert_eq!(run(text(large, false)), None);
    }

    #[test]
    fn only_a_request_that_says_nothing_of_its_connection_may_wait() {
        for (version, headers, may) in [
            (Version::HTTP_11, &[][..], true),
            (Version::HTTP_11, &[("connection", "Keep-Alive")], true),
            (Version::HTTP_11, &[("connection", "close")], false),
            (Version::HTTP_11, &[("connection", "keep-alive, upgrade")], false),
            (Version::HTTP_11, &[("expect", "100-continue")], false),
            (Version::HTTP_10, &[("connection", "keep-alive")], false),
        ] {
            let mut request = Request::builder().version(version);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            assert_eq!(may_wait(&request.body(()).unwrap()), may, "{version:?} {headers:?}");
        }
    }
}
