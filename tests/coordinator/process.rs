//! The program around the pools: check, the key-encryption key, secrets, the plain listener, the end.

use super::with_first_key;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;

use rustix::process::Signal;
use serde_json::json;

use tfo_testbed::config::FAST;
use tfo_testbed::coordinator::{Node, World, holds};
use tfo_testbed::output::{stderr, stdout};
use tfo_testbed::{SOON, poll_until, skip_unless};

#[test]
fn check_finds_everything_at_once_and_changes_nothing() {
    let world = World::new(FAST);
    let output = world.run("check", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!world.path("state.db").exists(), "check makes no store");
    // The one thing that is to be said of it: nothing can be revoked.
    let warned = |is_warned: bool| {
        let output = world.run("check", &["--format", "json"]);
        let found = String::from_utf8(output.stdout).unwrap();
        assert_eq!((output.status.code(), found.contains("\"no_crl\"")), (Some(0), is_warned), "{found}");
    };
    warned(true);
    let text = fs::read_to_string(world.path("coordinator.toml")).unwrap();
    let (before, list) = (text.clone(), format!("[api]\ncrl = {:?}\n", world.path("crl.pem")));
    world.put("crl.pem", world.ca.crl(&[]).as_bytes(), 0o644);
    world.put("coordinator.toml", text.replace("[api]\n", &list).as_bytes(), 0o644);
    warned(false);
    world.put("coordinator.toml", before.as_bytes(), 0o644);
    world.put("server.crt", b"no certificate", 0o644);
    world.put("kek", &[7; 32], 0o400);
    let output = world.run("check", &[]);
    let found = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{found}");
    assert!(found.contains("server.crt") && found.contains("repeated byte"), "{found}");
    world.configure("interval = 1\nwrong = 2\n");
    let found = stderr(&world.run("check", &[]));
    for part in ["pools.edge.interval", "pools.edge.wrong", "repeated byte"] {
        assert!(found.contains(part), "{part}: {found}");
    }
    let output = world.run("serve", &[]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn a_wrong_or_lost_key_encryption_key_is_told_and_touches_nothing() {
    let (mut world, mut nodes) = with_first_key(FAST);
    assert!(world.stop().success());
    let (before, kek) = (fs::read(world.path("state.db")).unwrap(), fs::read(world.path("kek")).unwrap());
    world.put("kek", &(0..32u8).collect::<Vec<_>>(), 0o400);
    let output = world.run("serve", &[]);
    let found = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{found}");
    assert!(found.contains("another key-encryption key") && found.contains("key_encryption_key"), "{found}");
    fs::remove_file(world.path("kek")).unwrap();
    let output = world.run("serve", &[]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    world.put("kek", &kek, 0o444);
    let found = stderr(&world.run("serve", &[]));
    assert!(found.contains("0444"), "{found}");
    assert!(fs::read(world.path("state.db")).unwrap() == before, "the store is as it was");
    world.put("kek", &kek, 0o400);
    world.start();
    nodes.iter_mut().for_each(|node| assert_eq!(node.sync(0).0, 204));
}

#[test]
fn a_key_is_nowhere_but_in_the_answer_to_its_node() {
    let (mut world, mut nodes) = with_first_key(FAST);
    assert_eq!(world.operator().post("/v1/pools/edge/rotations", &json!({})).0, 200);
    nodes.iter_mut().for_each(Node::converge);
    world.until("promoted", |pool| pool["phase"] == "promoted");
    let keys: Vec<String> =
        ["primary", "backup"].map(|slot| nodes[0].told[slot]["key"].as_str().unwrap().into()).into();
    let (status, page) = world.observed("/").unwrap();
    assert_eq!(status, 200);
    let (_, metrics) = world.observed("/metrics").unwrap();
    let mut shown = vec![page.clone(), metrics.clone()];
    for path in
        ["/pools/edge", "/pools/edge/nodes", "/pools/edge/audit", &format!("/pools/edge/nodes/{}", nodes[0].name)]
    {
        let (status, page) = world.observed(path).unwrap();
        assert_eq!(status, 200, "{path}");
        shown.push(page);
    }
    let operator = world.operator();
    for path in ["/v1/pools", "/v1/pools/edge", "/v1/pools/edge/nodes", "/v1/pools/edge/audit"] {
        shown.push(operator.get(path).1.to_string());
    }
    assert!(world.stop().success());
    shown.push(world.log());
    for key in &keys {
        assert_eq!(key.len(), 35);
        let digits = key.replace('-', "");
        // The kernel's words are little-endian on this machine; both orders, and the raw bytes of both.
        let words: Vec<u8> =
            key.split('-').flat_map(|word| u32::from_str_radix(word, 16).unwrap().to_le_bytes()).collect();
        let reversed: String = words.iter().map(|byte| format!("{byte:02x}")).collect();
        for text in &shown {
            let text = text.to_lowercase();
            assert!(!text.contains(key) && !text.contains(&digits) && !text.contains(&reversed), "{text}");
        }
        for file in fs::read_dir(world.dir.path()).unwrap().flatten() {
            if !file.path().is_file() {
                continue;
            }
            for form in [key.as_bytes(), digits.as_bytes(), reversed.as_bytes(), &words] {
                assert!(!holds(&file.path(), form), "{}", file.path().display());
            }
        }
    }
    // What they do show.
    assert!(page.contains("promoted") && page.contains(nodes[0].told["backup"]["fingerprint"].as_str().unwrap()));
    for line in [
        "tfo_coordinator_pool_phase{phase=\"promoted\",pool=\"edge\"} 1",
        "tfo_coordinator_pool_generation{pool=\"edge\"} 3",
        "tfo_coordinator_pool_required{pool=\"edge\"} 3",
        "tfo_coordinator_syncs_total{pool=\"edge\",result=\"told\"}",
        "tfo_coordinator_commits_total{action=\"rotate\",pool=\"edge\"} 1",
        "tfo_coordinator_commit_duration_seconds_count{pool=\"edge\"}",
        "tfo_coordinator_info{version=",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
}

#[test]
fn metrics_are_what_prometheus_takes() {
    skip_unless!(tfo_testbed::need_tool("promtool"));
    let world = World::started(FAST);
    let (_, metrics) = world.observed("/metrics").unwrap();
    let mut child = std::process::Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), metrics.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stdout(&output));
}

#[test]
fn a_name_that_is_a_nodes_and_the_coordinators_is_told() {
    let world = World::new(FAST);
    let server = world.ca.both(&["localhost", "127.0.0.1", "c1.cache.example.org"]);
    world.put("server.crt", server.cert_pem.as_bytes(), 0o644);
    world.put("server.key", server.key_pem.as_bytes(), 0o600);
    let output = world.run("check", &[]);
    let found = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{found}");
    assert!(
        found.contains("c1.cache.example.org fits a pattern of nodes") && found.contains("coordinator.toml:"),
        "{found}"
    );
}

#[test]
fn probes_are_answered_whatever_else_is_connected_from_their_address() {
    let world = World::started(FAST);
    let mut silent: Vec<TcpStream> = Vec::new();
    for _ in 0..20 {
        silent.extend((0..6).map(|_| TcpStream::connect(world.observe).unwrap()));
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(world.observed(path).map(|(status, _)| status), Some(200), "{} silent", silent.len());
        }
    }
}

#[test]
fn the_plain_listener_answers_under_its_own_names() {
    let world = World::new(FAST);
    let config = fs::read_to_string(world.path("coordinator.toml")).unwrap();
    let with_name = config.replace("[observe]\n", "[observe]\nnames = [\"tfo.example.org\"]\n");
    let mut world = world;
    world.put("coordinator.toml", with_name.as_bytes(), 0o644);
    world.start();
    let this_host = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    let port = world.observe.port();
    let ask = |path: &str, host: &str| {
        let mut stream = TcpStream::connect(world.observe).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\n{host}connection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    for path in ["/", "/metrics", "/healthz", "/readyz", "/pools/edge/nodes", "/icon/ok"] {
        let ours = ["127.0.0.1", "[::1]", "192.0.2.7", "localhost", "tfo.example.org", "TFO.example.org.", &this_host];
        for host in ours.map(|host| format!("host: {host}:{port}\r\n")).iter().chain([&String::new()]) {
            let answer = ask(path, host);
            assert!(answer.starts_with("HTTP/1.1 200"), "{path} {host}: {answer}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "tfo.example.org.evil.example", ""]
        {
            let answer = ask(path, &format!("host: {host}\r\n"));
            assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("not_allowed"), "{path} {host}: {answer}");
        }
    }
    let page = ask("/", "host: localhost\r\n").to_lowercase();
    assert!(page.contains("frame-ancestors 'none'") && page.contains("form-action 'self'"), "{page}");
}

#[test]
fn a_store_that_is_taken_away_is_noticed_and_nothing_is_written_into_the_void() {
    let (world, mut nodes) = with_first_key(FAST);
    let names = ["state.db", "state.db-wal", "state.db-shm", "state.db.lock"];
    let kept = world.path("kept");
    fs::create_dir(&kept).unwrap();
    names.iter().for_each(|name| fs::rename(world.path(name), kept.join(name)).unwrap());
    let noticed = || world.log().contains("was removed or replaced while this coordinator had it open");
    assert!(poll_until(SOON, noticed), "{}", world.log());
    let (status, body) = world.operator().post("/v1/pools/edge/rotations", &json!({}));
    assert_eq!((status, &body["kind"]), (503, &json!("store_unavailable")));
    assert_eq!(nodes[0].sync(0).0, 503);
    let not_ready = || world.observed("/readyz").is_some_and(|(status, _)| status == 503);
    assert!(poll_until(SOON, not_ready));
    // Back where they were: the coordinator continues by itself.
    names.iter().for_each(|name| fs::rename(kept.join(name), world.path(name)).unwrap());
    assert!(poll_until(SOON, || nodes[0].sync(0).0 == 204));
    assert_eq!(world.operator().post("/v1/pools/edge/rotations", &json!({})).0, 200);
}

#[test]
fn a_coordinator_starts_with_a_revocation_list_that_is_out_of_date_and_operators_come_in() {
    let mut world = World::new(FAST);
    world.put("crl.pem", world.ca.crl_until(&[], -60).as_bytes(), 0o644);
    let config = fs::read_to_string(world.path("coordinator.toml")).unwrap();
    let list = format!("crl = {:?}\n[store]\n", world.path("crl.pem"));
    world.put("coordinator.toml", config.replace("[store]\n", &list).as_bytes(), 0o644);
    let output = world.run("check", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("tfoctl pki crl"), "{}", stderr(&output));
    world.start();
    assert_eq!(world.operator().get("/v1/pools").0, 200);
    assert!(world.log().contains("new nodes are refused"));
    assert_eq!(world.nodes()[0].sync(0).0, 0, "not let in");
    assert!(poll_until(SOON, || world.log().contains("revocation_list_overdue")), "{}", world.log());
}

#[test]
fn an_end_lets_waiting_nodes_go_and_writes_their_acks() {
    let (mut world, mut nodes) = with_first_key(FAST);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| nodes[0].sync(60));
        let held = || {
            world
                .observed("/metrics")
                .is_some_and(|(_, text)| text.contains("tfo_coordinator_pool_held{pool=\"edge\"} 1"))
        };
        assert!(poll_until(SOON, held));
        world.signal(Signal::TERM);
        assert_eq!(waiting.join().unwrap().0, 204);
    });
    assert!(world.ended().success());
    assert!(world.log().contains("the driver has ended"));
}

#[test]
fn a_backup_is_sealed_and_fills_another_store() {
    let (mut world, mut nodes) = with_first_key(FAST);
    let file = world.path("backup");
    let file = file.to_str().unwrap();
    let output = world.run("export", &["--to", file]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let output = world.run("import", &["--from", file]);
    assert_eq!(output.status.code(), Some(3), "it is served: {}", stderr(&output));
    assert_eq!(world.operator().post("/v1/pools/edge/rotations", &json!({})).0, 200);
    let output = world.run("export", &["--to", file]);
    assert_eq!(output.status.code(), Some(3), "it exists: {}", stderr(&output));
    // A rotation runs.  Dated, beside the first.
    let dir = world.dir.path().to_str().unwrap();
    let output = world.run("export", &["--dir", dir, "--keep", "2"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&made["pools"][0]["phase"], &made["removed"]), (&json!("staged"), &json!([])));
    for wrong in
        [&["--to", file, "--dir", dir][..], &["--to", file, "--keep", "2"], &["--dir", dir, "--keep", "0"], &[]]
    {
        assert_eq!(world.run("export", wrong).status.code(), Some(2), "{wrong:?}");
    }
    world.kill();
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        fs::remove_file(world.path(name)).ok();
    }
    let output = world.run("import", &["--from", file]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    world.start();
    nodes.iter_mut().for_each(|node| assert_eq!(node.sync(0).0, 204));
    let pool = world.pool();
    assert_eq!((&pool["phase"], pool["generation"].as_u64()), (&json!("steady"), Some(1)));
}

/// Sends SIGHUP, and waits until the log has this once more than before; `systemctl reload` does the same and then asks
/// `check --reload`, whose exit code is returned.
#[track_caller]
fn reload(world: &World, logs: &str) -> Option<i32> {
    let count = || world.log().matches(logs).count();
    let before = count();
    world.signal(Signal::HUP);
    assert!(poll_until(SOON, || count() > before), "never {logs:?}: {}", world.log());
    let mut check = world.command("check", &["--reload"]);
    check.env("RUNTIME_DIRECTORY", world.dir.path()).output().unwrap().status.code()
}

#[test]
fn a_reload_takes_tls_files_of_other_names_and_refuses_what_needs_a_restart() {
    let mut world = World::new(FAST);
    let mut serve = world.command("serve", &[]);
    serve.env("RUNTIME_DIRECTORY", world.dir.path());
    world.spawn_by(serve);
    assert!(poll_until(SOON, || world.observed("/readyz").is_some_and(|(status, _)| status == 200)), "{}", world.log());
    let found = stderr(&world.run("check", &[]));
    assert!(found.contains("api.crl: there is no revocation list") && found.contains("crl.pem"), "{found}");
    let text = fs::read_to_string(world.path("coordinator.toml")).unwrap();
    let configure = |from: &str, to: &str| {
        let changed = text.replace(from, to);
        assert_ne!(changed, text);
        world.put("coordinator.toml", changed.as_bytes(), 0o644);
    };
    let stolen = world.ca.both(&["a.cache.example.org"]);
    let mut nodes = [Node::new(world.client_of(&stolen), "a.cache.example.org"), world.node("b.cache.example.org")];
    nodes.iter_mut().for_each(|node| assert_eq!(node.sync(0).0, 204));

    // A revocation list where there was none: who is on it is cut off, in the middle of a long poll, and stays out.
    world.put("revoked.pem", world.ca.crl(&[&stolen]).as_bytes(), 0o644);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| nodes[0].sync(60).0);
        let held = "tfo_coordinator_pool_held{pool=\"edge\"} 1";
        assert!(poll_until(SOON, || world.observed("/metrics").is_some_and(|(_, text)| text.contains(held))));
        configure("client_ca =", &format!("crl = {:?}\nclient_ca =", world.path("revoked.pem")));
        assert_eq!(reload(&world, " reloaded "), Some(0));
        assert_eq!(waiting.join().unwrap(), 0, "it has lost its connection");
    });
    assert_eq!(world.client_of(&stolen).post("/v1/pools/edge/sync", &json!({})).0, 0);
    assert_eq!(nodes[1].sync(0).0, 204, "the others stay");
    assert!(!stderr(&world.run("check", &[])).contains("revocation list"));

    // What needs a restart is refused as a whole, by the daemon and by the check after it, and named.
    let refused = "refused the new configuration";
    for (from, to, key) in [
        ("[api]\nlisten = \"127.0.0.1", "[api]\nlisten = \"127.0.0.2", "api.listen"),
        ("state.db", "other.db", "store.path"),
    ] {
        configure(from, to);
        assert_eq!(reload(&world, refused), Some(2), "{key}");
        let log = world.log();
        let named = log.lines().rfind(|line| line.contains("needs_restart")).unwrap_or_else(|| panic!("{log}"));
        assert!(named.contains(&format!("key=\"{key}\"")) && named.contains("systemctl restart"), "{key}: {named}");
    }
    world.put("coordinator.toml", text.as_bytes(), 0o644);
    assert_eq!(reload(&world, " reloaded "), Some(0));
    assert_eq!(world.client_of(&stolen).post("/v1/pools/edge/sync", &json!({})).0, 400, "there is no list any more");
}
