//! `POST /v1/pools/{pool}/sync`: one request acknowledges and waits for the next change (docs/protocol.md#rules, rules 7 to 9).

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::secret::SecretText;
use tfo_model::count::{Epoch, Generation};
use tfo_model::ids::{PoolId, PoolName};
use tfo_model::key::KeyFingerprint;
use tfo_model::node::{Counters, Session};
use tfo_model::state::{Phase, SlotPrint};

/// Longest request body in bytes.
pub const REQUEST_BYTES_MAX: usize = 4_096;

/// Longest answer body in bytes that a node reads.
pub const ANSWER_BYTES_MAX: usize = 4_096;

/// Longest long poll in seconds; more is cut to this.
pub const WAIT_SECS_MAX: u64 = 60;

/// Longest `next_contact_secs`: a timer that fires once a week.
pub const NEXT_CONTACT_SECS_MAX: u64 = 7 * 86_400;

/// Longest of the free texts (`kernel`, `agent`, `error`) in bytes.
pub const TEXT_BYTES_MAX: usize = 128;

pub use tfo_model::node::KeySource;

/// What a node says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncRequest {
    /// How long the answer may be held back if there is nothing new, 0 to [`WAIT_SECS_MAX`].
    pub wait_secs: u64,
    /// When the node will be back at the latest, in seconds after the answer; at most [`NEXT_CONTACT_SECS_MAX`].
    pub next_contact_secs: u64,
    /// This run of the agent at this coordinator: `ordinal-nonce`, decimal and 16 hex digits.
    #[serde(with = "session_text")]
    pub session: Session,
    /// The highest generation that it was told in this session, installable or not; 0 at its start.
    pub seen: Generation,
    /// What its file says and its kernels read back; null if it has no keys.
    pub installed: Option<InstalledKeys>,
    /// `uname -r`.
    pub kernel: String,
    /// Version of the agent.
    pub agent: String,
    /// `net.ipv4.tcp_fastopen`; null if it cannot be read.
    pub tcp_fastopen: Option<i32>,
    /// The node's clock.
    pub clock: ClockReport,
    /// TFO counters since its boot; null if its kernel has none.
    pub counters: Option<Counters>,
    /// What keeps it from being converged, in snake case: `drift`, `boot_order`, ...; null if nothing does.  An
    /// `installed` beside an error is what the file says; it is no acknowledgement.
    pub error: Option<String>,
    /// Whether its kernel keeps a backup key; absent = by `kernel` (Linux 5.3 and later).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup_slot: Option<bool>,
    /// Where its keys come from.
    #[serde(default)]
    pub source: KeySource,
}

/// What is durable and read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstalledKeys {
    /// The pool that told it; null for keys from elsewhere.
    pub pool_id: Option<PoolId>,
    /// Under which generation; null for keys from elsewhere.
    pub generation: Option<Generation>,
    /// The slot that makes cookies.
    pub primary: SlotPrint,
    /// The slot that only validates.
    pub backup: Option<SlotPrint>,
}

/// A node's clock.  Shown and warned about; no decision depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockReport {
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// Whether the kernel says that it is synchronised; null if it does not say.
    pub synchronised: Option<bool>,
}

/// What a node is told (200).
#[derive(Debug, Serialize, Deserialize)]
pub struct SyncAnswer {
    /// The operator's name of the pool.
    pub pool: PoolName,
    /// Its identity.
    pub pool_id: PoolId,
    /// The fence.
    pub generation: Generation,
    /// Where the rotation stands, for the status line.
    pub phase: Phase,
    /// The slot that makes cookies.
    pub primary: TaughtKey,
    /// The slot that only validates.
    pub backup: Option<TaughtKey>,
    /// After so many seconds without contact the pool goes on without this node.
    pub absent_after_secs: u64,
}

/// A key with its bytes.
#[derive(Debug, Serialize, Deserialize)]
pub struct TaughtKey {
    /// Ordinal of the key.
    pub epoch: Epoch,
    /// Its public name; the node refuses an answer in which it does not fit the bytes.
    pub fingerprint: KeyFingerprint,
    /// Kernel text of the one key.
    pub key: SecretText,
}

mod session_text {
    use super::{Deserialize, Deserializer, Serializer, Session};

    pub(super) fn serialize<S: Serializer>(session: &Session, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(session)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Session, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
