//! The probe without privileges: ordinary connections through the kernel's own TFO client.
//!
//! With `TCP_FASTOPEN_CONNECT`, connect(2) returns at once, without a packet, if the kernel has a cookie for this pair of addresses;
//! otherwise it asks for one in its SYN (`tcp(7)`, Linux commit 19f6d3f3c842).  So the probe connects.  If the kernel had to ask, the
//! probe closes and connects again: if that returns at once, the server gave a cookie, and no data was sent.
//!
//! The kernel keeps one cookie for all ports of a server, so an existing cookie may come from another port.  Then only data in the SYN
//! shows what this port does: one empty line, which may precede an HTTP request (RFC 9112 section 2.2).  The handshake is completed, so
//! the connection does not occupy a place in the server's TFO queue.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Arguments, ProbeResult, Verdict, micros};
use crate::host::raw::{AskError, given_source};
use crate::host::target::Target;
use tfo_cli::report::{Failure, Outcome};
use tfo_host::kernel::tcp_info::SynData;
use tfo_host::runtime::{clock, sys};
use tfo_model::problem::Problem;

/// Data for the SYN where only data shows whether TFO works.
const EMPTY_LINE: &[u8] = b"\r\n";

/// A connection in progress.
enum Connecting {
    /// The kernel has a cookie and waits for data; nothing has been sent.
    HasCookie(Socket),
    /// The SYN was sent at this time.
    Asking(Socket, Instant),
}

/// How a connection ended.
enum Ended {
    Open { round_trip: Duration, syn_data: SynData },
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
    let (first, with_data) = match connect(arguments, address)? {
        Connecting::Asking(socket, started) => (finish(arguments, address, &socket, started)?, false),
        Connecting::HasCookie(socket) => (finish_with_data(arguments, address, &socket)?, true),
    };
    let (round_trip, syn_data) = match first {
        Ended::Open { round_trip, syn_data } => (round_trip, syn_data),
        Ended::Refused => return Ok(result(Verdict::Closed, None, None)),
        Ended::Silent => return Ok(result(Verdict::Filtered, None, None)),
    };
    let on = || Ok(result(Verdict::TfoOn, Some(round_trip), with_data.then_some("data in the SYN was accepted")));
    match syn_data {
        SynData::Accepted => return on(),
        SynData::Untried => return Err(client_off()),
        SynData::Lost | SynData::Asked | SynData::Rejected => {}
    }
    // If the kernel had no cookie, or a stale one, and the server does TFO, it has a new one now.
    let now_on = match connect(arguments, address)? {
        Connecting::Asking(..) => false,
        Connecting::HasCookie(_) if !with_data => true,
        Connecting::HasCookie(socket) => {
            let again = finish_with_data(arguments, address, &socket)?;
            matches!(again, Ended::Open { syn_data: SynData::Accepted, .. })
        }
    };
    if now_on {
        return on();
    }
    let remark = (syn_data == SynData::Lost).then_some("a middlebox drops SYNs with the option");
    Ok(result(Verdict::TfoOff, Some(round_trip), remark))
}

fn connect(arguments: &Arguments, address: SocketAddr) -> Result<Connecting, Failure> {
    let failed = |error| failed(arguments, address, error);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    sys::set_tcp_fastopen_connect(socket.as_fd()).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::OPNOTSUPP) => client_off(),
        _ => failed(error),
    })?;
    if let Some(source) = arguments.source {
        socket.bind(&given_source(source, address).into()).map_err(failed)?;
    }
    let started = clock::monotonic();
    match socket.connect(&address.into()) {
        Ok(()) => Ok(Connecting::HasCookie(socket)),
        Err(error) if in_progress(&error) => Ok(Connecting::Asking(socket, started)),
        Err(error) => Err(failed(error)),
    }
}

fn in_progress(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::INPROGRESS)
}

/// Sends the SYN with its data, and waits for the end of the handshake.
fn finish_with_data(arguments: &Arguments, address: SocketAddr, socket: &Socket) -> Result<Ended, Failure> {
    let started = clock::monotonic();
    match socket.send(EMPTY_LINE) {
        Err(error) if !in_progress(&error) => Err(failed(arguments, address, error)),
        _ => finish(arguments, address, socket, started),
    }
}

/// Waits for the end of the handshake.
fn finish(arguments: &Arguments, address: SocketAddr, socket: &Socket, started: Instant) -> Result<Ended, Failure> {
    let failed = |error| failed(arguments, address, error);
    // The same total wait as the raw probe's.
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
            let syn_data = SynData::of(sys::tcp_info_head(socket.as_fd()).map_err(failed)?);
            Ok(Ended::Open { round_trip, syn_data })
        }
        Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(Ended::Refused),
        Some(_) => Ok(Ended::Silent),
    }
}

fn failed(arguments: &Arguments, address: SocketAddr, error: io::Error) -> Failure {
    AskError::of(error, arguments.source, address).failure()
}

fn client_off() -> Failure {
    let message = "the client side of TFO is off on this host (net.ipv4.tcp_fastopen has no 0x1), or paused because packets vanished";
    Failure::new(
        Outcome::Failed,
        Problem::error("client_off", message, "set the bit, or probe as root without --unprivileged"),
    )
}
