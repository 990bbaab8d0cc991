//! The operators' side of enrolment: `/v1/tokens` (docs/reference/json.md).
//!
//! The answer to `POST` is the one place where a token's secret travels from a coordinator.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::enrol::TokenText;
use tfo_model::fleet::EnrolAction;
use tfo_model::ids::{NodeId, PoolName, TokenId};
use tfo_model::named::Named;
use tfo_model::named_enum;
use tfo_model::pattern::NamePattern;
use tfo_model::time::UnixTime;

/// Most nodes that may join with one token.
pub const USES_MAX: u32 = 10_000;
/// Longest life of a token in seconds: 30 days.
pub const LIFE_SECS_MAX: u64 = 30 * 86_400;
/// Most patterns of names of one token.
pub const PATTERNS_MAX: usize = 64;

named_enum! {
    /// Whether a token can be used.
    pub enum TokenState {
        /// It can.
        Active = "active",
        /// All its uses are taken.
        UsedUp = "used_up",
        /// Its time is over.
        Expired = "expired",
        /// An operator revoked it.
        Revoked = "revoked",
    }
}

/// `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    /// The pool that nodes join with it.
    pub pool: PoolName,
    /// The names that may join, at most [`PATTERNS_MAX`]; empty for those of the pool.
    #[serde(default)]
    pub nodes: Vec<NamePattern>,
    /// How many nodes may join, 1 to [`USES_MAX`].
    pub uses: u32,
    /// How long it can be used, in seconds, 1 to [`LIFE_SECS_MAX`].
    pub life_secs: u64,
    /// Whether it may take the name of a node that has a certificate, which is revoked then.
    #[serde(default)]
    pub replace: bool,
}

/// The answer to `POST /v1/tokens`.
#[derive(Debug, Serialize, Deserialize)]
pub struct MadeToken {
    /// The whole token, for `tfo-agent join`: shown this once.
    pub token: TokenText,
    /// What the coordinator keeps of it.
    pub kept: TokenStatus,
}

/// `GET /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// The oldest first; ended ones for a week.
    pub tokens: Vec<TokenStatus>,
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenStatus {
    /// Its public name.
    pub id: TokenId,
    /// Whether it can be used.
    pub state: Named<TokenState>,
    /// The pool that nodes join with it.
    pub pool: PoolName,
    /// The names that may join.
    pub nodes: Vec<NamePattern>,
    /// How many nodes may join.
    pub uses: u32,
    /// How many have.
    pub used: u32,
    /// From when on it is refused.
    pub expires_at: UnixTime,
    /// Whether it may take the name of a node that has a certificate.
    pub replace: bool,
    /// The operator who made it.
    pub made_by: NodeId,
    /// When.
    pub made_at: UnixTime,
    /// The operator who revoked it; null if none did.
    pub revoked_by: Option<NodeId>,
    /// When; null if none did.
    pub revoked_at: Option<UnixTime>,
    /// The node that used it last; null before the first.
    pub last_node: Option<NodeId>,
    /// When; null before the first.
    pub last_used_at: Option<UnixTime>,
}

/// `GET /v1/enrolment/audit?after=NUMBER`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EnrolmentAudit {
    /// The entries after that number, oldest first; none where the coordinator has no `[enrolment]`.
    pub entries: Vec<EnrolmentLine>,
    /// Whether there are more after `read_to`.
    pub more: bool,
    /// The last number that was looked at: the `after` of the next page.
    pub read_to: u64,
}

/// What happened to tokens and certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentLine {
    /// When, by the coordinator's clock.
    pub at: UnixTime,
    /// Its place in the log; rises, not always by one.
    pub number: u64,
    /// What happened.
    pub action: Named<EnrolAction>,
    /// The pool of the token or of the request; null if that is not known.
    pub pool: Option<PoolName>,
    /// The token; null for a renewal, and for a token that there is not.
    pub token: Option<TokenId>,
    /// The nodes, at most 100.
    pub nodes: BTreeSet<NodeId>,
    /// How many more nodes it is about.
    pub more: usize,
    /// The operator; null for what a node or the coordinator did.
    pub operator: Option<NodeId>,
    /// The address that asked, the last one of several; null if none did.
    pub address: Option<IpAddr>,
    /// How many certificates, or refused attempts: alike ones of an hour are one entry.
    pub count: u64,
    /// More for people; may be empty.
    pub reason: String,
}
