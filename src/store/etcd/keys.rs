//! Where everything lies in etcd.  Persisted.
//!
//! | key, under the prefix | value | written by |
//! |---|---|---|
//! | `meta` | schema, identity, check of the key-encryption key; compared by every transaction | the first start |
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
//!
//! Numbers have twenty digits, so that keys are in their order.

use tfo_model::count::Revision;
use tfo_model::ids::{CoordinatorName, PoolName};

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

    pub(super) fn name(&self, name: &CoordinatorName) -> String {
        format!("{}c/{name}", self.prefix)
    }

    /// What the heads of all pools begin with.
    pub(super) fn heads(&self) -> String {
        format!("{}d/", self.prefix)
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

/// What comes after a prefix.
pub(super) fn rest<'a>(key: &'a str, prefix: &str) -> Option<&'a str> {
    key.strip_prefix(prefix)
}

/// The number at the end of a key.
pub(super) fn number(key: &str, prefix: &str) -> Option<u64> {
    rest(key, prefix)?.parse().ok()
}
