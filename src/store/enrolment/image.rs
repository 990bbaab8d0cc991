//! Everything that is recorded of enrolment, as a backup has it; and what a restore makes of it.
//!
//! A restore takes back no revocation and gives back no use of a token: what a token was used for after the backup is not
//! known, so tokens that could still be used are ended.

use serde::{Deserialize, Serialize};

use super::{Certificate, CutOff, LogEntry, LogWritten, Token, TokenEnd};
use tfo_model::fleet::EnrolAction;
use tfo_model::time::UnixTime;

/// Everything, from one consistent read.  Persisted, in backups; a new field needs a serde default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// All tokens, the oldest first.
    pub tokens: Vec<Token>,
    /// All certificates, by serial number.
    pub certificates: Vec<Certificate>,
    /// Plans that are not carried out yet, by id.
    pub cut_offs: Vec<CutOff>,
    /// The log as it was written, the oldest first.
    pub log: Vec<LogWritten>,
}

impl Image {
    /// Whether nothing is recorded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }

    /// How many of its certificates are revoked.
    #[must_use]
    pub fn revoked(&self) -> usize {
        self.certificates.iter().filter(|one| one.revoked_at.is_some()).count()
    }
}

/// A token as a restore brings it back: for the record only.
pub(crate) fn ended(token: &Token, at: UnixTime) -> Token {
    let end = (!token.has_ended(at)).then_some(TokenEnd { by: None, at });
    Token { revoked: token.revoked.clone().or(end), ..token.clone() }
}

/// A certificate that is in the store and in a backup: revoked if it is in one of them.
pub(crate) fn joined(stored: &Certificate, saved: &Certificate) -> Certificate {
    Certificate { revoked_at: stored.revoked_at.or(saved.revoked_at), ..stored.clone() }
}

/// The entry of a restore.
pub(crate) fn restored(image: &Image, at: UnixTime) -> LogEntry {
    let reason =
        format!("{} certificates, {} of them revoked; tokens are ended", image.certificates.len(), image.revoked());
    LogEntry { reason, ..LogEntry::new(EnrolAction::Restored, at) }
}
