//! A coordinator's file as a proposal (docs/protocol.md#rule-11): when it is taken, and when it is not.

use super::super::calendar::{Freeze, When};
use super::super::policy::AbsentPolicy;
use super::super::proposed::{FilePolicy, PolicyDigest, REPLACED_MAX};
use super::*;

/// A policy that differs from the others by its interval.
fn every(interval_secs: u64) -> Policy {
    Policy { interval_secs, ..policy() }
}

/// The pool after whatever these coordinators propose now, each in its turn; and what was committed.
fn drive(snapshot: &mut Snapshot, files: &mut [&mut FilePolicy]) -> Vec<u64> {
    let mut committed_now = Vec::new();
    for _ in 0..3 {
        for file in &mut *files {
            let Some(policy) = file.proposal(&snapshot.document).cloned() else { continue };
            committed_now.push(policy.interval_secs);
            let step = order(snapshot, Command::SetPolicy { policy: Box::new(policy) }).unwrap();
            snapshot.document = committed(step).document;
        }
    }
    committed_now
}

fn at(policy: &Policy) -> Snapshot {
    let mut snapshot = of(steady());
    snapshot.document.policy = policy.clone();
    snapshot
}

#[test]
fn a_start_takes_a_new_file_and_no_old_one() {
    let mut pool = at(&every(100));
    let mut same = FilePolicy::at_start(every(100));
    assert!(same.is_pending());
    assert_eq!((drive(&mut pool, &mut [&mut same]), same.is_pending()), (vec![], false));
    let mut new = FilePolicy::at_start(every(200));
    assert_eq!((new.differs(&pool.document), drive(&mut pool, &mut [&mut new])), (vec!["interval"], vec![200]));
    // The other coordinator has the old file, and says so; its start takes nothing back.
    let mut old = FilePolicy::at_start(every(100));
    assert_eq!(drive(&mut pool, &mut [&mut same, &mut old]), [0; 0]);
    assert_eq!((same.differs(&pool.document), old.differs(&pool.document)), (vec!["interval"], vec!["interval"]));
    assert!(!old.is_pending() && !new.is_pending());
    // A reload does: that is what an operator asks for.  Then it is the other file that is old.
    old.reload(every(100));
    assert_eq!(drive(&mut pool, &mut [&mut same, &mut old, &mut new]), [100]);
    let mut restarted = FilePolicy::at_start(every(200));
    assert_eq!(drive(&mut pool, &mut [&mut restarted, &mut old]), [0; 0]);
}

#[test]
fn different_files_make_no_war() {
    let mut pool = at(&every(100));
    let (mut a, mut b) = (FilePolicy::at_start(every(200)), FilePolicy::at_start(every(300)));
    assert_eq!(drive(&mut pool, &mut [&mut a, &mut b]), [200, 300], "each new file once");
    // One commit for each reload, whatever was there before; the last one stays.
    a.reload(every(200));
    b.reload(every(300));
    assert_eq!(drive(&mut pool, &mut [&mut a, &mut b]), [200, 300]);
    b.reload(every(300));
    assert_eq!(drive(&mut pool, &mut [&mut a, &mut b]), [0; 0], "it is the pool's");
    // Equal files are one proposal, and either coordinator commits it.
    a.reload(every(400));
    b.reload(every(400));
    assert_eq!(drive(&mut pool, &mut [&mut a, &mut b]), [400]);
}

/// A commit whose outcome was open, and which another one has replaced since, is not made again.
#[test]
fn a_proposal_that_was_taken_is_not_made_again() {
    let mut pool = at(&every(100));
    let mut file = FilePolicy::at_start(every(100));
    drive(&mut pool, &mut [&mut file]);
    file.reload(every(200));
    let decided_on = pool.clone();
    let policy = Box::new(file.proposal(&decided_on.document).unwrap().clone());
    pool.document = committed(order(&pool, Command::SetPolicy { policy }).unwrap()).document;
    let mut other = FilePolicy::at_start(every(300));
    drive(&mut pool, &mut [&mut other]);
    assert!(file.is_pending());
    assert_eq!((drive(&mut pool, &mut [&mut file]), file.is_pending()), (vec![], false));
    // If it was not done, it is done now, also if that policy was the pool's long ago.
    let mut pool = decided_on;
    file.reload(every(200));
    assert_eq!(drive(&mut pool, &mut [&mut file]), [200]);
    file.reload(every(100));
    assert_eq!(drive(&mut pool, &mut [&mut file]), [100]);
}

#[test]
fn a_proposal_waits_for_the_end_of_a_rotation() {
    for stage in [staged(), promoted(0, &["a"]), promoted(0, &[])] {
        let mut file = FilePolicy::at_start(every(200));
        file.reload(every(300));
        let running = of(stage);
        assert_eq!(file.proposal(&running.document), None);
        assert!(file.is_pending());
        let mut after = of(steady());
        // What was replaced before the reload does not count, and what is replaced after it does.
        after.document.replaced = vec![super::super::proposed::Replaced {
            digest: PolicyDigest::of(&every(300)),
            at: running.document.revision,
        }];
        assert_eq!(file.clone().proposal(&after.document), Some(&every(300)));
        after.document.replaced[0].at = running.document.revision.next().unwrap();
        assert_eq!(file.proposal(&after.document), None);
        assert!(!file.is_pending());
    }
    let mut empty = FilePolicy::at_start(every(200));
    assert_eq!(empty.proposal(&of(Stage::Empty).document), Some(&every(200)), "an empty pool has no rotation");
}

#[test]
fn the_document_remembers_the_policies_before() {
    let mut pool = at(&every(1_000));
    for interval in 1_001..1_030 {
        drive(&mut pool, &mut [&mut FilePolicy::at_start(every(interval))]);
    }
    let digests: Vec<PolicyDigest> = pool.document.replaced.iter().map(|replaced| replaced.digest).collect();
    let last: Vec<PolicyDigest> = (1_013..1_029).map(|interval| PolicyDigest::of(&every(interval))).collect();
    assert_eq!((digests.len(), digests), (REPLACED_MAX, last));
    assert!(pool.document.replaced.is_sorted_by_key(|replaced| replaced.at));
    assert_eq!(pool.document.replaced.last().unwrap().at, pool.document.revision);
    // One that comes back does not count as replaced any more, and is the newest when it goes again.
    let mut file = FilePolicy::at_start(policy());
    file.reload(every(1_020));
    drive(&mut pool, &mut [&mut file, &mut FilePolicy::at_start(every(2_000))]);
    let places = |interval| {
        let digest = PolicyDigest::of(&every(interval));
        let found = pool.document.replaced.iter().enumerate().filter(|(_, replaced)| replaced.digest == digest);
        found.map(|(place, _)| place).collect::<Vec<_>>()
    };
    assert_eq!((places(1_020), places(1_029), places(2_000)), (vec![15], vec![14], vec![]));
}

#[test]
fn every_setting_is_in_the_digest() {
    type Change = fn(&mut Policy);
    let changes: [Change; 20] = [
        |policy| policy.nodes.push("b".parse().unwrap()),
        |policy| policy.nodes = vec!["*b".parse().unwrap()],
        |policy| policy.expected_nodes = Some(0),
        |policy| policy.expected_nodes = Some(7),
        |policy| policy.interval_secs += 1,
        |policy| policy.absent_after_secs += 1,
        |policy| policy.absent_policy = AbsentPolicy::Wait,
        |policy| policy.min_present = Share::ALL,
        |policy| policy.promote_waves.insert(0, WaveRule::Names("100".parse().unwrap())),
        |policy| policy.promote_waves.insert(0, WaveRule::Share(Share::from_ppm(100).unwrap())),
        |policy| policy.drain_below = Share::ALL,
        |policy| policy.drain_max_secs += 1,
        |policy| policy.drain_min_samples += 1,
        |policy| policy.health_window_secs += 1,
        |policy| policy.health_rise_max = Share::ALL,
        |policy| policy.health_min_connections += 1,
        |policy| policy.revoke_barrier_max_secs += 1,
        |policy| policy.period_max_secs += 1,
        |policy| {
            let when = When::Weekly { from: "fri 16:00".parse().unwrap(), until: "mon 07:00".parse().unwrap() };
            policy.freeze.push(Freeze { when, reason: String::new() });
        },
        |_| {},
    ];
    let digests: BTreeSet<PolicyDigest> = changes
        .iter()
        .map(|change| {
            let mut changed = policy();
            change(&mut changed);
            PolicyDigest::of(&changed)
        })
        .collect();
    assert_eq!(digests.len(), changes.len());
    // Documents have it: it stays what it is.
    let json = serde_json::to_string(&PolicyDigest::of(&Policy::with_defaults(vec!["*".parse().unwrap()]))).unwrap();
    assert_eq!(json, "6889515081236393138");
}
