//! The log of enrolment: who made, used and ended which token, which certificates were issued and revoked, and who was refused.
//!
//! It belongs to the store and not to a pool: a certificate is good for every pool that takes its name, and an entry of a
//! pool's log is a commit of its document, which a thousand nodes that join must not make.  A store writes an entry in the
//! transaction of the change that it tells of.  The log is a chain (`tfo_engine::enrolment_log`): an entry is stored as the text
//! of a link, and beside it the digest of the last one.
//!
//! Must not know: secrets, and hashes of them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Certificate, Claim, CutOff, Shown, Token, TokenEnd};
use tfo_crypto::checksum::sha256;
use tfo_engine::chained_log::LogEnd;
use tfo_engine::enrolment_log::{self, Written};
use tfo_model::digest::Sha256;
use tfo_model::fleet::EnrolAction;
use tfo_model::ids::{NodeId, PoolName, TokenId};
use tfo_model::time::UnixTime;

/// Most names in one entry; it counts the others.
const NAMED_MAX: usize = 100;

/// One entry.  Persisted; a new field needs a serde default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogEntry {
    /// Wall clock of the coordinator that wrote it.
    pub at: UnixTime,
    /// What happened.
    pub action: EnrolAction,
    /// The pool of the token, or of the request; none if that is not known.
    pub pool: Option<PoolName>,
    /// The token; none for a renewal, and for a token that there is not.
    pub token: Option<TokenId>,
    /// The nodes that it is about, at most a hundred, the first in name order.
    pub nodes: BTreeSet<NodeId>,
    /// How many more.
    pub more: usize,
    /// The operator; none for what a node or the coordinator did.
    pub operator: Option<NodeId>,
    /// The address that asked, the last one where there were several.
    pub address: Option<IpAddr>,
    /// How many certificates, or attempts that were refused.
    pub count: u64,
    /// More for a reader; may be empty.
    pub reason: String,
}

/// An entry in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// Rises from entry to entry, not always by one.
    pub number: u64,
    /// What it says.
    pub entry: LogEntry,
}

/// An entry as it is stored.
pub type LogWritten = Written<LogEntry>;

/// A part of the log as it is stored, and what it must lead to, from one read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChain {
    /// What it must lead to.
    pub end: LogEnd,
    /// Entries, oldest first, at most [`AUDIT_READ_MAX`](crate::AUDIT_READ_MAX).
    pub rows: Vec<LogRow>,
}

/// An entry as it is stored, be it right or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogRow {
    /// The number under which it is stored.
    pub number: u64,
    /// Its text.
    pub text: String,
    /// Whether its checksum is right.
    pub is_intact: bool,
}

/// What comes before the first entry.
pub(crate) fn start() -> Sha256 {
    enrolment_log::start(sha256)
}

/// Links entries to what is there, and gives where the chain ends then.
pub(crate) fn chained(mut chain: Sha256, entries: impl IntoIterator<Item = LogEntry>) -> (Vec<LogWritten>, Sha256) {
    let link = |entry| {
        let written = Written::new(chain, entry);
        chain = written.digest(sha256);
        written
    };
    let written = entries.into_iter().map(link).collect();
    (written, chain)
}

/// Where the chain ends after these, which are linked already; `before`, if there is none.
pub(crate) fn end_of(written: &[LogWritten], before: Sha256) -> Sha256 {
    written.last().map_or(before, |last| last.digest(sha256))
}

/// A part of the log, at most [`AUDIT_READ_MAX`](crate::AUDIT_READ_MAX) entries of it, the oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogPart {
    /// The first entries after this number.
    After(u64),
    /// The last entries before this number.
    Before(u64),
}

impl LogEntry {
    /// One about nothing in particular.
    #[must_use]
    pub fn new(action: EnrolAction, at: UnixTime) -> Self {
        let (nodes, reason) = (BTreeSet::new(), String::new());
        Self { at, action, pool: None, token: None, nodes, more: 0, operator: None, address: None, count: 1, reason }
    }

    /// Names nodes.
    #[must_use]
    pub fn about<'a>(mut self, nodes: impl ExactSizeIterator<Item = &'a NodeId>) -> Self {
        self.more = nodes.len().saturating_sub(NAMED_MAX);
        self.nodes = nodes.take(NAMED_MAX).cloned().collect();
        self
    }

    fn of_token(action: EnrolAction, token: &Token, at: UnixTime) -> Self {
        Self { pool: Some(token.pool.clone()), token: Some(token.id.clone()), ..Self::new(action, at) }
    }
}

/// A token was made.
pub(crate) fn made(token: &Token) -> LogEntry {
    let patterns: Vec<String> = token.nodes.iter().map(ToString::to_string).collect();
    let replaces = if token.replace { ", may replace" } else { "" };
    let reason = format!("{} uses until {} for {}{replaces}", token.uses, token.expires_at, patterns.join(" "));
    LogEntry {
        operator: Some(token.made_by.clone()),
        reason,
        ..LogEntry::of_token(EnrolAction::TokenMade, token, token.made_at)
    }
}

/// A token was revoked.
pub(crate) fn revoked(token: &Token, end: &TokenEnd) -> LogEntry {
    LogEntry { operator: end.by.clone(), ..LogEntry::of_token(EnrolAction::TokenRevoked, token, end.at) }
}

/// A token has expired.
pub(crate) fn expired(token: &Token) -> LogEntry {
    let reason = format!("{} of {} uses taken", token.used, token.uses);
    LogEntry { reason, ..LogEntry::of_token(EnrolAction::TokenExpired, token, token.expires_at) }
}

/// A certificate was recorded: by this token, as it is after that, or as a renewal; it replaced so many.
pub(crate) fn issued(
    certificate: &Certificate,
    (claim, token): (Claim<'_>, Option<&Token>),
    replaced: u64,
    address: Option<IpAddr>,
) -> Vec<LogEntry> {
    let at = certificate.issued_at;
    let (action, pool) = match (claim, token) {
        (Claim::Renewal { pool, .. }, _) => (EnrolAction::Renewed, pool.cloned()),
        (Claim::Token { .. }, token) => (EnrolAction::Enrolled, token.map(|token| token.pool.clone())),
    };
    let node = std::iter::once(&certificate.node);
    let reason = format!("serial {}, until {}", certificate.serial, certificate.not_after);
    let issued =
        LogEntry { pool, token: token.map(|token| token.id.clone()), address, reason, ..LogEntry::new(action, at) };
    // A person, who is a node of no pool.
    if matches!(claim, Claim::Renewal { pool: None, .. }) {
        return vec![LogEntry { operator: Some(certificate.node.clone()), ..issued }];
    }
    let mut entries = vec![issued.about(node.clone())];
    if let Some(token) = token {
        if replaced > 0 {
            let of = LogEntry::of_token(EnrolAction::CertificatesRevoked, token, at).about(node);
            entries.push(LogEntry { count: replaced, address, reason: "replaced".to_owned(), ..of });
        }
        if token.used >= token.uses {
            entries.push(LogEntry::of_token(EnrolAction::TokenUsedUp, token, at));
        }
    }
    entries
}

/// A certificate was recorded that a node has shown.
pub(crate) fn met(shown: &Shown<'_>) -> LogEntry {
    let reason = format!("serial {}, until {}; it was not recorded", shown.serial, shown.not_after);
    LogEntry {
        address: shown.from,
        reason,
        ..LogEntry::new(EnrolAction::Met, shown.at).about(std::iter::once(shown.node))
    }
}

/// Certificates were revoked with an operator's order.
pub(crate) fn cut_off(plan: &CutOff, nodes: &BTreeSet<NodeId>, certificates: u64, at: UnixTime) -> LogEntry {
    LogEntry {
        pool: Some(plan.pool.clone()),
        operator: Some(plan.operator.clone()),
        count: certificates,
        reason: plan.order.clone(),
        ..LogEntry::new(EnrolAction::CertificatesRevoked, at).about(nodes.iter())
    }
}
