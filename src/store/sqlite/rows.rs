//! Rows and values: every read is checked, every written value carries its checksum.

use std::str::FromStr;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::file::DatabaseFile;
use super::lock::Mark;
use crate::chain::{self, ChainHead, ChainRow};
use crate::contract::Head;
use crate::error::{CommitError, Refusal, StoreError};
use crate::limits::{AUDIT_KEPT, AUDIT_READ_MAX};
use crate::slots::Slots;
use tfo_crypto::checksum::{CHECKSUM_BYTES, checksum};
use tfo_crypto::seal::{KeyEncryptionKey, KeyEncryptionKeys, SealedKey};
use tfo_engine::rollout::document::{AuditEntry, Document};
use tfo_engine::rollout::history::{LogEnd, Written};
use tfo_engine::rollout::parts::{Beat, Parts};
use tfo_model::count::Revision;
use tfo_model::digest::Sha256;
use tfo_model::ids::{CoordinatorName, NodeId, PoolName};

/// A connection, inside a transaction unless one statement is all, and how errors name its file.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) connection: &'a Connection,
    pub(super) place: &'a DatabaseFile,
}

/// The row of a pool.
#[derive(Debug)]
pub(super) struct PoolRow<'a> {
    pub(super) number: i64,
    pub(super) name: &'a PoolName,
    pub(super) head: Head,
    /// Number of parts of records, so that a lost one is noticed.
    pub(super) parts: u64,
    /// Where its audit log ends.
    pub(super) chain: ChainHead,
}

/// A part of a node's record, and whose it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Part<'a> {
    /// The entry in this coordinator's roster.
    Entry(&'a CoordinatorName),
    /// The later sync in this coordinator's roster.
    Ack(&'a CoordinatorName),
    /// The latest exclusion.
    Exclusion,
}

impl<'a> Part<'a> {
    /// The writer; empty for an exclusion, which any coordinator may commit.
    fn coordinator(self) -> &'a str {
        match self {
            Self::Entry(by) | Self::Ack(by) => by.as_str(),
            Self::Exclusion => "",
        }
    }

    /// Its place, which its checksum covers.
    fn at<'t>(self, pool: &'t PoolRow<'_>, node: &'t NodeId) -> [&'t str; 4]
    where
        'a: 't,
    {
        let table = match self {
            Self::Entry(_) => "entry",
            Self::Ack(_) => "ack",
            Self::Exclusion => "exclusion",
        };
        [table, pool.name.as_str(), self.coordinator(), node.as_str()]
    }
}

/// A stored text, and its checksum.
pub(super) type TextRow = (String, [u8; CHECKSUM_BYTES]);

impl<'a> Rows<'a> {
    pub(super) fn pools(self) -> Result<Vec<PoolName>, StoreError> {
        let failed = self.place.sql("read");
        let mut statement = self.connection.prepare_cached("SELECT name FROM pool ORDER BY name").map_err(&failed)?;
        let names = statement.query_map([], |row| row.get::<_, String>(0)).map_err(&failed)?;
        names
            .map(|name| name.map_err(&failed)?.parse().map_err(|_| self.place.damaged("a pool has an invalid name")))
            .collect()
    }

    /// Position of the database.
    pub(super) fn mark(self) -> Result<Mark, StoreError> {
        let store_id = self.one("SELECT store_id FROM meta", [], |row| row.get(0))?;
        let store_id = store_id.ok_or_else(|| self.place.damaged("its identity is missing"))?;
        let sql = "SELECT revision, part_writes FROM pool";
        let counts: Vec<[i64; 2]> = self.all(sql, [], |row| Ok([row.get(0)?, row.get(1)?]))?;
        let counts = counts.into_iter().flatten().chain([self.log_number()?]);
        let writes = counts.fold(0, |sum: u64, one| sum.saturating_add(one.cast_unsigned()));
        Ok(Mark { store_id, writes })
    }

    pub(super) fn pool(self, name: &'a PoolName) -> Result<Option<PoolRow<'a>>, StoreError> {
        let sql = "SELECT number, revision, part_writes, parts, first, chain, sum FROM pool WHERE name = ?1";
        let row = self.one(sql, [name.as_str()], |row| {
            let counts = [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?];
            Ok((row.get(0)?, counts, row.get(5)?, row.get(6)?))
        })?;
        let Some((number, counts, chain, sum)) = row else { return Ok(None) };
        let (chain, sum): ([u8; 32], [u8; CHECKSUM_BYTES]) = (chain, sum);
        if sum != pool_sum(name, counts, &chain) {
            return Err(self.place.damaged(format!("the checksum of \"pool {name}\" is wrong")));
        }
        let [revision, part_writes, parts, first] = counts.map(i64::cast_unsigned);
        let head = Head { revision: Revision::new(revision), part_writes, mark: 0 };
        let chain = ChainHead { digest: Sha256(chain), first: Revision::new(first) };
        Ok(Some(PoolRow { number, name, head, parts, chain }))
    }

    pub(super) fn document(self, pool: &PoolRow<'_>) -> Result<Document, StoreError> {
        let sql = "SELECT text, sum FROM document WHERE pool = ?1";
        let row = self.one(sql, [pool.number], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let row = row.ok_or_else(|| self.place.damaged(format!("the document of pool {} is missing", pool.name)))?;
        let document: Document = self.parse(&row, &["document", pool.name.as_str()])?;
        if document.revision != pool.head.revision {
            return Err(self.place.damaged(format!("pool {} has two revisions", pool.name)));
        }
        Ok(document)
    }

    /// The one of these keys that seals in this database.
    pub(super) fn sealer(self, keys: &KeyEncryptionKeys) -> Result<&KeyEncryptionKey, StoreError> {
        let row: Option<([u8; 16], [u8; SealedKey::BYTES])> =
            self.one("SELECT store_id, key_check FROM meta", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (store_id, check) = row.ok_or_else(|| self.place.damaged("its key-encryption key is not recorded"))?;
        let sealer = keys.of_check(&store_id, &SealedKey::from_bytes(check));
        sealer.ok_or_else(|| StoreError::WrongKey { place: self.place.text() })
    }

    pub(super) fn slots(self, pool: &PoolRow<'_>) -> Result<Slots, StoreError> {
        let sql = "SELECT slots FROM sealed WHERE pool = ?1";
        let bytes: Option<Vec<u8>> = self.one(sql, [pool.number], |row| row.get(0))?;
        bytes
            .and_then(|bytes| Slots::parse(&bytes))
            .ok_or_else(|| self.place.damaged(format!("the sealed keys of pool {} are missing", pool.name)))
    }

    pub(super) fn parts(self, pool: &PoolRow<'_>) -> Result<Parts, StoreError> {
        let (mut parts, mut found) = (Parts::default(), 0);
        for (by, node, text) in
            self.part_rows(pool, "SELECT coordinator, node, text, sum FROM entry WHERE pool = ?1")?
        {
            let entry = self.parse(&text, &Part::Entry(&by).at(pool, &node))?;
            parts.rosters.entry(by).or_default().entries.insert(node, entry);
            found += 1;
        }
        for (by, node, text) in self.part_rows(pool, "SELECT coordinator, node, text, sum FROM ack WHERE pool = ?1")? {
            let later = self.parse(&text, &Part::Ack(&by).at(pool, &node))?;
            parts.rosters.entry(by).or_default().acks.insert(node, later);
            found += 1;
        }
        let sql = "SELECT coordinator, text, sum FROM beat WHERE pool = ?1";
        for (by, text) in
            self.all(sql, [pool.number], |row| Ok((row.get::<_, String>(0)?, (row.get(1)?, row.get(2)?))))?
        {
            let by: CoordinatorName = self.name(&by, "a coordinator")?;
            let beat = self.parse(&text, &["beat", pool.name.as_str(), by.as_str()])?;
            parts.rosters.entry(by).or_default().beat = Some(beat);
            found += 1;
        }
        let sql = "SELECT node, text, sum FROM exclusion WHERE pool = ?1";
        for (node, text) in
            self.all(sql, [pool.number], |row| Ok((row.get::<_, String>(0)?, (row.get(1)?, row.get(2)?))))?
        {
            let node = self.name(&node, "a node")?;
            let excluded = self.parse(&text, &Part::Exclusion.at(pool, &node))?;
            parts.exclusions.insert(node, excluded);
            found += 1;
        }
        if found == pool.parts {
            Ok(parts)
        } else {
            Err(self.place.damaged(format!("parts of the node records of pool {} are missing", pool.name)))
        }
    }

    /// The last beat of a coordinator.
    pub(super) fn beat(self, pool: &PoolRow<'_>, by: &CoordinatorName) -> Result<Option<Beat>, StoreError> {
        let sql = "SELECT text, sum FROM beat WHERE pool = ?1 AND coordinator = ?2";
        let row = self.one(sql, params![pool.number, by.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        row.map(|row| self.parse(&row, &["beat", pool.name.as_str(), by.as_str()])).transpose()
    }

    /// Writes a beat in the place of the one before.
    pub(super) fn put_beat(self, pool: &mut PoolRow<'_>, by: &CoordinatorName, beat: &Beat) -> Result<(), CommitError> {
        let (text, sum) = self.print(beat, &["beat", pool.name.as_str(), by.as_str()])?;
        let (number, by) = (pool.number, by.as_str());
        let sql = "UPDATE OR FAIL beat SET text = ?3, sum = ?4 WHERE pool = ?1 AND coordinator = ?2";
        if self.write(sql, params![number, by, text, sum])? == 0 {
            let sql = "INSERT OR FAIL INTO beat (pool, coordinator, text, sum) VALUES (?1, ?2, ?3, ?4)";
            self.write(sql, params![number, by, text, sum])?;
            pool.parts += 1;
        }
        Ok(())
    }

    fn part_rows(self, pool: &PoolRow<'_>, sql: &str) -> Result<Vec<(CoordinatorName, NodeId, TextRow)>, StoreError> {
        let read = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, (row.get(2)?, row.get(3)?)));
        let rows = self.all(sql, [pool.number], read)?;
        let named = |(by, node, text): (String, String, TextRow)| {
            Ok((self.name(&by, "a coordinator")?, self.name(&node, "a node")?, text))
        };
        rows.into_iter().map(named).collect()
    }

    fn name<T: FromStr>(self, text: &str, of: &str) -> Result<T, StoreError> {
        text.parse().map_err(|_| self.place.damaged(format!("{of} has an invalid name")))
    }

    /// Entries of the audit log as they are stored, be they right or not.
    pub(super) fn chain(self, pool: &PoolRow<'_>, after: Revision) -> Result<Vec<ChainRow>, StoreError> {
        // A revision that no column can hold is above all stored ones.
        let after = i64::try_from(after.get()).unwrap_or(i64::MAX);
        let sql = "SELECT revision, text, sum FROM audit WHERE pool = ?1 AND revision > ?2 ORDER BY revision LIMIT ?3";
        let limit = i64::try_from(AUDIT_READ_MAX).unwrap_or(i64::MAX);
        let rows =
            self.all(sql, [pool.number, after, limit], |row| Ok((row.get::<_, i64>(0)?, (row.get(1)?, row.get(2)?))))?;
        let row = |(revision, (text, stored)): (i64, TextRow)| {
            let is_intact = sum(&text, &["audit", pool.name.as_str(), &revision.to_string()]) == stored;
            ChainRow { revision: Revision::new(revision.cast_unsigned()), text, is_intact }
        };
        Ok(rows.into_iter().map(row).collect())
    }

    /// The audit log, of which every entry must be right.
    pub(super) fn audit(self, pool: &PoolRow<'_>, after: Revision) -> Result<Vec<AuditEntry>, StoreError> {
        let damaged = |what| self.place.damaged(format!("pool {}: {what}", pool.name));
        chain::entries(self.chain(pool, after)?, damaged)
    }

    /// What the audit log must lead to.
    pub(super) fn log_end(self, pool: &PoolRow<'_>) -> Result<LogEnd, StoreError> {
        let sql = "SELECT text FROM document WHERE pool = ?1";
        let text: Option<String> = self.one(sql, [pool.number], |row| row.get(0))?;
        let document = chain::digest_of_text(&text.unwrap_or_default());
        Ok(LogEnd { revision: pool.head.revision, document, chain: pool.chain.digest, kept: AUDIT_KEPT })
    }

    pub(super) fn add_pool(
        self,
        name: &'a PoolName,
        revision: Revision,
        chain: ChainHead,
    ) -> Result<PoolRow<'a>, CommitError> {
        let counts = [int(revision.get())?, 0, 0, int(chain.first.get())?];
        let sql = "INSERT INTO pool (name, revision, part_writes, parts, first, chain, sum) VALUES (?1, ?2, 0, 0, ?3, ?4, ?5)";
        let sum = pool_sum(name, counts, &chain.digest.0);
        self.write(sql, params![name.as_str(), counts[0], counts[3], chain.digest.0, sum])?;
        let number = self.connection.last_insert_rowid();
        self.write("INSERT INTO sealed (pool, slots) VALUES (?1, ?2)", params![number, Slots::default().as_bytes()])?;
        self.write("INSERT INTO document (pool, text, sum) VALUES (?1, '', x'')", params![number])?;
        Ok(PoolRow { number, name, head: Head { revision, part_writes: 0, mark: 0 }, parts: 0, chain })
    }

    /// Writes head and number of parts.
    pub(super) fn put_pool(self, pool: &PoolRow<'_>) -> Result<(), CommitError> {
        let (head, chain) = (pool.head, &pool.chain.digest.0);
        let counts =
            [int(head.revision.get())?, int(head.part_writes)?, int(pool.parts)?, int(pool.chain.first.get())?];
        let [revision, part_writes, parts, first] = counts;
        let sql = "UPDATE pool SET revision = ?2, part_writes = ?3, parts = ?4, first = ?5, chain = ?6, sum = ?7 \
                   WHERE number = ?1";
        let sum = pool_sum(pool.name, counts, chain);
        self.write(sql, params![pool.number, revision, part_writes, parts, first, chain, sum]).map(drop)
    }

    pub(super) fn put_document(self, pool: &PoolRow<'_>, document: &Document) -> Result<(), CommitError> {
        let (text, sum) = self.print(document, &["document", pool.name.as_str()])?;
        self.write("UPDATE document SET text = ?2, sum = ?3 WHERE pool = ?1", params![pool.number, text, sum]).map(drop)
    }

    pub(super) fn put_slots(self, pool: &PoolRow<'_>, slots: &Slots) -> Result<(), CommitError> {
        self.write("UPDATE sealed SET slots = ?2 WHERE pool = ?1", params![pool.number, slots.as_bytes()]).map(drop)
    }

    pub(super) fn put_audit(self, pool: &PoolRow<'_>, written: &Written) -> Result<(), CommitError> {
        let (entry, text) = (&written.link().entry, written.text());
        let revision = int(entry.revision.get())?;
        let sum = sum(text, &["audit", pool.name.as_str(), &revision.to_string()]);
        let sql = "INSERT INTO audit (pool, revision, text, sum) VALUES (?1, ?2, ?3, ?4)";
        self.write(sql, params![pool.number, revision, text, sum])?;
        let oldest = int(entry.revision.get().saturating_sub(AUDIT_KEPT))?;
        self.write("DELETE FROM audit WHERE pool = ?1 AND revision <= ?2", params![pool.number, oldest]).map(drop)
    }

    /// Writes a part in the place of an earlier one.
    pub(super) fn put(
        self,
        pool: &mut PoolRow<'_>,
        part: Part<'_>,
        node: &NodeId,
        value: &impl Serialize,
    ) -> Result<(), CommitError> {
        let (text, sum) = self.print(value, &part.at(pool, node))?;
        let (number, by, node) = (pool.number, part.coordinator(), node.as_str());
        // OR FAIL: one row is changed or none, and each failure ends the transaction; ABORT, the default, would copy each
        // page first, to undo a part of the statement.
        let (update, insert) = match part {
            Part::Entry(_) => (
                "UPDATE OR FAIL entry SET text = ?4, sum = ?5 WHERE pool = ?1 AND coordinator = ?2 AND node = ?3",
                "INSERT OR FAIL INTO entry (pool, coordinator, node, text, sum) VALUES (?1, ?2, ?3, ?4, ?5)",
            ),
            Part::Ack(_) => (
                "UPDATE OR FAIL ack SET text = ?4, sum = ?5 WHERE pool = ?1 AND coordinator = ?2 AND node = ?3",
                "INSERT OR FAIL INTO ack (pool, coordinator, node, text, sum) VALUES (?1, ?2, ?3, ?4, ?5)",
            ),
            Part::Exclusion => (
                "UPDATE OR FAIL exclusion SET text = ?4, sum = ?5 WHERE pool = ?1 AND node = ?3 AND ?2 = ''",
                "INSERT OR FAIL INTO exclusion (pool, node, text, sum) SELECT ?1, ?3, ?4, ?5 WHERE ?2 = ''",
            ),
        };
        if self.write(update, params![number, by, node, text, sum])? == 0 {
            self.write(insert, params![number, by, node, text, sum])?;
            pool.parts += 1;
        }
        Ok(())
    }

    /// Removes a part, if it is there.
    pub(super) fn remove(self, pool: &mut PoolRow<'_>, part: Part<'_>, node: &NodeId) -> Result<(), CommitError> {
        let sql = match part {
            Part::Entry(_) => "DELETE FROM entry WHERE pool = ?1 AND coordinator = ?2 AND node = ?3",
            Part::Ack(_) => "DELETE FROM ack WHERE pool = ?1 AND coordinator = ?2 AND node = ?3",
            Part::Exclusion => "DELETE FROM exclusion WHERE pool = ?1 AND node = ?3 AND ?2 = ''",
        };
        let removed = self.write(sql, params![pool.number, part.coordinator(), node.as_str()])?;
        pool.parts -= u64::from(removed > 0);
        Ok(())
    }

    /// The row that a query finds, if it finds one.
    pub(super) fn one<T>(
        self,
        sql: &str,
        parameters: impl rusqlite::Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let failed = self.place.sql("read");
        let mut statement = self.connection.prepare_cached(sql).map_err(&failed)?;
        statement.query_row(parameters, read).optional().map_err(failed)
    }

    /// All rows that a query finds.
    pub(super) fn all<T>(
        self,
        sql: &str,
        parameters: impl rusqlite::Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let failed = self.place.sql("read");
        let mut statement = self.connection.prepare_cached(sql).map_err(&failed)?;
        let rows = statement.query_map(parameters, read).map_err(&failed)?;
        rows.collect::<Result<_, _>>().map_err(failed)
    }

    /// Executes a statement; returns the number of changed rows.
    pub(super) fn write(self, sql: &str, parameters: impl rusqlite::Params) -> Result<usize, CommitError> {
        let failed = self.place.sql("write");
        let mut statement = self.connection.prepare_cached(sql).map_err(&failed)?;
        Ok(statement.execute(parameters).map_err(failed)?)
    }

    pub(super) fn print(self, value: &impl Serialize, at: &[&str]) -> Result<TextRow, StoreError> {
        let text = serde_json::to_string(value).map_err(|error| StoreError::Failed {
            step: "write JSON for",
            place: self.place.text(),
            source: error.into(),
        })?;
        let sum = sum(&text, at);
        Ok((text, sum))
    }

    pub(super) fn parse<T: DeserializeOwned>(self, (text, stored): &TextRow, at: &[&str]) -> Result<T, StoreError> {
        if sum(text, at) != *stored {
            return Err(self.place.damaged(format!("the checksum of \"{}\" is wrong", at.join(" "))));
        }
        serde_json::from_str(text).map_err(|error| self.place.damaged(format!("\"{}\": {error}", at.join(" "))))
    }
}

/// Checksum of a text in its place.
pub(super) fn sum(text: &str, at: &[&str]) -> [u8; CHECKSUM_BYTES] {
    let parts: Vec<&[u8]> = at.iter().chain([&text]).map(|part| part.as_bytes()).collect();
    checksum(&parts)
}

/// Checksum of the row of a pool: revision, writes of parts, number of parts, oldest audit entry; end of the audit log.
fn pool_sum(name: &PoolName, counts: [i64; 4], chain: &[u8; 32]) -> [u8; CHECKSUM_BYTES] {
    let [revision, part_writes, parts, first] = counts.map(i64::to_be_bytes);
    checksum(&[b"pool", name.as_str().as_bytes(), &revision, &part_writes, &parts, &first, chain])
}

pub(super) fn int(value: u64) -> Result<i64, Refusal> {
    i64::try_from(value).map_err(|_| Refusal::TooLarge)
}
