//! The service between hyper and the routes: gives a request its id and its extensions, and refuses what no handler
//! should see.

use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, ORIGIN};
use axum::http::{HeaderValue, Method, Request, Response};
use bytes::Bytes;
use futures_util::FutureExt;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio_util::sync::CancellationToken;
use tower::Service;
use tracing::error;

use super::answer::{Refusal, RequestId, complete};
use super::body::TooLarge;
use super::later::{Later, Rest, may_wait};
use super::limits::Limits;
use super::refusals::{Reason, Refusals, Shown};
use super::watch::{BodyState, ConnectionWatch};
use tfo_tls::identity::Peer;
use tfo_wire::error::ErrorKind;

/// Where a page of an operator is told that it has changed: a stream, which has nothing to be read at once.
const PAGE_EVENTS_PATH: &str = "/page/events";

/// Signals handlers that the server wants to end: a long poll then answers at once.
#[derive(Debug, Clone)]
pub struct Draining(pub(super) CancellationToken);

#[cfg(test)]
impl Draining {
    /// Of a server that does not end.
    pub(crate) fn never() -> Self {
        Self(CancellationToken::new())
    }
}

impl Draining {
    /// Whether the server wants to end.  The task of a connection is woken when that begins.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until the server wants to end.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }
}

/// Where a request comes from: for the log of who asked, never for rights.
#[derive(Debug, Clone, Copy)]
pub struct CameFrom(pub IpAddr);

/// Whom a connection listens to.
#[derive(Debug, Clone)]
pub(super) enum Listens {
    /// A peer with a certificate.
    ToPeer(Arc<Peer>),
    /// Anybody, over TLS: one request, and the connection ends.
    ToStranger,
    /// Anybody, without TLS: what only reads.
    Plain,
}

impl Listens {
    pub(super) fn peer(&self) -> Option<&Arc<Peer>> {
        match self {
            Self::ToPeer(peer) => Some(peer),
            Self::ToStranger | Self::Plain => None,
        }
    }
}

/// hyper's service of one connection.
#[derive(Debug)]
pub(super) struct ConnectionService {
    pub(super) router: Router,
    pub(super) address: SocketAddr,
    pub(super) listens: Listens,
    pub(super) limits: Arc<Limits>,
    pub(super) watch: ConnectionWatch,
    pub(super) draining: Draining,
    pub(super) requests: Requests,
    pub(super) refusals: Arc<Refusals>,
}

impl hyper::service::Service<Request<Incoming>> for ConnectionService {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    // Boxed: hyper hands a connection back only if its futures can be moved.
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let body = if hyper::body::Body::is_end_stream(request.body()) { BodyState::Closed } else { BodyState::Open };
        self.watch.request_came(body);
        let id = RequestId::fresh();
        let watch = self.watch.clone();
        let (judged, under_way) = match self.judge(&request).and_then(|()| self.count(&request)) {
            Ok(under_way) => (Ok(()), under_way),
            Err(refused) => (Err(refused), None),
        };
        let may_park = may_wait(&request) && matches!(self.listens, Listens::ToPeer(_)) && under_way.is_none();
        let parking = self.watch.clone();
        let wrap = move |response: Response<Body>| {
            watch.answered();
            Ok(response.map(|inner| AnswerBody { inner, rest: Bytes::new(), watch, _under_way: under_way }))
        };
        if let Err((reason, refusal)) = judged {
            self.refusals.note(
                reason,
                &Shown(self.address, self.listens.peer().map(AsRef::as_ref)),
                &refusal.message(),
            );
            if body == BodyState::Open {
                self.watch.body_abandoned();
            }
            return Box::pin(std::future::ready(wrap(finished(&id, refusal.answer(&id)))));
        }
        let request = request.map(|inner| {
            let watch = self.watch.clone();
            Body::new(RequestBody { inner, left: self.limits.body_bytes_max, ended: false, watch })
        });
        let (asked, answer) = self.ask(id, request);
        Box::pin(async move {
            match asked.answered(answer.await) {
                Answered::Now(response) => wrap(*response),
                Answered::Later(rest) => match if may_park { parking.park(rest) } else { Some(rest) } {
                    Some(rest) => wrap(rest.await),
                    // The connection drops this future, and hyper with it.
                    None => std::future::pending().await,
                },
            }
        })
    }
}

/// What a handler has come to.
pub(super) enum Answered {
    /// The answer.  Boxed: the future of a connection has room for it as long as it waits.
    Now(Box<Response<Body>>),
    /// It waits.
    Later(Rest),
}

/// What a panic says.
type Panic = Box<dyn Any + Send>;

/// A request that a handler has, for what is said of its answer.
struct Asked {
    id: RequestId,
    refusals: Arc<Refusals>,
    address: SocketAddr,
    peer: Option<Arc<Peer>>,
}

impl Asked {
    /// What the handler has come to.
    fn answered(self, answer: Result<Response<Body>, Panic>) -> Answered {
        let later = answer.as_ref().ok().and_then(|answer| answer.extensions().get::<Later>()?.take());
        match later {
            Some(later) => Answered::Later(Box::pin(async move {
                let answer = AssertUnwindSafe(later).catch_unwind().await;
                self.finished(answer)
            })),
            None => Answered::Now(Box::new(self.finished(answer))),
        }
    }

    /// The answer as it leaves, with what is noted of it; a handler that panicked is answered for.
    fn finished(&self, answer: Result<Response<Body>, Panic>) -> Response<Body> {
        let (id, shown) = (&self.id, Shown(self.address, self.peer.as_deref()));
        let response = match answer {
            Ok(response) => {
                if let Some(refusal) = response.extensions().get::<Refusal>().filter(|refusal| is_noted(refusal)) {
                    let cause = refusal.cause().map(|cause| format!(" ({cause})")).unwrap_or_default();
                    let text = format!("{:?} {}{cause}, request {id}", refusal.kind(), refusal.message());
                    self.refusals.note(Reason::RequestRefused, &shown, &text);
                }
                response
            }
            Err(panic) => {
                let panic = panic_text(&*panic);
                self.refusals.note(Reason::HandlerPanic, &shown, &panic);
                error!(request_id = %id, panic, "a handler panicked");
                Refusal::new(ErrorKind::Internal, "internal error; the coordinator's log has details").answer(id)
            }
        };
        finished(id, response)
    }
}

/// An answer with what every answer has.
fn finished(id: &RequestId, response: Response<Body>) -> Response<Body> {
    let mut response = complete(id, response);
    // Answers contain keys; no proxy may keep one.
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

impl ConnectionService {
    /// Gives a request to its handler.
    fn ask(
        &self,
        id: RequestId,
        mut request: Request<Body>,
    ) -> (Asked, impl Future<Output = Result<Response<Body>, Panic>> + Send + 'static) {
        let extensions = request.extensions_mut();
        if let Some(peer) = self.listens.peer() {
            extensions.insert(Arc::clone(peer));
        }
        extensions.insert(id.clone());
        extensions.insert(CameFrom(self.address.ip().to_canonical()));
        extensions.insert(self.draining.clone());
        // A panic may come before the first await as well as after it.
        let mut router = self.router.clone();
        let answer = AssertUnwindSafe(async move { router.call(request).await }).catch_unwind();
        let answer = answer.map(|answer| answer.map(|answered| answered.unwrap_or_else(|never| match never {})));
        let (refusals, address, peer) = (Arc::clone(&self.refusals), self.address, self.listens.peer().cloned());
        (Asked { id, refusals, address, peer }, answer)
    }

    /// What the handler of a request comes to that did not come through hyper.
    pub(super) fn answer(&self, request: Request<Bytes>) -> Pin<Box<dyn Future<Output = Answered> + Send>> {
        self.watch.request_came(BodyState::Closed);
        let (id, request) = (RequestId::fresh(), request.map(Body::from));
        if let Err((reason, refusal)) = self.judge(&request) {
            self.refusals.note(
                reason,
                &Shown(self.address, self.listens.peer().map(AsRef::as_ref)),
                &refusal.message(),
            );
            return Box::pin(std::future::ready(Answered::Now(Box::new(finished(&id, refusal.answer(&id))))));
        }
        let (asked, answer) = self.ask(id, request);
        Box::pin(async move { asked.answered(answer.await) })
    }

    /// Counts a request that reads, until its answer has been taken.  A sync and a page's stream of changes are not counted:
    /// each holds a connection, and these are bounded by name.
    fn count(&self, request: &Request<Incoming>) -> Result<Option<UnderWay>, (Reason, Refusal)> {
        let is_counted = request.method() == Method::GET && request.uri().path() != PAGE_EVENTS_PATH;
        let Some(peer) = self.listens.peer().filter(|_| is_counted) else { return Ok(None) };
        self.requests.begin(&peer.to_string()).map(Some).ok_or_else(|| {
            let message =
                format!("{REQUESTS_MAX} requests of this certificate are under way: read their answers first");
            (Reason::TooManyRequests, Refusal::new(ErrorKind::Unavailable, message))
        })
    }

    /// Refuses what no handler needs to see.
    fn judge<B: hyper::body::Body>(&self, request: &Request<B>) -> Result<(), (Reason, Refusal)> {
        let refuse = |reason, kind, message: &str| Err((reason, Refusal::new(kind, message)));
        match &self.listens {
            Listens::ToPeer(peer) if peer.names.is_empty() => {
                let message = match peer.bad_id {
                    Some(bad) => format!("your certificate {bad}, so it names no peer of this fleet"),
                    None => "your certificate has no DNS name in its subjectAltName (the common name does not count)"
                        .to_owned(),
                };
                return refuse(Reason::Nameless, ErrorKind::NotAllowed, &message);
            }
            Listens::Plain if request.method() != Method::GET => {
                return refuse(Reason::NotServed, ErrorKind::UnknownMethod, "this listener supports only GET");
            }
            _ => {}
        }
        // Only browsers send it.  A browser with an operator's certificate must not take commands from a web page.
        if !matches!(self.listens, Listens::Plain) && request.headers().contains_key(ORIGIN) {
            return refuse(Reason::NotServed, ErrorKind::NotAllowed, "this API is not for web pages (Origin header)");
        }
        if hyper::body::Body::size_hint(request.body()).lower() > self.limits.body_bytes_max as u64 {
            let message = format!("a body may have at most {} bytes", self.limits.body_bytes_max);
            return refuse(Reason::BodyTooLarge, ErrorKind::TooLarge, &message);
        }
        Ok(())
    }
}

/// Whether an operator should see it in the log.  Not for refusals that the whole fleet gets at once or that a node
/// recovers from by itself; refused commands are logged where the operator is known.
fn is_noted(refusal: &Refusal) -> bool {
    match refusal.kind() {
        ErrorKind::BadRequest
        | ErrorKind::NotAllowed
        | ErrorKind::NotInPool
        | ErrorKind::NotANode
        | ErrorKind::Denied
        | ErrorKind::TokenRefused
        | ErrorKind::NameNotAllowed
        | ErrorKind::NameTaken
        | ErrorKind::BadRequestKey
        | ErrorKind::UnknownPool
        | ErrorKind::UnknownNode
        | ErrorKind::UnknownToken
        | ErrorKind::UnknownPath
        | ErrorKind::UnknownMethod
        | ErrorKind::OtherPool
        | ErrorKind::TooFarAhead
        | ErrorKind::PeriodTooLong
        | ErrorKind::TooLarge => true,
        ErrorKind::Timeout
        | ErrorKind::PoolFrozen
        | ErrorKind::NodeMoved
        | ErrorKind::SessionClosed
        | ErrorKind::Refused
        | ErrorKind::Moved
        | ErrorKind::NotHeard
        | ErrorKind::NoAuthority
        | ErrorKind::StoreUnavailable
        | ErrorKind::Unavailable
        | ErrorKind::Internal
        | ErrorKind::Unknown => false,
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// The body of a request: counted, and the watch notes its end.
#[derive(Debug)]
struct RequestBody {
    inner: Incoming,
    /// Bytes that may still arrive.
    left: usize,
    /// Its end was seen.
    ended: bool,
    watch: ConnectionWatch,
}

impl hyper::body::Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            other => {
                self.ended = other.is_none();
                self.watch.body_complete();
                return Poll::Ready(other.map(|ended| ended.map_err(Into::into)));
            }
        };
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Poll::Ready(Some(Ok(frame)))
            }
            None => Poll::Ready(Some(Err(Box::new(TooLarge)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        hyper::body::Body::is_end_stream(&self.inner)
    }

    fn size_hint(&self) -> SizeHint {
        hyper::body::Body::size_hint(&self.inner)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if self.ended || hyper::body::Body::is_end_stream(&self.inner) {
            self.watch.body_complete();
        } else {
            self.watch.body_abandoned();
        }
    }
}

/// Answers that one peer may be reading at a time.
const REQUESTS_MAX: usize = 4;

/// Requests that read, by peer.
#[derive(Debug, Clone, Default)]
pub(super) struct Requests(Arc<Mutex<HashMap<String, usize>>>);

impl Requests {
    fn begin(&self, peer: &str) -> Option<UnderWay> {
        let mut counts = self.lock();
        let count = counts.entry(peer.to_owned()).or_default();
        (*count < REQUESTS_MAX).then(|| {
            *count += 1;
            UnderWay { requests: self.clone(), peer: peer.to_owned() }
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        // Every change of a count is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that is counted while this value lives.
#[derive(Debug)]
struct UnderWay {
    requests: Requests,
    peer: String,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.requests.lock().entry(std::mem::take(&mut self.peer)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// The largest part of an answer that hyper gets at a time, in bytes: it copies each part into a buffer of the connection.
const PART_BYTES_MAX: usize = 16 << 10;

/// The body of an answer, in parts; the watch notes when hyper has all of it.
#[derive(Debug)]
pub(super) struct AnswerBody {
    inner: Body,
    /// What is left of a frame of `inner`.
    rest: Bytes,
    watch: ConnectionWatch,
    _under_way: Option<UnderWay>,
}

impl hyper::body::Body for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                other => return Poll::Ready(other),
            }
        }
        let part = self.rest.len().min(PART_BYTES_MAX);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(part)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        self.watch.answer_taken();
    }
}
