//! One suite over every kind of store, and what only a store on a disk can get wrong.
//!
//! `cargo test --test store`; with `TFO_SIZE=full` the kills, flips and rotations are several times as many.

#[cfg(test)]
mod backup;
#[cfg(test)]
mod backup_enrolment;
#[cfg(test)]
mod chain;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod enrolment_log;
#[cfg(test)]
mod enrolments;
#[cfg(test)]
mod erase;
#[cfg(test)]
mod etcd;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod reader;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod rekey;
#[cfg(test)]
mod taken_away;
#[cfg(test)]
mod upgrade;
#[cfg(test)]
mod walk;

use std::path::Path;

use tfo_crypto::seal::KeyEncryptionKey;
use tfo_store::{MemoryStore, SqliteStore};

/// A key-encryption key made of a number.
fn kek(seed: u8) -> KeyEncryptionKey {
    let bytes: [u8; 32] =
        std::array::from_fn(|i| seed.wrapping_mul(31).wrapping_add(u8::try_from(i).expect("32 bytes")));
    KeyEncryptionKey::from_bytes(&bytes).expect("32 different bytes")
}

/// The database in a scratch directory.
fn open(dir: &Path) -> SqliteStore {
    SqliteStore::open(&dir.join("state.db"), kek(1)).expect("the database opens")
}

/// Every test of the suite, for every kind of store.
macro_rules! suite {
    ($($test:ident),* $(,)?) => {
        mod memory {
            use super::*;
            $(#[test] fn $test() { conformance::$test(&MemoryStore::new()); })*
        }
        mod sqlite {
            use super::*;
            $(#[test] fn $test() {
                let dir = tfo_testbed::scratch();
                conformance::$test(&open(dir.path()));
            })*
        }
        mod etcd_of_one {
            use super::*;
            $(#[test] fn $test() { etcd::conforms(1, &[conformance::$test]); })*
        }
        /// One cluster for all, because three members take a while to start.  A short run does some of them.
        #[test]
        fn etcd_of_three_members_conforms() {
            let all: &[fn(&dyn tfo_store::Store)] = &[$(conformance::$test),*];
            let some: Vec<_> = all.iter().copied().step_by(tfo_testbed::by_size(5, 1, 1)).collect();
            etcd::conforms(3, &some);
        }
    };
}

suite! {
    a_pool_is_made_once,
    a_pool_is_made_from_a_backup,
    pools_do_not_mix,
    a_commit_counts_once,
    a_commit_is_all_or_nothing,
    what_breaks_the_rules_is_refused,
    keys_come_back_and_go,
    each_coordinator_writes_its_own_roster,
    a_beat_fences_what_its_writer_sent_before,
    an_exclusion_meets_the_sessions_that_it_knows,
    a_read_is_one_snapshot,
    two_writers_lose_nothing,
    a_copy_follows,
    the_audit_log_is_read_in_pages,
    the_audit_log_is_a_chain,
    a_random_walk_is_what_it_says,
}
