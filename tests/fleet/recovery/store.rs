//! The database put back, lost, and without its key-encryption key.

use std::fs;

use serde_json::json;

use super::watch::Watch;
use tfo_testbed::PATIENCE;
use tfo_testbed::fleet::Fleet;
use tfo_testbed::{need_netns, poll_until, skip_unless};

/// Copies the database of a coordinator that is stopped.
fn back_up(fleet: &Fleet, to: &str) {
    fs::copy(fleet.center.path("state.db"), fleet.center.path(to)).unwrap();
}

/// Moves it away, with what belongs to it.
fn move_away(fleet: &Fleet) {
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let _none = fs::rename(fleet.center.path(name), fleet.center.path(&format!("old-{name}")));
    }
}

#[test]
fn yesterdays_database_is_put_back() {
    skip_unless!(need_netns());
    let mut fleet = Fleet::steady(3);
    let watch = Watch::over(&fleet.hosts);
    fleet.stop();
    back_up(&fleet, "yesterday.db");
    fleet.serve();
    fleet.until("heard", |pool| pool["blocked_by"] == "schedule");
    let held = fleet.rotate();
    let lost = fleet.pool();
    fleet.stop();
    move_away(&fleet);
    fs::copy(fleet.center.path("yesterday.db"), fleet.center.path("state.db")).unwrap();
    fleet.serve();
    let frozen = fleet.until("frozen", |pool| pool["blocked_by"] == "frozen" && pool["recoverable"] != json!([]));
    assert_eq!(frozen["recoverable"], json!([{"primary": lost["primary"], "backup": lost["backup"]}]));
    assert!(fleet.ends(&["pools"], 0).0.contains("frozen"), "pools says so");
    let (_, refused) = fleet.ends(&["rotate"], 3);
    assert!(refused.contains("recover"), "{refused}");
    // The restored store lacks the newer key; a node's sysctl.d file has it.
    let (_, refused) = fleet.ends(&["recover", "--yes"], 3);
    assert!(refused.contains("sysctl.d"), "{refused}");
    assert_eq!(fleet.agreed(), held);
    let keys = fleet.take_keys(0);
    let (stdout, _) = fleet.ends(&["recover", "--yes", "--key-file", keys.to_str().unwrap()], 0);
    let jumped = lost["generation"].as_u64().unwrap() + 1_000_000;
    assert!(stdout.contains(&format!("generation {jumped}")), "{stdout}");
    fleet.until("everybody follows", |pool| pool["converged"] == 3 && pool["hold"] == "recovered");
    assert_eq!(fleet.agreed(), held, "the keys that everybody had, under a new generation");
    fleet.ends(&["rotate"], 3);
    fleet.ends(&["resume"], 0);
    fleet.rotate();
    watch.end();
}

#[test]
fn a_sealed_backup_is_restored_on_another_host() {
    skip_unless!(need_netns());
    let mut fleet = Fleet::steady(2);
    let watch = Watch::over(&fleet.hosts);
    // While it serves.
    fleet.coordinator("export", &["--to", "backup"], 0);
    let held = fleet.rotate();
    fleet.kill();
    move_away(&fleet);
    fleet.coordinator("import", &["--from", "backup"], 0);
    fleet.serve();
    fleet.until("frozen", |pool| pool["blocked_by"] == "frozen" && pool["recoverable"] != json!([]));
    let keys = fleet.take_keys(1);
    fleet.ends(&["recover", "--yes", "--key-file", keys.to_str().unwrap()], 0);
    fleet.until("everybody follows", |pool| pool["converged"] == 2 && pool["hold"] == "recovered");
    assert_eq!(fleet.agreed(), held);
    fleet.ends(&["resume"], 0);
    fleet.rotate();
    watch.end();
}

#[test]
fn a_backup_from_the_middle_of_a_rotation_continues_it_or_freezes_the_pool() {
    skip_unless!(need_netns());
    let mut fleet = Fleet::steady(2);
    let watch = Watch::over(&fleet.hosts);
    let before = fleet.pool();
    // The rotation waits for a node that is away.
    fleet.stop_agent(1);
    fleet.ends(&["rotate"], 0);
    fleet.until("it waits", |pool| pool["phase"] == "staged" && pool["converged"] == 1);
    fleet.coordinator("export", &["--to", "staged"], 0);
    assert!(fleet.coordinator("export", &["--to", "staged"], 3).contains("--force"), "it is not overwritten");
    let restore = |fleet: &mut Fleet| {
        fleet.kill();
        move_away(fleet);
        fleet.coordinator("import", &["--from", "staged"], 0);
        fleet.serve();
    };
    // No node is ahead of it: it continues where it stood, and gives the node that was away what it missed.
    restore(&mut fleet);
    fleet.start_agent(1);
    let settled = fleet.until("settled", |pool| pool["phase"] == "steady" && pool["converged"] == 2);
    assert_eq!(settled["backup"], before["primary"]);
    let held = fleet.agreed();
    // Now all nodes are, and nothing is given out from what the backup says.
    restore(&mut fleet);
    let frozen = fleet.until("frozen", |pool| pool["blocked_by"] == "frozen" && pool["recoverable"] != json!([]));
    assert_eq!((&frozen["phase"], fleet.agreed()), (&json!("staged"), held.clone()));
    // Its keys are the two of the rotation, so no node's file is needed.
    fleet.ends(&["recover", "--yes"], 0);
    fleet.until("everybody follows", |pool| pool["converged"] == 2 && pool["hold"] == "recovered");
    assert_eq!(fleet.agreed(), held);
    fleet.ends(&["resume"], 0);
    fleet.rotate();
    watch.end();
}

/// The pool was made again: what the nodes say, and how each is brought over while the others serve.
fn bring_over(fleet: &mut Fleet) {
    let held = fleet.agreed();
    let count = fleet.hosts.len();
    for host in &fleet.hosts {
        let refused = || host.status()["error"]["kind"] == "other_pool";
        assert!(poll_until(PATIENCE, refused), "{}", host.status());
    }
    assert_eq!(fleet.agreed(), held, "another pool_id is refused, and the keys stay");
    assert_eq!(fleet.json(&["nodes"])["nodes"], json!([]), "and nobody is admitted");
    // The keys first: a node that starts without its file must find them in the pool.
    let keys = fleet.take_keys(0);
    let keys = keys.to_str().unwrap();
    let (_, plan) = fleet.ends(&["import", "--key-file", keys, "--expect", &count.to_string(), "--yes"], 0);
    assert!(plan.contains("import"), "{plan}");
    for number in 0..count {
        let (_, refused) = fleet.ends(&["resume"], 3);
        assert!(refused.contains(&format!("{} of {count} nodes", count - number)), "{refused}");
        fleet.stop_agent(number);
        fs::remove_file(fleet.hosts[number].sysctl_file()).unwrap();
        fleet.start_agent(number);
        fleet.daemons[number].as_ref().unwrap().ready();
        assert_eq!(fleet.hosts[number].kernel(), held);
        fleet.until("it follows", |pool| pool["converged"] == number + 1);
    }
    assert_eq!(fleet.agreed(), held);
    fleet.ends(&["resume"], 0);
    fleet.rotate();
}

#[test]
fn the_database_is_lost_altogether() {
    skip_unless!(need_netns());
    let mut fleet = Fleet::steady(3);
    fleet.rotate();
    let watch = Watch::over(&fleet.hosts);
    fleet.kill();
    move_away(&fleet);
    fleet.serve();
    bring_over(&mut fleet);
    watch.end();
}

#[test]
fn the_key_encryption_key_is_lost() {
    skip_unless!(need_netns());
    let mut fleet = Fleet::steady(2);
    let watch = Watch::over(&fleet.hosts);
    let held = fleet.rotate();
    fleet.coordinator("export", &["--to", "backup"], 0);
    fleet.stop();
    let (kek, database) =
        (fs::read(fleet.center.path("kek")).unwrap(), fs::read(fleet.center.path("state.db")).unwrap());
    fleet.center.put("kek", b"0123456789abcdef0123456789abcdef", 0o400);
    for command in ["serve", "check"] {
        let said = fleet.coordinator(command, &[], 2);
        assert!(said.contains("key_encryption_key") || said.contains("key-encryption key"), "{said}");
    }
    assert_eq!(fs::read(fleet.center.path("state.db")).unwrap(), database, "nothing is overwritten");
    // A copy of the key is found.
    fleet.center.put("kek", &kek, 0o400);
    fleet.serve();
    fleet.until("it goes on", |pool| pool["blocked_by"] == "schedule");
    assert_eq!(fleet.rotate().split(',').nth(1), held.split(',').next());
    fleet.stop();
    // No copy is found: the keys in the store are lost, those in the nodes are not; a backup needs it, too.
    fleet.center.put("kek", b"0123456789abcdef0123456789abcdef", 0o400);
    move_away(&fleet);
    let said = fleet.coordinator("import", &["--from", "backup"], 1);
    assert!(said.contains("key-encryption key"), "{said}");
    fleet.serve();
    bring_over(&mut fleet);
    watch.end();
}
