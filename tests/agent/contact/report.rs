//! `[report]`: agents with keys of their own only tell, and nothing depends on it.

use crate::start_ready;
use serde_json::Value;

use tfo_testbed::config::client_files;
use tfo_testbed::daemon::{DaemonHost, key_text, lasting};
use tfo_testbed::fake_coordinator::{FakeCoordinator, told};
use tfo_testbed::output::stderr;
use tfo_testbed::pki::Ca;
use tfo_testbed::{SOON, need_netns, poll_until, skip_unless};

fn report(host: &DaemonHost, url: &str) -> String {
    let files = client_files(&host.path("ca.crt"), &host.path("node.crt"), &host.path("node.key"));
    format!("[report]\nurls = [{url:?}]\npool = \"edge\"\n{files}")
}

#[test]
fn fingerprints_are_reported_and_keys_that_come_back_are_ignored() {
    skip_unless!(need_netns());
    let (host, pki) = (DaemonHost::new(), Ca::new("test"));
    pki.equip(&host, "n1.example.org", 90);
    let coordinator = FakeCoordinator::start(host.netns(), &pki);
    let rest = format!("verify_interval = \"1s\"\n{}", report(&host, &coordinator.url()));
    host.configure(&lasting(&host), &rest);
    let mut daemon = start_ready(&host);
    let key = host.kernel();
    let said = coordinator.expect(0, |_| true).body;
    let status = host.status();
    assert_eq!((&said["source"], &said["error"], &said["seen"]), (&"derive".into(), &Value::Null, &0.into()));
    let installed = &said["installed"];
    assert_eq!((&installed["pool_id"], &installed["generation"]), (&Value::Null, &Value::Null));
    assert_eq!((&installed["primary"], &installed["backup"]), (&status["primary"], &status["backup"]));
    assert_eq!(
        (&status["state"], &status["pool"], &status["generation"]),
        (&"ok".into(), &"edge".into(), &Value::Null)
    );

    // Whatever a coordinator wants of such a node.
    coordinator.tell(told(1, "steady", 1, None));
    daemon.logs("answer_broken");
    assert_eq!((host.kernel(), host.persisted_keys()), (key.clone(), Some(key.clone())));
    assert_eq!(host.status()["state"], "ok");
    // Drift is told too.
    let seen = coordinator.asked().len();
    host.set_kernel(&key_text(9));
    coordinator.expect(seen, |body| body["error"] == "drift" || body["error"] == "answer_broken");
    assert!(poll_until(SOON, || host.kernel() == key));
    daemon.stop();
}

#[test]
fn a_coordinator_that_is_away_is_a_warning() {
    skip_unless!(need_netns());
    let (host, pki) = (DaemonHost::new(), Ca::new("test"));
    pki.equip(&host, "n1.example.org", 90);
    let mut coordinator = FakeCoordinator::start(host.netns(), &pki);
    coordinator.stop();
    let rest = format!("verify_interval = \"1s\"\n{}", report(&host, &coordinator.url()));
    host.configure(&lasting(&host), &rest);
    let mut daemon = start_ready(&host);
    daemon.logs("coordinator_unreachable");
    let status = host.status();
    assert_eq!((&status["state"], &status["error"]), (&"ok".into(), &Value::Null));
    daemon.stop();
    let once = host.once(&["--detailed-exit-codes"]);
    assert_eq!(once.status.code(), Some(0), "{once:?}");
    assert!(stderr(&once).starts_with("warning: "), "{once:?}");
    // Nor do certificates that cannot be used.
    host.put("node.key", b"rubbish", 0o400);
    let mut daemon = start_ready(&host);
    daemon.logs("tls_not_pem");
    assert_eq!(host.status()["state"], "ok");
    daemon.stop();
}

#[test]
fn a_file_that_somebody_distributes_is_reported_by_once() {
    skip_unless!(need_netns());
    let (host, pki) = (DaemonHost::new(), Ca::new("test"));
    pki.equip(&host, "n1.example.org", 90);
    let coordinator = FakeCoordinator::start(host.netns(), &pki);
    host.put("keys", key_text(5).as_bytes(), 0o400);
    let path = host.path("keys");
    host.configure(&format!("[source]\nkind = \"file\"\npath = {path:?}"), &report(&host, &coordinator.url()));
    host.once_ok();
    let asked = coordinator.asked();
    let [asked] = asked.as_slice() else { panic!("{asked:#?}") };
    assert_eq!((&asked.body["source"], &asked.body["wait_secs"]), (&"file".into(), &0.into()));
    assert_eq!(asked.body["next_contact_secs"], 3_600);
    assert_eq!(asked.body["installed"]["primary"]["epoch"], Value::Null);
}
