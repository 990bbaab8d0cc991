//! Every refusal is counted, and logged at a bounded rate: no peer can fill the log.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustls::CertificateError;
use tokio::time::Instant;
use tracing::{debug, warn};

/// Lines per reason and window.
const LINES_MAX: u32 = 10;
/// Length of a window.
const WINDOW: Duration = Duration::from_secs(300);

/// Why a connection or a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Reason {
    /// As many connections as we take in all.
    TooManyConnections,
    /// As many connections as we take from one address.
    TooManyFromAddress,
    /// As many handshakes as we do at a time.
    TooManyHandshakes,
    /// The handshake was not over in time.
    HandshakeTimeout,
    /// The peer showed no certificate.
    NoCertificate,
    /// The certificate has expired, or is not valid yet.
    CertificateExpired,
    /// The certificate is revoked.
    CertificateRevoked,
    /// The certificate is of no CA that we know.
    UnknownAuthority,
    /// There is no revocation list that says whether the certificate is revoked, or it is out of date.
    RevocationUnknown,
    /// The certificate is wrong otherwise.
    CertificateInvalid,
    /// Not TLS 1.3, no common algorithm, or no TLS at all.
    Protocol,
    /// The peer left during the handshake, as a port check does.
    HandshakeAborted,
    /// The peer refused us: most often it does not know the CA of our certificate.
    RefusedByPeer,
    /// The certificate holds no name that could be a node's or an operator's.
    Nameless,
    /// The request was not sent to the end of its head in time.
    HeadTimeout,
    /// The head of the request is too large.
    HeadTooLarge,
    /// What came was no HTTP request.
    BadRequest,
    /// The body was not sent in time.
    BodyTimeout,
    /// The body is too large.
    BodyTooLarge,
    /// Not a method or an origin that we serve.
    NotServed,
    /// The answer was not read in time.
    SlowReader,
    /// A handler refused the request: not allowed, unknown, or no request of this API.
    RequestRefused,
    /// A handler took too long: ours to mend.
    HandlerTimeout,
    /// A handler panicked: ours to mend.
    HandlerPanic,
    /// The system gave no connection, for example for want of file descriptors.
    AcceptFailed,
}

impl Reason {
    /// All of them, in the order of their numbers.
    const ALL: [Self; 25] = [
        Self::TooManyConnections,
        Self::TooManyFromAddress,
        Self::TooManyHandshakes,
        Self::HandshakeTimeout,
        Self::NoCertificate,
        Self::CertificateExpired,
        Self::CertificateRevoked,
        Self::UnknownAuthority,
        Self::RevocationUnknown,
        Self::CertificateInvalid,
        Self::Protocol,
        Self::HandshakeAborted,
        Self::RefusedByPeer,
        Self::Nameless,
        Self::HeadTimeout,
        Self::HeadTooLarge,
        Self::BadRequest,
        Self::BodyTimeout,
        Self::BodyTooLarge,
        Self::NotServed,
        Self::SlowReader,
        Self::RequestRefused,
        Self::HandlerTimeout,
        Self::HandlerPanic,
        Self::AcceptFailed,
    ];

    /// Stable name, for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooManyConnections => "too_many_connections",
            Self::TooManyFromAddress => "too_many_from_address",
            Self::TooManyHandshakes => "too_many_handshakes",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::NoCertificate => "no_certificate",
            Self::CertificateExpired => "certificate_expired",
            Self::CertificateRevoked => "certificate_revoked",
            Self::UnknownAuthority => "unknown_authority",
            Self::RevocationUnknown => "revocation_unknown",
            Self::CertificateInvalid => "certificate_invalid",
            Self::Protocol => "protocol",
            Self::HandshakeAborted => "handshake_aborted",
            Self::RefusedByPeer => "refused_by_peer",
            Self::Nameless => "nameless",
            Self::HeadTimeout => "head_timeout",
            Self::HeadTooLarge => "head_too_large",
            Self::BadRequest => "bad_request",
            Self::BodyTimeout => "body_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::NotServed => "not_served",
            Self::SlowReader => "slow_reader",
            Self::RequestRefused => "request_refused",
            Self::HandlerTimeout => "handler_timeout",
            Self::HandlerPanic => "handler_panic",
            Self::AcceptFailed => "accept_failed",
        }
    }

    /// What a failed handshake was refused for.
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
            CertificateError::UnknownRevocationStatus
            | CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. } => Self::RevocationUnknown,
            _ => Self::CertificateInvalid,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
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
            // Nobody has to act: load balancers and port scanners do nothing else all day.
            debug!(%reason, %peer, %error, "refused");
        } else if let Some(suppressed) = self.line(reason, Instant::now()) {
            let suppressed = Some(suppressed).filter(|count| *count > 0);
            warn!(%reason, %peer, %error, suppressed, "refused");
        }
    }

    /// Says how many lines were left out in windows that are over.
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
            warn!(%reason, suppressed, "refused, and not logged one by one");
        }
    }

    /// Whether a line may be written now; then, how many were left out since the last.
    fn line(&self, reason: Reason, now: Instant) -> Option<u64> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let window = &mut windows[reason as usize];
        let mut left_out = 0;
        if window.is_over(now) {
            left_out = window.suppressed;
            *window = Window { began: Some(now), ..Window::default() };
        }
        if window.lines >= LINES_MAX {
            window.suppressed += 1;
            return None;
        }
        window.lines += 1;
        Some(left_out)
    }
}

impl Window {
    fn is_over(&self, now: Instant) -> bool {
        self.began.is_none_or(|began| now.duration_since(began) >= WINDOW)
    }
}

/// A peer as the log names it: where it is, and who, once that is known.
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
