//! The CA replaced, a node installed anew, a node's key and certificate leaked.

use std::fs;

use serde_json::{Value, json};

use crate::support::fleet::{Fleet, PATIENCE, node};
use crate::support::{need_netns, poll_until};
use crate::watch::Watch;

/// Both authorities one after the other, as `cat` does it.
fn bundle(fleet: &Fleet, name: &str) -> Vec<u8> {
    ["pki", "pki2"].iter().flat_map(|pki| fs::read(fleet.center.path(&format!("{pki}/{name}"))).unwrap()).collect()
}

#[test]
fn the_ca_is_replaced_while_rotations_go_on() {
    if !need_netns() {
        return;
    }
    let fleet = Fleet::steady(3);
    let watch = Watch::over(&fleet.hosts);
    fleet.pki(&["init", "--dir", "pki2"]);
    // Both are believed, everywhere.
    let (authorities, lists) = (bundle(&fleet, "ca.crt"), bundle(&fleet, "crl.pem"));
    fleet.center.put("crl.pem", &lists, 0o644);
    fleet.center.put("ca.crt", &authorities, 0o644);
    fleet.hosts.iter().for_each(|host| host.put("ca.crt", &authorities, 0o644));
    fleet.rotate();
    // Everybody gets a certificate of the new one; each is as good as the other meanwhile.
    fleet.pki(&["issue", "--dir", "pki2", "--coordinator", "tfo1.example.org", "--address", "10.99.0.1"]);
    fleet.pki(&["issue", "--dir", "pki2", "--operator", "ops1.example.org"]);
    let old: Vec<Vec<u8>> = ["ops1.crt", "ops1.key"].map(|name| fs::read(fleet.center.path(name)).unwrap()).into();
    fleet.equip_center("pki2");
    fleet.center.put("crl.pem", &lists, 0o644);
    fleet.center.put("ca.crt", &authorities, 0o644);
    fleet.rotate();
    for number in 0..3 {
        fleet.pki(&["issue", "--dir", "pki2", "--node", &node(number)]);
        fleet.equip("pki2", number);
        fleet.hosts[number].put("ca.crt", &authorities, 0o644);
    }
    fleet.rotate();
    // The old one is believed no more: first where it could still be shown, then where it could still be used.
    fleet.equip_center("pki2");
    (0..3).for_each(|number| fleet.equip("pki2", number));
    let new: Vec<Vec<u8>> = ["ops1.crt", "ops1.key"].map(|name| fs::read(fleet.center.path(name)).unwrap()).into();
    let show = |identity: &[Vec<u8>]| {
        fleet.center.put("ops1.key", &identity[1], 0o400);
        fleet.center.put("ops1.crt", &identity[0], 0o644);
    };
    show(&old);
    let out = || fleet.ctl(&["pools"]).status.code() == Some(3);
    assert!(poll_until(PATIENCE, out), "{:?}", fleet.ctl(&["pools"]));
    show(&new);
    fleet.converged(3);
    fleet.rotate();
    assert!(fleet.hosts.iter().all(|host| host.status()["state"] == "ok"), "{}", fleet.hosts[0].status());
    watch.end();
}

#[test]
fn a_node_is_installed_anew_under_its_name() {
    if !need_netns() {
        return;
    }
    let mut fleet = Fleet::steady(3);
    let watch = Watch::over(&fleet.hosts[..2]);
    fleet.daemons[2] = None;
    // A rotation waits for it, and says so.
    fleet.ends(&["rotate"], 0);
    let waits = fleet.until("waits", |pool| pool["phase"] == "staged" && pool["converged"] == 2);
    assert_eq!((&waits["waiting_for"], &waits["blocked_by"]), (&json!([node(2)]), &json!("barrier")));
    // Nothing is left of the old installation; who somebody is, is decided by the name alone, so the old one is revoked.
    for name in ["sysctl.d/50-tcp_fastopen_key.conf", "ca.crt", "node.crt", "node.key"] {
        fs::remove_file(fleet.hosts[2].path(name)).unwrap();
    }
    fs::remove_dir_all(fleet.hosts[2].path("run")).unwrap();
    fleet.hosts[2].set_kernel("00000009-00000009-00000009-00000009");
    fleet.ends(&["pki", "issue", "--dir", "pki", "--node", &node(2)], 3);
    fleet.pki(&["revoke", "--dir", "pki", &node(2)]);
    fleet.pki(&["issue", "--dir", "pki", "--node", &node(2)]);
    fleet.center.put("crl.pem", &fs::read(fleet.center.path("pki/crl.pem")).unwrap(), 0o644);
    fleet.equip("pki", 2);
    fleet.start_agent(2);
    fleet.daemons[2].as_ref().unwrap().ready();
    fleet.until("ended", |pool| pool["phase"] == "steady" && pool["converged"] == 3);
    fleet.agreed();
    fleet.rotate();
    watch.end();
}

#[test]
fn a_leaked_key_is_driven_out_with_its_node() {
    if !need_netns() {
        return;
    }
    let fleet = Fleet::steady(3);
    let leaked = fleet.rotate();
    let watch = Watch::over(&fleet.hosts[..2]);
    // Its certificate first: it is cut off, also where it is connected.
    fleet.pki(&["revoke", "--dir", "pki", &node(2)]);
    fleet.center.put("crl.pem", &fs::read(fleet.center.path("pki/crl.pem")).unwrap(), 0o644);
    let cut = || fleet.hosts[2].status()["error"]["kind"] == "coordinator_tls";
    assert!(poll_until(PATIENCE, cut), "{}\n{}", fleet.hosts[2].status(), fleet.log());
    let name = node(2);
    let revoke = ["rotate", "--mode", "revoke", "--deny", &name, "--reason", "stolen", "--wait", "--timeout", "60s"];
    // Nothing without consent.
    assert_eq!(fleet.ctl(&revoke).status.code(), Some(2));
    let (stdout, stderr) = fleet.ends(&[&revoke[..], &["--yes"]].concat(), 0);
    assert!(stderr.contains("2 nodes") && stdout.contains("done"), "{stdout}{stderr}");
    for host in &fleet.hosts[..2] {
        let kernel = host.kernel();
        assert!(leaked.split(',').all(|key| !kernel.contains(key)), "a leaked key is still held");
        assert_eq!(host.persisted_keys(), Some(kernel));
    }
    let nodes = fleet.json(&["nodes"]);
    let denied: &Value = nodes["nodes"].as_array().unwrap().iter().find(|shown| shown["node"] == name).unwrap();
    assert_eq!(denied["state"], "denied");
    // It got nothing: neither with its old certificate nor with a new one, until it is forgotten.
    assert_eq!(fleet.hosts[2].kernel(), leaked);
    fleet.pki(&["issue", "--dir", "pki", "--node", &name]);
    fleet.equip("pki", 2);
    let refused = || fleet.hosts[2].status()["error"]["kind"] == "denied";
    assert!(poll_until(PATIENCE, refused), "{}", fleet.hosts[2].status());
    assert_eq!(fleet.hosts[2].kernel(), leaked);
    watch.end();
    fleet.ends(&["forget", &name, "--yes", "--reason", "installed anew"], 0);
    fleet.converged(3);
    assert!(leaked.split(',').all(|key| !fleet.agreed().contains(key)));
    fleet.rotate();
}
