//! The certificates that the authority of a directory has issued, for lists and the revocation list.  Knows no files.
//!
//! Invariant: a certificate is in the index before it is on disk, so that every certificate can be revoked.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::authority::Revoked;
use super::role::Role;
use tfo_model::ids::NodeId;
use tfo_model::named_enum;
use tfo_model::serial::SerialNumber as Serial;
use tfo_model::time::UnixTime;

/// Format version of index.json that this release writes and reads.
const VERSION: u32 = 1;
/// Below this many seconds left, a certificate is shown as `expiring`: a month, the slack of a yearly round.
const EXPIRING_SECS: u64 = 30 * 86_400;

/// Everything issued, oldest first.  Persisted: index.json; a new field needs a serde default, anything else a new
/// version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    version: u32,
    /// Number of the latest revocation list.
    pub crl_number: u64,
    /// When that list must be renewed.
    pub crl_next_update: UnixTime,
    /// The issued certificates.
    pub certificates: Vec<Entry>,
}

/// One certificate.  Persisted, as above.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Serial number.
    pub serial: Serial,
    /// Rights of its holder.
    pub role: Role,
    /// The dNSName.
    pub name: NodeId,
    /// The iPAddresses.
    pub addresses: Vec<IpAddr>,
    /// Start of its validity.
    pub not_before: UnixTime,
    /// End of its validity.
    pub not_after: UnixTime,
    /// Time of its revocation, if it is revoked.
    pub revoked_at: Option<UnixTime>,
}

named_enum! {
    /// State of a certificate.
    pub enum State {
        /// Valid for more than a month.
        Valid = "valid",
        /// Valid, and about to expire.
        Expiring = "expiring",
        /// Its validity has ended.
        Expired = "expired",
        /// Revoked.
        Revoked = "revoked",
    }
}

impl Entry {
    /// Its state at `now`.
    #[must_use]
    pub fn state(&self, now: UnixTime) -> State {
        if self.revoked_at.is_some() {
            State::Revoked
        } else if self.not_after <= now {
            State::Expired
        } else if self.not_after.secs_since(now) <= EXPIRING_SECS {
            State::Expiring
        } else {
            State::Valid
        }
    }

    /// Whether it can still be used.
    fn is_usable(&self, now: UnixTime) -> bool {
        matches!(self.state(now), State::Valid | State::Expiring)
    }
}

impl Index {
    /// An index without certificates.
    #[must_use]
    pub fn empty(now: UnixTime) -> Self {
        Self { version: VERSION, crl_number: 0, crl_next_update: now, certificates: Vec::new() }
    }

    /// Reads index.json.
    ///
    /// # Errors
    /// Fails with what is wrong with it.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let index: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if index.version == VERSION {
            Ok(index)
        } else {
            Err(format!("its format has version {}; this release knows version {VERSION}", index.version))
        }
    }

    /// The text of index.json.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "strings, numbers and lists can always be written as JSON")]
    pub fn to_json(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("it holds only strings, numbers and lists");
        text.push(b'\n');
        text
    }

    /// A usable certificate that rules out this role for this name.
    #[must_use]
    pub fn conflict(&self, name: &NodeId, role: Role, now: UnixTime) -> Option<&Entry> {
        self.certificates
            .iter()
            .find(|entry| entry.name == *name && entry.is_usable(now) && !entry.role.may_share_name_with(role))
    }

    /// What is revoked, for a revocation list.
    #[must_use]
    pub fn revoked(&self) -> Vec<Revoked> {
        let revoked = |entry: &Entry| Some(Revoked::new(&entry.serial, entry.revoked_at?));
        self.certificates.iter().filter_map(revoked).collect()
    }

    /// Whether a matching certificate was ever issued.
    #[must_use]
    pub fn knows(&self, which: &Which) -> bool {
        self.certificates.iter().any(|entry| which.is(entry))
    }

    /// Revokes the matching certificates and returns those that were not revoked yet.  Expired ones too: a clock may be behind.
    pub fn revoke(&mut self, which: &Which, now: UnixTime) -> Vec<Entry> {
        let matching = self.certificates.iter_mut().filter(|entry| entry.revoked_at.is_none() && which.is(entry));
        matching
            .map(|entry| {
                entry.revoked_at = Some(now);
                entry.clone()
            })
            .collect()
    }
}

/// Selects certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All with this name.
    Name(NodeId),
    /// The one with this serial number.
    Serial(Serial),
}

impl Which {
    fn is(&self, entry: &Entry) -> bool {
        match self {
            Self::Name(name) => entry.name == *name,
            Self::Serial(serial) => entry.serial == *serial,
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Serial(serial) => write!(f, "serial {serial}"),
        }
    }
}
