//! The body of every answer that is not 2xx.  Wire v1.

use serde::{Deserialize, Deserializer, Serialize};

use tfo_model::named::Named;
use tfo_model::named_enum;

named_enum! {
    /// What went wrong, for programs: clients may match on it.
    pub enum ErrorKind {
        /// 400: no JSON, unknown fields, or a value out of its range.
        BadRequest = "bad_request",
        /// 403: the certificate names no operator (or viewer, for a read).
        NotAllowed = "not_allowed",
        /// 403: the certificate's name is none of the pool's nodes.
        NotInPool = "not_in_pool",
        /// 403: the node is denied.
        Denied = "denied",
        /// 404.
        UnknownPool = "unknown_pool",
        /// 404.
        UnknownNode = "unknown_node",
        /// 404.
        UnknownPath = "unknown_path",
        /// 405.
        UnknownMethod = "unknown_method",
        /// 408: head or body did not come in time.
        Timeout = "timeout",
        /// 409: the store was restored; nothing moves before `recover`.
        PoolFrozen = "pool_frozen",
        /// 409: the node's keys belong to another pool.
        OtherPool = "other_pool",
        /// 409: a later session of this node is open; [`ErrorBody::ordinal`] says which.
        SessionClosed = "session_closed",
        /// 409: the report is further ahead than a restored store can be behind.
        TooFarAhead = "too_far_ahead",
        /// 409: the command is not allowed now; the message says the phase and the reason.
        Refused = "refused",
        /// 409: the document moved on from what the operator saw.
        Moved = "moved",
        /// 413.
        TooLarge = "too_large",
        /// 503: required nodes were not heard yet in this life of the coordinator; ask again.
        NotHeard = "not_heard",
        /// 503: the store cannot be reached; ask again.
        StoreUnavailable = "store_unavailable",
        /// 503: this coordinator's file differs from what drives the pool, or it is stopping; ask another one.
        Unavailable = "unavailable",
        /// 500: our bug; the log has more under the `request_id`.
        Internal = "internal",
        /// Of a later release.
        Unknown = "unknown",
    }
}

impl ErrorKind {
    /// The HTTP status that goes with it.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotAllowed | Self::NotInPool | Self::Denied => 403,
            Self::UnknownPool | Self::UnknownNode | Self::UnknownPath => 404,
            Self::UnknownMethod => 405,
            Self::Timeout => 408,
            Self::PoolFrozen
            | Self::OtherPool
            | Self::SessionClosed
            | Self::TooFarAhead
            | Self::Refused
            | Self::Moved => 409,
            Self::TooLarge => 413,
            Self::NotHeard | Self::StoreUnavailable | Self::Unavailable => 503,
            Self::Internal | Self::Unknown => 500,
        }
    }
}

/// The body of every answer that is not 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// For programs.
    #[serde(deserialize_with = "known_or_unknown")]
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
    /// Under which the coordinator's log has more.
    pub request_id: String,
    /// With `session_closed`: the ordinal of the session that is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordinal: Option<u64>,
}

/// A kind of a later release does not make the rest of the body unreadable.
fn known_or_unknown<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ErrorKind, D::Error> {
    Named::deserialize(deserializer).map(|kind| kind.known().unwrap_or(ErrorKind::Unknown))
}
