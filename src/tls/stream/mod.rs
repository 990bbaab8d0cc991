//! The server's end of a TLS connection that has no buffers of its own while nothing happens.
//!
//! Ciphertext is read into, and made in, room that all connections of a thread share; a connection keeps what is left over: a
//! part of a record that has arrived, plaintext that is not taken yet, and ciphertext that the socket does not take.
//! rustls' buffered API keeps four KiB for each connection instead.
//!
//! Invariants: ciphertext leaves in the order in which it was made; at most one record waits for the socket; an alert is sent
//! before an error is told; plaintext is wiped.  Must not know: certificates, HTTP.
//!
//! rustls replaces this API in its next release; `process` and `encrypt` are all that uses it.

use std::cell::RefCell;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus};
use rustls::{InvalidMessage, ServerConfig};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroizing;

/// Longest record with its header and what encryption adds (RFC 8446 section 5.2).
const RECORD_BYTES_MAX: usize = 5 + (16 << 10) + 256;
/// Longest content of a record.
const CONTENT_BYTES_MAX: usize = 16 << 10;
/// A thread keeps so much room; a handshake with long certificates may need more for a moment.
const ROOM_BYTES_KEPT: usize = 2 * RECORD_BYTES_MAX;
/// Most that is kept of what is not complete: the longest handshake message that rustls takes, and a record.  rustls itself
/// bounds what a message says of its length, and not the records that it comes in: padding may be almost all of them.
const KEPT_BYTES_MAX: usize = 0xffff + RECORD_BYTES_MAX;

/// What the connections of a thread share.
#[derive(Default)]
struct Room {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// See the module.
pub struct TlsStream<S> {
    socket: S,
    tls: UnbufferedServerConnection,
    /// What has arrived of a record or of a message that is not complete.
    incoming: Vec<u8>,
    plain: Plain,
    outgoing: Outgoing,
    /// The peer has ended its side in order.
    is_ended: bool,
    /// Our side is ended.
    is_closed: bool,
    /// What is wrong with what the peer has sent.
    failed: Option<rustls::Error>,
}

impl<S> fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("is_ended", &self.is_ended).finish_non_exhaustive()
    }
}

/// Plaintext that is not taken yet.
#[derive(Default)]
struct Plain {
    bytes: Zeroizing<Vec<u8>>,
    taken: usize,
}

impl Plain {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Gives as much as fits.
    fn give(&mut self, into: &mut ReadBuf<'_>) {
        let now = into.remaining().min(self.bytes.len() - self.taken);
        into.put_slice(&self.bytes[self.taken..self.taken + now]);
        self.taken += now;
        if self.taken == self.bytes.len() {
            *self = Self::default();
        }
    }

    /// Keeps what does not fit.
    fn take(&mut self, record: &[u8], into: Option<&mut ReadBuf<'_>>) {
        let mut left = record;
        if let Some(into) = into.filter(|_| self.is_empty()) {
            let (now, later) = record.split_at(into.remaining().min(record.len()));
            into.put_slice(now);
            left = later;
        }
        if !left.is_empty() {
            let mut all = Zeroizing::new(Vec::with_capacity(self.bytes.len() + left.len()));
            all.extend_from_slice(&self.bytes);
            all.extend_from_slice(left);
            self.bytes = all;
        }
    }
}

/// Ciphertext that the socket has not taken yet.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Adds a message of rustls' own.
    fn encode<Data>(&mut self, mut message: EncodeTlsData<'_, Data>) -> io::Result<()> {
        let (at, mut room) = (self.bytes.len(), 0);
        loop {
            self.bytes.resize(at + room, 0);
            match message.encode(&mut self.bytes[at..]) {
                Ok(written) => {
                    self.bytes.truncate(at + written);
                    return Ok(());
                }
                Err(EncodeError::InsufficientSize(wanted)) => room = wanted.required_size,
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }

    fn poll_send<S: AsyncWrite + Unpin>(&mut self, socket: &mut S, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.bytes.len() {
            match ready!(Pin::new(&mut *socket).poll_write(cx, &self.bytes[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
        }
        if !self.bytes.is_empty() {
            *self = Self::default();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream<S> {
    fn before_handshake(socket: S, tls: UnbufferedServerConnection) -> Self {
        Self {
            socket,
            tls,
            incoming: Vec::new(),
            plain: Plain::default(),
            outgoing: Outgoing::default(),
            is_ended: false,
            is_closed: false,
            failed: None,
        }
    }

    /// Shakes hands.
    ///
    /// # Errors
    /// Fails, with the socket, if the peer leaves or is refused: it has been sent the alert then, and may still have to read
    /// it.  The cause is a [`rustls::Error`].
    pub async fn accept(config: Arc<ServerConfig>, socket: S) -> Result<Self, (io::Error, S)> {
        let tls = match UnbufferedServerConnection::new(config) {
            Ok(tls) => tls,
            Err(error) => return Err((io::Error::other(error), socket)),
        };
        let mut stream = Self::before_handshake(socket, tls);
        match poll_fn(|cx| stream.poll_handshake(cx)).await {
            Ok(()) => Ok(stream),
            Err(error) => Err((error, stream.socket)),
        }
    }

    /// The peer's certificate, and the intermediate ones after it.
    #[must_use]
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.tls.peer_certificates().unwrap_or_default()
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.outgoing.poll_send(&mut self.socket, cx))?;
            if let Some(error) = &self.failed {
                return Poll::Ready(Err(invalid(error)));
            }
            if !self.tls.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_fill(cx, None))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads from the socket once, and takes in what that completes; the number of bytes, 0 at the end of the stream.
    fn poll_fill(&mut self, cx: &mut Context<'_>, into: Option<&mut ReadBuf<'_>>) -> Poll<io::Result<usize>> {
        ROOM.with_borrow_mut(|room| {
            let kept = self.incoming.len();
            let room = &mut room.incoming;
            room.resize(room.len().max(kept + RECORD_BYTES_MAX), 0);
            let mut unread = ReadBuf::new(&mut room[kept..]);
            ready!(Pin::new(&mut self.socket).poll_read(cx, &mut unread))?;
            let read = unread.filled().len();
            if read > 0 {
                room[..kept].copy_from_slice(&self.incoming);
                let came = &mut room[..kept + read];
                let taken_in = self.take_in(came, into);
                // It was decrypted in its place.
                came.fill(0);
                taken_in?;
            }
            if room.len() > ROOM_BYTES_KEPT {
                *room = Vec::new();
            }
            Poll::Ready(Ok(read))
        })
    }

    /// Takes in what has come, and keeps what is not complete.
    fn take_in(&mut self, came: &mut [u8], into: Option<&mut ReadBuf<'_>>) -> io::Result<()> {
        let used = process(self, came, into)?;
        let left = &came[used..];
        if left.len() > KEPT_BYTES_MAX {
            let error = rustls::Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge);
            let refused = invalid(&error);
            self.failed = Some(error);
            return Err(refused);
        }
        self.incoming = if left.is_empty() || self.failed.is_some() { Vec::new() } else { left.to_vec() };
        Ok(())
    }
}

/// Lets rustls process what has come; how many bytes it is done with.
fn process<S>(stream: &mut TlsStream<S>, came: &mut [u8], mut into: Option<&mut ReadBuf<'_>>) -> io::Result<usize> {
    let TlsStream { tls, plain, outgoing, is_ended, failed, .. } = stream;
    let mut used = 0;
    loop {
        let UnbufferedStatus { mut discard, state } = tls.process_tls_records(&mut came[used..]);
        let is_done = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record.map_err(io::Error::other)?;
                    discard += record.discard;
                    plain.take(record.payload, into.as_deref_mut());
                }
                false
            }
            Ok(ConnectionState::EncodeTlsData(message)) => {
                outgoing.encode(message)?;
                false
            }
            Ok(ConnectionState::TransmitTlsData(sent)) => {
                // It is in `outgoing`, which leaves in order.
                sent.done();
                false
            }
            Ok(ConnectionState::PeerClosed) => {
                *is_ended = true;
                false
            }
            // More has to come.  (There is no early data: no ticket is ever given.)
            Ok(_) => true,
            Err(error) => {
                *failed = Some(error);
                true
            }
        };
        used += discard;
        if is_done {
            break;
        }
    }
    // The alert, and nothing more: what comes after an error is not looked at.
    while failed.is_some() && tls.wants_write() {
        match tls.process_tls_records(&mut came[used..]).state {
            Ok(ConnectionState::EncodeTlsData(message)) => outgoing.encode(message)?,
            _ => break,
        }
    }
    Ok(used)
}

/// Makes a record of this content, or the last one of our side without a content, in `room`; its length.
fn encrypt<S>(stream: &mut TlsStream<S>, content: Option<&[u8]>, room: &mut Vec<u8>) -> io::Result<usize> {
    loop {
        let UnbufferedStatus { discard, state } = stream.tls.process_tls_records(&mut stream.incoming);
        let made = match state.map_err(|error| invalid(&error))? {
            ConnectionState::WriteTraffic(mut traffic) => loop {
                let made = match content {
                    Some(content) => traffic.encrypt(content, room),
                    None => traffic.queue_close_notify(room),
                };
                match made {
                    Ok(made) => break Some(made),
                    Err(EncryptError::InsufficientSize(wanted)) => room.resize(wanted.required_size, 0),
                    Err(error) => return Err(io::Error::other(error)),
                }
            },
            ConnectionState::EncodeTlsData(message) => {
                stream.outgoing.encode(message)?;
                None
            }
            ConnectionState::TransmitTlsData(sent) => {
                sent.done();
                None
            }
            ConnectionState::PeerClosed => {
                stream.is_ended = true;
                None
            }
            // What was read is taken in at once, and a closed side writes no more.
            _ => return Err(io::ErrorKind::BrokenPipe.into()),
        };
        stream.incoming.drain(..discard);
        if let Some(made) = made {
            return Ok(made);
        }
    }
}

fn invalid(error: &rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.clone())
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = into.filled().len();
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if !this.plain.is_empty() {
                this.plain.give(into);
            }
            if into.filled().len() > before || this.is_ended {
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = &this.failed {
                let error = invalid(error);
                // The alert; a peer that does not take it learns of the end of the stream.
                ready!(this.outgoing.poll_send(&mut this.socket, cx))?;
                return Poll::Ready(Err(error));
            }
            if ready!(this.poll_fill(cx, Some(into)))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.outgoing.poll_send(&mut this.socket, cx))?;
        if let Some(error) = &this.failed {
            return Poll::Ready(Err(invalid(error)));
        }
        let content = &bytes[..bytes.len().min(CONTENT_BYTES_MAX)];
        if content.is_empty() {
            return Poll::Ready(Ok(0));
        }
        ROOM.with_borrow_mut(|room| {
            let made = encrypt(this, Some(content), &mut room.outgoing)?;
            let mut record = &room.outgoing[..made];
            // Unless rustls had a message of its own, which comes first, it need not be copied.
            while this.outgoing.bytes.is_empty() && !record.is_empty() {
                match Pin::new(&mut this.socket).poll_write(cx, record) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(written)) => record = &record[written..],
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            this.outgoing.add(record);
            Poll::Ready(Ok(content.len()))
        })
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.outgoing.poll_send(&mut this.socket, cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !std::mem::replace(&mut this.is_closed, true) && this.failed.is_none() {
            ROOM.with_borrow_mut(|room| {
                let made = encrypt(this, None, &mut room.outgoing)?;
                this.outgoing.add(&room.outgoing[..made]);
                io::Result::Ok(())
            })?;
        }
        ready!(this.outgoing.poll_send(&mut this.socket, cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
