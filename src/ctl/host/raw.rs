//! Asks a server for cookies through raw sockets, and returns the answers.
//!
//! The SYN asks for a cookie and carries no data, so it takes no place in the server's TFO queue.  A RST answers the SYN/ACK, so that
//! the server drops the connection at once; the kernel of this host, which does not know of it, sends one too
//! (docs/kernel.md#client-side).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recvfrom};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::bpf;
use super::packet::{CookieRequest, Packet, Segment};
use super::tcp_option::{FastOpen, Form};
use tfo_cli::report::{Failure, Outcome};
use tfo_crypto::random;
use tfo_host::runtime::clock;
use tfo_model::problem::Problem;

/// Source ports: Linux's default range for clients (ip-sysctl `ip_local_port_range`).
const PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// Random ports to try before concluding that none is free.
const PORT_TRIES_MAX: usize = 100;

/// Enough for the headers of an answer with all possible options.
const PACKET_BYTES_MAX: usize = 2048;

/// How many requests to send, and how long to wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// Number of cookie requests, each from a port of its own.
    pub(super) requests: u32,
    /// Most requests that wait for an answer at a time.  Keep it small: with a full SYN queue Linux answers without TFO
    /// (docs/kernel.md#counters).
    pub(super) in_flight_max: usize,
    /// How long to wait for the answer to each SYN.
    pub(super) wait: Duration,
    /// How often to send a SYN before silence counts as the answer.
    pub(super) tries: u32,
}

/// A server's answer to a cookie request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// SYN/ACK with this option, which has a cookie.
    Cookie(FastOpen),
    /// SYN/ACK without a cookie.
    NoCookie,
    /// RST.
    Reset,
    /// No answer.
    Silence,
}

/// An answer with its round-trip time; none without an answer, or if either of two SYNs may have caused it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) answer: Answer,
    pub(super) round_trip: Option<Duration>,
}

/// A server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("raw sockets need root or CAP_NET_RAW")]
    NotAllowed,
    #[error("{0} is not an address of this host")]
    NotOurs(IpAddr),
    #[error("there is no route to {0}")]
    NoRoute(IpAddr),
    #[error("cannot reach {0}: this host has no IPv6")]
    NoIpv6(IpAddr),
    #[error("no free port on {0}")]
    NoPort(IpAddr),
    #[error("cannot probe {0}: {1}")]
    Io(SocketAddr, io::Error),
}

impl AskError {
    /// Explains a system call's error for this target and source.
    pub(super) fn of(error: io::Error, source: Option<IpAddr>, target: SocketAddr) -> Self {
        match (Errno::from_io_error(&error), source) {
            (Some(Errno::PERM | Errno::ACCESS), _) => Self::NotAllowed,
            (Some(Errno::ADDRNOTAVAIL), Some(source)) => Self::NotOurs(source),
            // Without --source: this host has no address of the target's family.
            (Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ADDRNOTAVAIL), _) => Self::NoRoute(target.ip()),
            (Some(Errno::AFNOSUPPORT), _) if target.is_ipv6() => Self::NoIpv6(target.ip()),
            _ => Self::Io(target, error),
        }
    }

    /// The failure that a command reports for this error.
    pub(super) fn failure(&self) -> Failure {
        let (kind, remedy, outcome) = match self {
            Self::NotAllowed => (
                "not_allowed",
                "run it as root or with CAP_NET_RAW, or use `tfoctl probe --unprivileged`",
                Outcome::Refused,
            ),
            Self::NotOurs(_) => ("not_ours", "give a --source that `ip address` shows", Outcome::Config),
            Self::NoRoute(_) => ("no_route", "check `ip route`; -4 and -6 choose the family", Outcome::Failed),
            Self::NoIpv6(_) => ("no_route", "choose IPv4 with -4", Outcome::Failed),
            Self::NoPort(_) => ("no_port", "wait for connections to end", Outcome::Failed),
            Self::Io(..) => ("network", "check the network of this host", Outcome::Failed),
        };
        Failure::new(outcome, Problem::error(kind, self.to_string(), remedy))
    }
}

/// The source address for this target, with port 0: the given one, or the kernel's choice.
///
/// # Errors
/// Fails if there is no route to the target, or if the given address is not one of this host.
fn source_towards(given: Option<IpAddr>, target: SocketAddr) -> Result<SocketAddr, AskError> {
    let failed = |error| AskError::of(error, given, target);
    let unspecified: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Connecting a datagram socket sends nothing.
    let socket = UdpSocket::bind(given_source(given.unwrap_or(unspecified), target)).map_err(failed)?;
    socket.connect(target).map_err(failed)?;
    let mut source = socket.local_addr().map_err(failed)?;
    source.set_port(0);
    Ok(source)
}

/// The given source address with the target's scope id, which a link-local address needs.
pub(super) fn given_source(source: IpAddr, target: SocketAddr) -> SocketAddr {
    let mut address = SocketAddr::new(source, 0);
    if let (SocketAddr::V6(address), SocketAddr::V6(target)) = (&mut address, target) {
        address.set_scope_id(target.scope_id());
    }
    address
}

/// Sends cookie requests to one server from one address.
#[derive(Debug)]
pub(super) struct Asker {
    socket: Socket,
    source: SocketAddr,
    target: SocketAddr,
    form: Form,
}

/// A request without an answer yet.
struct Flight {
    /// Reserves the port, so that no other program of this host gets it.
    _port: Socket,
    request: CookieRequest,
    sent_at: Instant,
    tries: u32,
}

impl Asker {
    /// Opens the raw socket.  Without a source, the kernel chooses one.
    ///
    /// # Errors
    /// Fails without CAP_NET_RAW, without a route, or if the source is not an address of this host.
    pub(super) fn open(source: Option<IpAddr>, target: SocketAddr, form: Form) -> Result<Self, AskError> {
        let failed = |error| AskError::of(error, source, target);
        let socket = Socket::new(Domain::for_address(target), Type::RAW, Some(Protocol::TCP)).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        if target.is_ipv6() {
            // For the flow label.
            socket.set_header_included_v6(true).map_err(failed)?;
        }
        socket.attach_filter(&answers_from(target)).map_err(failed)?;
        let source = source_towards(source, target)?;
        socket.bind(&source.into()).map_err(failed)?;
        // Not connected: all packets of a connected socket have the same hash (Linux `sk_txhash`), so routers in namespaces of this host
        // would send them all to one node.
        Ok(Self { socket, source, target, form })
    }

    /// The source address.
    pub(super) fn source(&self) -> IpAddr {
        self.source.ip()
    }

    /// Sends the plan's requests and passes each answer to `take`, until all are answered or `take` breaks.
    ///
    /// # Errors
    /// Fails if nothing can be sent or received.
    pub(super) fn ask(&self, plan: Plan, mut take: impl FnMut(Reply) -> ControlFlow<()>) -> Result<(), AskError> {
        let mut flights: Vec<Flight> = Vec::new();
        let mut started = 0;
        loop {
            while started < plan.requests && flights.len() < plan.in_flight_max {
                flights.push(self.start()?);
                started += 1;
            }
            let Some(first) = flights.iter().map(|flight| flight.sent_at).min() else { return Ok(()) };
            self.wait(first + plan.wait)?;
            let mut replies = self.receive(&mut flights)?;
            replies.extend(self.expire(&mut flights, plan)?);
            for reply in replies {
                if take(reply).is_break() {
                    return Ok(());
                }
            }
        }
    }

    fn start(&self) -> Result<Flight, AskError> {
        let (port, source) = self.reserve_port()?;
        let [sequence, flow_label] = [self.random()?, self.random()?].map(u32::from_ne_bytes);
        let request = CookieRequest { source, destination: self.target, sequence, flow_label, form: self.form };
        let sent_at = clock::monotonic();
        self.send(&request.syn())?;
        Ok(Flight { _port: port, request, sent_at, tries: 1 })
    }

    /// Reserves a random port: a balancer that hashes ports must not see a pattern.
    fn reserve_port(&self) -> Result<(Socket, SocketAddr), AskError> {
        let failed = |error| AskError::of(error, Some(self.source.ip()), self.target);
        for _ in 0..PORT_TRIES_MAX {
            let port = u16::from_ne_bytes(self.random()?);
            if !PORTS.contains(&port) {
                continue;
            }
            let mut source = self.source;
            source.set_port(port);
            let holder = Socket::new(Domain::for_address(source), Type::STREAM, Some(Protocol::TCP)).map_err(failed)?;
            match holder.bind(&source.into()) {
                Ok(()) => return Ok((holder, source)),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Err(AskError::NoPort(self.source.ip()))
    }

    fn random<const N: usize>(&self) -> Result<[u8; N], AskError> {
        let mut bytes = [0; N];
        random::fill(&mut bytes).map_err(|error| AskError::Io(self.target, io::Error::other(error)))?;
        Ok(bytes)
    }

    fn send(&self, packet: &[u8]) -> Result<(), AskError> {
        // A raw socket takes the port for a protocol number, which must be 0.
        let mut peer = self.target;
        peer.set_port(0);
        match self.socket.send_to(packet, &peer.into()) {
            Ok(_) => Ok(()),
            // A packet that was not sent is handled like one that is not answered.
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(AskError::of(error, Some(self.source.ip()), self.target)),
        }
    }

    /// Waits for a packet until the deadline.
    fn wait(&self, until: Instant) -> Result<(), AskError> {
        let left = until.saturating_duration_since(clock::monotonic());
        let timeout = Timespec::try_from(left).expect("a wait is seconds");
        match rustix::event::poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(AskError::Io(self.target, error.into())),
        }
    }

    /// Reads all waiting packets, and removes the requests that they answer.
    fn receive(&self, flights: &mut Vec<Flight>) -> Result<Vec<Reply>, AskError> {
        let mut replies = Vec::new();
        let mut buffer = [0; PACKET_BYTES_MAX];
        loop {
            let (read, from) = match recvfrom(&self.socket, &mut buffer, RecvFlags::empty()) {
                Ok((read, _, from)) => (read, from.and_then(|from| SocketAddr::try_from(from).ok())),
                Err(Errno::AGAIN) => return Ok(replies),
                Err(error) if is_passing(&error.into()) => continue,
                Err(error) => return Err(AskError::Io(self.target, error.into())),
            };
            if from.is_none_or(|from| from.ip() != self.target.ip()) {
                continue;
            }
            let Some(segment) = self.segment(&buffer[..read]) else { continue };
            let Some(answer) = self.answer(&segment) else { continue };
            let answers = |flight: &Flight| {
                flight.request.source.port() == segment.header.destination_port()
                    && flight.request.sequence.wrapping_add(1) == segment.header.acknowledgment_number()
            };
            if let Some(index) = flights.iter().position(answers) {
                let flight = flights.swap_remove(index);
                if answer != Answer::Reset {
                    self.send(&flight.request.reset())?;
                }
                // After a second SYN it is unknown which one this answers (RFC 6298 section 3, Karn's algorithm).
                let round_trip = (flight.tries == 1).then(|| clock::monotonic().duration_since(flight.sent_at));
                replies.push(Reply { answer, round_trip });
            }
        }
    }

    /// An IPv4 raw socket returns the IP header too, an IPv6 one does not (raw(7), ipv6(7)).
    fn segment<'a>(&self, bytes: &'a [u8]) -> Option<Segment<'a>> {
        if self.target.is_ipv4() {
            Packet::parse(bytes).ok().map(|packet| packet.segment)
        } else {
            Segment::parse(bytes, bytes.len()).ok()
        }
    }

    fn answer(&self, segment: &Segment<'_>) -> Option<Answer> {
        if segment.header.source_port() != self.target.port() {
            return None;
        }
        if segment.is_reset_answer() {
            return Some(Answer::Reset);
        }
        let fast_open = || FastOpen::among(segment.header.options()).filter(|option| option.cookie.is_some());
        segment.is_syn_ack().then(|| fast_open().map_or(Answer::NoCookie, Answer::Cookie))
    }

    /// Repeats requests that have waited long enough, and gives up those without tries left.
    fn expire(&self, flights: &mut Vec<Flight>, plan: Plan) -> Result<Vec<Reply>, AskError> {
        let now = clock::monotonic();
        let due = |flight: &Flight| now.duration_since(flight.sent_at) >= plan.wait;
        let given_up = flights.extract_if(.., |flight| due(flight) && flight.tries >= plan.tries);
        let silent: Vec<Reply> = given_up.map(|_| Reply { answer: Answer::Silence, round_trip: None }).collect();
        for flight in flights.iter_mut().filter(|flight| due(flight)) {
            self.send(&flight.request.syn())?;
            flight.sent_at = clock::monotonic();
            flight.tries += 1;
        }
        Ok(silent)
    }
}

/// Transient errors: a full queue, a neighbour that does not answer, a signal.
fn is_passing(error: &io::Error) -> bool {
    let passing = [Errno::HOSTUNREACH, Errno::HOSTDOWN, Errno::AGAIN, Errno::NOBUFS, Errno::INTR];
    Errno::from_io_error(error).is_some_and(|errno| passing.contains(&errno))
}

/// A socket filter for packets from the server's port.  For IPv4, the packet starts with the IP header.
fn answers_from(target: SocketAddr) -> Vec<SockFilter> {
    let mut program = if target.is_ipv4() {
        vec![bpf::v4_header_to_index(), bpf::load_half_behind_index(0)]
    } else {
        vec![bpf::load_half(0)]
    };
    program.extend([bpf::if_equal(target.port().into(), 0, 1), bpf::ret(u32::MAX), bpf::ret(0)]);
    program
}
