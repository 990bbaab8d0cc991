//! Every refusal is counted, and logged at a bounded rate: no peer can fill the log.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustls::CertificateError;
use tfo_model::named_enum;
use tokio::time::Instant;
use tracing::{debug, warn};

/// Lines per reason and window.
const LINES_MAX: u32 = 10;
/// Length of a window.
const WINDOW: Duration = Duration::from_secs(300);

named_enum! {
    /// Why a connection or a request is refused.
    #[repr(usize)]
    pub enum Reason {
        /// The server has as many connections as it takes in all.
        TooManyConnections = "too_many_connections",
        /// The address has as many connections as the server takes from one.
        TooManyFromAddress = "too_many_from_address",
        /// As many handshakes are under way as the server takes at a time.
        TooManyHandshakes = "too_many_handshakes",
        /// The handshake gave way to one of another address.
        HandshakeGaveWay = "handshake_gave_way",
        /// The handshake did not end in time.
        HandshakeTimeout = "handshake_timeout",
        /// The peer showed no certificate.
        NoCertificate = "no_certificate",
        /// The certificate has expired, or is not valid yet.
        CertificateExpired = "certificate_expired",
        /// The certificate is revoked.
        CertificateRevoked = "certificate_revoked",
        /// The certificate comes from an unknown CA.
        UnknownAuthority = "unknown_authority",
        /// The revocation list that covers the certificate is out of date, and does not name an operator.
        RevocationOverdue = "revocation_list_overdue",
        /// No revocation list covers the certificate.
        RevocationUnknown = "revocation_unknown",
        /// The certificate is invalid for another reason.
        CertificateInvalid = "certificate_invalid",
        /// Not TLS 1.3, no common algorithm, or no TLS at all.
        Protocol = "protocol",
        /// The peer left during the handshake, as a port check does.
        HandshakeAborted = "handshake_aborted",
        /// The peer refused our certificate: most often it does not know its CA.
        RefusedByPeer = "refused_by_peer",
        /// The certificate has no name that could be a node's or an operator's.
        Nameless = "nameless",
        /// The head of the request did not arrive in time.
        HeadTimeout = "head_timeout",
        /// The head of the request is too large.
        HeadTooLarge = "head_too_large",
        /// The bytes are not an HTTP request.
        BadRequest = "bad_request",
        /// The body did not arrive in time.
        BodyTimeout = "body_timeout",
        /// The body is too large.
        BodyTooLarge = "body_too_large",
        /// The peer is reading as many answers as it may at a time.
        TooManyRequests = "too_many_requests",
        /// A method or an origin that this server does not serve.
        NotServed = "not_served",
        /// The answer was not read in time.
        SlowReader = "slow_reader",
        /// A handler refused the request: not allowed, unknown, or not a request of this API.
        RequestRefused = "request_refused",
        /// A handler took too long: a bug here.
        HandlerTimeout = "handler_timeout",
        /// A handler panicked: a bug here.
        HandlerPanic = "handler_panic",
        /// The system gave no connection, for example for lack of file descriptors.
        AcceptFailed = "accept_failed",
    }
}

impl Reason {
    /// The reason of a failed handshake.
    pub(super) fn of_handshake(error: &std::io::Error) -> Self {
        let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return Self::HandshakeAborted;
        };
        match error {
            rustls::Error::InvalidCertificate(error) => Self::of_certificate(error),
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::AlertReceived(_) => Self::RefusedByPeer,
            _ => Self::Protocol,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Self::CertificateExpired,
            CertificateError::Revoked => Self::CertificateRevoked,
            CertificateError::UnknownIssuer => Self::UnknownAuthority,
            CertificateError::UnknownRevocationStatus => Self::RevocationUnknown,
            CertificateError::ApplicationVerificationFailure => Self::RevocationOverdue,
            _ => Self::CertificateInvalid,
        }
    }
}

/// Counters and the log's windows, one for each reason.
#[derive(Debug, Default)]
pub struct Refusals {
    counts: [AtomicU64; Reason::ALL.len()],
    windows: Mutex<[Window; Reason::ALL.len()]>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Window {
    began: Option<Instant>,
    lines: u32,
    suppressed: u64,
}

impl Refusals {
    /// Number of refusals so far, by reason.  For metrics.
    pub fn counts(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL.into_iter().map(|reason| (reason, self.counts[reason as usize].load(Ordering::Relaxed)))
    }

    /// Counts a refusal, and logs it if its reason has not had its lines in this window.
    pub(super) fn note(&self, reason: Reason, peer: &dyn fmt::Display, error: &dyn fmt::Display) {
        self.counts[reason as usize].fetch_add(1, Ordering::Relaxed);
        if reason == Reason::HandshakeAborted {
            // Nothing to act on: load balancers and port scanners do this all day.
            debug!(%reason, %peer, %error, "refused");
        } else if let Some(suppressed) = self.line(reason, Instant::now()) {
            let suppressed = Some(suppressed).filter(|count| *count > 0);
            warn!(%reason, %peer, %error, suppressed, "refused");
        }
    }

    /// Logs how many lines were suppressed in windows that are over.
    pub(super) fn flush(&self) {
        let now = Instant::now();
        for reason in Reason::ALL {
            let suppressed = {
                let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
                let window = &mut windows[reason as usize];
                if window.suppressed == 0 || !window.is_over(now) {
                    continue;
                }
                std::mem::take(window).suppressed
            };
            warn!(%reason, suppressed, "refused; not logged one by one");
        }
    }

    /// If a line may be written now: the number of lines that were suppressed since the last.
    fn line(&self, reason: Reason, now: Instant) -> Option<u64> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let window = &mut windows[reason as usize];
        let mut suppressed = 0;
        if window.is_over(now) {
            suppressed = window.suppressed;
            *window = Window { began: Some(now), ..Window::default() };
        }
        if window.lines >= LINES_MAX {
            window.suppressed += 1;
            return None;
        }
        window.lines += 1;
        Some(suppressed)
    }
}

impl Window {
    fn is_over(&self, now: Instant) -> bool {
        self.began.is_none_or(|began| now.duration_since(began) >= WINDOW)
    }
}

/// A peer in the log: its address, and its name once that is known.
pub(super) struct Shown<'a>(pub(super) SocketAddr, pub(super) Option<&'a tfo_tls::identity::Peer>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            Some(peer) => write!(f, "{peer} at {}", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_order_and_named_once() {
        for (reason, index) in Reason::ALL.into_iter().zip(0..) {
            assert_eq!(reason as usize, index);
            assert_eq!(Reason::ALL.iter().filter(|other| other.as_str() == reason.as_str()).count(), 1, "{reason}");
        }
    }

    #[test]
    fn a_reason_has_its_lines_and_no_more() {
        let refusals = Refusals::default();
        let start = Instant::now();
        let lines = |at| (0..100).filter_map(|_| refusals.line(Reason::Protocol, at)).collect::<Vec<_>>();
        assert_eq!(lines(start), [0; 10]);
        assert_eq!(lines(start + WINDOW / 2), [0; 0]);
        assert_eq!(refusals.line(Reason::Nameless, start), Some(0), "another reason has lines of its own");
        assert_eq!(lines(start + WINDOW), [190, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
