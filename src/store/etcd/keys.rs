//! Where everything lies in etcd.  Persisted.
//!
//! | key, under the prefix | value | written by |
//! |---|---|---|
//! | `meta` | schema, identity; compared by every transaction | the first start |
//! | `kek` | which key-encryption key seals; compared by every transaction that seals | the first start, rekey |
//! | `c/NAME` | the process that has this name | its start and its end |
//! | `d/POOL` | revision of the document: what a commit compares and swaps | commits |
//! | `p/POOL/at` | a random number: the state of the pool of this moment | every transaction |
//! | `p/POOL/parts` | nothing; etcd counts its writes | every transaction that changes a part of a record |
//! | `p/POOL/doc`, `p/POOL/keys` | document, sealed keys | commits |
//! | `p/POOL/out/REVISION` | exclusions of one commit, or of several that were put together | commits |
//! | `p/POOL/b/NAME`, `p/POOL/s/NAME` | last beat; its stamp, which its writer's later transactions compare | NAME |
//! | `p/POOL/n/NAME/NUMBER` | sessions and acks, a chunk for each write, or of several that were put together | NAME |
//! | `p/POOL/w/NAME` | number of the last chunk, and how many there are | NAME |
//! | `l/POOL/REVISION` | audit entry | commits |
//! | `e/at` | number and digest of the last entry of the log of enrolment, number of certificates: compared and written by every change of enrolment | any |
//! | `e/t/TOKEN` | token, without its secret | any |
//! | `e/n/NODE/SERIAL` | certificate | any |
//! | `e/k/HASH` | which certificate has this public key | any |
//! | `e/r/SERIAL` | the same certificate once more, if it is revoked: what a revocation list is made of | any |
//! | `e/c/ID/PART` | plan to cut nodes off; a long one in several parts | any |
//! | `e/l/NUMBER` | entry of the log of enrolment | any |
//!
//! Numbers have twenty digits, so that keys are in their order.

use std::fmt::Write;

use crate::enrolment::Digest;
use tfo_model::count::Revision;
use tfo_model::ids::{CoordinatorName, NodeId, PoolName, TokenId};
use tfo_model::serial::SerialNumber;

/// The names of all keys under one prefix.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

/// The keys of one pool.
#[derive(Debug, Clone)]
pub(super) struct PoolKeys {
    /// `d/POOL`.
    pub(super) head: String,
    /// What all of its other keys but those of the log begin with.
    pub(super) all: String,
    /// What the keys of its audit log begin with.
    pub(super) log: String,
}

impl Keys {
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix }
    }

    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn meta(&self) -> String {
        format!("{}meta", self.prefix)
    }

    pub(super) fn kek(&self) -> String {
        format!("{}kek", self.prefix)
    }

    /// What the names of all coordinators begin with.
    pub(super) fn names(&self) -> String {
        format!("{}c/", self.prefix)
    }

    pub(super) fn name(&self, name: &CoordinatorName) -> String {
        format!("{}c/{name}", self.prefix)
    }

    /// What the heads of all pools begin with.
    pub(super) fn heads(&self) -> String {
        format!("{}d/", self.prefix)
    }

    pub(super) fn enrolment(&self) -> EnrolmentKeys {
        EnrolmentKeys { all: format!("{}e/", self.prefix) }
    }

    pub(super) fn pool(&self, pool: &PoolName) -> PoolKeys {
        let prefix = &self.prefix;
        PoolKeys {
            head: format!("{prefix}d/{pool}"),
            all: format!("{prefix}p/{pool}/"),
            log: format!("{prefix}l/{pool}/"),
        }
    }
}

impl PoolKeys {
    pub(super) fn at(&self) -> String {
        format!("{}at", self.all)
    }

    pub(super) fn parts(&self) -> String {
        format!("{}parts", self.all)
    }

    pub(super) fn document(&self) -> String {
        format!("{}doc", self.all)
    }

    pub(super) fn keys(&self) -> String {
        format!("{}keys", self.all)
    }

    /// Which process makes the pool.
    pub(super) fn maker(&self) -> String {
        format!("{}new", self.all)
    }

    pub(super) fn outs(&self) -> String {
        format!("{}out/", self.all)
    }

    pub(super) fn out(&self, number: u64) -> String {
        format!("{}{number:020}", self.outs())
    }

    pub(super) fn beats(&self) -> String {
        format!("{}b/", self.all)
    }

    pub(super) fn beat(&self, by: &CoordinatorName) -> String {
        format!("{}b/{by}", self.all)
    }

    pub(super) fn stamp(&self, by: &CoordinatorName) -> String {
        format!("{}s/{by}", self.all)
    }

    pub(super) fn writers(&self) -> String {
        format!("{}w/", self.all)
    }

    pub(super) fn writer(&self, by: &CoordinatorName) -> String {
        format!("{}w/{by}", self.all)
    }

    pub(super) fn chunks(&self, by: &CoordinatorName) -> String {
        format!("{}n/{by}/", self.all)
    }

    pub(super) fn chunk(&self, by: &CoordinatorName, number: u64) -> String {
        format!("{}{number:020}", self.chunks(by))
    }

    pub(super) fn entry(&self, revision: Revision) -> String {
        format!("{}{:020}", self.log, revision.get())
    }
}

/// The keys of tokens and certificates.
#[derive(Debug, Clone)]
pub(super) struct EnrolmentKeys {
    /// What all of them begin with.
    pub(super) all: String,
}

impl EnrolmentKeys {
    pub(super) fn at(&self) -> String {
        format!("{}at", self.all)
    }

    pub(super) fn tokens(&self) -> String {
        format!("{}t/", self.all)
    }

    pub(super) fn token(&self, id: &TokenId) -> String {
        format!("{}{id}", self.tokens())
    }

    pub(super) fn certificates(&self) -> String {
        format!("{}n/", self.all)
    }

    pub(super) fn certificates_of(&self, node: &NodeId) -> String {
        format!("{}{node}/", self.certificates())
    }

    pub(super) fn certificate(&self, node: &NodeId, serial: &SerialNumber) -> String {
        format!("{}{serial}", self.certificates_of(node))
    }

    pub(super) fn public_key(&self, key: &Digest) -> String {
        let hex = key.0.iter().fold(String::with_capacity(64), |mut hex, byte| {
            write!(hex, "{byte:02x}").expect("a string takes all");
            hex
        });
        format!("{}k/{hex}", self.all)
    }

    pub(super) fn all_revoked(&self) -> String {
        format!("{}r/", self.all)
    }

    pub(super) fn revoked(&self, serial: &SerialNumber) -> String {
        format!("{}{serial}", self.all_revoked())
    }

    pub(super) fn plans(&self) -> String {
        format!("{}c/", self.all)
    }

    pub(super) fn plan(&self, id: u64) -> String {
        format!("{}{id:016x}/", self.plans())
    }

    pub(super) fn plan_part(&self, id: u64, part: usize) -> String {
        format!("{}{part:04}", self.plan(id))
    }

    pub(super) fn log(&self) -> String {
        format!("{}l/", self.all)
    }

    pub(super) fn entry(&self, number: u64) -> String {
        format!("{}{number:020}", self.log())
    }
}

/// What comes after a prefix.
pub(super) fn rest<'a>(key: &'a str, prefix: &str) -> Option<&'a str> {
    key.strip_prefix(prefix)
}

/// The number at the end of a key.
pub(super) fn number(key: &str, prefix: &str) -> Option<u64> {
    rest(key, prefix)?.parse().ok()
}
