//! From the socket to an axum [`Router`]: accept, TLS, limits, refusals, drain.
//!
//! Must not know: pools, stores, the engine, what the routes mean.  Handlers find in the request's extensions:
//! `Arc<Peer>` (never without a name; not on the plain listener), [`RequestId`], [`PeerAddress`], [`Draining`].

mod answer;
mod body;
mod limits;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

pub use answer::{Refusal, RequestId, refuse};
pub use body::JsonBody;
pub use limits::Limits;

use crate::tls::identity::Peer;
use crate::tls::server::ServerTls;

/// Connections that the kernel keeps for us between two accepts.
const BACKLOG: i32 = 4096;

/// Where a request came from.  For logs; never a reason to allow anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

/// Says to handlers that the server wants to end: a long poll then answers at once.
#[derive(Debug, Clone)]
pub struct Draining(CancellationToken);

impl Draining {
    /// Waits until the server wants to end.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }

    /// Whether the server wants to end.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// Opens a listening socket; `[::]` also takes IPv4, and falls back to it where the kernel has no IPv6.
///
/// # Errors
/// Fails if the address is taken or not ours.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A server with its limits; clones share nothing.
#[derive(Debug)]
pub struct Server {
    limits: Limits,
}

impl Server {
    /// A server with these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits }
    }

    /// Serves `router` over TLS until `shutdown`, then drains and returns.
    pub async fn serve(&self, listener: TcpListener, tls: Arc<ServerTls>, router: Router, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => break,
            };
            let Ok((stream, address)) = accepted else { continue };
            let acceptor = tokio_rustls::TlsAcceptor::from(tls.config());
            let (router, draining) = (router.clone(), Draining(shutdown.clone()));
            tasks.spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let Some(Ok(peer)) = chain.first().map(Peer::of) else { return };
                let peer = Arc::new(peer);
                let service = router.map_request(move |mut request: hyper::Request<hyper::body::Incoming>| {
                    let extensions = request.extensions_mut();
                    extensions.insert(Arc::clone(&peer));
                    extensions.insert(RequestId::fresh());
                    extensions.insert(PeerAddress(address));
                    extensions.insert(draining.clone());
                    request
                });
                let service = TowerToHyperService::new(service);
                let served =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                drop(served);
            });
        }
        tasks.close();
        drop(tokio::time::timeout(self.limits.drain_timeout, tasks.wait()).await);
    }

    /// Serves `router` without TLS, GET only, until `shutdown`: for the `[observe]` listener.
    pub async fn serve_plain(&self, listener: TcpListener, router: Router, shutdown: CancellationToken) {
        let served = axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.cancelled().await });
        drop(served.await);
    }
}
