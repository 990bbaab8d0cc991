//! A listener for peers that have no certificate yet: TLS, one request, and the end.
//!
//! A handshake's place is kept for its time, whatever became of the handshake, so so many are begun each second and no more:
//! a flood costs the API's own threads next to nothing.  Who comes from an address with few places takes one from the address
//! with most, as on the API's port, and both ports count for themselves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::admission::{HandshakePlace, Standing};
use super::connection;
use super::farewell::linger;
use super::refusals::{Reason, Shown};
use super::service::Listens;
use super::{ALERT_LINGER, Drained, Server, Shared, keep_house};
use tfo_tls::server::ServerTls;
use tfo_tls::stream::TlsStream;

/// How long a handshake has its place: with [`Limits::handshakes_max`](super::Limits::handshakes_max) places that many begin in
/// each of these.
const PLACE_KEPT: Duration = Duration::from_secs(1);

impl Server {
    /// Serves `router` over TLS, without client certificates, until `shutdown`.  Peers get the server's chain with `authority`
    /// at its end.  The TLS files are looked after by [`Server::serve`] of another listener.
    pub async fn serve_strangers(
        &self,
        listener: TcpListener,
        (tls, authority): (Arc<ServerTls>, CertificateDer<'static>),
        router: Router,
        shutdown: CancellationToken,
    ) -> Drained {
        let housekeeping = keep_house(Arc::clone(&self.refusals), Arc::clone(&self.gate), None);
        let _housekeeping = AbortOnDropHandle::new(tokio::spawn(housekeeping));
        self.accept(listener, router, shutdown, |shared, stream, address| {
            shared.gate.could_enter(address.ip())?;
            Ok(shared.stranger(stream, address, (Arc::clone(&tls), authority.clone())))
        })
        .await
    }
}

impl Shared {
    async fn stranger(
        self,
        stream: TcpStream,
        address: SocketAddr,
        (tls, authority): (Arc<ServerTls>, CertificateDer<'static>),
    ) {
        let until = Instant::now() + self.limits.handshake_timeout;
        let shown = Shown(address, None);
        let speaks =
            async { timeout_at(until, stream.peek(&mut [0])).await.map(drop).map_err(|_| Reason::HandshakeTimeout) };
        let place = tokio::select! {
            place = self.gate.begin_handshake(address.ip(), speaks) => place,
            () = self.ends.drain.cancelled() => return,
        };
        let place = match place {
            Ok(place) => place,
            Err(reason) => return self.refusals.note(reason, &shown, &"closed without an answer"),
        };
        let kept_until = Instant::now() + PLACE_KEPT;
        if let Some(stream) = self.shake_hands(stream, address, (&tls, &authority), (&place, until)).await {
            drop((tls, authority));
            match self.gate.enter(address.ip(), Standing::Anybody) {
                Ok(entered) => {
                    let service = self.service(address, Listens::ToStranger);
                    let (drain, ends) = (self.ends.drain.clone(), self.ends.clone());
                    let served = Box::pin(connection::serve(stream, service, None, ends, entered));
                    let kept = async {
                        tokio::select! {
                            () = sleep_until(kept_until) => {}
                            () = drain.cancelled() => {}
                        }
                        drop(place);
                    };
                    tokio::join!(served, kept);
                }
                Err(reason) => {
                    drop(stream);
                    self.refusals.note(reason, &shown, &"closed without an answer");
                    self.keep(place, kept_until).await;
                }
            }
        } else {
            self.keep(place, kept_until).await;
        }
    }

    /// Waits with the place until its time is over.
    async fn keep(&self, place: HandshakePlace, until: Instant) {
        tokio::select! {
            () = sleep_until(until) => {}
            () = place.given_away() => {}
            () = self.ends.drain.cancelled() => {}
        }
    }

    async fn shake_hands(
        &self,
        stream: TcpStream,
        address: SocketAddr,
        (tls, authority): (&ServerTls, &CertificateDer<'static>),
        (place, until): (&HandshakePlace, Instant),
    ) -> Option<Box<TlsStream<TcpStream>>> {
        let refuse = |reason, error: &dyn std::fmt::Display| self.refusals.note(reason, &Shown(address, None), error);
        let config = tls.in_use().for_strangers(authority);
        let config = config.map_err(|error| refuse(Reason::Protocol, &error)).ok()?;
        let shaken = tokio::select! {
            shaken = timeout_at(until, TlsStream::accept(config, stream)) => shaken,
            () = self.ends.drain.cancelled() => return None,
            () = place.given_away() => {
                refuse(Reason::HandshakeGaveWay, &"the handshake gave way to another one");
                return None;
            }
        };
        match shaken {
            Ok(Ok(stream)) => Some(Box::new(stream)),
            Ok(Err((error, mut stream))) => {
                refuse(Reason::of_handshake(&error), &error);
                // Without it a reset could overtake the alert, and the peer would not learn why.
                drop(timeout(ALERT_LINGER, linger(&mut stream)).await);
                None
            }
            Err(_) => {
                refuse(Reason::HandshakeTimeout, &"the handshake did not end in time");
                None
            }
        }
    }
}
