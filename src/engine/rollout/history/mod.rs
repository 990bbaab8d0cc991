//! The audit log of a pool as a chain: each entry names the digest of the one before, of the document that it made, and what that
//! document says of keys.
//!
//! So an entry that was changed, removed or put elsewhere is found ([`Verifier`]), and each step is judged by the transitions of
//! docs/protocol.md#rule-3 without the documents, of which only the last one is kept.  The chain (`chained_log`) follows the
//! revisions of one document, whatever coordinator made them.
//!
//! Must not know: how a digest is made (it is passed in), stores.

mod step;
#[cfg(test)]
mod tests;
mod verify;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::document::{AuditEntry, Document, Stage};
use super::slots::PoolKey;
use tfo_model::count::{Epoch, Generation, Revision};
use tfo_model::digest::Sha256;
use tfo_model::fleet::HoldReason;
use tfo_model::ids::PoolId;

pub use self::step::{Illegal, judge};
pub use self::verify::{LogEnd, Verifier};

/// Makes the digest of bytes.
pub type Hash = fn(&[u8]) -> [u8; 32];

/// What is hashed begins with what it is, so that a digest of one kind is none of another.
const START: &str = "tfo-fleet/v1/audit/start\n";
const ENTRY: &str = "tfo-fleet/v1/audit/entry\n";
const DOCUMENT: &str = "tfo-fleet/v1/audit/document\n";

/// What comes before the first entry of a pool.
#[must_use]
pub fn start(hash: Hash, pool: &PoolId) -> Sha256 {
    Sha256(hash(format!("{START}{pool}").as_bytes()))
}

/// The digest of a document as it is stored.
#[must_use]
pub fn digest_of(hash: Hash, document: &str) -> Sha256 {
    Sha256(hash(format!("{DOCUMENT}{document}").as_bytes()))
}

/// What a document says of keys, as far as the rules of transitions are about it.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    /// The phase and its keys.
    pub stage: Held,
    /// Epoch of the next key.
    pub next_epoch: Epoch,
    /// Keys that are being driven out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub revoking: BTreeSet<PoolKey>,
    /// Whether the pool is paused.
    pub paused: bool,
    /// Why no rotation starts by itself, if so.
    pub hold: Option<HoldReason>,
}

/// A phase with its keys, as [`Stage`] without the waves' rules and nodes.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields are those of Stage")]
pub enum Held {
    /// No key yet.
    Empty,
    /// All nodes hold `[current, backup]`.
    Steady { current: PoolKey, backup: Option<PoolKey> },
    /// All nodes hold `[current, next]`.
    Staged { current: PoolKey, next: PoolKey, prior_backup: Option<PoolKey> },
    /// Nodes in the opened waves hold `[next, current]`.
    Promoted { current: PoolKey, next: PoolKey, staged_generation: Generation, opened: usize, waves: usize },
}

impl Made {
    /// Of a document.
    #[must_use]
    pub fn of(document: &Document) -> Self {
        let stage = match &document.stage {
            Stage::Empty => Held::Empty,
            Stage::Steady { current, backup } => Held::Steady { current: *current, backup: *backup },
            Stage::Staged { current, next, prior_backup } => {
                Held::Staged { current: *current, next: *next, prior_backup: *prior_backup }
            }
            Stage::Promoted { current, next, staged_generation, wave } => Held::Promoted {
                current: *current,
                next: *next,
                staged_generation: *staged_generation,
                opened: wave.opened,
                waves: wave.rules.len(),
            },
        };
        Self {
            stage,
            next_epoch: document.next_epoch,
            revoking: document.revoke.as_ref().map(|revoke| revoke.keys.clone()).unwrap_or_default(),
            paused: document.paused.is_some(),
            hold: document.hold.as_ref().map(super::document::Hold::reason),
        }
    }

    /// Of a pool that was just made.
    fn start() -> Self {
        Self { stage: Held::Empty, next_epoch: Epoch::FIRST, revoking: BTreeSet::new(), paused: false, hold: None }
    }
}

/// An entry in its chain.  Persisted, as the text of which the digest is made; a field may be added with a serde default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Digest of the entry before it.
    pub before: Sha256,
    /// Revision of the oldest entry that was kept when this one was written.
    pub first: Revision,
    /// Digest of the document that it made.
    pub document: Sha256,
    /// What that says of keys.
    pub made: Made,
    /// What was done.
    pub entry: AuditEntry,
}

/// A link and its text, which is kept as it was written: later releases may print the same differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Written {
    text: String,
    link: Link,
}

impl Written {
    /// Writes a link.
    ///
    /// # Panics
    /// Never: a link is plain data with text as keys.
    #[must_use]
    pub fn new(link: Link) -> Self {
        let text = serde_json::to_string(&link).expect("plain data with text as keys");
        Self { text, link }
    }

    /// Reads the text of one.
    ///
    /// # Errors
    /// Fails if it is not one.
    pub fn parse(text: String) -> Result<Self, serde_json::Error> {
        let link = serde_json::from_str(&text)?;
        Ok(Self { text, link })
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it says.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// What was done.
    #[must_use]
    pub fn into_entry(self) -> AuditEntry {
        self.link.entry
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self, hash: Hash) -> Sha256 {
        Sha256(hash(format!("{ENTRY}{}", self.text).as_bytes()))
    }
}

impl TryFrom<String> for Written {
    type Error = serde_json::Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(text)
    }
}

impl From<Written> for String {
    fn from(written: Written) -> Self {
        written.text
    }
}
