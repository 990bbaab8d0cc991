//! Rows and values: every read is checked, every written value carries its checksum.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::file::DatabaseFile;
use super::lock::Mark;
use super::slots::Slots;
use crate::contract::Head;
use crate::error::{CommitError, Refusal, StoreError};
use crate::limits::{AUDIT_KEPT, AUDIT_READ_MAX};
use tfo_crypto::checksum::{CHECKSUM_BYTES, checksum};
use tfo_engine::rollout::document::{AuditEntry, Document};
use tfo_engine::rollout::record::{NodeRecord, RecordChange};
use tfo_model::count::Revision;
use tfo_model::ids::{NodeId, PoolName};

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
    /// Number of records, so that a lost one is noticed.
    pub(super) nodes: u64,
}

type TextRow = (String, [u8; CHECKSUM_BYTES]);

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
        let sql = "SELECT revision, record_writes FROM pool";
        let counts: Vec<[i64; 2]> = self.all(sql, [], |row| Ok([row.get(0)?, row.get(1)?]))?;
        let writes = counts.into_iter().flatten().fold(0, |sum: u64, one| sum.saturating_add(one.cast_unsigned()));
        Ok(Mark { store_id, writes })
    }

    pub(super) fn pool(self, name: &'a PoolName) -> Result<Option<PoolRow<'a>>, StoreError> {
        let sql = "SELECT number, revision, record_writes, nodes, sum FROM pool WHERE name = ?1";
        let row = self
            .one(sql, [name.as_str()], |row| Ok((row.get(0)?, [row.get(1)?, row.get(2)?, row.get(3)?], row.get(4)?)))?;
        let Some((number, counts, sum)) = row else { return Ok(None) };
        let sum: [u8; CHECKSUM_BYTES] = sum;
        if sum != pool_sum(name, counts) {
            return Err(self.place.damaged(format!("the checksum of \"pool {name}\" is wrong")));
        }
        let [revision, record_writes, nodes] = counts.map(i64::cast_unsigned);
        let head = Head { revision: Revision::new(revision), record_writes };
        Ok(Some(PoolRow { number, name, head, nodes }))
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

    pub(super) fn slots(self, pool: &PoolRow<'_>) -> Result<Slots, StoreError> {
        let sql = "SELECT slots FROM sealed WHERE pool = ?1";
        let bytes: Option<Vec<u8>> = self.one(sql, [pool.number], |row| row.get(0))?;
        bytes
            .and_then(|bytes| Slots::parse(&bytes))
            .ok_or_else(|| self.place.damaged(format!("the sealed keys of pool {} are missing", pool.name)))
    }

    pub(super) fn nodes(self, pool: &PoolRow<'_>) -> Result<BTreeMap<NodeId, NodeRecord>, StoreError> {
        let sql = "SELECT node, version, text, sum FROM node WHERE pool = ?1 ORDER BY node";
        let rows = self
            .all(sql, [pool.number], |row| Ok((row.get::<_, String>(0)?, row.get(1)?, (row.get(2)?, row.get(3)?))))?;
        let mut nodes = BTreeMap::new();
        for (node, version, text) in rows {
            let node: NodeId = node.parse().map_err(|_| self.place.damaged("a node has an invalid name"))?;
            let record = self.checked_record(pool.name, &node, version, &text)?;
            nodes.insert(node, record);
        }
        if nodes.len() as u64 != pool.nodes {
            return Err(self.place.damaged(format!("node records of pool {} are missing", pool.name)));
        }
        Ok(nodes)
    }

    pub(super) fn audit(self, pool: &PoolRow<'_>, after: Revision) -> Result<Vec<AuditEntry>, StoreError> {
        // A revision that no column can hold is above all stored ones.
        let after = i64::try_from(after.get()).unwrap_or(i64::MAX);
        let sql = "SELECT revision, text, sum FROM audit WHERE pool = ?1 AND revision > ?2 ORDER BY revision LIMIT ?3";
        let limit = i64::try_from(AUDIT_READ_MAX).unwrap_or(i64::MAX);
        let rows =
            self.all(sql, [pool.number, after, limit], |row| Ok((row.get::<_, i64>(0)?, (row.get(1)?, row.get(2)?))))?;
        let entry =
            |(revision, text): &(i64, TextRow)| self.parse(text, &["audit", pool.name.as_str(), &revision.to_string()]);
        rows.iter().map(entry).collect()
    }

    pub(super) fn add_pool(self, name: &'a PoolName, revision: Revision) -> Result<PoolRow<'a>, CommitError> {
        let counts = [int(revision.get())?, 0, 0];
        let sql = "INSERT INTO pool (name, revision, record_writes, nodes, sum) VALUES (?1, ?2, 0, 0, ?3)";
        self.write(sql, params![name.as_str(), counts[0], pool_sum(name, counts)])?;
        let number = self.connection.last_insert_rowid();
        self.write("INSERT INTO sealed (pool, slots) VALUES (?1, ?2)", params![number, Slots::default().as_bytes()])?;
        self.write("INSERT INTO document (pool, text, sum) VALUES (?1, '', x'')", params![number])?;
        Ok(PoolRow { number, name, head: Head { revision, record_writes: 0 }, nodes: 0 })
    }

    /// Writes head and node count.
    pub(super) fn put_pool(self, pool: &PoolRow<'_>) -> Result<(), CommitError> {
        let counts = [int(pool.head.revision.get())?, int(pool.head.record_writes)?, int(pool.nodes)?];
        let [revision, record_writes, nodes] = counts;
        let sql = "UPDATE pool SET revision = ?2, record_writes = ?3, nodes = ?4, sum = ?5 WHERE number = ?1";
        self.write(sql, params![pool.number, revision, record_writes, nodes, pool_sum(pool.name, counts)]).map(drop)
    }

    pub(super) fn put_document(self, pool: &PoolRow<'_>, document: &Document) -> Result<(), CommitError> {
        let (text, sum) = self.print(document, &["document", pool.name.as_str()])?;
        self.write("UPDATE document SET text = ?2, sum = ?3 WHERE pool = ?1", params![pool.number, text, sum]).map(drop)
    }

    pub(super) fn put_slots(self, pool: &PoolRow<'_>, slots: &Slots) -> Result<(), CommitError> {
        self.write("UPDATE sealed SET slots = ?2 WHERE pool = ?1", params![pool.number, slots.as_bytes()]).map(drop)
    }

    pub(super) fn put_audit(self, pool: &PoolRow<'_>, entry: &AuditEntry) -> Result<(), CommitError> {
        let revision = int(entry.revision.get())?;
        let (text, sum) = self.print(entry, &["audit", pool.name.as_str(), &revision.to_string()])?;
        let sql = "INSERT INTO audit (pool, revision, text, sum) VALUES (?1, ?2, ?3, ?4)";
        self.write(sql, params![pool.number, revision, text, sum])?;
        let oldest = int(entry.revision.get().saturating_sub(AUDIT_KEPT))?;
        self.write("DELETE FROM audit WHERE pool = ?1 AND revision <= ?2", params![pool.number, oldest]).map(drop)
    }

    /// Writes or removes a record if its stored version is the expected one; otherwise returns the stored version.
    pub(super) fn put_record(
        self,
        pool: &mut PoolRow<'_>,
        change: &RecordChange,
    ) -> Result<Result<(), Option<u64>>, CommitError> {
        let (number, node) = (pool.number, change.node.as_str());
        let text = |next: &NodeRecord| self.print(next, &["node", pool.name.as_str(), node]);
        // One statement each, which does nothing if another version is stored.
        let changed = match (change.expected, &change.next) {
            (None, None) => usize::from(self.version(pool, &change.node)?.is_none()),
            (None, Some(next)) => {
                let (text, sum) = text(next)?;
                let sql = "INSERT INTO node (pool, node, version, text, sum) VALUES (?1, ?2, ?3, ?4, ?5)
                           ON CONFLICT DO NOTHING";
                let added = self.write(sql, params![number, node, int(next.version)?, text, sum])?;
                pool.nodes += u64::from(added > 0);
                added
            }
            (Some(expected), Some(next)) => {
                let (text, sum) = text(next)?;
                // OR FAIL: one row is changed or none, and each failure ends the transaction; ABORT, the default, would
                // copy each page first, to undo a part of the statement.
                let sql = "UPDATE OR FAIL node SET version = ?3, text = ?4, sum = ?5
                           WHERE pool = ?1 AND node = ?2 AND version = ?6";
                self.write(sql, params![number, node, int(next.version)?, text, sum, int(expected)?])?
            }
            (Some(expected), None) => {
                let sql = "DELETE FROM node WHERE pool = ?1 AND node = ?2 AND version = ?3";
                let removed = self.write(sql, params![number, node, int(expected)?])?;
                pool.nodes -= u64::from(removed > 0);
                removed
            }
        };
        if changed > 0 { Ok(Ok(())) } else { Ok(Err(self.version(pool, &change.node)?)) }
    }

    /// The stored version of a record; none if the node has none.
    fn version(self, pool: &PoolRow<'_>, node: &NodeId) -> Result<Option<u64>, StoreError> {
        let sql = "SELECT version FROM node WHERE pool = ?1 AND node = ?2";
        let found = self.one(sql, params![pool.number, node.as_str()], |row| row.get(0))?;
        Ok(found.map(i64::cast_unsigned))
    }

    fn checked_record(
        self,
        pool: &PoolName,
        node: &NodeId,
        version: i64,
        text: &TextRow,
    ) -> Result<NodeRecord, StoreError> {
        let record: NodeRecord = self.parse(text, &["node", pool.as_str(), node.as_str()])?;
        if i64::try_from(record.version) != Ok(version) {
            return Err(self.place.damaged(format!("the record of {node} has two versions")));
        }
        Ok(record)
    }

    /// The row that a query finds, if it finds one.
    fn one<T>(
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
    fn all<T>(
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
    fn write(self, sql: &str, parameters: impl rusqlite::Params) -> Result<usize, CommitError> {
        let failed = self.place.sql("write");
        let mut statement = self.connection.prepare_cached(sql).map_err(&failed)?;
        Ok(statement.execute(parameters).map_err(failed)?)
    }

    fn print(self, value: &impl Serialize, at: &[&str]) -> Result<TextRow, StoreError> {
        let text = serde_json::to_string(value).map_err(|error| StoreError::Failed {
            step: "write JSON for",
            place: self.place.text(),
            source: error.into(),
        })?;
        let sum = sum(&text, at);
        Ok((text, sum))
    }

    fn parse<T: DeserializeOwned>(self, (text, stored): &TextRow, at: &[&str]) -> Result<T, StoreError> {
        if sum(text, at) != *stored {
            return Err(self.place.damaged(format!("the checksum of \"{}\" is wrong", at.join(" "))));
        }
        serde_json::from_str(text).map_err(|error| self.place.damaged(format!("\"{}\": {error}", at.join(" "))))
    }
}

fn sum(text: &str, at: &[&str]) -> [u8; CHECKSUM_BYTES] {
    let parts: Vec<&[u8]> = at.iter().chain([&text]).map(|part| part.as_bytes()).collect();
    checksum(&parts)
}

/// Checksum of the row of a pool: revision, record writes, nodes.
fn pool_sum(name: &PoolName, counts: [i64; 3]) -> [u8; CHECKSUM_BYTES] {
    let [revision, record_writes, nodes] = counts.map(i64::to_be_bytes);
    checksum(&[b"pool", name.as_str().as_bytes(), &revision, &record_writes, &nodes])
}

fn int(value: u64) -> Result<i64, Refusal> {
    i64::try_from(value).map_err(|_| Refusal::TooLarge)
}
