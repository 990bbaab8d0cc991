//! Who may enrol, and which certificates the authority has issued: tokens, serial numbers, revocations.
//!
//! Invariants that the conformance suite (`tests/store`) holds against every kind:
//! * A certificate is recorded before its holder gets it, so every one of them can be revoked.
//! * A use of a token is taken in the transaction that records the certificate, or neither happens.
//! * A public key is certified once, so a request that was seen on its way is of no use again.
//! * Of a name that has a certificate, the newest one stays recorded when it has ended: such a node may come back.
//! * A change has its entry in the log in the same transaction, and the log is a chain.
//!
//! Must not know: secrets (only hashes of them), keys, what is signed.

mod cut_off;
mod image;
mod judge;
mod log;
mod memory;

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::contract::ReadStore;
use super::error::{CommitError, StoreError};
use tfo_crypto::checksum::sha256;
use tfo_model::ids::{NodeId, PoolName, TokenId};
use tfo_model::pattern::NamePattern;
use tfo_model::serial::SerialNumber;
use tfo_model::time::UnixTime;

pub use cut_off::CutOff;
pub use image::Image;
pub(crate) use image::{ended, joined, restored};
pub(crate) use judge::{Recorded, is_outlived, judge};
pub use log::{LogChain, LogEntry, LogPart, LogRow, LogWritten, Logged};
pub(crate) use log::{chained, cut_off, end_of, expired, issued, made, met, revoked, start};
pub(crate) use memory::Book;

/// Most tokens, ended ones included.  An operator makes one for a batch of nodes.
pub const TOKENS_MAX: usize = 1_000;
/// Most certificates that are recorded: ten thousand nodes with twenty each.
pub const CERTIFICATES_MAX: usize = 200_000;
/// Most certificates of one name that are valid at a time.  A node has one, and two while it renews; a loop that asks for
/// more must not fill the store.
pub const PER_NODE_MAX: usize = 16;
/// Entries of the log that are kept: half a year of ten thousand nodes that renew.  The oldest go first.
pub const LOG_KEPT: u64 = 100_000;
/// How long an ended token is still listed, in seconds: a week.
const ENDED_KEPT_SECS: u64 = 7 * 86_400;
/// How long an ended certificate is still recorded beside a newer one, in seconds: a week, in which the revocation list is
/// written without it, for clocks that are behind.
const OUTLIVED_KEPT_SECS: u64 = 7 * 86_400;

/// SHA-256 of a token's secret, or of a public key (`SubjectPublicKeyInfo`, DER).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

/// A token, without its secret.  Persisted; a new field needs a serde default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Its public name.
    pub id: TokenId,
    /// Hash of its secret.
    pub hash: Digest,
    /// The pool that nodes join with it.
    pub pool: PoolName,
    /// The names that may join with it.
    pub nodes: Vec<NamePattern>,
    /// How many nodes may join with it.
    pub uses: u32,
    /// How many have.
    pub used: u32,
    /// From when on it is refused.
    pub expires_at: UnixTime,
    /// Whether it may take the name of a node that has a certificate, which is revoked then.
    pub replace: bool,
    /// The operator who made it.
    pub made_by: NodeId,
    /// When.
    pub made_at: UnixTime,
    /// Who revoked it, and when.
    pub revoked: Option<TokenEnd>,
    /// The node that used it last, and when.
    pub last_use: Option<LastUse>,
    /// Whether the log says that it has expired.
    pub expiry_logged: bool,
}

/// The revocation of a token.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenEnd {
    /// The operator; none if it came from a backup.
    pub by: Option<NodeId>,
    /// When.
    pub at: UnixTime,
}

/// A use of a token.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUse {
    /// The node.
    pub node: NodeId,
    /// When.
    pub at: UnixTime,
}

impl Token {
    /// Whether it cannot be used any more.
    #[must_use]
    pub fn has_ended(&self, now: UnixTime) -> bool {
        self.revoked.is_some() || self.used >= self.uses || self.expires_at <= now
    }

    /// Whether its time is over, and nothing else had ended it before, and the log does not say so yet.
    pub(crate) fn is_newly_expired(&self, now: UnixTime) -> bool {
        !self.expiry_logged && self.expires_at <= now && self.revoked.is_none() && self.used < self.uses
    }

    /// Whether it has ended so long ago that it need not be listed.
    #[must_use]
    pub fn is_forgotten(&self, now: UnixTime) -> bool {
        let last_use = self.last_use.as_ref().filter(|_| self.used >= self.uses).map(|last| last.at);
        let ends = [Some(self.expires_at), self.revoked.as_ref().map(|end| end.at), last_use];
        let ended_at = ends.into_iter().flatten().min().unwrap_or(self.expires_at);
        self.has_ended(now) && ended_at.plus(ENDED_KEPT_SECS) <= now
    }
}

/// A certificate of a node.  Persisted; a new field needs a serde default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Its serial number.
    pub serial: SerialNumber,
    /// The one name in it.
    pub node: NodeId,
    /// Hash of its public key.
    pub key: Digest,
    /// When it was issued; of one that was not recorded, when it was first shown ([`Shown`]).
    pub issued_at: UnixTime,
    /// When it ends.
    pub not_after: UnixTime,
    /// The token that it was issued for; none for a renewal.
    pub token: Option<TokenId>,
    /// When it was revoked.
    pub revoked_at: Option<UnixTime>,
}

impl Certificate {
    /// Whether it can be used.
    #[must_use]
    pub fn is_live(&self, now: UnixTime) -> bool {
        self.revoked_at.is_none() && self.not_after > now
    }
}

/// What entitles a node to a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim<'a> {
    /// A token.
    Token {
        /// Its public name.
        id: &'a TokenId,
        /// Hash of the secret that came with it.
        hash: &'a Digest,
        /// Whether its pool has a record of such a node.
        known: bool,
    },
    /// The connection, by a certificate of the same name.
    Renewal {
        /// The pool that was asked; none for a person's.
        pool: Option<&'a PoolName>,
        /// When: a name whose certificates were revoked since then is not renewed.
        asked_at: UnixTime,
    },
}

/// A wish for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish<'a> {
    /// Who it is for.
    pub node: &'a NodeId,
    /// Hash of the public key; none before it is known.
    pub key: Option<&'a Digest>,
    /// Why.
    pub claim: Claim<'a>,
}

/// A certificate that a node shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown<'a> {
    /// Its serial number.
    pub serial: SerialNumber,
    /// The node.
    pub node: &'a NodeId,
    /// When it ends.
    pub not_after: UnixTime,
    /// Now.
    pub at: UnixTime,
    /// Where the node is.
    pub from: Option<IpAddr>,
}

impl Shown<'_> {
    /// As it is recorded.  Its public key is not at hand where it is shown; a hash of its serial number takes that place, so such
    /// a key could be certified once more, for the one that has it already.
    pub(crate) fn certificate(&self) -> Certificate {
        Certificate {
            serial: self.serial,
            node: self.node.clone(),
            key: Digest(sha256(format!("shown {}", self.serial).as_bytes())),
            issued_at: self.at,
            not_after: self.not_after,
            token: None,
            revoked_at: None,
        }
    }
}

/// Why no certificate is issued; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnrolRefused {
    /// The token is unknown, wrong, used up, expired or revoked; which of these stays in the coordinator.
    #[error("the token is refused: {0}")]
    Token(TokenFault),
    /// The token is not for this name.
    #[error("the token is for other names")]
    Name,
    /// A node of this name has a certificate.
    #[error("a node of this name has enrolled already")]
    Taken,
    /// The public key has a certificate.
    #[error("this key has a certificate already")]
    KeyUsed,
    /// The name has as many valid certificates as it may have.
    #[error("this name has {PER_NODE_MAX} certificates that are valid")]
    TooMany,
    /// An operator has just denied or forgotten the node.
    #[error("the certificates of this name are being revoked")]
    CutOff,
    /// There is no room for one more.
    #[error("{CERTIFICATES_MAX} certificates are recorded")]
    Full,
}

/// What is wrong with a token: for the log alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// No token has this id.
    #[error("unknown")]
    Unknown,
    /// The secret is another one.
    #[error("wrong secret")]
    Wrong,
    /// An operator revoked it.
    #[error("revoked")]
    Revoked,
    /// Its time is over.
    #[error("expired")]
    Expired,
    /// All its uses are taken.
    #[error("used up")]
    UsedUp,
}

/// Why nothing was recorded.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// See [`EnrolRefused`].
    #[error(transparent)]
    Refused(#[from] EnrolRefused),
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a token was not added.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// There are as many that can be used as there may be.
    #[error("there are {TOKENS_MAX} tokens that can be used")]
    TooMany,
    /// There is one with this id.
    #[error("there is a token with this id")]
    Exists,
    /// See [`StoreError`].
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The reading side, of a store that another process may be serving.
pub trait ReadEnrolments: Send + Sync {
    /// Everything that is recorded, from one consistent read.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    fn image(&self) -> Result<Image, StoreError>;
}

/// Everything that a store keeps, to be read: for a backup.
pub trait ReadWhole: ReadStore + ReadEnrolments {}

impl<S: ReadStore + ReadEnrolments> ReadWhole for S {}

/// Tokens, certificates and their log.  Every call blocks; every change is durable when it returns.
pub trait Enrolments: ReadEnrolments {
    /// All tokens, the oldest first.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    fn tokens(&self) -> Result<Vec<Token>, StoreError>;

    /// Adds a token.  If there is no room, those that ended long ago are dropped, or else all that have ended.
    ///
    /// # Errors
    /// Fails without a change if there is one with its id, or if too many can still be used.
    fn add_token(&self, token: &Token, now: UnixTime) -> Result<(), TokenError>;

    /// Revokes a token; gives it as it is then, or none if there is none with this id.  Revoked twice, the first counts.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    fn revoke_token(&self, id: &TokenId, end: &TokenEnd) -> Result<Option<Token>, StoreError>;

    /// Logs the tokens whose time is over and of which the log does not say so yet.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    fn log_expired(&self, now: UnixTime) -> Result<(), StoreError>;

    /// Whether [`Self::record`] would refuse this now, before anything is signed.  Gives the pool of the token, if the claim
    /// is one.
    ///
    /// # Errors
    /// Fails as [`Self::record`] would.
    fn judge(&self, wish: &Wish<'_>, now: UnixTime) -> Result<Option<PoolName>, EnrolError>;

    /// Records a certificate that was asked for from this address, and takes a use of its token, in one transaction.  A token
    /// that may replace revokes the earlier certificates of the name with it.  Gives whether any were revoked.
    ///
    /// # Errors
    /// Fails without a change if the claim does not hold.
    fn record(&self, certificate: &Certificate, claim: Claim<'_>, from: Option<IpAddr>) -> Result<bool, EnrolError>;

    /// Records a certificate that a node has shown, if none of its serial number is recorded: it was issued after the backup that
    /// was restored, or by hand.  From then on it is revoked with its node as every other.  Gives whether it was recorded.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    fn meet(&self, shown: &Shown<'_>) -> Result<bool, StoreError>;

    /// The certificates of a node, the oldest first.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    fn certificates(&self, node: &NodeId) -> Result<Vec<Certificate>, StoreError>;

    /// Writes a plan, before the order that it goes with: from then on its nodes get no certificate.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    fn plan_cut_off(&self, plan: &CutOff) -> Result<(), StoreError>;

    /// The plans that are not carried out yet, by id.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    fn cut_offs(&self) -> Result<Vec<CutOff>, StoreError>;

    /// Carries a plan out and removes it, whether it is still there or not: revokes all certificates of `nodes`, those of its
    /// nodes for which the order took effect.  Gives how many were not revoked before.  Ended ones too: a clock may be behind.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    fn finish_cut_off(&self, plan: &CutOff, nodes: &BTreeSet<NodeId>, at: UnixTime) -> Result<usize, StoreError>;

    /// All revoked certificates, ended ones included.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    fn revoked(&self) -> Result<Vec<Certificate>, StoreError>;

    /// A part of the log.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    fn log(&self, part: LogPart) -> Result<Vec<Logged>, StoreError>;

    /// The log as it is stored, be it right or not, after an entry; and what it must lead to.
    ///
    /// # Errors
    /// Fails if the store cannot be read.
    fn log_chain(&self, after: u64) -> Result<LogChain, StoreError>;

    /// Adds entries that go with no change of the store: refused attempts, which the caller has counted and folded.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    fn add_to_log(&self, entries: &[LogEntry]) -> Result<(), StoreError>;

    /// Takes over what a backup has, in one transaction.  What is here stays; a certificate is revoked if it is revoked in
    /// one of the two; tokens that could still be used are ended; the log is taken if there is none here.  A second time
    /// nothing changes.
    ///
    /// # Errors
    /// Fails if the store cannot be written.
    fn restore(&self, image: &Image, at: UnixTime) -> Result<(), StoreError>;
}

/// The error of a store below a change that no rule of pools can refuse.
pub(crate) fn below(error: CommitError) -> StoreError {
    match error {
        CommitError::Store(error) => error,
        other => StoreError::Failed { step: "write", place: "the enrolments".to_owned(), source: other.into() },
    }
}
