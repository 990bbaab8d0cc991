//! The body of every answer that is not 2xx.  Wire v1.

use serde::{Deserialize, Deserializer, Serialize};

use tfo_model::ids::{PoolId, PoolName};
use tfo_model::named::Named;
use tfo_model::named_enum;
use tfo_model::time::UnixTime;

named_enum! {
    /// What went wrong; programs may match on it.
    pub enum ErrorKind {
        /// 400: not JSON, an unknown field, or a value out of its range.
        BadRequest = "bad_request",
        /// 403: the certificate does not name an operator (or viewer, for a read).
        NotAllowed = "not_allowed",
        /// 403: the certificate does not name a node of the pool.
        NotInPool = "not_in_pool",
        /// 403: the certificate names an operator, a viewer or the coordinator: it is never a node's.
        NotANode = "not_a_node",
        /// 403: the enrolment token is wrong, used up, expired or revoked; which of these is not told.
        TokenRefused = "token_refused",
        /// 403: the token or the pool does not allow the name.
        NameNotAllowed = "name_not_allowed",
        /// 403: a certificate of this name is in force, and the token does not replace one.
        NameTaken = "name_taken",
        /// 403: the certificate request is not one that is signed: its key, its names, an extension, its signature.
        BadRequestKey = "bad_request_key",
        /// 403: the node is denied.
        Denied = "denied",
        /// 404: the coordinator has no such pool.
        UnknownPool = "unknown_pool",
        /// 404: the pool has no such node.
        UnknownNode = "unknown_node",
        /// 404: the coordinator has no such enrolment token.
        UnknownToken = "unknown_token",
        /// 404: the API has no such path.
        UnknownPath = "unknown_path",
        /// 405: the path does not take this method.
        UnknownMethod = "unknown_method",
        /// 408: the head or the body did not arrive in time.
        Timeout = "timeout",
        /// 409: the store was restored; the pool stands still until `recover`.
        PoolFrozen = "pool_frozen",
        /// 409: the node's keys belong to another pool.
        OtherPool = "other_pool",
        /// 409: an operator moved the node to another pool, see [`ErrorBody::moved`].
        NodeMoved = "node_moved",
        /// 409: a later session of this node is open, see [`ErrorBody::ordinal`].
        SessionClosed = "session_closed",
        /// 409: the report is further ahead than a restored store can be behind.
        TooFarAhead = "too_far_ahead",
        /// 409: the node declares a longer period than the pool's `period_max`.
        PeriodTooLong = "period_too_long",
        /// 409: the pool does not allow the command now; the message has its phase and the reason.
        Refused = "refused",
        /// 409: the document has changed since the operator saw it.
        Moved = "moved",
        /// 413, or 431 for a head: too many bytes.
        TooLarge = "too_large",
        /// 503: the coordinator has not heard every required node since it started; ask again.
        NotHeard = "not_heard",
        /// 503: the coordinator does not have the authority's key, so it certifies nothing; ask another one.
        NoAuthority = "no_authority",
        /// 503: the coordinator cannot reach its store; ask again.
        StoreUnavailable = "store_unavailable",
        /// 503: the coordinator is busy or stopping; ask another one.
        Unavailable = "unavailable",
        /// 500: a bug; the coordinator's log has more under the `request_id`.
        Internal = "internal",
        /// A kind of a later release; never sent.
        Unknown = "unknown",
    }
}

impl ErrorKind {
    /// The HTTP status of an answer of this kind.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::NotAllowed
            | Self::NotInPool
            | Self::NotANode
            | Self::TokenRefused
            | Self::NameNotAllowed
            | Self::NameTaken
            | Self::BadRequestKey
            | Self::Denied => 403,
            Self::UnknownPool | Self::UnknownNode | Self::UnknownToken | Self::UnknownPath => 404,
            Self::UnknownMethod => 405,
            Self::Timeout => 408,
            Self::PoolFrozen
            | Self::OtherPool
            | Self::NodeMoved
            | Self::SessionClosed
            | Self::TooFarAhead
            | Self::PeriodTooLong
            | Self::Refused
            | Self::Moved => 409,
            Self::TooLarge => 413,
            Self::NotHeard | Self::NoAuthority | Self::StoreUnavailable | Self::Unavailable => 503,
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
    /// The id under which the coordinator logged the request.
    pub request_id: String,
    /// With `session_closed`: the ordinal of the session that is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordinal: Option<u64>,
    /// With `node_moved`: which pool the node asks from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<MovedTo>,
    /// With a refused command: when the reason ends by time alone, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixTime>,
    /// With a refused command: what to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

/// An operator's order to a node: it belongs to another pool of these coordinators now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovedTo {
    /// The pool that it left.
    pub from: PoolId,
    /// The pool that it is to ask.
    pub pool: PoolName,
    /// The identity of that pool.
    pub pool_id: PoolId,
}

/// A kind of a later release does not make the rest of the body unreadable.
fn known_or_unknown<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ErrorKind, D::Error> {
    Named::deserialize(deserializer).map(|kind| kind.known().unwrap_or(ErrorKind::Unknown))
}
