//! The audit logs as they are stored, for a reader that verifies them.

use serde::{Deserialize, Serialize};

use tfo_model::count::Revision;
use tfo_model::digest::Sha256;
use tfo_model::ids::{PoolId, PoolName};

/// `GET /v1/pools/{pool}/audit/chain?after=REVISION`: the audit log as it is stored, to be verified by the reader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditChain {
    /// The pool.
    pub pool: PoolName,
    /// Its identity.
    pub pool_id: PoolId,
    /// Revision of its document.
    pub revision: Revision,
    /// Digest of its document.
    pub document: Sha256,
    /// Digest of the last entry.
    pub chain: Sha256,
    /// How many entries the store keeps.
    pub kept: u64,
    /// Entries after that revision, oldest first, at most 1 000.
    pub entries: Vec<ChainEntry>,
}

/// `GET /v1/enrolment/audit/chain?after=NUMBER`: the log of tokens and certificates as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentChain {
    /// Number of the last entry; 0 if there is none.
    pub number: u64,
    /// Its digest.
    pub chain: Sha256,
    /// How many entries the store keeps.
    pub kept: u64,
    /// Entries after that number, oldest first, at most 1 000.
    pub entries: Vec<EnrolmentChainEntry>,
}

/// An entry of that log as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolmentChainEntry {
    /// The number under which it is stored.
    pub number: u64,
    /// Its text, of which the digest is made.
    pub text: String,
    /// Whether the store's checksum of it is right.
    pub intact: bool,
}

/// An entry as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainEntry {
    /// The revision under which it is stored.
    pub revision: Revision,
    /// Its text, of which the digest is made.
    pub text: String,
    /// Whether the store's checksum of it is right.
    pub intact: bool,
}
