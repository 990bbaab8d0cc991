//! One connection, one request, one answer: with the request in the SYN or after a plain connect, and how long it took.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use super::http::{BodyEnd, Head, HeadError};
use tfo_host::kernel::tcp_info::SynData;
use tfo_host::runtime::{clock, sys};

/// Most bytes of a body that are read.  Measuring the time to the first byte needs no more.
const BODY_BYTES_MAX: u64 = 64 << 20;
/// Shortest socket timeout: 0 would mean for ever.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// How the request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// In the SYN: `sendto(MSG_FASTOPEN)`.
    FastOpen,
    /// After the handshake: `connect`, then `send`.
    Plain,
}

/// A request, and the server to send it to.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    pub(super) source: Option<IpAddr>,
    pub(super) request: Vec<u8>,
    /// Limit for the whole exchange, from the first packet to the last byte.
    pub(super) timeout: Duration,
}

/// What happened to the request in the SYN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ride {
    /// As the kernel reports it.
    Known(SynData),
    /// Not tried: the client side of TFO is off (EOPNOTSUPP, docs/kernel.md#when-a-key-takes-effect).  A plain connection was made.
    ClientOff,
}

/// A response.  Its times start just before the first packet.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) ride: Ride,
    pub(super) local: SocketAddr,
    pub(super) first_byte: Duration,
    pub(super) total: Duration,
    pub(super) head: Head,
    pub(super) body_bytes: u64,
    /// False if the body was cut short: by the server, by the timeout, or because it is too long.
    pub(super) complete: bool,
}

/// An exchange failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    #[error("cannot create a socket of its address family")]
    Socket(#[source] io::Error),
    #[error("cannot send from {0}")]
    Source(IpAddr, #[source] io::Error),
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("connected, but no response arrived")]
    Answer(#[source] io::Error),
    #[error("connected, but the server closed the connection before its response head was complete")]
    Closed,
    #[error("connected, but the response is unusable")]
    Head(#[from] HeadError),
}

/// Connects, sends the request and reads the response.
pub(super) fn exchange(target: &Target, way: Way) -> Result<Exchange, ExchangeError> {
    let socket = open(target)?;
    let start = clock::monotonic();
    let deadline = Deadline { start, budget: target.timeout };
    deadline.arm(&socket, Timeout::Send).map_err(ExchangeError::Connect)?;
    let (sent, client_off) = connect(&socket, target, way).map_err(|error| ExchangeError::Connect(timed_out(error)))?;
    let mut stream = TcpStream::from(socket);
    let answer = |error: io::Error| ExchangeError::Answer(timed_out(error));
    stream.write_all(&target.request[sent..]).map_err(answer)?;
    let mut bytes = Vec::new();
    let mut first_byte = None;
    let (head, length) = loop {
        if read_more(&mut stream, &deadline, &mut bytes).map_err(answer)? == 0 {
            return Err(ExchangeError::Closed);
        }
        first_byte.get_or_insert_with(|| clock::monotonic().duration_since(start));
        if let Some(found) = Head::read(&bytes)? {
            break found;
        }
    };
    let info = SynData::of(sys::tcp_info_head(stream.as_fd()).map_err(answer)?);
    let (body_bytes, complete) = read_body(&mut stream, &deadline, head.body_end(), bytes.split_off(length));
    Ok(Exchange {
        ride: if client_off { Ride::ClientOff } else { Ride::Known(info) },
        local: stream.local_addr().map_err(answer)?,
        first_byte: first_byte.expect("a head has a first byte"),
        total: clock::monotonic().duration_since(start),
        head,
        body_bytes,
        complete,
    })
}

fn open(target: &Target) -> Result<OwnedFd, ExchangeError> {
    let family = if target.address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = socket.map_err(|error| ExchangeError::Socket(error.into()))?;
    if let Some(source) = target.source {
        let bound = rustix::net::bind(&socket, &SocketAddr::from((source, 0)));
        bound.map_err(|error| ExchangeError::Source(source, error.into()))?;
    }
    Ok(socket)
}

/// Connects.  Returns how many bytes of the request were sent, and whether the client side of Fast Open is off.
///
/// Blocking, because a non-blocking `sendto(MSG_FASTOPEN)` without a cookie queues nothing (docs/kernel.md#client-side).
fn connect(socket: &OwnedFd, target: &Target, way: Way) -> io::Result<(usize, bool)> {
    if way == Way::FastOpen {
        let fast_open = SendFlags::from_bits_retain(libc::MSG_FASTOPEN.cast_unsigned());
        match rustix::net::sendto(socket, &target.request, fast_open, &target.address) {
            Ok(sent) => return Ok((sent, false)),
            Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    rustix::net::connect(socket, &target.address)?;
    Ok((0, way == Way::FastOpen))
}

/// Names the two errors by which the kernel reports an expired socket timeout (socket(7), connect(2)).
fn timed_out(error: io::Error) -> io::Error {
    match Errno::from_io_error(&error) {
        Some(Errno::AGAIN | Errno::INPROGRESS) => {
            io::Error::new(io::ErrorKind::TimedOut, "it took longer than --timeout")
        }
        _ => error,
    }
}

/// Counts the bytes of the body and discards them.  `begun` arrived with the head.
fn read_body(stream: &mut TcpStream, deadline: &Deadline, end: BodyEnd, begun: Vec<u8>) -> (u64, bool) {
    let mut bytes = begun;
    let mut count = bytes.len() as u64;
    let wanted = match end {
        BodyEnd::Bytes(wanted) => Some(wanted),
        BodyEnd::Close => None,
    };
    while wanted.is_none_or(|wanted| count < wanted) {
        bytes.clear();
        match read_more(stream, deadline, &mut bytes) {
            Ok(0) => return (count, wanted.is_none()),
            Ok(read) if count < BODY_BYTES_MAX => count += read as u64,
            Ok(_) | Err(_) => return (count, false),
        }
    }
    (count, true)
}

/// Reads what has arrived, at least one byte; 0 means that the server has closed.
fn read_more(stream: &mut TcpStream, deadline: &Deadline, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0; 16_384];
    loop {
        deadline.arm(&*stream, Timeout::Recv)?;
        match stream.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => {
                let read = read?;
                bytes.extend_from_slice(&buffer[..read]);
                return Ok(read);
            }
        }
    }
}

/// The time by which the exchange must end.
struct Deadline {
    start: Instant,
    budget: Duration,
}

impl Deadline {
    /// Sets the socket's timeout to the time that is left.
    fn arm(&self, socket: impl AsFd, which: Timeout) -> io::Result<()> {
        let left = clock::left_of(self.budget, self.start);
        if left.is_zero() {
            return Err(Errno::AGAIN.into());
        }
        Ok(sockopt::set_socket_timeout(socket, which, Some(left.max(TIMEOUT_MIN)))?)
    }
}
