//! status.json: what an agent reports about its host to local readers.  Fingerprints, never keys.
//!
//! Wire v1 (docs/reference/json.md): a release may add fields, and never renames or removes one.  Null means unknown.

use serde::{Deserialize, Serialize};

use tfo_model::count::Generation;
use tfo_model::ids::PoolName;
use tfo_model::key::{KeyFingerprint, PairPrint};
use tfo_model::named::Named;
use tfo_model::named_enum;
use tfo_model::node::KeySource;
use tfo_model::state::{Confinement, Phase, SlotPrint};
use tfo_model::time::UnixTime;

/// The version of the format.
pub const VERSION: u32 = 1;
/// The file's name in the agent's runtime directory.
pub const FILE_NAME: &str = "status.json";

named_enum! {
    /// The state of a host.
    pub enum State {
        /// The keys that the source wants are in the file and in every kernel.
        Ok = "ok",
        /// Keys are installed and verified, but something needs attention.
        Degraded = "degraded",
        /// Keys are missing, or not where they belong.
        Failed = "failed",
    }
}

named_enum! {
    /// An agent's contact with its coordinators.
    pub enum Standing {
        /// No coordinator has answered yet.
        Asking = "asking",
        /// A coordinator answered the last request.
        Connected = "connected",
        /// A coordinator answered in this run, but the last request failed.
        Disconnected = "disconnected",
        /// No coordinator answered in time at the start: the node serves with the keys of its file.
        Unconfirmed = "unconfirmed",
        /// A coordinator answered that the pool has no key yet.
        EmptyPool = "empty_pool",
        /// The node has no keys of its pool.
        NoKeys = "no_keys",
        /// Out of contact for longer than the pool waits.
        Detached = "detached",
    }
}

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`].
    pub version: u32,
    /// The state of the host.
    pub state: State,
    /// Where the host has its keys from.
    pub source: Named<KeySource>,
    /// The pool; null without a coordinator.
    pub pool: Option<PoolName>,
    /// The generation of the installed keys; null without a coordinator.
    pub generation: Option<Generation>,
    /// Where the rotation stands.
    pub phase: Phase,
    /// The installed key that makes cookies.
    pub primary: Option<SlotPrint>,
    /// The installed key that only validates.
    pub backup: Option<SlotPrint>,
    /// When these keys were first installed here.
    pub installed_at: Option<UnixTime>,
    /// When the keys change next.
    pub next_change_at: Option<UnixTime>,
    /// How often the agent repaired keys that another program had changed, since it started.
    pub drift_repairs: u64,
    /// Whether the kernel's clock is synchronised.
    pub clock_synchronised: Option<bool>,
    /// When a coordinator last answered.
    pub last_contact_at: Option<UnixTime>,
    /// The contact with the coordinators; null without any.
    #[serde(default)]
    pub contact: Option<Named<Standing>>,
    /// How far the agent has confined itself; null from earlier releases.
    #[serde(default)]
    pub landlock: Option<Named<Confinement>>,
    /// The first problem; null without one.
    pub error: Option<StatusError>,
    /// What the kernel holds in each namespace, the agent's own first.
    pub namespaces: Vec<NamespaceStatus>,
}

impl Status {
    /// Both slots; none if there are no keys.
    #[must_use]
    pub fn slots(&self) -> Option<PairPrint> {
        let primary = self.primary?.fingerprint;
        Some(PairPrint { primary, backup: self.backup.map(|slot| slot.fingerprint) })
    }
}

/// A problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusError {
    /// Stable name in snake case that scripts may match.
    pub kind: String,
    /// For people.
    pub message: String,
}

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceStatus {
    /// Its name under /run/netns; `own` for the agent's own.
    pub name: String,
    /// The primary that the kernel showed.
    pub primary: Option<KeyFingerprint>,
    /// The backup that the kernel showed.
    pub backup: Option<KeyFingerprint>,
    /// When the agent last read back the keys that it wants; null if others are there.
    pub verified_at: Option<UnixTime>,
    /// `net.ipv4.tcp_fastopen`.
    pub tcp_fastopen: Option<i32>,
    /// Whether it was found in a place of `install.namespaces`, and comes and goes.
    #[serde(default)]
    pub found: bool,
}

impl NamespaceStatus {
    /// Both slots; none if the kernel showed no key.
    #[must_use]
    pub fn slots(&self) -> Option<PairPrint> {
        self.primary.map(|primary| PairPrint { primary, backup: self.backup })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_status_is_understood() {
        let text = r#"{"version":1,"state":"ok","source":"derive","pool":null,"generation":null,"phase":"staged",
            "primary":{"epoch":1796083200,"fingerprint":"00010203040506ff"},"backup":null,
            "installed_at":"2026-12-01T00:00:00Z","next_change_at":"2026-12-01T00:00:05Z","drift_repairs":0,
            "clock_synchronised":null,"last_contact_at":null,"error":null,"namespaces":[]}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!((status.state, status.phase), (State::Ok, Phase::Staged));
        assert_eq!(status.source, KeySource::Derive);
        let slots = status.slots().unwrap();
        assert_eq!((slots.primary.to_string().as_str(), slots.backup), ("00010203040506ff", None));
    }

    #[test]
    fn an_agent_of_a_later_release_is_understood() {
        let text = r#"{"version":1,"state":"ok","source":"vault","pool":null,"generation":null,"phase":"steady",
            "primary":null,"backup":null,"installed_at":null,"next_change_at":null,"drift_repairs":0,
            "clock_synchronised":null,"last_contact_at":null,"contact":"resting","error":null,"namespaces":[]}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        assert_eq!((status.source.as_str(), status.contact.unwrap().as_str()), ("vault", "resting"));
    }
}
