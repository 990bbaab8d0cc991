//! Disks that are full, read-only or lie: a clear error that names the file and a remedy, and never half a commit.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tfo_store::{CommitError, ReadStore, SqliteStore, Store, StoreError};

use super::walk::{Seen, dice, pool_name, see, step};
use super::{kek, open};
use tfo_testbed::skip_unless;

const SEED: u64 = 13;

/// Set in the child that runs inside its own mount namespace: where its small file system is mounted.
const MOUNT: &str = "TFO_STORE_MOUNT";

fn database(dir: &Path) -> PathBuf {
    dir.join("state.db")
}

/// What the operator reads names the file and says what to do.
fn assert_clear(error: &StoreError, path: &Path) {
    let problem = error.problem();
    assert!(problem.message.contains(&*path.to_string_lossy()), "{problem}");
    assert!(problem.remedy.len() > 20, "{problem}");
}

/// Runs this test again in a mount namespace of its own with a tmpfs of so many KiB; true in the parent, or if skipped.
fn in_own_mount(test: &str, kib: u32) -> bool {
    if std::env::var_os(MOUNT).is_some() {
        return false;
    }
    if !tfo_testbed::need_root() || !tfo_testbed::need_tool("unshare") || !tfo_testbed::need_tool("mount") {
        return true;
    }
    let dir = tfo_testbed::scratch();
    let script = format!("mount -t tmpfs -o size={kib}k tmpfs \"${MOUNT}\" && exec \"$0\" \"$@\"");
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(MOUNT, dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if err.contains("unshare failed") || err.contains("permission denied") {
        tfo_testbed::skip("needs to mount in a namespace of its own");
        return true;
    }
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
    true
}

fn mount_dir() -> PathBuf {
    std::env::var_os(MOUNT).unwrap().into()
}

#[test]
fn a_full_disk_is_an_error_and_no_half_commit() {
    if in_own_mount("faults::a_full_disk_is_an_error_and_no_half_commit", 640) {
        return;
    }
    let (dir, pool) = (mount_dir(), pool_name("edge"));
    let store = open(&dir);
    let ballast = dir.join("ballast");
    let mut index = 0;
    for _ in 0..40 {
        step(&store, &pool, SEED, index).unwrap();
        index += 1;
    }
    let mut refusals = 0;
    for round in 0..20 {
        // Fill the disk but for a few pages, another number each time.
        let stat = rustix::fs::statvfs(&dir).unwrap();
        let free = usize::try_from(stat.f_bavail * stat.f_frsize).unwrap();
        std::fs::write(&ballast, vec![1; free.saturating_sub(round % 10 * 4096)]).unwrap();
        let error = loop {
            let before = see(&store, &pool);
            match step(&store, &pool, SEED, index) {
                Ok(()) => index += 1,
                Err(error) => {
                    assert_eq!(see(&store, &pool), before, "not a half of step {index}");
                    break error;
                }
            }
        };
        let CommitError::Store(error) = error else { panic!("{error:?}") };
        assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
        assert_clear(&error, &database(&dir));
        refusals += 1;
        std::fs::remove_file(&ballast).unwrap();
        step(&store, &pool, SEED, index).unwrap();
        index += 1;
        // Empties the WAL when there is room again.
        let _erasure = store.erase_leftovers().unwrap();
    }
    let before = see(&store, &pool);
    drop(store);
    assert_eq!((see(&open(&dir), &pool), refusals), (before, 20));
}

#[test]
fn a_database_is_not_made_on_a_full_disk() {
    if in_own_mount("faults::a_database_is_not_made_on_a_full_disk", 512) {
        return;
    }
    let dir = mount_dir();
    let (ballast, stat) = (dir.join("ballast"), rustix::fs::statvfs(&dir).unwrap());
    let free = usize::try_from(stat.f_bavail * stat.f_frsize).unwrap();
    for left in (0..52).map(|pages| pages * 4096) {
        std::fs::write(&ballast, vec![1; free - left]).unwrap();
        match SqliteStore::open(&database(&dir), kek(1)) {
            Ok(_store) => break,
            Err(error) => {
                assert!(matches!(error, StoreError::Full { .. } | StoreError::Failed { .. }), "{left}: {error:?}");
                assert_clear(&error, &database(&dir));
            }
        }
    }
    // What the attempts left behind does not block the next one.
    std::fs::remove_file(&ballast).unwrap();
    step(&open(&dir), &pool_name("edge"), SEED, 0).unwrap();
}

#[test]
fn a_read_only_file_system_is_an_error_and_no_loss() {
    if in_own_mount("faults::a_read_only_file_system_is_an_error_and_no_loss", 4096) {
        return;
    }
    let (dir, pool) = (mount_dir(), pool_name("edge"));
    let remount = |how: &str| {
        let option = format!("remount,{how}");
        assert!(Command::new("mount").args(["-o", &option]).arg(&dir).status().unwrap().success());
    };
    let store = open(&dir);
    for index in 0..20 {
        step(&store, &pool, SEED, index).unwrap();
    }
    let before = see(&store, &pool);
    drop(store);
    remount("ro");
    let error = SqliteStore::open(&database(&dir), kek(1)).err().unwrap();
    assert!(matches!(error, StoreError::Unwritable { .. }), "{error:?}");
    assert_clear(&error, &database(&dir));
    remount("rw");
    assert_eq!(see(&open(&dir), &pool), before);
}

#[test]
fn a_file_that_may_not_be_written_is_an_error() {
    let dir = tfo_testbed::scratch();
    drop(open(dir.path()));
    let immutable = |flag: &str| {
        let chattr = Command::new("chattr").arg(flag).arg(database(dir.path())).output();
        chattr.is_ok_and(|output| output.status.success())
    };
    skip_unless!(tfo_testbed::need_root() && tfo_testbed::need_tool("chattr"));
    if !immutable("+i") {
        return tfo_testbed::skip("needs a file system with immutable files");
    }
    let error = SqliteStore::open(&database(dir.path()), kek(1)).err();
    assert!(immutable("-i"));
    let error = error.unwrap();
    assert!(matches!(error, StoreError::Unwritable { .. }), "{error:?}");
    assert_clear(&error, &database(dir.path()));
    drop(open(dir.path()));
}

/// A closed database with some dozen nodes and a hundred entries: its bytes, and what is in it.
fn sound(dir: &Path) -> (Vec<u8>, Seen) {
    let store = open(dir);
    for index in 0..200 {
        step(&store, &pool_name("edge"), SEED, index).unwrap();
    }
    let seen = see(&store, &pool_name("edge")).unwrap();
    drop(store);
    assert!(!dir.join("state.db-wal").exists(), "closed without a WAL");
    (std::fs::read(database(dir)).unwrap(), seen)
}

/// Opens a damaged database: it is refused and left alone, or everything in it is as it was; true if refused.
fn refused_or_sound(dir: &Path, bytes: &[u8], seen: &Seen, what: &str) -> bool {
    for suffix in ["-wal", "-shm"] {
        // What the run before left, if it left anything.
        drop(std::fs::remove_file(dir.join(format!("state.db{suffix}"))));
    }
    std::fs::write(database(dir), bytes).unwrap();
    match SqliteStore::open(&database(dir), kek(1)) {
        Ok(store) => {
            assert_eq!(see(&store, &pool_name("edge")).as_ref(), Some(seen), "{what}: opened, and another content");
            assert_eq!(store.pools().unwrap(), [pool_name("edge")], "{what}");
            false
        }
        Err(error) => {
            assert_clear(&error, &database(dir));
            assert!(!matches!(error, StoreError::InUse { .. } | StoreError::Busy { .. }), "{what}: {error:?}");
            assert!(std::fs::read(database(dir)).unwrap() == bytes, "{what}: refused, and yet overwritten");
            true
        }
    }
}

#[test]
fn flipped_bits_are_found() {
    let flips = tfo_testbed::by_size(150, 400, 4_000);
    let dir = tfo_testbed::scratch();
    let (bytes, seen) = sound(dir.path());
    let (mut rng, mut refused) = (dice(std::process::id().into(), 1), 0);
    for flip in 0..flips {
        // Every tenth in the header of the file, the others anywhere.
        let at = usize::try_from(rng.below(if flip % 10 == 0 { 100 } else { bytes.len() as u64 })).unwrap();
        let bit = rng.below(8);
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << bit;
        refused += u32::from(refused_or_sound(dir.path(), &damaged, &seen, &format!("bit {bit} of byte {at}")));
    }
    eprintln!("{refused} of {flips} flipped bits refused, the others without effect; {} bytes", bytes.len());
    assert!(refused * 8 > flips, "much of the file is content");
}

#[test]
fn torn_and_overwritten_files_are_found() {
    let dir = tfo_testbed::scratch();
    let (bytes, seen) = sound(dir.path());
    let mut rng = dice(std::process::id().into(), 2);
    for cut in 0..60 {
        // At page boundaries and anywhere; an empty file is a new database, which is told by its empty pool list.
        let any = 1 + rng.below(bytes.len() as u64 - 1);
        let length = usize::try_from(if cut % 2 == 0 { any } else { any.next_multiple_of(4096) - 4096 }).unwrap();
        if length > 0 {
            assert!(refused_or_sound(dir.path(), &bytes[..length], &seen, &format!("cut to {length}")), "{length}");
        }
    }
    for _ in 0..60 {
        let start = usize::try_from(rng.below(bytes.len() as u64 - 512)).unwrap() / 512 * 512;
        let mut damaged = bytes.clone();
        damaged[start..start + 512].fill(0);
        refused_or_sound(dir.path(), &damaged, &seen, &format!("zeros at {start}"));
    }
    // A database that vanished while its WAL has content: SQLite alone would delete the WAL.
    std::fs::remove_file(database(dir.path())).unwrap();
    std::fs::write(dir.path().join("state.db-wal"), &bytes).unwrap();
    let error = SqliteStore::open(&database(dir.path()), kek(1)).err().unwrap();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
    assert_eq!(std::fs::metadata(dir.path().join("state.db-wal")).unwrap().size(), bytes.len() as u64);
}
