//! The program on an etcd cluster: what `check` says, how a fleet comes over from SQLite, and a store that goes away.

use std::fs;

use rustix::process::Signal;
use tfo_testbed::config::FAST;
use tfo_testbed::coordinator::{Node, World};
use tfo_testbed::etcd::{Etcd, Plan, need_etcd};
use tfo_testbed::output::stderr;
use tfo_testbed::{PATIENCE, SOON, poll_until, skip_unless};

use super::with_first_key;

/// Puts a cluster in the place of the file, with these more lines.
fn use_etcd(world: &World, etcd: &Etcd, more: &str) {
    let text = fs::read_to_string(world.path("coordinator.toml")).unwrap();
    let (before, rest) = text.split_once("[store]\n").unwrap();
    let after = &rest[rest.find("key_encryption_key").unwrap()..];
    let (urls, ca, lock) = (etcd.urls(), etcd.path("ca.crt"), world.path("name.lock"));
    let store = format!("kind = \"etcd\"\nurls = {urls:?}\nca = {ca:?}\nname_lock = {lock:?}\n{more}");
    world.put("coordinator.toml", format!("{before}[store]\n{store}{after}").as_bytes(), 0o644);
}

fn all_heard(nodes: &mut [Node]) -> bool {
    nodes.iter_mut().map(|node| node.sync(0).0).all(|status| status == 204)
}

#[test]
fn a_fleet_moves_from_sqlite_to_etcd_and_survives_its_absence() {
    skip_unless!(need_etcd());
    let (mut world, mut nodes) = with_first_key(FAST);
    let before = world.pool();
    assert!(world.stop().success());
    let backup = world.path("backup").display().to_string();
    assert!(world.run("export", &["--to", &backup]).status.success());
    let mut etcd = Etcd::new(&Plan { more: &["--auth-token-ttl", "60"], ..Plan::of(1) });
    etcd.enable_users("tfo", "secret", "/tfo-fleet/");

    // What is wrong with it is said by `check`, at the setting.
    use_etcd(&world, &etcd, "");
    let check = || {
        let output = world.run("check", &[]);
        (output.status.code(), stderr(&output))
    };
    let (code, found) = check();
    assert!(code == Some(2) && found.contains("store.urls") && found.contains("store.user"), "{found}");
    world.put("password", b"wrong\n", 0o400);
    let password = world.path("password");
    use_etcd(&world, &etcd, &format!("user = \"tfo\"\npassword = {password:?}\n"));
    let (code, found) = check();
    assert!(code == Some(2) && found.contains("authentication failed"), "{found}");
    world.put("password", b"secret\n", 0o400);
    let (code, found) = check();
    assert_eq!(code, Some(0), "{found}");
    etcd.signal(0, Signal::STOP);
    let (code, found) = check();
    assert!(code == Some(2) && found.contains("cannot be reached"), "{found}");
    etcd.signal(0, Signal::CONT);

    let imported = world.run("import", &["--from", &backup]);
    assert!(imported.status.success(), "{}", stderr(&imported));
    world.start();
    for name in ["pool_id", "generation", "phase"] {
        assert_eq!(world.pool()[name], before[name], "{name}");
    }
    // Their sessions were those of another name, so they open new ones; nothing is new to them.
    assert!(poll_until(SOON, || all_heard(&mut nodes)), "{}", world.log());
    assert_eq!(world.operator().post("/v1/pools/edge/rotations", &serde_json::json!({})).0, 200);
    nodes.iter_mut().for_each(Node::converge);
    world.until("promoted", |pool| pool["phase"] == "promoted");

    // Away: nodes get no answers, and all continues when it is back.
    etcd.kill(0);
    assert!(poll_until(PATIENCE, || nodes[0].sync(0).0 == 503), "{}", world.log());
    etcd.start(0);
    let is_done = poll_until(PATIENCE, || {
        nodes.iter_mut().for_each(|node| {
            if node.sync(0).0 == 200 {
                node.install();
            }
        });
        world.operator().get("/v1/pools/edge").1["phase"] == "steady"
    });
    assert!(is_done, "{}", world.log());
    let log = world.log();
    assert!(log.contains("store_unreachable") && !log.contains("secret"), "{log}");
    assert!(world.stop().success());
    // Given back at its end: a start elsewhere need not wait.
    world.put("other.lock", b"", 0o600);
    fs::remove_file(world.path("name.lock")).unwrap();
    world.start();
    assert!(!world.log().contains("was not given back"), "{}", world.log());
}
