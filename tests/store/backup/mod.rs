//! `export` and `import`: everything goes round, and nothing else comes in.

mod behind;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tfo_coordinator::backup::{self, Existing, Exported, Imported, export, export_dated};
use tfo_crypto::seal::KeyEncryptionKey;
use tfo_engine::rollout::document::{AuditEntry, Document, KeyRing, Proposal, Stage};
use tfo_engine::rollout::parts::{Writer, Writes};
use tfo_engine::rollout::sync::record;
use tfo_model::count::Revision;
use tfo_model::fleet::Action;
use tfo_model::ids::PoolName;
use tfo_model::problem::Problem;
use tfo_model::state::Phase;
use tfo_store::{
    ChainPart, CommitError, Enrolments, Erasure, Head, MemoryStore, News, PoolImage, PoolState, ReadStore,
    SqliteReader, Store, StoreError,
};

use crate::walk::{
    self, Seen, coordinator, dice, exclude, hand, make, node, pool_name, proposal, ring, rotate, see, step,
};
use crate::{kek, open};

const SEED: u64 = 17;

/// Imports everything into one store.
pub(super) fn import(
    store: &(impl Store + Enrolments),
    kek: &KeyEncryptionKey,
    from: &Path,
) -> Result<Imported, Problem> {
    backup::import(store, store, kek, from)
}

/// Two pools after a walk: one steady with nodes, keys and history, one empty.
pub(super) fn fill(store: &dyn Store) {
    for index in 0..150 {
        step(store, &pool_name("edge"), SEED, index).unwrap();
    }
    while store.load(&pool_name("edge")).unwrap().unwrap().content.snapshot().document.clone().stage.phase()
        != Phase::Steady
    {
        turn(store, &pool_name("edge"));
    }
    make(store, &pool_name("upload"), SEED + 1).unwrap();
}

/// One move of the rotation.
fn turn(store: &dyn Store, pool: &PoolName) {
    let document = store.load(pool).unwrap().unwrap().content.snapshot().document.clone();
    let next = proposal(&document, |document| rotate(SEED, document));
    let _erasure =
        store.commit(pool, &hand(store, pool, &coordinator(1)), &next, &ring(SEED, document.next_epoch)).unwrap();
}

/// Everything in a store, as an import makes it: the count of record writes starts at zero again.
fn all(store: &dyn ReadStore) -> BTreeMap<PoolName, Seen> {
    let seen = store.pools().unwrap().into_iter().map(|pool| {
        let mut seen = see(store, &pool).unwrap();
        seen.head.part_writes = 0;
        (pool, seen)
    });
    seen.collect()
}

fn filled() -> MemoryStore {
    let store = MemoryStore::new();
    fill(&store);
    store
}

/// A backup of [`filled`].
fn exported(dir: &Path) -> (PathBuf, Exported) {
    let file = dir.join("backup");
    let exported = export(&filled(), &kek(1), &file, Existing::Keep).unwrap();
    (file, exported)
}

/// Imports into an empty store, expects a refusal that names the file, and an empty store after it.
fn refused(file: &Path, key: u8) -> Problem {
    let store = MemoryStore::new();
    let problem = import(&store, &kek(key), file).expect_err("it is refused");
    assert_eq!(store.pools().unwrap(), [], "{problem}");
    assert_eq!(problem.file.as_deref(), Some(file), "{problem}");
    assert!(problem.remedy.len() > 20, "{problem}");
    problem
}

#[test]
fn everything_goes_round_from_sqlite_to_memory_and_back() {
    let (first, second, files) = (tfo_testbed::scratch(), tfo_testbed::scratch(), tfo_testbed::scratch());
    let source = open(first.path());
    fill(&source);
    let before = all(&source);
    let made = export(&source, &kek(1), &files.path().join("one"), Existing::Keep).unwrap();
    assert_eq!(made.pools.iter().map(|pool| pool.pool.as_str()).collect::<Vec<_>>(), ["edge", "upload"]);
    let (text, seen) = (&made.pools[0], &before[&pool_name("edge")]);
    assert_eq!(
        (text.phase, text.revision, text.nodes),
        (Phase::Steady, seen.head.revision, seen.content.snapshot().nodes.len())
    );
    assert_eq!((text.audit_entries, made.pools[1].phase), (seen.audit.len(), Phase::Empty));
    assert_eq!(text.primary.unwrap().epoch, seen.content.snapshot().document.keys_held().last().map(|key| key.epoch));
    assert_eq!(std::fs::metadata(&made.file).unwrap().len(), made.bytes);

    let memory = MemoryStore::new();
    let imported = import(&memory, &kek(1), &made.file).unwrap();
    assert_eq!((&imported.made, imported.present.len()), (&made.pools, 0));
    assert_eq!((imported.made_at, imported.release.as_str()), (made.made_at, env!("CARGO_PKG_VERSION")));
    assert_eq!(all(&memory), before);

    // Another key-encryption key for the file and another for the second database: the import seals the keys again.
    export(&memory, &kek(9), &files.path().join("two"), Existing::Keep).unwrap();
    let target = tfo_store::SqliteStore::open(&second.path().join("state.db"), kek(2)).unwrap();
    import(&target, &kek(9), &files.path().join("two")).unwrap();
    assert_eq!(all(&target), before);
    drop(target);
    let again = tfo_store::SqliteStore::open(&second.path().join("state.db"), kek(2)).unwrap();
    assert_eq!(all(&again), before, "durable");
    // The imported store continues from there.
    for _ in 0..8 {
        turn(&again, &pool_name("edge"));
        turn(&source, &pool_name("edge"));
    }
    assert_eq!(all(&again), all(&source));
}

#[test]
fn a_backup_tells_nothing_and_is_the_owners_alone() {
    let dir = tfo_testbed::scratch();
    let (file, _) = exported(dir.path());
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    let store = filled();
    let (document, keys) = store.document(&pool_name("edge")).unwrap().unwrap();
    let mut secrets: Vec<Vec<u8>> = keys.epochs().map(|epoch| keys.key(epoch).unwrap().expose().to_vec()).collect();
    assert!(!secrets.is_empty());
    secrets.extend([b"example.org".to_vec(), document.pool_id.to_string().into_bytes(), b"epoch".to_vec()]);
    for secret in secrets {
        assert!(!bytes.windows(secret.len()).any(|part| part == secret));
    }
    let again = dir.path().join("again");
    export(&store, &kek(1), &again, Existing::Keep).unwrap();
    assert_ne!(std::fs::read(again).unwrap(), bytes, "never sealed twice alike");
}

#[test]
fn a_backup_from_the_middle_of_a_rotation_goes_round_and_continues() {
    let (dir, store) = (tfo_testbed::scratch(), filled());
    let slots = |store: &MemoryStore| match store.document(&pool_name("edge")).unwrap().unwrap().0.stage {
        Stage::Staged { current, next, .. } => (current.shown(), next.shown()),
        Stage::Promoted { current, next, .. } => (next.shown(), current.shown()),
        other => panic!("no rotation runs: {other:?}"),
    };
    for phase in [Phase::Staged, Phase::Promoted] {
        turn(&store, &pool_name("edge"));
        let made = export(&store, &kek(1), &dir.path().join(phase.as_str()), Existing::Keep).unwrap();
        let (shown, (primary, backup)) = (&made.pools[0], slots(&store));
        assert_eq!((shown.phase, shown.primary, shown.backup), (phase, Some(primary), Some(backup)));
        let memory = MemoryStore::new();
        assert_eq!(import(&memory, &kek(1), &made.file).unwrap().made, made.pools);
        assert_eq!(all(&memory), all(&store), "{phase:?}, with the key that an abort puts back");
        let other = filled();
        while all(&other) != all(&memory) {
            turn(&other, &pool_name("edge"));
        }
        for _ in 0..4 {
            turn(&memory, &pool_name("edge"));
            turn(&other, &pool_name("edge"));
        }
        assert_eq!(all(&memory), all(&other));
    }
}

#[test]
fn an_export_overwrites_nothing_unless_it_may_and_then_only_a_backup() {
    let (dir, store) = (tfo_testbed::scratch(), filled());
    let path = |name: &str| dir.path().join(name);
    let exported = |store: &MemoryStore, to: &str, existing: Existing| {
        export(store, &kek(1), &path(to), existing).map_err(|found| found.kind).err()
    };
    let (keep, replace) = (Existing::Keep, Existing::Replace);
    std::fs::write(path("state.db"), "SQLite format 3\0").unwrap();
    std::os::unix::fs::symlink("nowhere", path("link")).unwrap();
    assert_eq!(exported(&store, "state.db", keep), Some("backup_exists"));
    assert_eq!(exported(&store, "state.db", replace), Some("backup_target"));
    assert_eq!(std::fs::read(path("state.db")).unwrap(), b"SQLite format 3\0");
    assert_eq!(exported(&store, "link", keep), Some("backup_exists"));
    for existing in [keep, replace] {
        assert_eq!(exported(&store, "missing/backup", existing), Some("export_failed"));
    }
    assert_eq!(
        (exported(&store, ".", keep), exported(&store, ".", replace)),
        (Some("backup_exists"), Some("export_failed"))
    );
    std::fs::write(path("backup"), "").unwrap();
    assert_eq!((exported(&store, "backup", keep), exported(&store, "backup", replace)), (Some("backup_exists"), None));
    let before = std::fs::read(path("backup")).unwrap();
    assert_eq!(exported(&MemoryStore::new(), "backup", replace), Some("backup_empty"));
    turn(&store, &pool_name("edge"));
    assert_eq!(exported(&store, "backup", keep), Some("backup_exists"));
    assert_eq!(std::fs::read(path("backup")).unwrap(), before, "nothing does not replace something");
    assert_eq!(exported(&store, "backup", replace), None);
    let memory = MemoryStore::new();
    import(&memory, &kek(1), &path("backup")).unwrap();
    assert_eq!(all(&memory), all(&store));
}

#[test]
fn dated_backups_make_room_for_the_new_one_and_touch_nothing_else() {
    let (dir, store) = (tfo_testbed::scratch(), filled());
    let directory = dir.path().join("backups");
    std::fs::create_dir(&directory).unwrap();
    let name = |day: u8| format!("tfo-fleet-2025-01-{day:02}T02-00-00Z.backup");
    export(&store, &kek(1), &directory.join(name(1)), Existing::Keep).unwrap();
    for day in 2..=5 {
        std::fs::copy(directory.join(name(1)), directory.join(name(day))).unwrap();
    }
    // Not ours: another name, another content.
    std::fs::copy(directory.join(name(1)), directory.join("before-the-upgrade.backup")).unwrap();
    std::fs::write(directory.join(name(6)), "notes").unwrap();
    let keep = std::num::NonZeroUsize::new(3).unwrap();
    let made = export_dated(&store, &kek(1), &directory, keep).unwrap();
    assert_eq!(made.removed, [1, 2, 3].map(|day| directory.join(name(day))));
    import(&MemoryStore::new(), &kek(1), &made.file).unwrap();
    let mut left: Vec<PathBuf> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    left.sort();
    let others = ["before-the-upgrade.backup".to_owned(), name(4), name(5), name(6)].map(|name| directory.join(name));
    assert_eq!(left, [&others[..], &[made.file]].concat());
    let problem = export_dated(&store, &kek(1), &dir.path().join("missing"), keep).expect_err("there is no directory");
    assert_eq!(problem.kind, "export_failed");
}

#[test]
fn what_is_no_backup_of_ours_is_refused() {
    let dir = tfo_testbed::scratch();
    let (file, _) = exported(dir.path());
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(refused(&file, 2).kind, "backup_wrong_key");
    assert_eq!(refused(&dir.path().join("missing"), 1).kind, "backup_unreadable");
    assert_eq!(refused(dir.path(), 1).kind, "backup_unreadable");
    let other = dir.path().join("other");
    for text in [&b""[..], b"{}", b"SQLite format 3\0", b"tfo-fleet backuP and so on"] {
        std::fs::write(&other, text).unwrap();
        assert_eq!(refused(&other, 1).kind, "backup_foreign");
    }
    let mut older = bytes[..20].to_vec();
    older[19] = 1;
    std::fs::write(&other, &older).unwrap();
    assert_eq!(refused(&other, 1).kind, "backup_older");
    // A later format says so, whatever comes after it.
    let mut newer = bytes[..20].to_vec();
    newer[19] = 4;
    std::fs::write(&other, &newer).unwrap();
    let problem = refused(&other, 1);
    assert_eq!(problem.kind, "backup_newer");
    assert!(problem.message.contains("format 4"), "{problem}");
}

#[test]
fn every_cut_and_every_flipped_bit_is_refused() {
    let dir = tfo_testbed::scratch();
    let (file, _) = exported(dir.path());
    let (bytes, broken) = (std::fs::read(&file).unwrap(), dir.path().join("broken"));
    let mut rng = dice(std::process::id().into(), 3);
    let mut any = || usize::try_from(rng.below(bytes.len() as u64)).unwrap();
    let some: Vec<usize> = (0..130).chain(bytes.len() - 40..bytes.len()).chain((0..60).map(|_| any())).collect();
    for at in &some {
        std::fs::write(&broken, &bytes[..*at]).unwrap();
        let kind = refused(&broken, 1).kind;
        assert_eq!(kind, if *at < 16 { "backup_foreign" } else { "backup_damaged" }, "cut to {at}");
        let mut flipped = bytes.clone();
        flipped[*at] ^= 1 << (at % 8);
        std::fs::write(&broken, &flipped).unwrap();
        let kind = refused(&broken, 1).kind;
        let is_clear = match at {
            0..16 => kind == "backup_foreign",
            16..20 => ["backup_newer", "backup_damaged"].contains(&kind),
            _ => kind == "backup_damaged",
        };
        assert!(is_clear, "byte {at}: {kind}");
    }
    // Also if something was added, and if two good halves are put together.
    std::fs::write(&broken, [&bytes[..], b"x"].concat()).unwrap();
    assert_eq!(refused(&broken, 1).kind, "backup_damaged");
    export(&filled(), &kek(1), &dir.path().join("second"), Existing::Keep).unwrap();
    let second = std::fs::read(dir.path().join("second")).unwrap();
    std::fs::write(&broken, [&bytes[..104], &second[104..]].concat()).unwrap();
    assert_eq!(refused(&broken, 1).kind, "backup_damaged");
}

#[test]
fn a_pool_that_is_there_is_never_touched() {
    let dir = tfo_testbed::scratch();
    let (file, made) = exported(dir.path());
    let store = MemoryStore::new();
    make(&store, &pool_name("edge"), SEED).unwrap();
    let before = all(&store);
    let problem = import(&store, &kek(1), &file).err().unwrap();
    assert_eq!(problem.kind, "pool_exists");
    assert!(problem.message.contains("edge") && problem.message.contains("revision 0"), "{problem}");
    assert_eq!(all(&store), before, "nor was the other pool made");
    // Beside other pools it is welcome; a second time everything is there already.
    let store = MemoryStore::new();
    make(&store, &pool_name("other"), SEED).unwrap();
    assert_eq!(import(&store, &kek(1), &file).unwrap().made, made.pools);
    let again = import(&store, &kek(1), &file).unwrap();
    assert_eq!((again.made.len(), &again.present), (0, &made.pools));
    turn(&store, &pool_name("edge"));
    assert_eq!(import(&store, &kek(1), &file).err().unwrap().kind, "pool_exists");
}

/// A store whose disk is full after so many pools.
pub(super) struct FullStore<'a> {
    pub(super) inner: &'a MemoryStore,
    pub(super) room: AtomicUsize,
}

impl ReadStore for FullStore<'_> {
    fn pools(&self) -> Result<Vec<PoolName>, StoreError> {
        self.inner.pools()
    }
    fn head(&self, pool: &PoolName) -> Result<Option<Head>, StoreError> {
        self.inner.head(pool)
    }
    fn load(&self, pool: &PoolName) -> Result<Option<PoolState>, StoreError> {
        self.inner.load(pool)
    }
    fn document(&self, pool: &PoolName) -> Result<Option<(Document, KeyRing)>, StoreError> {
        self.inner.document(pool)
    }
    fn audit(&self, pool: &PoolName, after: Revision) -> Result<Vec<AuditEntry>, StoreError> {
        self.inner.audit(pool, after)
    }

    fn chain(&self, pool: &PoolName, after: Revision) -> Result<Option<ChainPart>, StoreError> {
        self.inner.chain(pool, after)
    }
}

impl Store for FullStore<'_> {
    fn create(&self, pool: &PoolName, image: &PoolImage<'_>) -> Result<(), CommitError> {
        if self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(1)).is_err() {
            return Err(StoreError::Full { place: "state.db".to_owned(), source: "no space".into() }.into());
        }
        self.inner.create(pool, image)
    }
    fn commit(
        &self,
        pool: &PoolName,
        by: &Writer,
        proposal: &Proposal,
        keys: &KeyRing,
    ) -> Result<Erasure, CommitError> {
        self.inner.commit(pool, by, proposal, keys)
    }
    fn write(&self, pool: &PoolName, by: &Writer, writes: &Writes) -> Result<(), CommitError> {
        self.inner.write(pool, by, writes)
    }
    fn follow(&self, pool: &PoolName, copy: &mut PoolState) -> Result<News, StoreError> {
        self.inner.follow(pool, copy)
    }
    fn erase_leftovers(&self) -> Result<Erasure, StoreError> {
        self.inner.erase_leftovers()
    }
}

#[test]
fn an_import_that_was_cut_short_is_run_again() {
    let dir = tfo_testbed::scratch();
    let (file, _) = exported(dir.path());
    let inner = MemoryStore::new();
    let problem = backup::import(&FullStore { inner: &inner, room: 0.into() }, &inner, &kek(1), &file).err().unwrap();
    assert!(problem.kind == "store_full" && problem.message.contains("nothing was changed"), "{problem}");
    let problem = backup::import(&FullStore { inner: &inner, room: 1.into() }, &inner, &kek(1), &file).err().unwrap();
    assert!(problem.message.contains("pool upload") && problem.message.contains("imported: edge"), "{problem}");
    assert!(problem.remedy.contains("import again"), "{problem}");
    let imported = import(&inner, &kek(1), &file).unwrap();
    assert_eq!((imported.present[0].pool.as_str(), imported.made[0].pool.as_str()), ("edge", "upload"));
    assert_eq!(all(&inner), all(&filled()));
}

/// Sets it when the test ends, also by a panic: a thread waits for it.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The coordinator keeps committing; every backup taken beside it is one state of each pool.
#[test]
fn a_backup_beside_a_serving_coordinator_is_one_state() {
    let (dir, files) = (tfo_testbed::scratch(), tfo_testbed::scratch());
    let store = open(dir.path());
    fill(&store);
    let (done, pool) = (AtomicBool::new(false), pool_name("edge"));
    let first = store.head(&pool).unwrap().unwrap().revision;
    let mut revisions = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                // Commits without a rotation, each with an exclusion that names the revision.
                let stored = store.load(&pool).unwrap().unwrap().content.snapshot().clone();
                let mut next = proposal(&stored.document, |document| {
                    let pausing = document.paused.is_none();
                    document.paused = pausing.then(walk::pause);
                    if pausing { Action::Pause } else { Action::Resume }
                });
                exclude(&mut next, &stored, &node(1));
                let _erasure =
                    store.commit(&pool, &hand(&store, &pool, &coordinator(1)), &next, &KeyRing::default()).unwrap();
            }
        });
        let (_end, started) = (SetAtEnd(&done), tfo_testbed::now());
        while revisions.len() < 10 || revisions.first() == revisions.last() {
            assert!(started.elapsed() < Duration::from_secs(60), "{revisions:?}");
            let reader = SqliteReader::open(&dir.path().join("state.db"), kek(1)).unwrap();
            let file = files.path().join("backup");
            export(&reader, &kek(1), &file, Existing::Replace).unwrap();
            let memory = MemoryStore::new();
            import(&memory, &kek(1), &file).unwrap();
            let seen = see(&memory, &pool).unwrap();
            let revision = seen.head.revision;
            assert_eq!(seen.audit.last().map(|entry| entry.revision), Some(revision));
            if revision > first {
                assert_eq!(seen.content.snapshot().nodes[&node(1)].exclusion, Some(revision));
            }
            revisions.push(revision.get());
        }
    });
    assert!(revisions.is_sorted(), "{revisions:?}");
}
