//! Bounds on what one peer, and all peers together, may take from the server.

use std::time::Duration;

use super::admission::CROWD_PARTS;
use tfo_engine::rollout::timing::HOLD_MAX;

/// When a connection counts as dead whose peer answers no packet: its host has died, or the network between.
///
/// It is what tells a coordinator that a node has died whose request it holds (docs/protocol.md#rule-11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Without data for so long, the kernel asks whether the peer is there.
    pub idle: Duration,
    /// It asks again after this time.
    pub interval: Duration,
    /// Without an answer for so long the connection has ended, also where data was sent.
    pub dead_after: Duration,
}

/// Bounds of a [`Server`](super::Server).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all, handshakes included.
    pub connections_max: usize,
    /// Connections of one address; of one /64 with IPv6.
    pub connections_per_address_max: usize,
    /// Connections beyond these bounds for peers that [`Server::keeping_places`](super::Server::keeping_places) names.
    pub operators_kept: usize,
    /// Handshakes in flight: peers that have not shown a certificate can take no more than this.
    pub handshakes_max: usize,
    /// From the accept to the end of the handshake.
    pub handshake_timeout: Duration,
    /// From the first byte of a request to the end of its head.
    pub head_timeout: Duration,
    /// Body of any request, in bytes; a route may allow less ([`JsonBody`](super::JsonBody)).
    pub body_bytes_max: usize,
    /// From the head of a request to the end of its body.
    pub body_timeout: Duration,
    /// From the end of an answer to the first byte of the next request.
    pub idle_timeout: Duration,
    /// From the end of a request's head to its answer, if that does not wait for anything.
    pub answer_timeout: Duration,
    /// The same for a request that waits: more than the longest hold.
    pub hold_timeout: Duration,
    /// Keepalives of connections.
    pub keepalive: Keepalive,
    /// An answer may wait this long for its reader, from the first byte that the socket does not take to the last.
    pub write_timeout: Duration,
    /// How long requests in flight may take at a shutdown.
    pub drain_timeout: Duration,
}

impl Default for Keepalive {
    /// A dead host is noticed within two minutes, for two packets a minute and node.
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self { idle: secs(60), interval: secs(20), dead_after: secs(120) }
    }
}

impl Limits {
    /// Sockets of peers without a certificate, for each of [`Self::handshakes_max`]: one shakes hands, the others wait.
    pub const SOCKETS_PER_HANDSHAKE: usize = 1 + CROWD_PARTS;

    /// For the enrolment port: a few requests each second, each of a connection of its own.
    #[must_use]
    pub fn strangers() -> Self {
        Self {
            connections_max: 256,
            connections_per_address_max: 128,
            operators_kept: 0,
            handshakes_max: 64,
            handshake_timeout: Duration::from_secs(5),
            head_timeout: Duration::from_secs(5),
            body_bytes_max: 8 << 10,
            body_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(20),
            hold_timeout: Duration::from_secs(20),
            keepalive: Keepalive::default(),
            write_timeout: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(5),
        }
    }

    /// For the plain listener: monitoring and a page, for few clients.
    #[must_use]
    pub fn observe() -> Self {
        Self {
            connections_max: 100,
            connections_per_address_max: 50,
            body_bytes_max: 0,
            idle_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(20),
            ..Self::default()
        }
    }
}

impl Default for Limits {
    /// For the API: 10 000 agents behind a few addresses, and answers of at most a few hundred KiB.
    fn default() -> Self {
        Self {
            connections_max: 12_000,
            connections_per_address_max: 2_000,
            operators_kept: 16,
            handshakes_max: 1_000,
            handshake_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(10),
            body_bytes_max: 64 * 1024,
            body_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(90),
            answer_timeout: Duration::from_secs(90),
            hold_timeout: HOLD_MAX + Duration::from_secs(30),
            keepalive: Keepalive::default(),
            write_timeout: Duration::from_secs(20),
            drain_timeout: Duration::from_secs(10),
        }
    }
}
