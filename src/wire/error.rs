//! The body of every answer that is not 2xx.  Wire v1.

use serde::{Deserialize, Serialize};

/// What went wrong, for programs: clients may match on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// 400: no JSON, unknown fields, or a value out of its range.
    BadRequest,
    /// 403: the certificate names no operator (or viewer, for a read).
    NotAllowed,
    /// 403: the certificate's name is none of the pool's nodes.
    NotInPool,
    /// 403: the node is denied.
    Denied,
    /// 404.
    UnknownPool,
    /// 404.
    UnknownNode,
    /// 404.
    UnknownPath,
    /// 405.
    UnknownMethod,
    /// 408: head or body did not come in time.
    Timeout,
    /// 409: the store was restored; nothing moves before `recover`.
    PoolFrozen,
    /// 409: the node's keys belong to another pool.
    OtherPool,
    /// 409: a later session of this node is open; [`ErrorBody::ordinal`] says which.
    SessionClosed,
    /// 409: the report is further ahead than a restored store can be behind.
    TooFarAhead,
    /// 409: the command is not allowed now; the message says the phase and the reason.
    Refused,
    /// 409: the document moved on from what the operator saw.
    Moved,
    /// 413.
    TooLarge,
    /// 503: required nodes were not heard yet in this life of the coordinator; ask again.
    NotHeard,
    /// 503: the store cannot be reached; ask again.
    StoreUnavailable,
    /// 503: this coordinator's file differs from what drives the pool, or it is stopping; ask another one.
    Unavailable,
    /// 500: our bug; the log has more under the `request_id`.
    Internal,
    /// Of a later release.
    #[serde(other)]
    Unknown,
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
    pub kind: ErrorKind,
    /// For people.
    pub message: String,
    /// Under which the coordinator's log has more.
    pub request_id: String,
    /// With `session_closed`: the ordinal of the session that is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordinal: Option<u64>,
}
