//! From the socket to an axum [`Router`]: accept, TLS, limits, refusals, drain.
//!
//! Must not know: pools, stores, the engine, the meaning of the routes.  Handlers find in the request's extensions:
//! `Arc<Peer>` (never without a name; not on the plain listener), [`RequestId`], [`CameFrom`], [`Draining`].
//!
//! A peer without a valid certificate reaches no handler, and costs at most a handshake's place and time.

mod admission;
mod answer;
mod body;
mod connection;
mod contest;
mod crowd;
mod direct;
mod farewell;
mod later;
mod limits;
mod refusals;
mod rewound;
mod service;
mod strangers;
mod watch;

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use admission::{ConnectionPlace, Gate, Standing};
pub use answer::{Refusal, RequestId};
pub use body::JsonBody;
use connection::Ends;
pub use direct::request as whole_request;
use farewell::linger;
pub use later::Later;
pub use limits::{Keepalive, Limits};
use refusals::Shown;
pub use refusals::{Reason, Refusals};
pub use service::{CameFrom, Draining};
use service::{ConnectionService, Listens, Requests};
use watch::ConnectionWatch;

use crate::connections::Connections;
use tfo_host::runtime::process;
use tfo_tls::identity::Peer;
use tfo_tls::server::{LiveConnection, ServerTls};
use tfo_tls::stream::TlsStream;
use tfo_wire::error::ErrorKind;

/// Connections that the kernel keeps for us between two accepts.
const BACKLOG: i32 = 4096;
/// How often the server checks the TLS files and the expiry of certificates, and sums up suppressed log lines.  A revoked
/// certificate is cut off within this time of its list's arrival; `tfoctl pki revoke` promises 5 s.
const HOUSEKEEPING: Duration = Duration::from_secs(2);
/// From so many connections on, memory is given back when half of them have ended.
const BURST_MIN: usize = 128;
/// Pause after a failed accept: usually there are no file descriptors until a connection ends.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a refused handshake may take to read its alert.
const ALERT_LINGER: Duration = Duration::from_secs(1);
/// What the kernel may keep of an answer that its peer does not read, in bytes; it takes twice that, for its own records.
/// Left to itself it takes megabytes for each connection.
const SENT_BYTES_MAX: usize = 128 << 10;
/// How long stopped tasks may take after the drain: each needs to run only once more.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Opens a listening socket.  `[::]` accepts IPv4 too, and becomes `0.0.0.0` where the kernel has no IPv6.
///
/// # Errors
/// Fails if the address is taken, or is not one of this host.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let open = |address| socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None);
    let (socket, address) = match open(address) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && no_ipv6(&error) => {
            let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            (open(address)?, address)
        }
        other => (other?, address),
    };
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    // Connections inherit it.
    socket.set_send_buffer_size(SENT_BYTES_MAX)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn no_ipv6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut because they did not end in time.
    pub cut: usize,
}

/// Whether some places are kept for this peer.
type KeptFor = Arc<dyn Fn(&Peer) -> bool + Send + Sync>;

/// A server with its limits and counters.
pub struct Server {
    limits: Limits,
    gate: Arc<Gate>,
    refusals: Arc<Refusals>,
    connections: Arc<Connections>,
    kept_for: KeptFor,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What the tasks of one listener share.
#[derive(Clone)]
struct Shared {
    router: Router,
    limits: Arc<Limits>,
    gate: Arc<Gate>,
    refusals: Arc<Refusals>,
    connections: Arc<Connections>,
    kept_for: KeptFor,
    requests: Requests,
    ends: Ends,
    tasks: TaskTracker,
}

impl Server {
    /// A server with these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            gate: Gate::new(limits),
            refusals: Arc::default(),
            connections: Arc::default(),
            kept_for: Arc::new(|_| false),
        }
    }

    /// Keeps [`Limits::operators_kept`] places for these peers.
    #[must_use]
    pub fn keeping_places(self, kept_for: impl Fn(&Peer) -> bool + Send + Sync + 'static) -> Self {
        Self { kept_for: Arc::new(kept_for), ..self }
    }

    /// Counts the connections of each name here.
    #[must_use]
    pub fn counting(self, connections: Arc<Connections>) -> Self {
        Self { connections, ..self }
    }

    /// Refusals so far, by reason.  For metrics.
    #[must_use]
    pub fn refusals(&self) -> Arc<Refusals> {
        Arc::clone(&self.refusals)
    }

    /// Open connections, handshakes included.  For metrics.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.gate.connections()
    }

    /// Serves `router` over TLS until `shutdown`, then drains.  Looks after the TLS files meanwhile.
    ///
    /// The router's fallbacks are set here: `unknown_path` and `unknown_method`.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: Arc<ServerTls>,
        router: Router,
        shutdown: CancellationToken,
    ) -> Drained {
        let housekeeping = keep_house(Arc::clone(&self.refusals), Arc::clone(&self.gate), Some(Arc::clone(&tls)));
        let _housekeeping = AbortOnDropHandle::new(tokio::spawn(housekeeping));
        self.accept(listener, router, shutdown, |shared, stream, address| {
            shared.gate.could_enter(address.ip())?;
            let tls = Arc::clone(&tls);
            Ok(shared.connection(stream, address, tls))
        })
        .await
    }

    /// Serves `router` without TLS, GET only, until `shutdown`: for what holds no secrets.
    pub async fn serve_plain(&self, listener: TcpListener, router: Router, shutdown: CancellationToken) -> Drained {
        let _housekeeping =
            AbortOnDropHandle::new(tokio::spawn(keep_house(Arc::clone(&self.refusals), Arc::clone(&self.gate), None)));
        self.accept(listener, router, shutdown, |shared, stream, address| {
            let place = shared.gate.enter_plain(address.ip());
            Ok(async move {
                let service = shared.service(address, Listens::Plain);
                tokio::select! {
                    () = connection::serve(stream, service, None, shared.ends, ()) => {}
                    () = place.given_away() => {
                        let why = "the connection gave way to a newer one";
                        shared.refusals.note(Reason::TooManyFromAddress, &Shown(address, None), &why);
                    }
                }
            })
        })
        .await
    }

    /// The accept loop and the drain after it.
    async fn accept<F: Future<Output = ()> + Send + 'static>(
        &self,
        listener: TcpListener,
        router: Router,
        shutdown: CancellationToken,
        begin: impl Fn(Shared, TcpStream, SocketAddr) -> Result<F, Reason>,
    ) -> Drained {
        let ends = Ends { drain: shutdown, stop: CancellationToken::new() };
        // If this future is dropped, its connections end with it.
        let _stop = ends.stop.clone().drop_guard();
        let router = router.fallback(unknown_path).method_not_allowed_fallback(unknown_method);
        let tasks = TaskTracker::new();
        let shared = Shared {
            router,
            limits: Arc::new(self.limits),
            gate: Arc::clone(&self.gate),
            refusals: Arc::clone(&self.refusals),
            connections: Arc::clone(&self.connections),
            kept_for: Arc::clone(&self.kept_for),
            requests: Requests::default(),
            ends: ends.clone(),
            tasks: tasks.clone(),
        };
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = ends.drain.cancelled() => break,
            };
            let (stream, address) = match accepted {
                Ok((stream, address)) => (stream, SocketAddr::new(address.ip().to_canonical(), address.port())),
                Err(error) => {
                    self.refusals.note(Reason::AcceptFailed, &"the listener", &error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Answers are written whole; waiting for more would only delay them.
            drop(stream.set_nodelay(true));
            keep_alive(&stream, address.port(), self.limits.keepalive);
            match begin(shared.clone(), stream, address) {
                // Boxed: tokio aligns tasks to cache lines, and glibc before 2.38 uses no aligned block of memory again for
                // another one of its size, so each handshake would leave a hole.
                Ok(served) => drop(tasks.spawn(Box::pin(served))),
                Err(reason) => self.refusals.note(reason, &Shown(address, None), &"closed without an answer"),
            }
        }
        drop(listener);
        tasks.close();
        if timeout(self.limits.drain_timeout, tasks.wait()).await.is_ok() {
            return Drained { cut: 0 };
        }
        let cut = tasks.len();
        ends.stop.cancel();
        drop(timeout(STOP_GRACE, tasks.wait()).await);
        Drained { cut }
    }
}

/// When an idle connection is probed first: up to a quarter sooner, by the peer's port.  After a rotation all connections are idle
/// since the same moment, and thousands of probes at once are more than a queue on their way may hold.
fn probed_after(idle: Duration, port: u16) -> Duration {
    let sooner = idle / 4 * u32::from(port % 16) / 16;
    // The kernel knows whole seconds.
    (idle - sooner).max(Duration::from_secs(1))
}

/// Has the kernel end a connection whose peer answers no packet.  A socket that refuses that has ended already.
fn keep_alive(stream: &TcpStream, port: u16, Keepalive { idle, interval, dead_after }: Keepalive) {
    let socket = socket2::SockRef::from(stream);
    let probes = socket2::TcpKeepalive::new().with_time(probed_after(idle, port)).with_interval(interval);
    drop(socket.set_tcp_keepalive(&probes));
    drop(socket.set_tcp_user_timeout(Some(dead_after)));
}

impl Shared {
    fn service(&self, address: SocketAddr, listens: Listens) -> ConnectionService {
        ConnectionService {
            router: self.router.clone(),
            address,
            listens,
            limits: Arc::clone(&self.limits),
            watch: ConnectionWatch::new(),
            draining: Draining(self.ends.drain.clone()),
            requests: self.requests.clone(),
            refusals: Arc::clone(&self.refusals),
        }
    }

    /// From an accepted socket to the end of the connection.
    async fn connection(self, stream: TcpStream, address: SocketAddr, tls: Arc<ServerTls>) {
        let shaken = self.handshake(stream, address, &tls).await;
        drop(tls);
        if let Some((stream, live, place)) = shaken {
            let counted = (self.connections.opened(live.peer()), place);
            let service = self.service(address, Listens::ToPeer(Arc::clone(live.peer())));
            // In a task of its own, whose memory is for this alone.
            let served = connection::serve(stream, service, Some(live), self.ends, counted);
            drop(self.tasks.spawn(Box::pin(served)));
        }
    }

    /// The handshake, and what it earns; none if it failed.
    async fn handshake(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        tls: &ServerTls,
    ) -> Option<(Box<TlsStream<TcpStream>>, LiveConnection, ConnectionPlace)> {
        let shown = Shown(address, None);
        let refuse = |reason, error: &dyn fmt::Display| self.refusals.note(reason, &shown, error);
        let until = Instant::now() + self.limits.handshake_timeout;
        // A peer that says nothing costs no place; what it says is read in the handshake.  Not `readable()`: of a new socket
        // tokio believes that it is.
        let speaks =
            async { timeout_at(until, stream.peek(&mut [0])).await.map(drop).map_err(|_| Reason::HandshakeTimeout) };
        let place = tokio::select! {
            place = self.gate.begin_handshake(address.ip(), speaks) => place,
            () = self.ends.drain.cancelled() => return None,
        };
        let place = place.map_err(|reason| refuse(reason, &"closed without an answer")).ok()?;
        let in_use = tls.in_use();
        let shaken = tokio::select! {
            shaken = timeout_at(until, TlsStream::accept(Arc::clone(&in_use.config), stream)) => shaken,
            () = self.ends.drain.cancelled() => return None,
            () = place.given_away() => {
                refuse(Reason::HandshakeGaveWay, &"the handshake gave way to another one");
                return None;
            }
        };
        drop(place);
        let stream = match shaken {
            Ok(Ok(stream)) => Box::new(stream),
            Ok(Err((error, mut stream))) => {
                refuse(Reason::of_handshake(&error), &error);
                // Without it a reset could overtake the alert, and the peer would not learn why.
                drop(timeout(ALERT_LINGER, linger(&mut stream)).await);
                return None;
            }
            Err(_) => {
                refuse(Reason::HandshakeTimeout, &"the handshake did not end in time");
                return None;
            }
        };
        let admitted = tls.admit(&in_use, stream.peer_certificates());
        let live = admitted.map_err(|error| refuse(Reason::CertificateInvalid, &error)).ok()?;
        let standing = if (self.kept_for)(live.peer()) { Standing::Operator } else { Standing::Anybody };
        match self.gate.enter(address.ip(), standing) {
            Ok(place) => Some((stream, live, place)),
            Err(reason) => {
                let shown = Shown(address, Some(live.peer()));
                self.refusals.note(reason, &shown, &"closed without an answer");
                None
            }
        }
    }
}

async fn unknown_path() -> Refusal {
    Refusal::new(ErrorKind::UnknownPath, "unknown path")
}

async fn unknown_method() -> Refusal {
    Refusal::new(ErrorKind::UnknownMethod, "this path does not support this method")
}

/// Does the periodic work until it is aborted.
async fn keep_house(refusals: Arc<Refusals>, gate: Arc<Gate>, tls: Option<Arc<ServerTls>>) {
    let mut most = 0;
    let mut ticks = interval(HOUSEKEEPING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        refusals.flush();
        let now = gate.connections();
        most = most.max(now);
        if most >= BURST_MIN && now <= most / 2 {
            most = now;
            drop(tokio::task::spawn_blocking(process::give_back_free_memory).await);
        }
        if let Some(tls) = tls.clone() {
            // Files and thousands of signatures: not on the event loop.  It logs what it finds.
            drop(tokio::task::spawn_blocking(move || tls.reload_if_changed()).await);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn idle_connections_are_probed_at_many_times_and_no_later_than_is_said() {
        let idle = Duration::from_secs(60);
        let all: BTreeSet<Duration> = (40_000..40_100).map(|port| probed_after(idle, port)).collect();
        assert_eq!(all.len(), 16);
        assert!(all.iter().all(|after| (idle * 3 / 4..=idle).contains(after)), "{all:?}");
        assert_eq!(probed_after(Duration::from_secs(1), u16::MAX), Duration::from_secs(1));
    }
}
