//! What a coordinator tells an operator's command or webhook (docs/reference/json.md#event).
//!
//! Wire v1: fields may be added.  Readers skip fields and names that they do not know.

use serde::{Deserialize, Serialize};

use super::fleet::Verdict;
use tfo_model::count::Generation;
use tfo_model::fleet::{NoticeKind, NoticeState};
use tfo_model::ids::{NodeId, PoolId, PoolName};
use tfo_model::named::Named;
use tfo_model::state::SlotPrint;
use tfo_model::time::UnixTime;

/// The format's number.
pub const VERSION: u32 = 1;

/// Most certificates of one event.
pub const CERTIFICATES_MAX: usize = 20;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// [`VERSION`].
    pub version: u32,
    /// 32 hex digits: the same each time that this event is sent, and of no other event.
    pub id: String,
    /// What it is about.
    pub kind: Named<NoticeKind>,
    /// Whether that has begun or is over.
    pub state: Named<NoticeState>,
    /// When the coordinator saw it.
    pub at: UnixTime,
    /// Since when it has been so, or was.
    pub since: UnixTime,
    /// The coordinator that tells it: the first name of its certificate.
    pub coordinator: Option<NodeId>,
    /// The pool; null for what is the coordinator's own.
    pub pool: Option<PoolName>,
    /// Its identity.
    pub pool_id: Option<PoolId>,
    /// The verdict on the pool at that moment; null without a pool.
    pub verdict: Option<Verdict>,
    /// The keys with which a rotation has ended; null for other events.
    pub rotation: Option<Rotation>,
    /// The certificates that end, the first to end first; empty for other events.
    pub certificates: Vec<Ending>,
}

/// What a rotation has ended with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// The generation of the nodes' instruction.
    pub generation: Generation,
    /// The new primary.
    pub primary: SlotPrint,
    /// The key before it.
    pub backup: Option<SlotPrint>,
}

/// A certificate or a list that ends soon.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ending {
    /// Its last second.
    pub until: UnixTime,
    /// `node`, `coordinator`, `client_ca` or `crl`.
    pub of: String,
    /// The node; null for the others.
    pub name: Option<NodeId>,
}
