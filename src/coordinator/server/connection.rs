//! One connection, from its first request to its last byte.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::answer::{REQUEST_ID_HEADER, RequestId};
use super::limits::Limits;
use super::refusals::{Reason, Refusals, Shown};
use super::service::{ConnectionService, Listens};
use super::watch::{ConnectionWatch, Overdue, WatchedStream};
use tfo_tls::identity::Peer;
use tfo_tls::server::LiveConnection;
use tfo_wire::error::{ErrorBody, ErrorKind};

/// Buffer for a head, and so its longest size, in bytes: hyper's least.  A connection costs 20 KiB with it.
const HEAD_BYTES_MAX: usize = 8192;
/// Status where hyper gives none.
const BAD_REQUEST: u16 = 400;
/// Lines in a head.
const HEADERS_MAX: usize = 64;
/// How long the peer of a connection that we end may take to read why.
const FAREWELL: Duration = Duration::from_secs(2);
/// How much it may still send meanwhile, in bytes.
const FAREWELL_BYTES_MAX: usize = 256 * 1024;

/// What may end a connection from outside.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    /// The server drains: no further request.
    pub(super) drain: CancellationToken,
    /// The server has drained long enough.
    pub(super) stop: CancellationToken,
}

/// Why serving ended.
enum End {
    /// hyper is done, or the bytes were not HTTP.
    Hyper(Result<(), hyper::Error>),
    /// The server drains, and no request was in flight.
    Unused,
    /// Something took too long.
    Overdue(Overdue),
    /// At once: the certificate is no longer valid, or the server stops.
    Barred,
}

/// Serves a connection to its end.
///
/// Not an async fn: those keep their arguments besides the values made from them, and there are thousands of these
/// futures.
pub(super) fn serve<S>(
    stream: S,
    service: ConnectionService,
    live: Option<LiveConnection>,
    ends: Ends,
) -> impl Future<Output = ()> + Send
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let watch = service.watch.clone();
    let context = Context {
        limits: service.limits,
        refusals: Arc::clone(&service.refusals),
        address: service.address,
        peer: service.listens.peer().cloned(),
    };
    let watched = TokioIo::new(WatchedStream::new(stream, watch.clone()));
    let mut builder = http1::Builder::new();
    // The watch has all the deadlines; hyper's own would end a connection without an answer.
    builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX).header_read_timeout(None);
    if matches!(service.listens, Listens::ToStranger) {
        // Each request costs a handshake, of which there are a few each second.
        builder.keep_alive(false);
    }
    let mut connection = builder.serve_connection(watched, service);
    async move {
        let barred = async {
            match &live {
                Some(live) => live.barred().await,
                None => std::future::pending().await,
            }
        };
        let end = run(&mut connection, &watch, &context.limits, &ends, barred).await;
        let Farewell::Send(word) = context.farewell(end, &watch) else { return };
        let unread = word.is_some() || watch.is_body_unread();
        // On the heap: it lives for a moment, this future for weeks.
        let last = Box::pin(async move {
            let mut stream = connection.into_parts().io.into_inner().stream;
            send(&mut stream, word).await?;
            if unread { linger(&mut stream).await } else { stream.shutdown().await }
        });
        tokio::select! {
            // It may fail: the peer can leave before it has read the answer.
            _ = timeout(FAREWELL, last) => {}
            () = ends.stop.cancelled() => {}
        }
    }
}

/// What a farewell is judged by and logged with.
struct Context {
    limits: Limits,
    refusals: Arc<Refusals>,
    address: SocketAddr,
    peer: Option<Arc<Peer>>,
}

/// How a connection is closed.
enum Farewell {
    /// At once.
    Cut,
    /// In order, with a last answer if there is one.
    Send(Option<LastWord>),
}

impl Context {
    fn farewell(&self, end: End, watch: &ConnectionWatch) -> Farewell {
        let shown = Shown(self.address, self.peer.as_deref());
        match end {
            End::Barred => Farewell::Cut,
            End::Overdue(Overdue::Reader) => {
                self.refusals.note(Reason::SlowReader, &shown, &"the peer did not read the answer in time");
                Farewell::Cut
            }
            End::Hyper(Ok(())) | End::Unused | End::Overdue(Overdue::Idle) => Farewell::Send(None),
            End::Hyper(Err(error)) if error.is_parse() => {
                let status = watch.verdict().unwrap_or(BAD_REQUEST);
                Farewell::Send(Some(word_of(status, &error, &shown, &self.refusals)))
            }
            // The peer has left in the middle of a request.
            End::Hyper(Err(_)) => Farewell::Cut,
            End::Overdue(what) => Farewell::Send(Some(overdue(what, &shown, &self.refusals))),
        }
    }
}

/// Runs hyper until the connection ends.
async fn run<S>(
    connection: &mut http1::Connection<TokioIo<WatchedStream<S>>, ConnectionService>,
    watch: &ConnectionWatch,
    limits: &Limits,
    ends: &Ends,
    barred: impl Future<Output = ()>,
) -> End
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut drain = pin!(ends.drain.cancelled());
    let mut stop = pin!(ends.stop.cancelled());
    let mut barred = pin!(barred);
    let mut sleep = pin!(sleep_until(watch.deadline(limits).0));
    let mut draining = false;
    poll_fn(|cx| {
        // First what ends it: a barred certificate gets no answer.
        if barred.as_mut().poll(cx).is_ready() || stop.as_mut().poll(cx).is_ready() {
            return Poll::Ready(End::Barred);
        }
        // Before hyper runs the handler, which sees it too: its answer is then marked as the last.
        if !draining && drain.as_mut().poll(cx).is_ready() {
            draining = true;
            if watch.is_idle() {
                return Poll::Ready(End::Unused);
            }
            Pin::new(&mut *connection).graceful_shutdown();
        }
        if let Poll::Ready(done) = connection.poll_without_shutdown(cx) {
            return Poll::Ready(End::Hyper(done));
        }
        // Everything that moves the deadline happens in this task, in hyper's poll above.
        let (at, what) = watch.deadline(limits);
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx).map(|()| End::Overdue(what))
    })
    .await
}

/// The last answer of a connection that hyper cannot give.
struct LastWord {
    status: u16,
    kind: ErrorKind,
    message: String,
}

/// The last answer to bytes that hyper could not parse, with the status that it chose.
fn word_of(status: u16, error: &hyper::Error, shown: &Shown<'_>, refusals: &Refusals) -> LastWord {
    let (reason, kind, message) = match status {
        414 | 431 => {
            let message =
                format!("the head of a request may have at most {HEAD_BYTES_MAX} bytes and {HEADERS_MAX} lines");
            (Reason::HeadTooLarge, ErrorKind::TooLarge, message)
        }
        _ => (Reason::BadRequest, ErrorKind::BadRequest, "not an HTTP/1.1 request".to_owned()),
    };
    refusals.note(reason, shown, error);
    LastWord { status, kind, message }
}

fn overdue(what: Overdue, shown: &Shown<'_>, refusals: &Refusals) -> LastWord {
    let (reason, kind, message) = match what {
        Overdue::Body => (Reason::BodyTimeout, ErrorKind::Timeout, "the body did not arrive in time"),
        Overdue::Handler => (Reason::HandlerTimeout, ErrorKind::Unavailable, "the request took too long; try again"),
        Overdue::Head | Overdue::Idle | Overdue::Reader => {
            (Reason::HeadTimeout, ErrorKind::Timeout, "the head of the request did not arrive in time")
        }
    };
    refusals.note(reason, shown, &message);
    LastWord { status: kind.status(), kind, message: message.to_owned() }
}

/// Sends the last answer of a connection, if there is one.
async fn send<S: AsyncWrite + Unpin>(stream: &mut S, word: Option<LastWord>) -> std::io::Result<()> {
    if let Some(word) = word {
        let id = RequestId::fresh();
        let (status, kind) = (word.status, word.kind);
        let (message, request_id) = (word.message, id.as_str().to_owned());
        let body = ErrorBody { kind, message, request_id, ordinal: None, moved: None, until: None, remedy: None };
        let body = serde_json::to_string(&body).map_err(std::io::Error::other)?;
        let retry = if status == 503 { "retry-after: 5\r\n" } else { "" };
        let head = format!(
            "HTTP/1.1 {status} Refused\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             {REQUEST_ID_HEADER}: {id}\r\n{retry}cache-control: no-store\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.flush().await?;
    }
    Ok(())
}

/// Closes our side and reads what still arrives, up to a bound: closing a socket with unread bytes sends a reset, which
/// destroys the last answer before the peer has read it.
pub(super) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> std::io::Result<()> {
    stream.shutdown().await?;
    let mut sink = [0; 1024];
    let mut left = FAREWELL_BYTES_MAX;
    while left > 0 {
        match stream.read(&mut sink).await? {
            0 => break,
            read => left = left.saturating_sub(read),
        }
    }
    Ok(())
}
