//! The tables, and the upgrade of an older database.  Persisted.
//!
//! * Texts are JSON of the types in `engine::rollout`, each with a checksum that also covers its place, because SQLite
//!   has none and a flipped bit in a generation is worse than a lost file.
//! * `pool` has the end of the audit log's chain, so that the loss of its last entry is noticed; `enrolment_end` that of the log
//!   of enrolment.
//! * `sealed` holds one row of constant length for each pool, so that a key is always overwritten where it lies.  With
//!   a row for each key SQLite would move rows when pages are balanced, and leaves their old bytes in the gap of a
//!   rebuilt page even with `secure_delete` (SQLite 3.54.1, `rebuildPage` in btree.c).
//! * `entry` and `ack` have row ids: a text is about a kilobyte, and without them all that is over a quarter of a page lies in
//!   a page of its own (sqlite.org/fileformat2.html, section 1.6), which doubled what an acknowledgement costs.
//! * The triggers call a function that only the coordinator defines: every other program, such as the sqlite3 shell,
//!   can read the file, and is refused when it writes ("no such function").  An expert who must write can drop them.

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, Transaction};

use super::enrolment;

/// `PRAGMA application_id`: "TFOC".
pub(super) const APPLICATION_ID: i32 = 0x5446_4F43;

/// Name of the missing function in a foreign writer's error.
const GUARD: &str = "only_tfo_coordinator_writes_here";

/// The schema that the first step makes.  Schemas 1 to 4 were those of builds before the first release; nothing reads them.
pub(super) const FIRST: i64 = 5;

/// Each step makes the next schema; the first one makes [`FIRST`].  Steps that a release shipped never change.
const STEPS: &[&str] = &[
    "
    CREATE TABLE meta (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        store_id BLOB NOT NULL,
        key_check BLOB NOT NULL
    ) STRICT;
    CREATE TABLE pool (
        number INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        revision INTEGER NOT NULL,
        part_writes INTEGER NOT NULL,
        parts INTEGER NOT NULL,
        chain BLOB NOT NULL,
        first INTEGER NOT NULL,
        sum BLOB NOT NULL
    ) STRICT;
    CREATE TABLE document (
        pool INTEGER PRIMARY KEY REFERENCES pool,
        text TEXT NOT NULL,
        sum BLOB NOT NULL
    ) STRICT;
    CREATE TABLE sealed (
        pool INTEGER PRIMARY KEY REFERENCES pool,
        slots BLOB NOT NULL
    ) STRICT;
    CREATE TABLE entry (
        pool INTEGER NOT NULL REFERENCES pool,
        coordinator TEXT NOT NULL,
        node TEXT NOT NULL,
        text TEXT NOT NULL,
        sum BLOB NOT NULL,
        UNIQUE (pool, coordinator, node)
    ) STRICT;
    CREATE TABLE ack (
        pool INTEGER NOT NULL REFERENCES pool,
        coordinator TEXT NOT NULL,
        node TEXT NOT NULL,
        text TEXT NOT NULL,
        sum BLOB NOT NULL,
        UNIQUE (pool, coordinator, node)
    ) STRICT;
    CREATE TABLE beat (
        pool INTEGER NOT NULL REFERENCES pool,
        coordinator TEXT NOT NULL,
        text TEXT NOT NULL,
        sum BLOB NOT NULL,
        UNIQUE (pool, coordinator)
    ) STRICT;
    CREATE TABLE exclusion (
        pool INTEGER NOT NULL REFERENCES pool,
        node TEXT NOT NULL,
        text TEXT NOT NULL,
        sum BLOB NOT NULL,
        UNIQUE (pool, node)
    ) STRICT;
    CREATE TABLE audit (
        pool INTEGER NOT NULL REFERENCES pool,
        revision INTEGER NOT NULL,
        text TEXT NOT NULL,
        sum BLOB NOT NULL,
        PRIMARY KEY (pool, revision)
    ) STRICT, WITHOUT ROWID;
    ",
    enrolment::TABLES,
];

/// The schema of this release.
pub(super) fn latest() -> i64 {
    after(STEPS.len())
}

/// The schema after so many steps.
fn after(steps: usize) -> i64 {
    FIRST - 1 + i64::try_from(steps).expect("a handful of steps")
}

/// Lets this connection write.
pub(super) fn unlock_writes(connection: &Connection) -> rusqlite::Result<()> {
    connection.create_scalar_function(GUARD, 0, FunctionFlags::SQLITE_UTF8, |_| Ok(true))
}

/// `PRAGMA user_version`: 0 in a database without a schema.
pub(super) fn found(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

/// Brings the database from schema `from` to the latest one, within the transaction.
pub(super) fn upgrade(transaction: &Transaction<'_>, from: i64) -> rusqlite::Result<()> {
    upgrade_by(transaction, from, STEPS)
}

fn upgrade_by(transaction: &Transaction<'_>, from: i64, steps: &[&str]) -> rusqlite::Result<()> {
    let done = usize::try_from(from - (FIRST - 1)).unwrap_or(0);
    for step in steps.iter().skip(done) {
        transaction.execute_batch(step)?;
    }
    guard_tables(transaction)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", after(steps.len()))
}

/// Puts the guard on every table that has none.
fn guard_tables(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")?;
    let tables = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    for table in tables.iter().filter(|table| !table.starts_with("sqlite_")) {
        for event in ["INSERT", "UPDATE", "DELETE"] {
            transaction.execute_batch(&format!(
                "CREATE TRIGGER IF NOT EXISTS guard_{table}_{event} BEFORE {event} ON {table} BEGIN SELECT {GUARD}(); END"
            ))?;
        }
    }
    Ok(())
}

/// Whether the tables and triggers are those that [`upgrade`] makes: a flipped bit in them would change what is read.
pub(super) fn is_intact(connection: &Connection) -> rusqlite::Result<bool> {
    let mut fresh = Connection::open_in_memory()?;
    let transaction = fresh.transaction()?;
    upgrade(&transaction, 0)?;
    let intact = texts(&transaction)? == texts(connection)?;
    transaction.rollback()?;
    Ok(intact)
}

type SchemaText = [Option<String>; 4];

/// Everything but the statistics of `ANALYZE`, which an operator may have run.
fn texts(connection: &Connection) -> rusqlite::Result<Vec<SchemaText>> {
    let sql = "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY name";
    let mut statement = connection.prepare(sql)?;
    statement.query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?]))?.collect()
}

#[cfg(test)]
mod tests {
    use rusqlite::TransactionBehavior;

    use super::*;

    fn run(connection: &mut Connection, steps: &[&str]) -> rusqlite::Result<()> {
        let from = found(connection)?;
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        upgrade_by(&transaction, from, steps)?;
        transaction.commit()
    }

    #[test]
    fn steps_run_once_and_all_or_nothing() {
        let mut connection = Connection::open_in_memory().unwrap();
        unlock_writes(&connection).unwrap();
        let one = "CREATE TABLE a (x INTEGER) STRICT; INSERT INTO a VALUES (1);";
        run(&mut connection, &[one]).unwrap();
        run(&mut connection, &[one]).unwrap();
        let bad = "UPDATE a SET x = 2; ALTER TABLE nowhere ADD COLUMN y INTEGER;";
        assert!(run(&mut connection, &[one, bad]).is_err());
        let x = |connection: &Connection| connection.query_row("SELECT x FROM a", [], |row| row.get::<_, i64>(0));
        assert_eq!(
            (found(&connection).unwrap(), x(&connection).unwrap()),
            (FIRST, 1),
            "nothing of a failed step is left"
        );
        run(&mut connection, &[one, "UPDATE a SET x = 3; CREATE TABLE b (y INTEGER) STRICT;"]).unwrap();
        assert_eq!((found(&connection).unwrap(), x(&connection).unwrap()), (FIRST + 1, 3));
        connection.execute("INSERT INTO b VALUES (1)", []).unwrap();
        connection.remove_function(GUARD, 0).unwrap();
        let refused = connection.execute("INSERT INTO b VALUES (2)", []).err().unwrap().to_string();
        assert!(refused.contains(GUARD), "{refused}");
    }
}
