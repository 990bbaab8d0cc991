//! Asks a server for cookies through raw sockets, and says what came back.
//!
//! A SYN goes out that asks for a cookie and has no data: it takes no place in the server's TFO queue.  Its SYN/ACK is answered with RST, so
//! that the server forgets it at once; the kernel here, which knows nothing of it, sends one too (docs/kernel.md#client-side).

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

/// Ports that we ask from: Linux's own default range for clients (ip-sysctl `ip_local_port_range`).
const PORTS: std::ops::RangeInclusive<u16> = 32_768..=60_999;

/// Random ports that are tried before we believe that none is free.
const PORT_TRIES_MAX: usize = 100;

/// Enough for the headers of an answer, with every option that there can be.
const PACKET_BYTES_MAX: usize = 2048;

/// How to ask.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// How many cookie requests, each from a port of its own.
    pub(super) requests: u32,
    /// How many of them may wait for an answer at a time.  Few: a full SYN queue makes Linux answer without TFO (docs/kernel.md#counters).
    pub(super) in_flight_max: usize,
    /// How long each SYN is waited for.
    pub(super) wait: Duration,
    /// How often a SYN is sent before silence is an answer.
    pub(super) tries: u32,
}

/// What a server did with a cookie request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// SYN/ACK with a cookie in this option.
    Cookie(FastOpen),
    /// SYN/ACK without one.
    NoCookie,
    /// RST.
    Reset,
    /// Nothing.
    Silence,
}

/// An answer, and how long it took; none if there was none, or if it may be the answer to either of two SYNs.
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
    #[error("{0} is no address of this host")]
    NotOurs(IpAddr),
    #[error("there is no route to {0}")]
    NoRoute(IpAddr),
    #[error("this host has no IPv6: {0} cannot be asked")]
    NoIpv6(IpAddr),
    #[error("no port of {0} is free to ask from")]
    NoPort(IpAddr),
    #[error("cannot ask {0}: {1}")]
    Io(SocketAddr, io::Error),
}

impl AskError {
    /// What a system call's error means, towards this target and perhaps from this source.
    pub(super) fn of(error: io::Error, source: Option<IpAddr>, target: SocketAddr) -> Self {
        match (Errno::from_io_error(&error), source) {
            (Some(Errno::PERM | Errno::ACCESS), _) => Self::NotAllowed,
            (Some(Errno::ADDRNOTAVAIL), Some(source)) => Self::NotOurs(source),
            // Without a source there is no address of that family to choose.
            (Some(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ADDRNOTAVAIL), _) => Self::NoRoute(target.ip()),
            (Some(Errno::AFNOSUPPORT), _) if target.is_ipv6() => Self::NoIpv6(target.ip()),
            _ => Self::Io(target, error),
        }
    }

    /// How a command ends that met this.
    pub(super) fn failure(&self) -> Failure {
        let (kind, remedy, outcome) = match self {
            Self::NotAllowed => (
                "not_allowed",
                "run it as root or with CAP_NET_RAW; probe can do with --unprivileged",
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

/// The address to ask this target from, with port 0: the given one, or the kernel's choice.
///
/// # Errors
/// Fails if there is no way there, or if the given one is not ours.
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

/// A source address that was given, for this target: a link-local one is on the target's link.
pub(super) fn given_source(source: IpAddr, target: SocketAddr) -> SocketAddr {
    let mut address = SocketAddr::new(source, 0);
    if let (SocketAddr::V6(address), SocketAddr::V6(target)) = (&mut address, target) {
        address.set_scope_id(target.scope_id());
    }
    address
}

/// Asks one server from one address.
#[derive(Debug)]
pub(super) struct Asker {
    socket: Socket,
    source: SocketAddr,
    target: SocketAddr,
    form: Form,
}

/// A request that waits for its answer.
struct Flight {
    /// Bound to the port, so that no other program of this host gets it meanwhile.
    _port: Socket,
    request: CookieRequest,
    sent_at: Instant,
    tries: u32,
}

impl Asker {
    /// Opens the raw socket; without a source the kernel's choice.
    ///
    /// # Errors
    /// Fails without CAP_NET_RAW, without a way there, or if the source is not ours.
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
        // Not connected: all packets of a connected socket have one hash (Linux `sk_txhash`), by which routers in namespaces of this host
        // would send all of them to one node.
        Ok(Self { socket, source, target, form })
    }

    /// Our address.
    pub(super) fn source(&self) -> IpAddr {
        self.source.ip()
    }

    /// Sends the plan's requests and hands over each answer as it comes, until it is told to stop.
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

    /// A random port: a balancer that hashes ports must not see a pattern.
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
        // To a raw socket a port is a protocol number: 0.
        let mut peer = self.target;
        peer.set_port(0);
        match self.socket.send_to(packet, &peer.into()) {
            Ok(_) => Ok(()),
            // Not sent, or not answered: the same to whoever waits.
            Err(error) if is_passing(&error) => Ok(()),
            Err(error) => Err(AskError::of(error, Some(self.source.ip()), self.target)),
        }
    }

    /// Waits for a packet, at most until then.
    fn wait(&self, until: Instant) -> Result<(), AskError> {
        let left = until.saturating_duration_since(clock::monotonic());
        let timeout = Timespec::try_from(left).expect("a wait is seconds");
        match rustix::event::poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(AskError::Io(self.target, error.into())),
        }
    }

    /// Takes all packets that are there; those that answer a request end it.
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
                // After a second SYN nobody knows which one this answers (RFC 6298 section 3, Karn's algorithm).
                let round_trip = (flight.tries == 1).then(|| clock::monotonic().duration_since(flight.sent_at));
                replies.push(Reply { answer, round_trip });
            }
        }
    }

    /// A raw socket of IPv4 gives the IP header too, one of IPv6 does not (raw(7), ipv6(7)).
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

    /// Sends again what has waited long enough, or gives it up.
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

/// Errors that say nothing about this request: a full queue, a neighbour that does not answer, a signal.
fn is_passing(error: &io::Error) -> bool {
    let passing = [Errno::HOSTUNREACH, Errno::HOSTDOWN, Errno::AGAIN, Errno::NOBUFS, Errno::INTR];
    Errno::from_io_error(error).is_some_and(|errno| passing.contains(&errno))
}

/// The kernel's filter for a raw socket: packets from the server's port.  Of IPv4 the filter sees the IP header too.
fn answers_from(target: SocketAddr) -> Vec<SockFilter> {
    let mut program = if target.is_ipv4() {
        vec![bpf::v4_header_to_index(), bpf::load_half_behind_index(0)]
    } else {
        vec![bpf::load_half(0)]
    };
    program.extend([bpf::if_equal(target.port().into(), 0, 1), bpf::ret(u32::MAX), bpf::ret(0)]);
    program
}
