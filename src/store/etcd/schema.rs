//! The schema of a store, and how its coordinators come from one to the next, one after another and without a stop.
//!
//! A program writes the schema that the store has.  One that starts raises it to the latest that every coordinator writes;
//! those that run notice with their next look or transaction, because each reads or compares `meta`, and take it over.  Until
//! then each of them may be replaced by the release before.  A program that finds a later schema than it knows writes nothing,
//! for its comparison fails, and follows nothing: what it would show could be misread.  Must not know: what the schemas
//! differ in.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::keys::rest;
use super::locked;
use super::name::Holder;
use super::reader::EtcdReader;
use super::value;
use super::wire::{Bytes, Compare, Operation, Pair, Range, Transaction};
use crate::contract::ReadStore;
use crate::error::StoreError;
use tfo_engine::rollout::parts::Beat;
use tfo_model::time::UnixTime;

/// The latest schema that this release writes.
pub const ETCD_SCHEMA: i64 = 1;
/// A coordinator that has not beaten for so long is not waited for: it would write nothing if it came back.
const FORGOTTEN_SECS: u64 = 3_600;

/// `meta`.  Persisted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) schema: i64,
    /// Identity of the store, hex.
    pub(super) store_id: String,
}

/// What can be read of every `meta`, also of a later release.
#[derive(Debug, Deserialize)]
pub(super) struct Schema {
    pub(super) schema: i64,
}

/// What the beats of a coordinator say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Last {
    /// An operator has forgotten it, in each of its pools: it is not waited for, and writes nothing if it comes back after all.
    Forgotten,
    /// It has beaten at this time.
    Beat(UnixTime),
}

impl EtcdReader {
    /// What every transaction compares.
    pub(super) fn meta(&self) -> Vec<u8> {
        locked(&self.held_meta).clone()
    }

    pub(super) fn hold_meta(&self, meta: Vec<u8>) {
        *locked(&self.held_meta) = meta;
    }

    /// Whether this program writes this schema.
    pub(super) fn can_write(&self, schema: i64) -> Result<(), StoreError> {
        if schema > self.newest {
            return Err(StoreError::Newer { place: self.place.clone(), found: schema, known: self.newest });
        }
        Ok(())
    }

    /// Takes over what is in the place of the `meta` that this program holds.
    ///
    /// # Errors
    /// Fails if another store is there, or a schema that this program does not write.
    pub(super) fn take_over_meta(&self, found: Option<&[u8]>) -> Result<(), StoreError> {
        let held = self.meta();
        let gone = || StoreError::Gone { place: self.place.clone() };
        let found = found.ok_or_else(gone)?;
        if found == held {
            return Ok(());
        }
        let parse = |value: &[u8]| {
            let pair =
                Pair { key: Bytes(self.keys.meta().into_bytes()), value: Bytes(value.to_vec()), ..Pair::default() };
            self.parse::<Meta>(&pair).map_err(|_| gone())
        };
        let (ours, theirs) = (parse(&held)?, parse(found)?);
        if ours.store_id != theirs.store_id {
            return Err(gone());
        }
        self.can_write(theirs.schema)?;
        tracing::info!(schema = theirs.schema, "another coordinator has raised the schema of the store");
        self.hold_meta(found.to_vec());
        Ok(())
    }

    /// Raises the schema to the latest that every coordinator writes, if that is above the stored one.  One that was stopped
    /// less than an hour ago counts: it may come back as it was.  One that an operator has forgotten does not.
    pub(super) fn raise_schema(&self, now: UnixTime) -> Result<(), StoreError> {
        let names = self.keys.names();
        let ranges = [Range::one(&self.keys.meta()), Range::under(&names)];
        let mut read = self.client.read_much(ranges).map_err(self.unread())?;
        let mut ranges = read.take_ranges();
        let Some(stored) = self.parse_one::<Meta>(ranges.next())? else {
            return Err(StoreError::Gone { place: self.place.clone() });
        };
        let found = ranges.next().unwrap_or_default().kvs;
        let beaten = self.last_beats()?;
        let mut schema = self.newest;
        for pair in &found {
            let holder: Holder = self.parse(pair)?;
            let name = rest(pair.name(), &names).unwrap_or_default();
            let counts = match beaten.get(name) {
                None => !holder.gone,
                Some(Last::Forgotten) => false,
                Some(Last::Beat(at)) => now.secs_since(*at) <= FORGOTTEN_SECS,
            };
            if counts {
                schema = schema.min(holder.schema);
            }
        }
        if schema <= stored.schema {
            return Ok(());
        }
        let (key, from) = (self.keys.meta(), stored.schema);
        let value = value::print(&key, &Meta { schema, ..stored });
        let mut compare = vec![Compare::is(&key, &self.meta())];
        // A process that has taken a name since may be an older one.
        compare.extend(found.iter().map(|pair| Compare::is_of(pair.name(), pair.mod_revision)));
        let put = Transaction { compare, success: vec![Operation::put(&key, value.clone())], failure: Vec::new() };
        if self.client.write(&put).map_err(self.failed("write"))?.succeeded {
            self.hold_meta(value);
            tracing::info!(
                from,
                to = schema,
                "the schema of the store was raised: every coordinator writes the later one"
            );
        }
        Ok(())
    }

    /// When each coordinator has beaten last, in any pool.
    fn last_beats(&self) -> Result<BTreeMap<String, Last>, StoreError> {
        let mut last = BTreeMap::new();
        for pool in self.pools()? {
            let prefix = self.keys.pool(&pool).beats();
            let mut read = self.client.read_much([Range::under(&prefix)]).map_err(self.unread())?;
            for pair in read.take_ranges().next().unwrap_or_default().kvs {
                let Beat { at, about, .. } = self.parse(&pair)?;
                let found = if about.is_forgotten { Last::Forgotten } else { Last::Beat(at) };
                let known = last.entry(rest(pair.name(), &prefix).unwrap_or_default().to_owned()).or_insert(found);
                *known = found.max(*known);
            }
        }
        Ok(last)
    }
}
