//! The probe of an ordinary user: two connections through the kernel's own TFO client.
//!
//! With `TCP_FASTOPEN_CONNECT`, connect(2) returns at once, without a packet, if the kernel has a cookie for this pair of addresses, and
//! else asks for one in its SYN (`tcp(7)`, Linux commit 19f6d3f3c842).  So: connect; if that had to ask, close, and see whether a second
//! connect returns at once.  No data is ever sent, so no server's TFO queue is touched.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Arguments, ProbeResult, Verdict, micros};
use crate::ctl::host::raw::{AskError, given_source};
use crate::ctl::host::target::Target;
use crate::ctl::report::{Failure, Outcome};
use crate::model::problem::Problem;
use crate::runtime::{clock, sys};

/// `tcpi_fastopen_client_fail`: the SYN with the option was lost, the one without it came through (KERNEL.md section 6).
const SYN_WITH_OPTION_LOST: u8 = 3;

/// A connection, as far as it got.
enum Connecting {
    /// The kernel has a cookie and waits for data; nothing has been sent.
    HasCookie,
    /// A SYN is on its way since then.
    Asking(Socket, Instant),
}

/// How a connection ended.
enum Ended {
    Open { round_trip: Duration, client_fail: u8 },
    Refused,
    Silent,
}

pub(super) fn ask(arguments: &Arguments, target: &Target, address: SocketAddr) -> Result<Vec<ProbeResult>, Failure> {
    (0..arguments.count).map(|_| ask_once(arguments, target, address)).collect()
}

fn ask_once(arguments: &Arguments, target: &Target, address: SocketAddr) -> Result<ProbeResult, Failure> {
    let result = |result, round_trip: Option<Duration>, remark| ProbeResult {
        target: target.clone(),
        address: address.ip(),
        port: address.port(),
        result,
        cookie: None,
        option: None,
        rtt_us: round_trip.map(micros),
        remark,
    };
    let (asked, started, known) = match connect(arguments, address, Client::FastOpen)? {
        Connecting::Asking(socket, started) => (socket, started, false),
        // Whether it still answers is told by a connection without TFO.
        Connecting::HasCookie => match connect(arguments, address, Client::Plain)? {
            Connecting::Asking(socket, started) => (socket, started, true),
            Connecting::HasCookie => return Err(failed(address, io::ErrorKind::AlreadyExists.into())),
        },
    };
    let (round_trip, client_fail) = match finish(arguments, address, (&asked, started))? {
        Ended::Open { round_trip, client_fail } => (round_trip, client_fail),
        Ended::Refused => return Ok(result(Verdict::Closed, None, None)),
        Ended::Silent => return Ok(result(Verdict::Filtered, None, None)),
    };
    if known {
        return Ok(result(Verdict::TfoOn, Some(round_trip), Some("this host had its cookie already")));
    }
    match connect(arguments, address, Client::FastOpen)? {
        Connecting::HasCookie => Ok(result(Verdict::TfoOn, Some(round_trip), None)),
        Connecting::Asking(..) => {
            let lost = client_fail == SYN_WITH_OPTION_LOST;
            let remark = lost.then_some("something on the way drops SYNs with the option");
            Ok(result(Verdict::TfoOff, Some(round_trip), remark))
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Client {
    FastOpen,
    Plain,
}

fn connect(arguments: &Arguments, address: SocketAddr, client: Client) -> Result<Connecting, Failure> {
    let failed = |error| failed_from(arguments, address, error);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    if client == Client::FastOpen {
        sys::set_tcp_fastopen_connect(socket.as_fd()).map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::OPNOTSUPP) => client_off(),
            _ => failed(error),
        })?;
    }
    if let Some(source) = arguments.source {
        socket.bind(&given_source(source, address).into()).map_err(failed)?;
    }
    let started = clock::monotonic();
    match socket.connect(&address.into()) {
        Ok(()) if client == Client::FastOpen => Ok(Connecting::HasCookie),
        Ok(()) => Ok(Connecting::Asking(socket, started)),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INPROGRESS) => {
            Ok(Connecting::Asking(socket, started))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Waits for the end of the handshake.
fn finish(arguments: &Arguments, address: SocketAddr, (socket, started): (&Socket, Instant)) -> Result<Ended, Failure> {
    let failed = |error| failed_from(arguments, address, error);
    // As long as the raw probe waits in all.
    let patience = Duration::from_secs(arguments.timeout) * super::TRIES;
    loop {
        let left = clock::left_of(patience, started);
        let timeout = Timespec::try_from(left).expect("a wait is seconds");
        match rustix::event::poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&timeout)) {
            Ok(0) => return Ok(Ended::Silent),
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
    let round_trip = clock::monotonic().duration_since(started);
    match socket.take_error().map_err(failed)? {
        None => {
            let info = sys::tcp_info_head(socket.as_fd()).map_err(failed)?;
            Ok(Ended::Open { round_trip, client_fail: info[7] >> 1 & 3 })
        }
        Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Ended::Refused),
        Some(_) => Ok(Ended::Silent),
    }
}

fn failed_from(arguments: &Arguments, address: SocketAddr, error: io::Error) -> Failure {
    AskError::of(error, arguments.source, address).failure()
}

fn failed(address: SocketAddr, error: io::Error) -> Failure {
    AskError::of(error, None, address).failure()
}

fn client_off() -> Failure {
    let message = "the client side of TFO is off here (net.ipv4.tcp_fastopen, bit 1)";
    Failure::new(
        Outcome::Failed,
        Problem::error("client_off", message, "set the bit, or probe as root without --unprivileged"),
    )
}
