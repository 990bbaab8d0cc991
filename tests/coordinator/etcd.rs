//! The program on an etcd cluster: what `check` says, how a fleet comes over from SQLite, and a store that goes away.

use std::fs;

use rustix::process::Signal;
use serde_json::json;
use tfo_testbed::config::FAST;
use tfo_testbed::coordinator::{Node, World};
use tfo_testbed::etcd::{Etcd, Plan, need_etcd};
use tfo_testbed::output::{said, stderr, stdout};
use tfo_testbed::{PATIENCE, SOON, poll_until, skip_unless};

use super::enrolment::Enrolling;
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

#[test]
fn nodes_enrol_on_etcd_and_lose_their_certificates_there() {
    const A: &str = "a.cache.example.org";
    skip_unless!(need_etcd());
    let etcd = Etcd::new(&Plan::of(1));
    let mut on = Enrolling::prepared("", |world| use_etcd(world, &etcd, ""));
    let token = on.token(&json!({"uses": 2}));
    let node = on.enrolled(&token, A);
    assert_eq!(node.get("/v1/pools/edge/self").0, 200);
    let stored = etcd.ctl(&["get", "--prefix", "/tfo-fleet/e/"]);
    assert!(stored.contains(A) && stored.contains(&token.id) && !stored.contains(&token.secret), "{stored}");
    // The coordinator ends; another one with this store knows all of it.
    assert!(on.world.stop().success());
    on.world.start();
    assert_eq!(on.used(&token), 1);
    let (status, body) = on.order(&json!("deny"), A);
    assert_eq!(status, 200, "{body}");
    assert_eq!(on.logged("certificates_revoked").len(), 1, "{}", on.world.log());
    assert!(poll_until(SOON, || node.get("/v1/pools/edge/self").0 != 200), "it is on the list");
}

/// A third pair of files for the key-encryption key of `world`, and what of `[store]` names them.
fn with_next(world: &World, present: &str, next: Option<&str>) {
    let text = fs::read_to_string(world.path("coordinator.toml")).unwrap();
    let (before, rest) = text.split_once("key_encryption_key = ").unwrap();
    let after = rest.split_once("[access]").unwrap().1;
    let next = next.map_or_else(String::new, |next| format!("key_encryption_key_next = {:?}\n", world.path(next)));
    let text = format!("{before}key_encryption_key = {:?}\n{next}[access]{after}", world.path(present));
    world.put("coordinator.toml", text.as_bytes(), 0o644);
}

/// The key-encryption key of a coordinator that serves, in a file or a cluster, is replaced while it rotates.
fn rekeys_while_it_serves(etcd: Option<&Etcd>) {
    let (mut world, mut nodes) = match etcd {
        None => with_first_key(FAST),
        Some(etcd) => {
            let mut world = World::new(FAST);
            use_etcd(&world, etcd, "");
            world.start();
            let mut nodes = world.nodes();
            world.first_key(&mut nodes);
            (world, nodes)
        }
    };
    world.put("kek-next", &[7, 1, 2, 3].repeat(8), 0o400);
    let rekey = |world: &World| {
        let output = world.run("rekey", &["--format", "json"]);
        (output.status.code(), stdout(&output), said(&output))
    };
    let (code, _, why) = rekey(&world);
    assert!(code == Some(2) && why.contains("there is no next key-encryption key"), "{why}");
    // The one that serves must have it first.
    with_next(&world, "kek", Some("kek-next"));
    let (code, _, said) = rekey(&world);
    assert!(
        code == Some(3) && said.contains("store_not_prepared") && said.contains("key_encryption_key_next"),
        "{said}"
    );
    world.signal(Signal::HUP);
    let mut done = String::new();
    let is_done = poll_until(SOON, || {
        let (code, shown, _) = rekey(&world);
        done = shown;
        code == Some(0)
    });
    assert!(is_done, "{}", world.log());
    let left = if etcd.is_some() { "history" } else { "backups" };
    let done: serde_json::Value = serde_json::from_str(&done).unwrap();
    assert_eq!((&done["pools"], &done["keys"], &done["left_in"]), (&1.into(), &1.into(), &left.into()), "{done}");
    // Again: there is nothing left to do.
    let again: serde_json::Value = serde_json::from_str(&rekey(&world).1).unwrap();
    assert_eq!((&again["keys"], &again["sealed_by"]), (&0.into(), &done["sealed_by"]));

    // It goes on: a new key is sealed with the next one.
    let rotate = |world: &World, nodes: &mut [Node], epoch: u64| {
        assert_eq!(world.operator().post("/v1/pools/edge/rotations", &serde_json::json!({})).0, 200, "{}", world.log());
        let is_done = poll_until(PATIENCE, || {
            nodes.iter_mut().for_each(Node::converge);
            let pool = world.pool();
            pool["phase"] == "steady" && pool["primary"]["epoch"] == epoch
        });
        assert!(is_done, "{}", world.log());
    };
    rotate(&world, &mut nodes, 2);
    // A reload that forgets the next one is refused, and changes nothing.
    with_next(&world, "kek", None);
    world.signal(Signal::HUP);
    assert!(poll_until(SOON, || world.log().contains("store_wrong_key")), "{}", world.log());
    // Without a restart the one before is not needed any more; backups and a new process need the new one alone.
    with_next(&world, "kek-next", None);
    world.signal(Signal::HUP);
    let reloaded = || world.log().matches(" reloaded ").count();
    assert!(poll_until(SOON, || reloaded() >= 2), "{}", world.log());
    fs::remove_file(world.path("kek")).unwrap();
    rotate(&world, &mut nodes, 3);
    let backup = world.path("backup").display().to_string();
    assert!(world.run("export", &["--to", &backup]).status.success());
    assert!(world.stop().success());
    world.start();
    assert!(poll_until(SOON, || all_heard(&mut nodes)), "{}", world.log());
    rotate(&world, &mut nodes, 4);
    // What it was before opens nothing of it.
    assert!(world.stop().success());
    world.put("kek", &tfo_testbed::config::kek(), 0o400);
    with_next(&world, "kek", None);
    let output = world.run("check", &[]);
    assert!(stderr(&output).contains("are sealed with another key-encryption key"), "{}", stderr(&output));
}

#[test]
fn the_key_encryption_key_of_a_file_is_replaced_while_it_serves() {
    rekeys_while_it_serves(None);
}

#[test]
fn the_key_encryption_key_of_a_cluster_is_replaced_while_it_serves() {
    skip_unless!(need_etcd());
    rekeys_while_it_serves(Some(&Etcd::new(&Plan::of(1))));
}

#[test]
fn an_etcd_that_was_restored_freezes_the_pool_until_an_operator_takes_the_fleet_over() {
    skip_unless!(need_etcd());
    let mut etcd = Etcd::new(&Plan::of(1));
    let mut world = World::new(FAST);
    use_etcd(&world, &etcd, "");
    world.start();
    let mut nodes = world.nodes();
    world.first_key(&mut nodes);
    etcd.save("yesterday");
    let operator = world.operator();
    assert_eq!(operator.post("/v1/pools/edge/rotations", &serde_json::json!({})).0, 200);
    let is_done = poll_until(PATIENCE, || {
        nodes.iter_mut().for_each(Node::converge);
        let pool = world.pool();
        pool["phase"] == "steady" && pool["primary"]["epoch"] == 2
    });
    assert!(is_done, "{}", world.log());
    let held = nodes[0].epochs();
    // Under a coordinator that runs: it has seen what is lost.
    etcd.restore("yesterday");
    let frozen = poll_until(PATIENCE, || {
        nodes.iter_mut().for_each(|node| drop(node.sync(0)));
        operator.get("/v1/pools/edge").1["verdict"]["kind"] == "frozen"
    });
    assert!(frozen, "{:#}\n{}", operator.get("/v1/pools/edge").1, world.log());
    assert_eq!(operator.post("/v1/pools/edge/rotations", &serde_json::json!({})).0, 409);
    // The restored store has the key before, and not the one that the nodes make cookies with.
    let (status, body) = operator.post("/v1/pools/edge/recover", &serde_json::json!({"reason": "restored"}));
    assert!(status == 409 && body["message"].as_str().unwrap().contains("lacks the bytes"), "{body}");
    assert_eq!(held, [2, 1], "no node was told anything meanwhile");
}

#[test]
fn what_is_wrong_with_a_cluster_is_said_before_the_first_write() {
    skip_unless!(need_etcd());
    let world = World::new(FAST);
    let configured = std::fs::read_to_string(world.path("coordinator.toml")).unwrap();
    let check = |etcd: &Etcd, more: &str| {
        world.put("coordinator.toml", configured.as_bytes(), 0o644);
        use_etcd(&world, etcd, more);
        let output = world.run("check", &[]);
        (output.status.code(), stderr(&output))
    };
    let identity = |etcd: &Etcd| format!("cert = {:?}\nkey = {:?}\n", etcd.path("client.crt"), etcd.path("client.key"));
    let says = |(code, found): (Option<i32>, String), expected: i32, words: &str| {
        assert!(code == Some(expected) && found.contains(words), "{words:?} {code:?}: {found}");
    };

    let etcd = Etcd::new(&Plan { more: &["--enable-grpc-gateway=false"], ..Plan::of(1) });
    says(check(&etcd, ""), 2, "there is no JSON gateway; start etcd with --enable-grpc-gateway");
    // The gateway shows the member's certificate to the member.
    let etcd = Etcd::new(&Plan { client_certs: true, server_only: true, ..Plan::of(1) });
    says(check(&etcd, &identity(&etcd)), 2, "needs the usage clientAuth, too");

    let etcd = Etcd::new(&Plan { client_certs: true, ..Plan::of(1) });
    says(check(&etcd, &identity(&etcd)), 0, "");
    etcd.enable_users("tfo1.example.org", "secret", "/tfo-fleet/");
    // A role by the name in the certificate.
    says(check(&etcd, &identity(&etcd)), 2, "takes no client certificate with a CommonName");
    // A user that may only read; beside a certificate with a name etcd takes none.
    let etcd = Etcd::new(&Plan::of(1));
    says(check(&etcd, ""), 0, "");
    etcd.enable_users("tfo1.example.org", "secret", "/tfo-fleet/");
    world.put("password", b"secret\n", 0o400);
    let user = format!("user = \"tfo1.example.org\"\npassword = {:?}\n", world.path("password"));
    says(check(&etcd, &user), 0, "");
    let root = ["--user", "root:root", "role"];
    let rights = |arguments: &[&str]| drop(etcd.ctl(&[&root[..], arguments].concat()));
    rights(&["revoke-permission", "--prefix", "fleet", "/tfo-fleet/"]);
    rights(&["grant-permission", "--prefix", "fleet", "read", "/tfo-fleet/"]);
    let (code, found) = check(&etcd, &user);
    assert!(
        code == Some(2) && found.contains("permission denied") && found.contains("readwrite on store.prefix"),
        "{found}"
    );

    // A value takes up to three times its bytes, as each commit copies what shares its page: a hundredth of the quota, so that
    // no member goes from "not nearly full" to full at once.
    let etcd = Etcd::new(&Plan { more: &["--quota-backend-bytes", "32000000"], ..Plan::of(1) });
    says(check(&etcd, ""), 0, "");
    let value = "x".repeat(120_000);
    let put = |number: usize| etcd.ctl(&["put", &format!("/other/{number}"), &value]);
    let is_told = (0..300).any(|number| {
        put(number);
        // Not before: a look takes longer than a write.
        number % 8 == 0 && {
            let (code, found) = check(&etcd, "");
            assert_eq!(code, Some(0), "{found}");
            found.contains("% of its quota of 31 MiB")
        }
    });
    assert!(is_told, "{:?}", check(&etcd, ""));
}
