//! The log of enrolment as a chain: what is named when a row of it was changed.

use rusqlite::{Connection, params};
use tfo_crypto::checksum::{checksum, sha256};
use tfo_engine::chained_log::{Broken, Row, Verified};
use tfo_engine::enrolment_log::Verifier;
use tfo_store::enrolment::LogRow;
use tfo_store::{Enrolments, ReadEnrolments, SqliteStore};

use super::enrolments::{NOW, certificate, record, token};

/// The whole log as it is stored, judged as `tfoctl audit --verify` does.
pub(super) fn verify(store: &dyn Enrolments) -> Result<Verified, (u64, &'static str)> {
    let mut part = store.log_chain(0).unwrap();
    let mut verifier = Verifier::new(sha256);
    let named = |broken: Broken| (broken.number, broken.fault.kind());
    while let Some(last) = part.rows.last() {
        let after = last.number;
        for LogRow { number, text, is_intact } in &part.rows {
            verifier.take(Row { number: *number, text, is_intact: *is_intact }).map_err(named)?;
        }
        part = store.log_chain(after).unwrap();
    }
    verifier.finish(&part.end).map_err(named)
}

/// Another program that writes into the database, with right checksums.
#[test]
fn each_harm_to_the_log_of_a_database_is_named() {
    let dir = tfo_testbed::scratch();
    let store: SqliteStore = crate::open(dir.path());
    store.add_token(&token(1, 2), NOW).unwrap();
    for (number, name) in [(1, "a"), (2, "b")] {
        record(&store, 1, &certificate(number, name, NOW.plus(1))).unwrap();
    }
    let intruder = Connection::open(dir.path().join("state.db")).unwrap();
    for event in ["INSERT", "UPDATE", "DELETE"] {
        intruder.execute_batch(&format!("DROP TRIGGER guard_enrolment_log_{event}")).unwrap();
    }
    let text = |number: i64| -> String {
        intruder.query_row("SELECT text FROM enrolment_log WHERE number = ?1", [number], |row| row.get(0)).unwrap()
    };
    let put = |number: i64, text: &str| {
        let sum = checksum(&[b"enrolment_log", number.to_string().as_bytes(), text.as_bytes()]);
        let sql = "INSERT INTO enrolment_log (number, text, sum) VALUES (?1, ?2, ?3) \
                   ON CONFLICT (number) DO UPDATE SET text = excluded.text, sum = excluded.sum";
        assert_eq!(intruder.execute(sql, params![number, text, sum]).unwrap(), 1);
    };
    let found = || verify(&store).map(|verified| verified.entries);
    assert_eq!(found(), Ok(4));
    for number in 1..=4 {
        let before = text(number);
        put(number, &before.replace("edge", "cdn"));
        assert_eq!(found(), Err((number.cast_unsigned(), "audit_altered")));
        intruder.execute("DELETE FROM enrolment_log WHERE number = ?1", [number]).unwrap();
        assert_eq!(found(), Err((number.cast_unsigned(), "audit_missing")));
        put(number, &before);
    }
    // Without its checksum, as a disk alters it: no backup takes it over.
    intruder.execute("UPDATE enrolment_log SET text = replace(text, 'edge', 'edgy') WHERE number = 2", []).unwrap();
    assert_eq!(found(), Err((2, "audit_altered")));
    assert!(store.image().unwrap_err().to_string().contains("entry 2 of the log of enrolment"));
}
