//! The audit log as a chain: what is named when a row of it was changed, and what stays of it over a backup.

use std::path::Path;

use rusqlite::{Connection, params};
use tfo_coordinator::backup::{Existing, export};
use tfo_crypto::checksum::{checksum, sha256};
use tfo_engine::chained_log::{Broken, Row, Verified};
use tfo_engine::rollout::document::{Actor, Document, Hold, Stage};
use tfo_engine::rollout::history::{LogEnd, Verifier};
use tfo_engine::rollout::parts::Writer;
use tfo_model::count::{Epoch, Revision};
use tfo_model::fleet::Action;
use tfo_model::ids::PoolName;
use tfo_model::node::Expected;
use tfo_store::{ChainPart, ReadStore, SqliteReader, Store};
use tfo_testbed::etcd::{Etcd, Plan, need_etcd};
use tfo_testbed::skip_unless;

use super::walk::{coordinator, hand, make, named, pause, pool_name, proposal, ring, rotate};
use super::{kek, open};

const SEED: u64 = 7;

fn pool() -> PoolName {
    pool_name("edge")
}

/// Reads the whole log of a store.
pub(crate) fn verify(store: &dyn ReadStore) -> Result<Verified, Broken> {
    let mut part = store.chain(&pool(), Revision::ZERO).unwrap().unwrap();
    let mut verifier = Verifier::new(sha256, part.pool_id);
    while let Some(last) = part.rows.last() {
        let after = last.revision;
        for row in &part.rows {
            verifier.take(Row { number: row.revision.get(), text: &row.text, is_intact: row.is_intact })?;
        }
        part = store.chain(&pool(), after).unwrap().unwrap();
    }
    verifier.finish(&part.end)
}

/// Commits a change of the document that is made as the engine would make it.
fn commit(store: &dyn Store, change: impl FnOnce(&mut Document) -> Action) {
    let (document, _) = store.document(&pool()).unwrap().unwrap();
    let mut next = proposal(&document, change);
    if matches!(next.audit.action, Action::FirstKey | Action::Pause | Action::Resume) {
        next.audit.actor = Actor::Operator("ops1.example.org".parse().unwrap());
    }
    let by: Writer = hand(store, &pool(), &coordinator(1));
    let _erasure = store.commit(&pool(), &by, &next, &ring(SEED, Epoch::new(9).unwrap())).unwrap();
}

/// First key, resume, pause and resume, and one rotation: seven legal steps.
fn live(store: &dyn Store) {
    make(store, &pool(), SEED).unwrap();
    commit(store, |document| {
        document.hold = Some(Hold::FirstKey { expect: Expected::Number(1) });
        rotate(SEED, document)
    });
    let resume = |document: &mut Document| {
        (document.hold, document.paused) = (None, None);
        Action::Resume
    };
    commit(store, resume);
    commit(store, |document| {
        document.paused = Some(pause());
        Action::Pause
    });
    commit(store, resume);
    for _ in 0..2 {
        commit(store, |document| {
            let before = document.generation;
            let action = rotate(SEED, document);
            if let Stage::Promoted { staged_generation, .. } = &mut document.stage {
                *staged_generation = before;
            }
            action
        });
    }
    commit(store, |document| {
        let generation = document.generation;
        let action = rotate(SEED, document);
        document.generation = generation;
        action
    });
}

/// Of every kind of store: a legal history is right, and a document that no legal step makes is named.
pub(crate) fn the_audit_log_is_a_chain(store: &dyn Store) {
    live(store);
    let verified = verify(store).unwrap();
    assert_eq!((verified.entries, verified.first, verified.last), (7, 1, 7));
    // A promotion that nothing was staged for: the store takes it, as it takes every document.
    commit(store, |document| {
        document.stage = Stage::Steady { current: named(SEED, Epoch::FIRST), backup: None };
        Action::Settle
    });
    let named = |broken: Broken| (broken.number.cast_signed(), broken.fault.kind());
    assert_eq!(verify(store).map_err(named), Err((8, "audit_illegal")));
}

/// Another program that writes into the database, with right checksums.
struct Intruder(Connection);

impl Intruder {
    fn at(dir: &Path) -> Self {
        let connection = Connection::open(dir.join("state.db")).unwrap();
        let triggers: Vec<String> = connection
            .prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger'")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        triggers.iter().for_each(|name| connection.execute_batch(&format!("DROP TRIGGER {name}")).unwrap());
        Self(connection)
    }

    fn text(&self, revision: i64) -> String {
        self.0.query_row("SELECT text FROM audit WHERE revision = ?1", [revision], |row| row.get(0)).unwrap()
    }

    fn put(&self, revision: i64, text: &str) {
        let sum = checksum(&[b"audit", b"edge", revision.to_string().as_bytes(), text.as_bytes()]);
        let sql = "UPDATE audit SET text = ?2, sum = ?3 WHERE revision = ?1";
        assert_eq!(self.0.execute(sql, params![revision, text, sum]).unwrap(), 1);
    }
}

#[test]
fn each_harm_to_a_database_is_named() {
    let dir = tfo_testbed::scratch();
    let store = open(dir.path());
    live(&store);
    let intruder = Intruder::at(dir.path());
    let named = || {
        verify(&store)
            .map(|verified| verified.entries)
            .map_err(|broken| (broken.number.cast_signed(), broken.fault.kind()))
    };
    assert_eq!(named(), Ok(7));
    let changed = |text: &str| text.replace("ops1.example.org", "ops2.example.org");
    for revision in [1, 3] {
        let before = intruder.text(revision);
        assert_ne!(changed(&before), before);
        intruder.put(revision, &changed(&before));
        assert_eq!(named(), Err((revision, "audit_altered")));
        intruder.put(revision, &before);
    }
    // The last one, which no other names.
    let before = intruder.text(7);
    intruder.put(7, &before.replace("\"reason\":\"\"", "\"reason\":\"as agreed\""));
    assert_eq!(named(), Err((7, "audit_altered")));
    // Without its checksum, as a disk alters it.
    intruder.0.execute("UPDATE audit SET text = replace(text, 'settle', 'setTle') WHERE revision = 7", []).unwrap();
    assert_eq!(named(), Err((7, "audit_altered")));
    intruder.put(7, &before);
    let (fourth, fifth) = (intruder.text(4), intruder.text(5));
    intruder.put(4, &fifth);
    intruder.put(5, &fourth);
    assert_eq!(named(), Err((4, "audit_moved")));
    intruder.put(4, &fourth);
    intruder.put(5, &fifth);
    assert_eq!(named(), Ok(7));
    for revision in [1, 5, 7] {
        let before = intruder.text(revision);
        intruder.0.execute("DELETE FROM audit WHERE revision = ?1", [revision]).unwrap();
        assert_eq!(named(), Err((revision, "audit_missing")));
        let sql = "INSERT INTO audit (pool, revision, text, sum) SELECT number, ?1, '', x'' FROM pool";
        intruder.0.execute(sql, [revision]).unwrap();
        intruder.put(revision, &before);
    }
    // Another document under the same revision.
    let text: String = intruder.0.query_row("SELECT text FROM document", [], |row| row.get(0)).unwrap();
    let other = text.replace("\"expected\":1", "\"expected\":2");
    assert_ne!(text, other);
    let sum = checksum(&[b"document", b"edge", other.as_bytes()]);
    intruder.0.execute("UPDATE document SET text = ?1, sum = ?2", params![other, sum]).unwrap();
    assert_eq!(named(), Err((7, "audit_document")));
    // A backup takes over no entry that is not what was written.
    intruder.0.execute("UPDATE audit SET text = replace(text, 'ops1', 'ops2') WHERE revision = 1", []).unwrap();
    let files = tfo_testbed::scratch();
    let problem = export(&store, &kek(1), &files.path().join("one"), Existing::Keep).err().unwrap();
    assert!(problem.kind == "audit_altered" && problem.message.contains("revision 1 "), "{problem}");
}

#[test]
fn a_chain_goes_to_etcd_and_back_word_for_word() {
    skip_unless!(need_etcd());
    let (first, back, files) = (tfo_testbed::scratch(), tfo_testbed::scratch(), tfo_testbed::scratch());
    let source = open(first.path());
    live(&source);
    let noted = verify(&source).unwrap();
    let etcd = Etcd::new(&Plan::of(1));
    let cluster = super::etcd::open(&etcd);
    let reader = SqliteReader::open(&first.path().join("state.db"), kek(1)).unwrap();
    let [one, two] = ["one", "two"].map(|name| files.path().join(name));
    export(&reader, &kek(1), &one, Existing::Keep).unwrap();
    super::backup::import(&cluster, &kek(1), &one).unwrap();
    assert_eq!(verify(&cluster), Ok(noted));
    // It grows there, and comes back longer.
    commit(&cluster, |document| rotate(SEED, document));
    export(&cluster, &kek(1), &two, Existing::Keep).unwrap();
    let target = open(back.path());
    super::backup::import(&target, &kek(1), &two).unwrap();
    let verified = verify(&target).unwrap();
    assert_eq!((verified.entries, verified.first), (8, noted.first));
    assert_eq!(verify(&cluster), Ok(verified));
    let ChainPart { end: LogEnd { kept, .. }, .. } = cluster.chain(&pool(), Revision::ZERO).unwrap().unwrap();
    assert!(kept < target.chain(&pool(), Revision::ZERO).unwrap().unwrap().end.kept);
}
