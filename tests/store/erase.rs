//! Keys that are in no slot any more are in no file any more: neither their bytes nor what they were sealed to.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use tfo_model::count::Epoch;
use tfo_model::ids::PoolName;
use tfo_store::{Erasure, ReadStore, SqliteStore, Store};

use super::walk::{self, coordinator, exclude, hand, key, make, node, pool_name, proposal, ring, rotate};
use super::{kek, open};

/// Bytes of a slot in `sealed.slots`: epoch, then nonce, ciphertext and tag.
const SLOT_BYTES: usize = 52;
/// Consecutive bytes that would be enough to know a sealed key again; by chance they meet once in 2^64.
const TELLING_BYTES: usize = 8;

/// Each pool's sealed keys, as any program can read them.
pub(super) fn sealed(dir: &Path) -> Vec<(u64, Vec<u8>)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = Connection::open_with_flags(dir.join("state.db"), flags).unwrap();
    let mut statement = connection.prepare("SELECT slots FROM sealed").unwrap();
    let rows: Vec<Vec<u8>> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let slots = rows.iter().flat_map(|row| row.chunks(SLOT_BYTES));
    slots
        .map(|slot| (u64::from_be_bytes(slot[..8].try_into().unwrap()), slot[8..].to_vec()))
        .filter(|(epoch, _)| *epoch != 0)
        .collect()
}

/// All files of a directory, and every run of [`TELLING_BYTES`] in them.
pub(super) struct Files {
    content: Vec<(PathBuf, Vec<u8>)>,
    parts: HashSet<[u8; TELLING_BYTES]>,
}

impl Files {
    pub(super) fn read(dir: &Path) -> Self {
        let paths = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let content: Vec<_> = paths.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
        let parts = content.iter().flat_map(|(_, bytes)| bytes.windows(TELLING_BYTES)).map(part).collect();
        Self { content, parts }
    }

    /// Where any telling part of these bytes lies.
    pub(super) fn place_of(&self, bytes: &[u8]) -> Option<String> {
        self.place_of_any(bytes, TELLING_BYTES)
    }

    /// Where any so long part of these bytes lies.
    fn place_of_any(&self, bytes: &[u8], telling: usize) -> Option<String> {
        let place = |found: &[u8]| {
            let holds = |content: &[u8]| content.windows(telling).any(|bytes| bytes == found);
            let is_new = !found.windows(TELLING_BYTES).all(|bytes| self.parts.contains(&part(bytes)));
            let (path, _) = if is_new { None } else { self.content.iter().find(|(_, content)| holds(content)) }?;
            Some(format!("{found:02x?} in {}", path.display()))
        };
        bytes.windows(telling).find_map(place)
    }
}

fn part(bytes: &[u8]) -> [u8; TELLING_BYTES] {
    bytes.try_into().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Base64 (RFC 4648) without padding, of bytes that begin `skip` bytes before a group of three.
fn base64(bytes: &[u8], skip: usize) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = bytes[skip..].chunks_exact(3);
    groups
        .flat_map(|group| {
            let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
            [18, 12, 6, 0].map(|shift| char::from(DIGITS[(bits >> shift & 63) as usize]))
        })
        .collect()
}

/// Every way in which a key could lie somewhere.
pub(crate) fn forms(key: &[u8; 16]) -> Vec<Vec<u8>> {
    let swapped: Vec<u8> = key.chunks(4).flat_map(|group| group.iter().rev().copied()).collect();
    let groups = |bytes: &[u8]| bytes.chunks(4).map(hex).collect::<Vec<_>>().join("-");
    let mut forms = vec![key.to_vec(), swapped.clone()];
    let texts = [hex(key), hex(&swapped), groups(key), groups(&swapped), hex(key).to_uppercase()];
    forms.extend(texts.map(String::into_bytes));
    forms.extend((0..3).map(|skip| base64(key, skip).into_bytes()));
    forms
}

fn assert_no_key(files: &Files, seed: u64, last: Epoch) {
    for ordinal in 1..=last.get() {
        for form in forms(key(seed, Epoch::new(ordinal).unwrap()).expose()) {
            // Half of the key, however it is written: eight hex digits would meet in the digests of the audit log by chance.
            assert_eq!(files.place_of_any(&form, form.len() / 2), None, "key {ordinal} of seed {seed}");
        }
    }
}

/// One move, with a record beside it so that pages of all tables are in the WAL.
fn advance(store: &SqliteStore, pool: &PoolName, seed: u64) -> (Erasure, Epoch) {
    let snapshot = store.load(pool).unwrap().unwrap().content.snapshot().clone();
    let mut next = proposal(&snapshot.document, |document| rotate(seed, document));
    exclude(&mut next, &snapshot, &node(snapshot.document.revision.get() % 30));
    let erasure = store
        .commit(pool, &hand(store, pool, &coordinator(1)), &next, &ring(seed, snapshot.document.next_epoch))
        .unwrap();
    (erasure, next.document.next_epoch)
}

#[test]
fn erased_keys_are_in_no_file() {
    let (pools, rounds) = tfo_testbed::by_size((20, 9), (40, 9), (120, 40));
    let dir = tfo_testbed::scratch();
    let store = open(dir.path());
    let names: Vec<PoolName> = (0..pools).map(|number| pool_name(&format!("pool-{number}"))).collect();
    let mut ever: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    let mut last = Epoch::FIRST;
    for round in 0..rounds {
        // Pools come one after the other, so that the tables grow while others rotate.
        for (name, seed) in names.iter().zip(0_u64..).take((round + 1) * pools / 3) {
            if store.head(name).unwrap().is_none() {
                make(&store, name, seed).unwrap();
            }
            let (erasure, next_epoch) = advance(&store, name, seed);
            assert_eq!(erasure, Erasure::Done);
            last = last.max(next_epoch);
        }
        ever.extend(sealed(dir.path()).into_iter().map(|(epoch, sealed)| (sealed, epoch)));
    }
    let held: BTreeMap<Vec<u8>, u64> = sealed(dir.path()).into_iter().map(|(epoch, sealed)| (sealed, epoch)).collect();
    let files = Files::read(dir.path());
    let mut gone = 0;
    for (sealed, epoch) in &ever {
        let found = files.place_of(sealed);
        if held.contains_key(sealed) {
            assert!(found.is_some(), "the search finds what is there");
        } else {
            gone += 1;
            assert_eq!(found, None, "sealed key of epoch {epoch}");
        }
    }
    assert!(gone >= pools, "{gone} keys were erased");
    for seed in 0..names.len() as u64 {
        assert_no_key(&files, seed, last);
    }
}

/// Makes two rotations, then one more commit that erases, while a backup program reads; returns what was erased.
fn erase_under_a_reader(dir: &Path, store: &SqliteStore) -> (Connection, Vec<Vec<u8>>) {
    let pool = pool_name("edge");
    make(store, &pool, 5).unwrap();
    for _ in 0..4 {
        let _done = advance(store, &pool, 5);
    }
    let reader = Connection::open_with_flags(dir.join("state.db"), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    assert_eq!(reader.query_row("SELECT count(*) FROM audit", [], |row| row.get::<_, i64>(0)).unwrap(), 4);
    let _staged = advance(store, &pool, 5);
    let before = sealed(dir);
    let (erasure, _) = advance(store, &pool, 5);
    assert_eq!(erasure, Erasure::Waiting, "the commit counts, and says that something is left");
    let after = sealed(dir);
    let gone: Vec<_> = before.into_iter().filter(|key| !after.contains(key)).map(|(_, sealed)| sealed).collect();
    assert_eq!(gone.len(), 1);
    assert!(Files::read(dir).place_of(&gone[0]).is_some(), "it is still in the WAL");
    (reader, gone)
}

#[test]
fn what_a_reader_kept_from_being_erased_is_erased_later() {
    let dir = tfo_testbed::scratch();
    let store = open(dir.path());
    let (reader, gone) = erase_under_a_reader(dir.path(), &store);
    assert_eq!(store.erase_leftovers().unwrap(), Erasure::Waiting);
    drop(reader);
    assert_eq!(store.erase_leftovers().unwrap(), Erasure::Done);
    assert_eq!(Files::read(dir.path()).place_of(&gone[0]), None);
    assert_eq!(store.erase_leftovers().unwrap(), Erasure::Done);
}

#[test]
fn a_start_erases_what_a_killed_run_left_behind() {
    let (dir, copy) = (tfo_testbed::scratch(), tfo_testbed::scratch());
    let store = open(dir.path());
    let (_reader, gone) = erase_under_a_reader(dir.path(), &store);
    // The files as a kill would leave them now.
    for name in ["state.db", "state.db-wal"] {
        std::fs::copy(dir.path().join(name), copy.path().join(name)).unwrap();
    }
    assert!(Files::read(copy.path()).place_of(&gone[0]).is_some());
    let again = SqliteStore::open(&copy.path().join("state.db"), kek(1)).unwrap();
    assert_eq!(walk::see(&again, &pool_name("edge")), walk::see(&store, &pool_name("edge")));
    assert_eq!(Files::read(copy.path()).place_of(&gone[0]), None);
}
