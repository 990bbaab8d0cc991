//! Why etcd did not do what was asked, sorted by what that means: not done for sure, or open.
//!
//! A refused connection, a failed handshake and every refusal that comes before the proposal leave the store as it was.  All
//! else is open: a request whose answer did not come may be done, now or later, and 503, 504 and "leader changed" say
//! nothing else.  Seen on etcd 3.4.23.  Must not know: what was asked.

use super::wire::Complaint;
use crate::error::{Cause, StoreError};

/// The failure of one request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// No connection: not done.
    #[error("{url}: {what}")]
    Away {
        /// The member that was asked.
        url: String,
        /// Why.
        what: String,
    },
    /// The token is missing, too old, or of another member's memory: not done.
    #[error("{url}: {what}")]
    Token {
        /// The member that was asked.
        url: String,
        /// What it says.
        what: String,
    },
    /// The database is over its quota: not done; reading works.
    #[error("{url}: {what}")]
    Quota {
        /// The member that was asked.
        url: String,
        /// What it says.
        what: String,
    },
    /// The revision that was asked for is compacted: reads only.
    #[error("{url}: the revision is compacted")]
    Compacted {
        /// The member that was asked.
        url: String,
    },
    /// The revision that was asked for does not exist yet: reads only.
    #[error("{url}: the revision does not exist yet")]
    Future {
        /// The member that was asked.
        url: String,
    },
    /// Refused for another reason, and not done.
    #[error("{url}: {what}")]
    Refused {
        /// The member that was asked.
        url: String,
        /// What it says.
        what: String,
    },
    /// It may be done, or be done later.
    #[error("{url}: {what}")]
    Open {
        /// The member that was asked.
        url: String,
        /// Why.
        what: String,
    },
}

/// What texts of etcd mean that the token is not accepted.
const TOKEN: [&str; 5] = [
    "invalid auth token",
    "auth store is old",
    "revision in header is old",
    "user name is empty",
    "auth token is not provided",
];

/// What keeps a gateway from its own member for good.
const BY_CERTIFICATE: &str = "with --client-cert-auth the certificate of etcd itself needs the usage clientAuth, too";

/// What a cluster with users lacks of us.
const BY_NAME: &str = "etcd has users, and takes none by the name in a certificate from its JSON gateway: set store.user and store.password";

/// A gateway of a cluster with users takes no request at all of a certificate that has a common name, with or without a
/// token.
const NAMED: &str = "etcd has users, and its JSON gateway takes no client certificate with a CommonName: set store.user and store.password, and make a certificate whose subject has none";

impl Failure {
    /// Sorts an answer that is not 200.
    pub(super) fn of(url: &str, status: u16, body: &[u8]) -> Self {
        let (url, text) = (url.to_owned(), Complaint::text_of(body));
        let what = format!("{text} ({status})");
        if TOKEN.iter().any(|token| text.contains(token)) {
            let what = if text.contains("user name is empty") { format!("{what}: {BY_NAME}") } else { what };
            return Self::Token { url, what };
        }
        match status {
            401 => Self::Token { url, what },
            400 if text.contains("has been compacted") => Self::Compacted { url },
            400 if text.contains("future revision") => Self::Future { url },
            429 if text.contains("space exceeded") => Self::Quota { url, what },
            404 => Self::Refused {
                url,
                what: format!("there is no JSON gateway; start etcd with --enable-grpc-gateway ({status})"),
            },
            503 if text.contains("code = Unavailable") && text.contains("bad certificate") => {
                Self::Refused { url, what: format!("{what}: {BY_CERTIFICATE}") }
            }
            // A user is configured, and etcd has none.
            412 if text.contains("authentication is not enabled") => Self::Refused { url, what },
            400 if text.contains("CommonName of client") => Self::Refused { url, what: format!("{what}: {NAMED}") },
            400 | 403 | 429 => Self::Refused { url, what },
            // The gateway has no connection to its own member: what it says is not the member's.  It may be starting, or ending
            // with our write on its way.
            503 if !text.contains("etcdserver:") => {
                Self::Open { url, what: format!("{what}: the gateway does not reach its member; {BY_CERTIFICATE}") }
            }
            _ => Self::Open { url, what },
        }
    }

    /// Sorts a request that got no answer.
    pub(super) fn without_answer(url: &str, error: &reqwest::Error) -> Self {
        let (url, what) = (url.to_owned(), last_cause(error));
        if error.is_connect() {
            // Nothing was sent.
            Self::Away { url, what }
        } else if error.is_timeout() {
            Self::Open { url, what: "no answer in time".to_owned() }
        } else {
            Self::Open { url, what }
        }
    }

    /// Whether another member may do better, and nothing is done twice.
    pub(super) fn goes_elsewhere(&self, reads: bool) -> bool {
        match self {
            Self::Away { .. } | Self::Token { .. } => true,
            Self::Open { .. } => reads,
            Self::Quota { .. } | Self::Compacted { .. } | Self::Future { .. } | Self::Refused { .. } => false,
        }
    }

    /// As the error of a read, which changes nothing.
    pub(super) fn of_reading(self, place: &str) -> StoreError {
        match self {
            Self::Open { url, what } => Self::Away { url, what }.at("read", place),
            other => other.at("read", place),
        }
    }

    /// As the error of a store at this place.
    pub(super) fn at(self, step: &'static str, place: &str) -> StoreError {
        let place = place.to_owned();
        let is_open = matches!(self, Self::Open { .. });
        let is_quota = matches!(self, Self::Quota { .. });
        let is_away = matches!(self, Self::Away { .. });
        let source = Cause::from(self);
        if is_open {
            StoreError::Failed { step, place, source }
        } else if is_quota {
            StoreError::Quota { place, source }
        } else if is_away {
            StoreError::Unreachable { place, source }
        } else {
            StoreError::Rejected { place, source }
        }
    }
}

/// The innermost cause, which says most.
fn last_cause(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), last_cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_is_sorted() {
        let sorted = |status, text: &str| {
            let body = format!(r#"{{"error":"{text}","message":"{text}","code":1}}"#);
            match Failure::of("u", status, body.as_bytes()) {
                Failure::Away { .. } => "away",
                Failure::Token { .. } => "token",
                Failure::Quota { .. } => "quota",
                Failure::Compacted { .. } => "compacted",
                Failure::Future { .. } => "future",
                Failure::Refused { .. } => "refused",
                Failure::Open { .. } => "open",
            }
        };
        for (status, text, expected) in [
            (400, "etcdserver: mvcc: required revision has been compacted", "compacted"),
            (400, "etcdserver: mvcc: required revision is a future revision", "future"),
            (400, "etcdserver: too many operations in txn request", "refused"),
            (400, "etcdserver: user name is empty", "token"),
            (400, "CommonName of client sending a request against gateway will be ignored", "refused"),
            (400, "etcdserver: revision of auth store is old", "token"),
            (401, "etcdserver: invalid auth token", "token"),
            (403, "etcdserver: permission denied", "refused"),
            (404, "404 page not found", "refused"),
            (412, "etcdserver: authentication is not enabled", "refused"),
            (429, "etcdserver: mvcc: database space exceeded", "quota"),
            (429, "etcdserver: request is too large", "refused"),
            (503, "connection closed", "open"),
            (503, "etcdserver: leader changed", "open"),
            (503, "etcdserver: no leader", "open"),
            (504, "etcdserver: request timed out", "open"),
            (500, "", "open"),
        ] {
            assert_eq!(sorted(status, text), expected, "{status} {text}");
        }
    }

    #[test]
    fn only_what_was_not_done_is_tried_elsewhere() {
        let url = || "u".to_owned();
        let what = url;
        for (failure, read, written) in [
            (Failure::Away { url: url(), what: what() }, true, true),
            (Failure::Token { url: url(), what: what() }, true, true),
            (Failure::Open { url: url(), what: what() }, true, false),
            (Failure::Refused { url: url(), what: what() }, false, false),
            (Failure::Quota { url: url(), what: what() }, false, false),
        ] {
            assert_eq!((failure.goes_elsewhere(true), failure.goes_elsewhere(false)), (read, written), "{failure:?}");
            assert_eq!(failure.clone().at("write", "x").outcome_is_open(), matches!(failure, Failure::Open { .. }));
        }
    }
}
