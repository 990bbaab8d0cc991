//! The state of a connection, observed below hyper (bytes) and above it (requests and answers).
//!
//! hyper has one timer, for heads, and it also runs between requests; every other wait of a connection would be
//! unbounded.  All of them become one deadline here.
//!
//! | stage | begins with | waits for | deadline |
//! |---|---|---|---|
//! | Idle | accept, or the last byte of an answer | first byte of a request | `idle_timeout` |
//! | Idle, head begun | that byte | end of the head | `head_timeout` |
//! | Busy, body open | end of the head | end of the body | `body_timeout` |
//! | Busy | end of the body | the handler | `answer_timeout` |
//! | Waiting | the handler has nothing more to do | news | `hold_timeout` |
//! | Answering, Flushing | the handler's answer | hyper, the peer's reading | `answer_timeout` |
//! | any, write blocked | a write that the socket does not take | the socket | `write_timeout` |

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::later::Rest;
use super::limits::Limits;

/// The state of one connection, shared by its parts.  They all run in one task: the lock is never waited for.
#[derive(Debug, Clone)]
pub(super) struct ConnectionWatch(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    stage: Stage,
    /// Since when the socket takes no more.
    blocked_since: Option<Instant>,
    /// Status of hyper's own answer to bytes that are not a request.
    verdict: Option<u16>,
    /// Part of the last body was not read: more of it may arrive.
    body_unread: bool,
    parked: Parked,
}

/// What is left of a handler that waits, until the connection takes it over.
#[derive(Default)]
struct Parked(Option<Rest>);

impl fmt::Debug for Parked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Parked").field(&self.0.is_some()).finish()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Idle { since: Instant, head_since: Option<Instant> },
    Busy { since: Instant, body: BodyState },
    Waiting { since: Instant },
    Answering { since: Instant },
    Flushing { since: Instant },
}

/// Whether more of a request's body is expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyState {
    /// More may arrive.
    Open,
    /// All of it has arrived, or the rest is not wanted.
    Closed,
}

/// What took too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// The next request.
    Idle,
    /// The head of a request.
    Head,
    /// The body of a request.
    Body,
    /// The handler.
    Handler,
    /// The peer, to read its answer.
    Reader,
}

impl ConnectionWatch {
    pub(super) fn new() -> Self {
        let stage = Stage::Idle { since: Instant::now(), head_since: None };
        Self(Arc::new(Mutex::new(State {
            stage,
            blocked_since: None,
            verdict: None,
            body_unread: false,
            parked: Parked::default(),
        })))
    }

    /// The end of the present wait, and what has taken too long by then.
    pub(super) fn deadline(&self, limits: &Limits) -> (Instant, Overdue) {
        let state = self.lock();
        let of_stage = match state.stage {
            Stage::Idle { head_since: Some(since), .. } => (since + limits.head_timeout, Overdue::Head),
            Stage::Idle { since, head_since: None } => (since + limits.idle_timeout, Overdue::Idle),
            Stage::Busy { since, body: BodyState::Open } => (since + limits.body_timeout, Overdue::Body),
            Stage::Busy { since, body: BodyState::Closed } => (since + limits.answer_timeout, Overdue::Handler),
            Stage::Waiting { since } => (since + limits.hold_timeout, Overdue::Handler),
            Stage::Answering { since } | Stage::Flushing { since } => (since + limits.answer_timeout, Overdue::Reader),
        };
        match state.blocked_since.map(|since| since + limits.write_timeout) {
            Some(at) if at < of_stage.0 => (at, Overdue::Reader),
            _ => of_stage,
        }
    }

    /// Whether no request is in flight.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.lock().stage, Stage::Idle { head_since: None, .. })
    }

    /// hyper's own answer, if it gave one.
    pub(super) fn verdict(&self) -> Option<u16> {
        self.lock().verdict
    }

    /// The first byte of a request is there: it may have come with the request before.
    pub(super) fn head_begun(&self) {
        self.lock().bytes_came();
    }

    /// Hands the rest of a handler over to the connection, or gives it back, if more of its request may arrive.
    pub(super) fn park(&self, rest: Rest) -> Option<Rest> {
        let mut state = self.lock();
        let is_read = matches!(state.stage, Stage::Busy { body: BodyState::Closed, .. }) && !state.body_unread;
        if !is_read {
            return Some(rest);
        }
        state.parked.0 = Some(rest);
        None
    }

    /// What was parked since the last call.
    pub(super) fn take_parked(&self) -> Option<Rest> {
        self.lock().parked.0.take()
    }

    /// The handler of the present request has nothing more to do than to wait.
    pub(super) fn waits(&self) {
        let mut state = self.lock();
        if let Stage::Busy { since, .. } = state.stage {
            state.stage = Stage::Waiting { since };
        }
    }

    /// The head of a request is complete.
    pub(super) fn request_came(&self, body: BodyState) {
        let mut state = self.lock();
        state.stage = Stage::Busy { since: Instant::now(), body };
        state.body_unread = false;
    }

    /// The body of a request is complete.
    pub(super) fn body_complete(&self) {
        self.lock().body_ended();
    }

    /// The rest of a body is not wanted.
    pub(super) fn body_abandoned(&self) {
        let mut state = self.lock();
        state.body_unread = true;
        state.body_ended();
    }

    /// Whether part of a body was not read.
    pub(super) fn is_body_unread(&self) -> bool {
        self.lock().body_unread
    }

    /// The handler has answered.
    pub(super) fn answered(&self) {
        self.lock().stage = Stage::Answering { since: Instant::now() };
    }

    /// hyper has the whole answer.
    pub(super) fn answer_taken(&self) {
        let mut state = self.lock();
        if let Stage::Answering { since } = state.stage {
            state.stage = Stage::Flushing { since };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn bytes_came(&mut self) {
        if let Stage::Idle { head_since: head_since @ None, .. } = &mut self.stage {
            *head_since = Some(Instant::now());
        }
    }

    fn body_ended(&mut self) {
        if let Stage::Busy { body, .. } = &mut self.stage {
            *body = BodyState::Closed;
        }
    }

    fn write_blocked(&mut self) {
        self.blocked_since.get_or_insert_with(Instant::now);
    }

    /// The socket has taken everything that was written.
    fn flushed(&mut self) {
        self.blocked_since = None;
        if let Stage::Flushing { .. } = self.stage {
            self.stage = Stage::Idle { since: Instant::now(), head_since: None };
        }
    }
}

/// The byte stream under hyper, watched.
///
/// Between requests only hyper itself writes: its bodyless answer to bytes that it cannot parse.  That is held back, so
/// that the connection can send the same status with an error body.
#[derive(Debug)]
pub(super) struct WatchedStream<S> {
    pub(super) stream: S,
    watch: ConnectionWatch,
}

impl<S> WatchedStream<S> {
    pub(super) fn new(stream: S, watch: ConnectionWatch) -> Self {
        Self { stream, watch }
    }
}

/// The status of a status line: `HTTP/1.1 431 ...`.
fn status(head: &[u8]) -> Option<u16> {
    std::str::from_utf8(head.get(9..12)?).ok()?.parse().ok()
}

impl<S: AsyncRead + Unpin> AsyncRead for WatchedStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = into.filled().len();
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, into));
        if into.filled().len() > before {
            self.watch.lock().bytes_came();
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WatchedStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        {
            let mut state = self.watch.lock();
            if let Stage::Idle { .. } = state.stage {
                if state.verdict.is_none() {
                    state.verdict = status(bytes);
                }
                return Poll::Ready(Ok(bytes.len()));
            }
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if written.is_pending() {
            self.watch.lock().write_blocked();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        match flushed {
            Poll::Pending => self.watch.lock().write_blocked(),
            Poll::Ready(_) => self.watch.lock().flushed(),
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
