//! A replaced CA, a reinstalled node, and a leaked key and certificate of a node.

use std::fs;

use serde_json::{Value, json};

use super::watch::Watch;
use tfo_testbed::PATIENCE;
use tfo_testbed::fleet::{Fleet, node};
use tfo_testbed::{need_netns, poll_until, skip_unless};

/// Both authorities one after the other, as `cat` does it.
fn bundle(fleet: &Fleet, name: &str) -> Vec<u8> {
    ["pki", "pki2"].iter().flat_map(|pki| fleet.issued(pki, name)).collect()
}

/// Waits until the coordinator takes this operator's certificate, or until it does not; then shows `back` again.
#[track_caller]
fn until_taken(fleet: &Fleet, pki: &str, code: i32, back: &str) {
    let show = |pki: &str| {
        let issued = |file: &str| fleet.issued(&format!("{pki}/ops1.example.org"), file);
        fleet.center.put("operator.key", &issued("operator.key"), 0o400);
        fleet.center.put("operator.crt", &issued("operator.crt"), 0o644);
    };
    show(pki);
    let ends = || fleet.ctl(&["pools"]).status.code() == Some(code);
    assert!(poll_until(PATIENCE, ends), "{:?}\n{}", fleet.ctl(&["pools"]), fleet.log());
    show(back);
}

#[test]
fn the_ca_is_replaced_while_rotations_go_on() {
    skip_unless!(need_netns());
    let fleet = Fleet::steady(3);
    let watch = Watch::over(&fleet.hosts);
    fleet.pki(&["init", "--dir", "pki2"]);
    fleet.pki(&["issue", "--dir", "pki2", "--coordinator", "tfo1.example.org", "--address", "10.99.0.1"]);
    fleet.pki(&["issue", "--dir", "pki2", "--operator", "ops1.example.org"]);
    (0..3).for_each(|number| fleet.pki(&["issue", "--dir", "pki2", "--node", &node(number)]));
    assert_eq!(fleet.ctl(&["pools"]).status.code(), Some(0));
    // 1. Both are believed, everywhere.
    let authorities = bundle(&fleet, "ca.crt");
    fleet.hosts.iter().for_each(|host| host.put("ca.crt", &authorities, 0o644));
    fleet.believe(&authorities, &bundle(&fleet, "crl.pem"));
    until_taken(&fleet, "pki2", 0, "pki");
    fleet.rotate();
    // 2. Every program gets a certificate of the new CA; meanwhile the old ones are as good.
    fleet.identify_center("pki2");
    fleet.rotate();
    (0..2).for_each(|number| fleet.identify("pki2", number));
    fleet.rotate();
    fleet.identify("pki2", 2);
    // 3. The old CA is no longer believed: a client with its certificate is cut off, and returns with the new one.
    fleet.believe(&fleet.issued("pki2", "ca.crt"), &fleet.issued("pki2", "crl.pem"));
    fleet.hosts.iter().for_each(|host| host.put("ca.crt", &fleet.issued("pki2", "ca.crt"), 0o644));
    until_taken(&fleet, "pki", 3, "pki2");
    fleet.converged(3);
    fleet.rotate();
    let well = || fleet.hosts.iter().all(|host| host.status()["state"] == "ok");
    assert!(poll_until(PATIENCE, well), "{}", fleet.hosts[0].status());
    watch.end();
}

#[test]
fn a_node_is_installed_anew_under_its_name() {
    skip_unless!(need_netns());
    let mut fleet = Fleet::steady(3);
    let watch = Watch::over(&fleet.hosts[..2]);
    fleet.daemons[2] = None;
    // A rotation waits for it, and says so.
    fleet.ends(&["rotate"], 0);
    let waits = fleet.until("waits", |pool| pool["phase"] == "staged" && pool["converged"] == 2);
    assert_eq!((&waits["waiting_for"], &waits["blocked_by"]), (&json!([node(2)]), &json!("barrier")));
    // Nothing is left of the old installation, and a machine with the old disk must not pass for the node.
    for name in ["sysctl.d/50-tcp_fastopen_key.conf", "ca.crt", "node.crt", "node.key"] {
        fs::remove_file(fleet.hosts[2].path(name)).unwrap();
    }
    fs::remove_dir_all(fleet.hosts[2].path("run")).unwrap();
    fleet.hosts[2].set_kernel("00000009-00000009-00000009-00000009");
    let (_, refused) = fleet.ends(&["pki", "issue", "--dir", "pki", "--node", &node(2)], 3);
    assert!(refused.contains("--out"), "{refused}");
    fleet.pki(&["revoke", "--dir", "pki", &node(2)]);
    fleet.pki(&["issue", "--dir", "pki", "--node", &node(2), "--out", "renewed"]);
    fleet.believe(&fleet.issued("pki", "ca.crt"), &fleet.issued("pki", "crl.pem"));
    fleet.hosts[2].put("ca.crt", &fleet.issued("renewed", "ca.crt"), 0o644);
    fleet.identify_from("renewed", 2);
    fleet.start_agent(2);
    fleet.daemons[2].as_ref().unwrap().ready();
    fleet.until("ended", |pool| pool["phase"] == "steady" && pool["converged"] == 3);
    fleet.agreed();
    fleet.rotate();
    watch.end();
}

#[test]
fn a_leaked_key_is_driven_out_with_its_node() {
    skip_unless!(need_netns());
    let fleet = Fleet::steady(3);
    let leaked = fleet.rotate();
    let watch = Watch::over(&fleet.hosts[..2]);
    // Its certificate first: it is cut off, also where it is connected.
    fleet.pki(&["revoke", "--dir", "pki", &node(2)]);
    fleet.believe(&fleet.issued("pki", "ca.crt"), &fleet.issued("pki", "crl.pem"));
    let cut = || fleet.hosts[2].status()["error"]["kind"] == "certificate_revoked";
    assert!(poll_until(PATIENCE, cut), "{}\n{}", fleet.hosts[2].status(), fleet.log());
    let name = node(2);
    let revoke = ["rotate", "--mode", "revoke", "--deny", &name, "--reason", "stolen", "--wait", "--timeout", "60s"];
    // Nothing without consent.
    assert_eq!(fleet.ctl(&revoke).status.code(), Some(2));
    let (stdout, stderr) = fleet.ends(&[&revoke[..], &["--yes"]].concat(), 0);
    assert!(stderr.contains("denies 1 node the new key: cp3") && stdout.contains("done"), "{stdout}{stderr}");
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
    fleet.pki(&["issue", "--dir", "pki", "--node", &name, "--out", "renewed"]);
    fleet.hosts[2].put("ca.crt", &fleet.issued("renewed", "ca.crt"), 0o644);
    fleet.identify_from("renewed", 2);
    let refused = || fleet.hosts[2].status()["error"]["kind"] == "denied";
    assert!(poll_until(PATIENCE, refused), "{}", fleet.hosts[2].status());
    assert_eq!(fleet.hosts[2].kernel(), leaked);
    watch.end();
    fleet.ends(&["forget", &name, "--yes", "--reason", "installed anew"], 0);
    fleet.converged(3);
    assert!(leaked.split(',').all(|key| !fleet.agreed().contains(key)));
    fleet.rotate();
}
