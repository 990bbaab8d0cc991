//! One request to one coordinator: JSON in, JSON out, bounded in size and time.
//!
//! Must not know: which coordinator is next, when to try again, what an answer means.
//!
//! Invariants, because an answer may hold keys: https only; the client follows no redirect and uses no proxy of the
//! environment; it reads no answer beyond its limit and wipes its own copy.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Method, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::{Zeroize, Zeroizing};

use super::base_url::BaseUrl;
use super::error::ErrorBody;
use super::page;
use super::v1::sync::{ABSENT_AFTER_HEADER, ELSEWHERE_HEADER};

/// Longest time for name resolution, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest idle time of a connection that is used again: stateful firewalls forget it later.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Keepalives detect a dead peer while a request is held: after this time without data, ...
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// ... and so often again, ...
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
/// ... until nothing was answered for so long, also where data was sent.  As a coordinator does it (`coordinator::server::limits`).
const DEAD_AFTER: Duration = Duration::from_secs(120);
/// Longest body of an error in bytes.
const ERROR_BYTES_MAX: usize = 8_192;
/// Largest buffer that is allocated in advance for an answer, in bytes; every answer that may hold keys is shorter.
const PRESIZED_BYTES_MAX: usize = 16_384;
/// Longest `Retry-After` that the client honours, in seconds.
const RETRY_AFTER_MAX_SECS: u64 = 3_600;

/// Longest part of a peer's text that is shown, in characters.
const PEER_CHARS_MAX: usize = 1_000;

/// A request, but for its body.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// `GET`, `POST`, ...
    pub method: &'a Method,
    /// From the root, with its query: `/v1/pools`.
    pub path: &'a str,
    /// Longest time from name resolution to the last byte of the answer.
    pub timeout: Duration,
    /// Longest answer that the client reads, in bytes.
    pub answer_bytes_max: usize,
}

/// How a coordinator is out of reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Nothing listens there, or the connection broke after the request was sent: what its restart looks like.
    Away,
    /// The request was sent, and the answer did not come in time.
    Late,
    /// There was no connection in time, or it ended before the TLS handshake did.
    NoConnection,
}

/// Why there is no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection failed or broke, or the answer did not come in time.
    #[error("cannot reach {url}: {cause}")]
    Unreachable {
        /// The coordinator.
        url: String,
        /// One line.
        cause: String,
        /// In which way.
        lost: Lost,
    },
    /// One side refuses the other's certificate, or they have no version of TLS in common.
    #[error("the TLS handshake with {url} failed: {cause}")]
    Tls {
        /// The coordinator.
        url: String,
        /// One line.
        cause: String,
    },
    /// The coordinator answered with a status other than 2xx.
    #[error("{}", refusal_text(.url, *.status, .body.as_deref()))]
    Refused {
        /// The coordinator.
        url: String,
        /// The HTTP status.
        status: u16,
        /// Its body; none if it is not one of this API, but a proxy's page.
        body: Option<Box<ErrorBody>>,
        /// Its `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// A success whose body is too long, or is not the expected JSON.
    #[error("{url} sent an unusable answer: {what}")]
    BadAnswer {
        /// The coordinator.
        url: String,
        /// What is wrong with it, without its content.
        what: String,
    },
}

impl ClientError {
    /// Whether the request was sent and the answer did not come in time: the coordinator may still do it.
    #[must_use]
    pub fn is_late(&self) -> bool {
        matches!(self, Self::Unreachable { lost: Lost::Late, .. })
    }
}

/// The reason first, and last how it came.
fn refusal_text(url: &str, status: u16, body: Option<&ErrorBody>) -> String {
    let Some(body) = body else { return format!("{url} answered {status}") };
    format!("{}; {url} answered {status} (request {})", shown(&body.message), shown(&body.request_id))
}

/// A peer's text, bounded and printable, because it goes into our log.
fn shown(text: &str) -> String {
    let mut printable = text.chars().filter(|c| !c.is_control());
    let mut shown: String = printable.by_ref().take(PEER_CHARS_MAX).collect();
    if printable.next().is_some() {
        shown.push('…');
    }
    shown
}

/// The HTTP library refuses this TLS configuration.
#[derive(Debug, thiserror::Error)]
#[error("cannot create the HTTP client")]
pub struct NoClient(#[source] reqwest::Error);

/// What every HTTPS client of these programs is made from: no proxy of the environment, no redirect to another host.
pub fn https(tls: rustls::ClientConfig) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .user_agent(concat!("tfo-fleet/", env!("CARGO_PKG_VERSION")))
        .https_only(true)
        .http1_only()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
}

/// Connections to coordinators, kept open between requests.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
}

impl Client {
    /// A client; it connects with its first request.
    ///
    /// # Errors
    /// Fails if the HTTP library refuses the configuration.
    pub fn new(tls: rustls::ClientConfig) -> Result<Self, NoClient> {
        let http = https(tls)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(1)
            .tcp_keepalive(KEEPALIVE_IDLE)
            .tcp_keepalive_interval(KEEPALIVE_INTERVAL)
            .tcp_user_timeout(DEAD_AFTER)
            .tcp_nodelay(true);
        http.build().map(|http| Self { http }).map_err(NoClient)
    }

    /// Sends a request to `base`; none is an answer without content (204).
    ///
    /// # Errors
    /// Fails as listed in [`ClientError`].  The caller then does not know whether the coordinator did what was asked,
    /// except after [`ClientError::Refused`].
    pub async fn call<B: Serialize, A: DeserializeOwned>(
        &self,
        base: &BaseUrl,
        call: Call<'_>,
        body: Option<&B>,
    ) -> Result<Option<A>, ClientError> {
        Ok(match self.answer(base, call, body).await? {
            Answer::Content(content) => Some(content),
            Answer::NoContent { .. } => None,
        })
    }

    /// The same, with what an answer without content says in its head.
    ///
    /// # Errors
    /// Fails as [`Client::call`].
    pub async fn answer<B: Serialize, A: DeserializeOwned>(
        &self,
        base: &BaseUrl,
        call: Call<'_>,
        body: Option<&B>,
    ) -> Result<Answer<A>, ClientError> {
        let url = base.to_string();
        let bad = |what: String| ClientError::BadAnswer { url: url.clone(), what };
        let target = base.0.join(call.path).map_err(|error| bad(format!("{} is not a path: {error}", call.path)))?;
        let mut request = self.http.request(call.method.clone(), target).timeout(call.timeout);
        if let Some(body) = body {
            let body = json(body).map_err(|error| bad(format!("cannot encode the request: {error}")))?;
            request = request.header(CONTENT_TYPE, "application/json").body(Bytes::from_owner(body));
        }
        let mut response = request.send().await.map_err(|error| no_answer(base, &error))?;
        let status = response.status();
        if status == StatusCode::NO_CONTENT {
            let elsewhere = response.headers().contains_key(ELSEWHERE_HEADER);
            return Ok(Answer::NoContent { absent_after: seconds(&response, ABSENT_AFTER_HEADER), elsewhere });
        }
        let limit = if status.is_success() { call.answer_bytes_max } else { ERROR_BYTES_MAX };
        let bytes = match read_bounded(&mut response, limit).await {
            Ok(bytes) => bytes,
            Err(error) => return Err(no_answer(base, &error)),
        };
        if !status.is_success() {
            let body = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).map(Box::new);
            let retry_after = retry_after(&response);
            return Err(ClientError::Refused { url, status: status.as_u16(), body, retry_after });
        }
        let Some(bytes) = bytes else { return Err(bad(format!("it is longer than {limit} bytes"))) };
        serde_json::from_slice(&bytes).map(Answer::Content).map_err(|error| {
            // The message of serde_json may quote the input, which may be a key.
            let (line, column) = (error.line(), error.column());
            bad(format!("it is not JSON of this API ({:?} error at line {line}, column {column})", error.classify()))
        })
    }
}

/// A request for a page.
#[derive(Debug, Clone)]
pub struct PageRequest<'a> {
    /// `GET` or `POST`.
    pub method: &'a Method,
    /// Below [`page::ROOT`], with its query; empty for the first page.
    pub path: &'a str,
    /// What the coordinator needs to know of the browser's request.
    pub headers: HeaderMap,
    /// A form, or nothing.
    pub body: Bytes,
    /// Longest time from name resolution to the last byte of the answer.
    pub timeout: Duration,
}

/// Why there is no page.
#[derive(Debug)]
pub struct NoPage {
    /// What went wrong.
    pub error: ClientError,
    /// Whether the request may have reached the coordinator, which may have done what it asked for.
    pub was_sent: bool,
}

impl Client {
    /// Sends a request for a page, and gives the answer as it comes, whatever its status.
    ///
    /// # Errors
    /// Fails if no answer begins, or if the path leads out of the pages.
    pub async fn page(&self, base: &BaseUrl, request: PageRequest<'_>) -> Result<reqwest::Response, NoPage> {
        let PageRequest { method, path, headers, body, timeout } = request;
        let target = base.0.join(&format!("{}{path}", page::ROOT)).ok();
        // A path may have `..` in many spellings: what counts is the address that is asked.
        let is_page = |target: &Url| {
            target.path().strip_prefix(page::ROOT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let Some(target) = target.filter(is_page) else {
            let error = ClientError::BadAnswer { url: base.to_string(), what: "there is no such page".to_owned() };
            return Err(NoPage { error, was_sent: false });
        };
        let request = self.http.request(method.clone(), target).headers(headers).body(body).timeout(timeout);
        request.send().await.map_err(|error| NoPage { error: no_answer(base, &error), was_sent: !error.is_connect() })
    }
}

/// What a coordinator answers.
#[derive(Debug)]
pub enum Answer<A> {
    /// A body.
    Content(A),
    /// 204.
    NoContent {
        /// How long the pool waits for the node that asked; none if the answer is not about a node.
        absent_after: Option<Duration>,
        /// Whether that node is to ask another coordinator.
        elsewhere: bool,
    },
}

/// Encodes a body into a buffer that is wiped after use: commands may hold keys.
///
/// It measures the body first, because a buffer that grows leaves copies behind.
fn json<B: Serialize>(body: &B) -> Result<Zeroizing<Vec<u8>>, serde_json::Error> {
    let mut count = Count(0);
    serde_json::to_writer(&mut count, body)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(count.0));
    serde_json::to_writer(&mut *bytes, body)?;
    Ok(bytes)
}

/// Counts the bytes written to it.
struct Count(usize);

impl io::Write for Count {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads the body into one buffer; none if it is longer than `limit`.
///
/// The buffer does not grow, so that no copy is left behind.  Only where the limit is above [`PRESIZED_BYTES_MAX`] it
/// may: such an answer holds no keys.
async fn read_bounded(
    response: &mut reqwest::Response,
    limit: usize,
) -> Result<Option<Zeroizing<Vec<u8>>>, reqwest::Error> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(limit.min(PRESIZED_BYTES_MAX)));
    while let Some(chunk) = response.chunk().await? {
        let fits = bytes.len() + chunk.len() <= limit;
        if fits {
            bytes.extend_from_slice(&chunk);
        }
        // The HTTP library's own buffer, if the connection no longer uses it.
        if let Ok(mut chunk) = chunk.try_into_mut() {
            chunk.as_mut().zeroize();
        }
        if !fits {
            return Ok(None);
        }
    }
    Ok(Some(bytes))
}

/// The `Retry-After` in seconds; our servers do not send the form with a date.
fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    seconds(response, RETRY_AFTER.as_str()).map(|asked| asked.min(Duration::from_secs(RETRY_AFTER_MAX_SECS)))
}

/// A header that is a number of seconds.
fn seconds(response: &reqwest::Response, header: &str) -> Option<Duration> {
    let secs: u64 = response.headers().get(header)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(secs))
}

fn no_answer(base: &BaseUrl, error: &reqwest::Error) -> ClientError {
    let (url, hint) = (base.to_string(), base.hint());
    if let Some(tls) = tls_cause(error) {
        return ClientError::Tls { url, cause: format!("{tls}{hint}") };
    }
    let (lost, cause) = match (error.is_timeout(), error.is_connect()) {
        (true, true) => (Lost::NoConnection, format!("no connection in time{hint}")),
        (true, false) => (Lost::Late, "no answer in time".to_owned()),
        (false, true) if nothing_listens(error) => (Lost::Away, format!("{}{hint}", last_cause(error))),
        (false, true) => (Lost::NoConnection, format!("{}{hint}", last_cause(error))),
        (false, false) => (Lost::Away, last_cause(error)),
    };
    ClientError::Unreachable { url, cause, lost }
}

/// Whether the host refused the connection.
fn nothing_listens(error: &(dyn StdError + 'static)) -> bool {
    let is_refusal =
        error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    is_refusal || error.source().is_some_and(nothing_listens)
}

/// The TLS error among the causes.
fn tls_cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // `source` of an io::Error skips the error that it wraps.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(tls) = wrapped.and_then(|wrapped| tls_cause(wrapped)) {
            return Some(tls);
        }
        next = error.source();
    }
    None
}

/// The innermost cause; the outer ones only repeat the URL.
fn last_cause(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    match last.downcast_ref::<io::Error>() {
        // The text of rustls is about close_notify, which does not help an operator.
        Some(error) if error.kind() == io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
        _ => last.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Client {
        let tls = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        Client::new(tls).unwrap()
    }

    #[tokio::test]
    async fn no_path_leads_out_of_the_pages() {
        let client = client();
        // Nothing listens there: a page is asked for, and anything else is not.
        let base: BaseUrl = "https://127.0.0.1:1".parse().unwrap();
        for (path, is_page) in [
            ("", true),
            ("/pools/edge?search=a%2f..", true),
            ("/a/../pools", true),
            ("/../v1/pools", false),
            ("/%2e%2e/v1/pools", false),
            ("/.%2E/v1/pools", false),
            ("/..\\v1", false),
            ("x", false),
            ("/..", false),
        ] {
            let (method, headers, body) = (&Method::GET, HeaderMap::new(), Bytes::new());
            let request = PageRequest { method, path, headers, body, timeout: CONNECT_TIMEOUT };
            let NoPage { error, was_sent } = client.page(&base, request).await.unwrap_err();
            assert!(!was_sent);
            assert_eq!(matches!(error, ClientError::Unreachable { .. }), is_page, "{path}: {error}");
        }
    }

    /// The socket of this process that is bound to `address`.
    fn socket_at(address: std::net::SocketAddr) -> socket2::Socket {
        use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
        let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
        let numbers = descriptors.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        // A duplicate has the same options.
        let sockets = numbers.filter_map(|number| pidfd_getfd(&own, number, PidfdGetfdFlags::empty()).ok());
        let mut sockets = sockets.map(socket2::Socket::from);
        let is_bound =
            |socket: &socket2::Socket| socket.local_addr().is_ok_and(|bound| bound.as_socket() == Some(address));
        sockets.find(is_bound).expect("the client's end is in this process")
    }

    /// docs/protocol.md#rule-11: the agent's end notices a coordinator that answers no packet.
    #[tokio::test]
    async fn a_peer_that_died_is_noticed_while_a_request_waits() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base: BaseUrl = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
        let (client, method) = (client(), &Method::GET);
        let call = Call { method, path: "/", timeout: CONNECT_TIMEOUT, answer_bytes_max: 0 };
        let called = client.call::<(), ()>(&base, call, None);
        let mut called = std::pin::pin!(called);
        // Nothing answers: it waits in its handshake.
        let (_peer, address) = tokio::select! {
            called = &mut called => panic!("{called:?}"),
            accepted = listener.accept() => accepted.unwrap(),
        };
        let socket = socket_at(address);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(DEAD_AFTER));
    }

    #[test]
    fn a_body_fits_its_buffer() {
        let body = serde_json::json!({"keys": "x".repeat(5_000), "reason": null});
        let bytes = json(&body).unwrap();
        assert_eq!(*bytes, serde_json::to_vec(&body).unwrap());
        assert_eq!(bytes.capacity(), bytes.len(), "it did not grow");
    }

    #[test]
    fn a_refusal_says_its_reason_first_and_the_transport_last() {
        let refused = |message: &str| {
            let body = serde_json::json!({"kind": "refused", "message": message, "request_id": "r-1"});
            let (url, body) = ("https://a".to_owned(), serde_json::from_value(body).unwrap());
            ClientError::Refused { url, status: 409, body, retry_after: None }.to_string()
        };
        assert_eq!(refused("the pool is\u{1b} held"), "the pool is held; https://a answered 409 (request r-1)");
        let long = refused(&"x".repeat(PEER_CHARS_MAX + 1));
        assert!(long.starts_with(&format!("{}…; https://a", "x".repeat(PEER_CHARS_MAX))), "{long}");
    }
}
