//! One connection, from its first request to its last byte.
//!
//! hyper and the handler live from the first byte of a request to the moment in which its handler has nothing more to do than to wait
//! ([`Later`](super::Later)); a connection that waits is its stream and one future.  Ten thousand nodes wait all the time.
//!
//! | phase | what is there | what ends it |
//! |---|---|---|
//! | idle | the stream | bytes of a request, the idle timeout, a drain |
//! | asking | the handler, of a request that is whole and plain (`direct`) | its answer, or that it waits |
//! | speaking | hyper, with its buffers, and the handler | a handler that waits, the end of the connection |
//! | parked | the stream, and the rest of the handler | its answer, the peer's end, the hold timeout |
//! | answering | the stream, and the answer | its last byte, the write timeout |
//!
//! In each of them a certificate that is barred and a server that stops end the connection at once.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::http::Request;
use axum::response::Response;
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use super::direct;
use super::farewell;
use super::later::{self, Rest};
use super::limits::Limits;
use super::rewound::Rewound;
use super::service::{Answered, ConnectionService, Listens};
use super::watch::{ConnectionWatch, Overdue, WatchedStream};
use tfo_tls::server::LiveConnection;

/// Buffer for a head, and so its longest size, in bytes: hyper's least.
pub(super) const HEAD_BYTES_MAX: usize = 8192;
/// Lines in a head.
pub(super) const HEADERS_MAX: usize = 64;

/// What may end a connection from outside.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    /// The server drains: no further request.
    pub(super) drain: CancellationToken,
    /// The server has drained long enough.
    pub(super) stop: CancellationToken,
}

/// Why serving ended.
pub(super) enum End {
    /// hyper is done, or the bytes were not HTTP.
    Hyper(Result<(), hyper::Error>),
    /// The server drains, and no request was in flight.
    Unused,
    /// The last answer was given.
    Answered,
    /// The peer has left, or its stream is broken.
    Left,
    /// Something took too long.
    Overdue(Overdue),
    /// At once: the certificate is no longer valid, or the server stops.
    Barred,
}

/// What ends every phase of a connection from outside.
struct Guard<'a> {
    barred: Pin<&'a mut (dyn Future<Output = ()> + Send)>,
    stop: Pin<&'a mut (dyn Future<Output = ()> + Send)>,
    drain: Pin<&'a mut (dyn Future<Output = ()> + Send)>,
    sleep: Pin<&'a mut Sleep>,
    watch: &'a ConnectionWatch,
    limits: &'a Limits,
    /// The server drains: the next answer is the last one.
    draining: bool,
}

impl Guard<'_> {
    /// Takes steps until one is the last; they are told whether the server drains.
    async fn run<T>(&mut self, mut step: impl FnMut(&mut Context<'_>, bool) -> Poll<T>) -> Result<T, End> {
        poll_fn(|cx| {
            // First what ends it: a barred certificate gets no answer.
            if self.barred.as_mut().poll(cx).is_ready() || self.stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(End::Barred));
            }
            // Before a handler runs, which sees it too: its answer is then marked as the last.
            self.draining = self.draining || self.drain.as_mut().poll(cx).is_ready();
            if let Poll::Ready(done) = step(cx, self.draining) {
                return Poll::Ready(Ok(done));
            }
            // Everything that moves the deadline happens in this task, in the step above.
            let (at, what) = self.watch.deadline(self.limits);
            if self.sleep.deadline() != at {
                self.sleep.as_mut().reset(at);
            }
            self.sleep.as_mut().poll(cx).map(|()| Err(End::Overdue(what)))
        })
        .await
    }
}

/// Serves a connection to its end, and drops `counted` then.
///
/// Not an async fn: those keep their arguments besides the values made from them, and there are thousands of these
/// futures.
pub(super) fn serve<S>(
    stream: S,
    service: ConnectionService,
    live: Option<LiveConnection>,
    ends: Ends,
    counted: impl Send + 'static,
) -> impl Future<Output = ()> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let watch = service.watch.clone();
    let mut line = Line { stream: WatchedStream::new(stream, watch.clone()), ahead: Bytes::new() };
    // Shared with hyper, while there is one.
    let service = Arc::new(service);
    async move {
        let end = {
            let barred = pin!(async {
                match &live {
                    Some(live) => live.barred().await,
                    None => std::future::pending().await,
                }
            });
            let sleep = pin!(sleep_until(watch.deadline(&service.limits).0));
            let mut guard = Guard {
                barred,
                stop: pin!(ends.stop.cancelled()),
                drain: pin!(ends.drain.cancelled()),
                sleep,
                watch: &watch,
                limits: &service.limits,
                draining: false,
            };
            loop {
                if let Err(end) = exchange(&mut line, &service, &mut guard).await {
                    break end;
                }
            }
        };
        // On the heap: it lives for a moment, this future for weeks.
        let context = farewell::Context::of(&service);
        Box::pin(context.close(end, watch, line.stream.stream, ends.stop)).await;
        drop(counted);
    }
}

/// The stream of a connection, with what was read ahead of the next request.
struct Line<S> {
    stream: WatchedStream<S>,
    ahead: Bytes,
}

/// What came of a request first.
enum Came {
    /// All of it, and nothing else.
    Whole(Box<Request<Bytes>>),
    /// Bytes, which are ahead now.
    Bytes,
    /// The peer has ended its side.
    Nothing,
}

thread_local! {
    static ROOM: RefCell<Vec<u8>> = RefCell::default();
}

impl<S: AsyncRead + Unpin> Line<S> {
    /// Reads what comes next, unless bytes are ahead; a whole request only from a peer with a certificate.
    fn poll_request(&mut self, cx: &mut Context<'_>, listens: &Listens) -> Poll<std::io::Result<Came>> {
        if !self.ahead.is_empty() {
            return Poll::Ready(Ok(Came::Bytes));
        }
        ROOM.with_borrow_mut(|room| {
            room.resize(direct::BYTES_MAX, 0);
            let mut into = ReadBuf::new(room);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut into))?;
            let read = into.filled().len();
            let request = listens.peer().and_then(|_| direct::request(&room[..read]));
            let came = match request {
                _ if read == 0 => Came::Nothing,
                Some(request) => Came::Whole(Box::new(request)),
                None => {
                    self.ahead = Bytes::from_owner(Zeroizing::new(room[..read].to_vec()));
                    Came::Bytes
                }
            };
            // It may have had keys.
            room[..read].fill(0);
            Poll::Ready(Ok(came))
        })
    }

    /// Reads one byte of the next request, unless bytes are ahead; none: the peer has ended its side.
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<Option<()>>> {
        if !self.ahead.is_empty() {
            return Poll::Ready(Ok(Some(())));
        }
        let mut byte = [0];
        let mut into = ReadBuf::new(&mut byte);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut into))?;
        let read = into.filled();
        if read.is_empty() {
            return Poll::Ready(Ok(None));
        }
        self.ahead = Bytes::copy_from_slice(read);
        Poll::Ready(Ok(Some(())))
    }
}

/// Waits for a request, and serves it, or all that come until one is parked.
///
/// What does not wait for long is on the heap while it lasts.
async fn exchange<S>(line: &mut Line<S>, service: &Arc<ConnectionService>, guard: &mut Guard<'_>) -> Result<(), End>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let watch = guard.watch;
    let came = guard
        .run(|cx, draining| {
            if draining && watch.is_idle() && line.ahead.is_empty() {
                return Poll::Ready(Err(End::Unused));
            }
            line.poll_request(cx, &service.listens).map(|read| match read {
                Ok(Came::Nothing) => Err(End::Hyper(Ok(()))),
                Ok(came) => Ok(came),
                Err(_) => Err(End::Left),
            })
        })
        .await??;
    let answered = match came {
        Came::Whole(request) => {
            let mut answer = service.answer(*request);
            guard.run(|cx, _| answer.as_mut().poll(cx)).await?
        }
        Came::Bytes | Came::Nothing => {
            watch.head_begun();
            Answered::Later(Box::pin(speak(line, service, guard)).await?)
        }
    };
    let answer = match answered {
        Answered::Now(answer) => *answer,
        Answered::Later(mut rest) => {
            watch.waits();
            guard.run(|cx, _| poll_parked(&mut rest, line, cx)).await??
        }
    };
    Box::pin(give(answer, line, guard)).await
}

/// Runs hyper until a handler waits, or the connection ends.
async fn speak<S>(line: &mut Line<S>, service: &Arc<ConnectionService>, guard: &mut Guard<'_>) -> Result<Rest, End>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    // The watch has all the deadlines; hyper's own would end a connection without an answer.
    builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX).header_read_timeout(None);
    if matches!(service.listens, Listens::ToStranger) {
        // Each request costs a handshake, of which there are a few each second.
        builder.keep_alive(false);
    }
    let stream = TokioIo::new(Rewound::new(std::mem::take(&mut line.ahead), &mut line.stream));
    let mut connection = builder.serve_connection(stream, Arc::clone(service));
    let (watch, mut is_told) = (guard.watch, false);
    let spoken = guard
        .run(|cx, draining| {
            if draining && !std::mem::replace(&mut is_told, true) {
                if watch.is_idle() {
                    return Poll::Ready(Err(End::Unused));
                }
                Pin::new(&mut connection).graceful_shutdown();
            }
            if let Poll::Ready(done) = connection.poll_without_shutdown(cx) {
                return Poll::Ready(Err(End::Hyper(done)));
            }
            watch.take_parked().map_or(Poll::Pending, |rest| Poll::Ready(Ok(rest)))
        })
        .await;
    let http1::Parts { io, read_buf, .. } = connection.into_parts();
    let (unread, _) = io.into_inner().into_parts();
    // A copy: even an empty buffer of hyper's would keep all of its memory.
    line.ahead = if read_buf.is_empty() { unread } else { Bytes::copy_from_slice(&read_buf) };
    spoken?
}

/// Waits for an answer that comes later, or for the peer's end.
fn poll_parked<S>(rest: &mut Rest, line: &mut Line<S>, cx: &mut Context<'_>) -> Poll<Result<Response, End>>
where
    S: AsyncRead + Unpin,
{
    if let Poll::Ready(answer) = rest.as_mut().poll(cx) {
        return Poll::Ready(Ok(answer));
    }
    // The next request may be there already: then nothing more is read, and an end of the stream is seen later.
    match line.poll_ahead(cx) {
        Poll::Ready(Ok(Some(()))) | Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(None) | Err(_)) => Poll::Ready(Err(End::Left)),
    }
}

/// Gives an answer without hyper.
async fn give<S>(answer: Response, line: &mut Line<S>, guard: &mut Guard<'_>) -> Result<(), End>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    guard.watch.answered();
    let is_last = guard.draining;
    let text = later::text(answer, is_last).await.ok_or(End::Left)?;
    let (mut left, watch) = (&text[..], guard.watch);
    guard
        .run(|cx, _| {
            while !left.is_empty() {
                match ready!(Pin::new(&mut line.stream).poll_write(cx, left)) {
                    Ok(0) | Err(_) => return Poll::Ready(Err(End::Left)),
                    Ok(written) => left = &left[written..],
                }
            }
            watch.answer_taken();
            Pin::new(&mut line.stream).poll_flush(cx).map(|flushed| flushed.map_err(|_| End::Left))
        })
        .await??;
    if is_last { Err(End::Answered) } else { Ok(()) }
}
