//! status.json: what an agent says about its host to whoever looks there.  No secrets.
//!
//! Wire v1 (docs/reference/json.md): fields may be added, never renamed or removed.  Unknown = null.  Fingerprints, never keys.

use serde::{Deserialize, Serialize};

use tfo_model::count::Generation;
use tfo_model::ids::PoolName;
use tfo_model::key::{KeyFingerprint, PairPrint};
use tfo_model::named::Named;
use tfo_model::named_enum;
use tfo_model::node::KeySource;
use tfo_model::state::{Phase, SlotPrint};
use tfo_model::time::UnixTime;

/// Version of the format.
pub const VERSION: u32 = 1;
/// Its name in the agent's runtime directory.
pub const FILE_NAME: &str = "status.json";

named_enum! {
    /// How it stands with a host.
    pub enum State {
        /// The keys that the source wants are in the file and in every kernel.
        Ok = "ok",
        /// Keys are installed and verified, but something needs a look.
        Degraded = "degraded",
        /// There are no keys, or they are not where they belong.
        Failed = "failed",
    }
}

named_enum! {
    /// How it stands with the coordinators.
    pub enum Standing {
        /// No answer yet.
        Asking = "asking",
        /// The last request was answered.
        Connected = "connected",
        /// Answers came in this run, but the last request failed.
        Disconnected = "disconnected",
        /// No answer came in time at the start: the node serves by its file.
        Unconfirmed = "unconfirmed",
        /// The node has no keys of its pool.
        NoKeys = "no_keys",
        /// Out of contact for longer than the pool waits.
        Detached = "detached",
    }
}

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`VERSION`].
    pub version: u32,
    /// How it stands.
    pub state: State,
    /// Where the host has its keys from.
    pub source: Named<KeySource>,
    /// The pool, with a coordinator.
    pub pool: Option<PoolName>,
    /// The instruction that was followed last.
    pub generation: Option<Generation>,
    /// Where the rotation stands.
    pub phase: Phase,
    /// The slot that makes cookies.
    pub primary: Option<SlotPrint>,
    /// The slot that only validates.
    pub backup: Option<SlotPrint>,
    /// When these keys were first installed here.
    pub installed_at: Option<UnixTime>,
    /// When they change next.
    pub next_change_at: Option<UnixTime>,
    /// Repairs of keys that somebody else had changed, since the agent started.
    pub drift_repairs: u64,
    /// Whether the kernel's clock is synchronised.
    pub clock_synchronised: Option<bool>,
    /// When a coordinator answered last.
    pub last_contact_at: Option<UnixTime>,
    /// How it stands with the coordinators; null without any.
    #[serde(default)]
    pub contact: Option<Named<Standing>>,
    /// What is wrong.
    pub error: Option<StatusError>,
    /// What each namespace's kernel holds, the agent's own one first.
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

/// The first thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusError {
    /// A problem's kind.
    pub kind: String,
    /// For people.
    pub message: String,
}

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceStatus {
    /// Its name under /run/netns; `own` for the agent's own.
    pub name: String,
    /// What its kernel showed.
    pub primary: Option<KeyFingerprint>,
    /// The same, of the backup.
    pub backup: Option<KeyFingerprint>,
    /// When that was last seen to be what it should be; null if it is not.
    pub verified_at: Option<UnixTime>,
    /// `net.ipv4.tcp_fastopen`.
    pub tcp_fastopen: Option<i32>,
}

impl NamespaceStatus {
    /// Both slots; none if no key was seen.
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
