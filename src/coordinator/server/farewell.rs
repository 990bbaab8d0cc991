//! How a connection is closed: at once, or in order, with a last answer if the peer gets one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::answer::{REQUEST_ID_HEADER, RequestId};
use super::connection::{End, HEAD_BYTES_MAX, HEADERS_MAX};
use super::refusals::{Reason, Refusals, Shown};
use super::service::ConnectionService;
use super::watch::{ConnectionWatch, Overdue};
use tfo_tls::identity::Peer;
use tfo_wire::error::{ErrorBody, ErrorKind};

/// Status where hyper gives none.
const BAD_REQUEST: u16 = 400;
/// How long the peer of a connection that we end may take to read why.
const FAREWELL: Duration = Duration::from_secs(2);
/// How much it may still send meanwhile, in bytes.
const FAREWELL_BYTES_MAX: usize = 256 * 1024;

/// What a farewell is judged by and logged with.
pub(super) struct Context {
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
    pub(super) fn of(service: &ConnectionService) -> Self {
        Self {
            refusals: Arc::clone(&service.refusals),
            address: service.address,
            peer: service.listens.peer().cloned(),
        }
    }

    /// Ends a connection.
    pub(super) async fn close<S>(self, end: End, watch: ConnectionWatch, mut stream: S, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Farewell::Send(word) = self.farewell(end, &watch) else { return };
        let unread = word.is_some() || watch.is_body_unread();
        let last = async {
            send(&mut stream, word).await?;
            if unread { linger(&mut stream).await } else { stream.shutdown().await }
        };
        tokio::select! {
            // It may fail: the peer can leave before it has read the answer.
            _ = timeout(FAREWELL, last) => {}
            () = stop.cancelled() => {}
        }
    }

    fn farewell(&self, end: End, watch: &ConnectionWatch) -> Farewell {
        let shown = Shown(self.address, self.peer.as_deref());
        match end {
            End::Barred | End::Left => Farewell::Cut,
            End::Overdue(Overdue::Reader) => {
                self.refusals.note(Reason::SlowReader, &shown, &"the peer did not read the answer in time");
                Farewell::Cut
            }
            End::Hyper(Ok(())) | End::Unused | End::Answered | End::Overdue(Overdue::Idle) => Farewell::Send(None),
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
