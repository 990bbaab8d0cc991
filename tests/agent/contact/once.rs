//! `once` and `check` with a coordinator.

use crate::start_ready;
use std::process::Output;

use serde_json::Value;

use super::install::{Site, pair};
use tfo_testbed::daemon::key_text;
use tfo_testbed::fake_coordinator::{FakeCoordinator, POOL_ID, Reply, refusal, source, told};
use tfo_testbed::output::{stderr, stdout};
use tfo_testbed::pki::Ca;
use tfo_testbed::{need_netns, skip_unless};

fn once(site: &Site, code: i32) -> Value {
    let output = site.host.once(&["--detailed-exit-codes", "--format", "json"]);
    assert_eq!(output.status.code(), Some(code), "{}{}", stdout(&output), stderr(&output));
    serde_json::from_str(&stdout(&output)).unwrap()
}

fn kinds(found: &Value) -> Vec<&str> {
    found["problems"].as_array().unwrap().iter().map(|problem| problem["kind"].as_str().unwrap()).collect()
}

#[test]
fn once_installs_and_acknowledges_in_one_run() {
    skip_unless!(need_netns());
    let site = Site::new();
    site.configure("period = \"20m\"");
    site.coordinator.tell(told(3, "staged", 1, Some(2)));
    let done = once(&site, 2);
    assert_eq!((&done["generation"], &done["phase"], &done["changed"]), (&3.into(), &"staged".into(), &true.into()));
    assert_eq!((site.host.kernel(), site.host.persisted_keys()), (pair(1, 2), Some(pair(1, 2))));
    let asked = site.coordinator.asked();
    let [first, second] = asked.as_slice() else { panic!("{asked:#?}") };
    for asked in [first, second] {
        assert_eq!((&asked.body["wait_secs"], &asked.body["next_contact_secs"]), (&0.into(), &1_200.into()));
    }
    assert_eq!(second.body["session"], first.body["session"]);
    assert_eq!((&second.body["installed"]["generation"], &second.body["error"]), (&3.into(), &Value::Null));
    let status = site.host.status();
    assert_eq!(
        (&status["contact"], &status["generation"], &status["pool"]),
        (&"connected".into(), &3.into(), &"edge".into())
    );

    // Nothing new: the first request is the acknowledgement.
    let done = once(&site, 0);
    assert_eq!(done["changed"], false);
    assert_eq!(site.coordinator.asked().len(), 3);
    assert_ne!(site.coordinator.asked()[2].body["session"], first.body["session"], "every run is a session");
    // Drift is repaired, and only then acknowledged.
    site.host.set_kernel(&key_text(9));
    once(&site, 2);
    let asked = site.coordinator.asked();
    assert_eq!(asked[3].body["error"], "not_verified");
    assert_eq!((&asked[4].body["error"], asked.len()), (&Value::Null, 5));
}

#[test]
fn once_keeps_its_keys_when_nobody_answers() {
    skip_unless!(need_netns());
    let mut site = Site::new();
    site.coordinator.tell(told(3, "staged", 1, Some(2)));
    once(&site, 2);
    site.coordinator.always(Some(refusal(403, "denied")));
    let done = once(&site, 1);
    assert_eq!(kinds(&done)[..2], ["unconfirmed", "denied"]);
    site.coordinator.always(None);
    site.coordinator.stop();
    site.host.set_kernel(&key_text(9));
    let done = once(&site, 1);
    assert!(kinds(&done).contains(&"coordinator_unreachable"), "{done}");
    assert_eq!((&done["generation"], &done["changed"]), (&3.into(), &true.into()), "drift is repaired all the same");
    assert_eq!((site.host.kernel(), site.host.persisted_keys()), (pair(1, 2), Some(pair(1, 2))));
    let text = site.host.once(&[]);
    assert_eq!(text.status.code(), Some(1));
    assert!(stderr(&text).contains("cannot reach https://127.0.0.1"), "{}", stderr(&text));
    // The second of two answers.
    let second = FakeCoordinator::start(site.host.netns(), &site.pki);
    second.tell(told(4, "promoted", 2, Some(1)));
    site.host.configure(&source(&site.host, &[site.coordinator.url(), second.url()], ""), "");
    once(&site, 2);
    assert_eq!(site.host.kernel(), pair(2, 1));
    second.acknowledged(4);
}

#[test]
fn a_dry_run_joins_no_pool() {
    skip_unless!(need_netns());
    let site = Site::new();
    site.coordinator.tell(told(3, "staged", 1, Some(2)));
    let output = site.host.once(&["--dry-run"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("asks no coordinator"), "{}", stderr(&output));
    assert_eq!((site.coordinator.asked().len(), site.host.persisted()), (0, None));
}

fn check(site: &Site, more: &[&str]) -> (Option<i32>, Value) {
    let mut arguments = vec!["--format", "json"];
    arguments.extend(more);
    let output: Output = site.host.run("check", &arguments);
    (output.status.code(), serde_json::from_str(&stdout(&output)).unwrap())
}

/// What a coordinator knows of the node.
fn known(phase: &str, flag: Option<&str>) -> Reply {
    let mut answer = serde_json::json!({
        "pool": "edge", "pool_id": POOL_ID, "node": "n1.example.org", "phase": phase, "frozen": false, "denied": false,
    });
    if let Some(flag) = flag {
        answer[flag] = true.into();
    }
    Reply::Json(200, answer)
}

/// Kinds and severities of what `check` finds about certificates and coordinators.
#[track_caller]
fn finds(site: &Site, code: i32, expected: &[(&str, &str)]) {
    let (ended, found) = check(site, &[]);
    let all = found["problems"].as_array().unwrap().iter();
    let all = all.map(|problem| (problem["kind"].as_str().unwrap(), problem["severity"].as_str().unwrap()));
    let known = ["not_read_at_boot", "tfo_off", "clock_unsynchronised"];
    let all: Vec<_> = all.filter(|(kind, _)| !known.contains(kind)).collect();
    assert_eq!((ended, all.as_slice()), (Some(code), expected), "{found:#}");
}

#[test]
fn check_looks_at_certificates_and_coordinators_and_joins_nothing() {
    skip_unless!(need_netns());
    let mut site = Site::new();
    site.coordinator.always(Some(known("steady", None)));
    finds(&site, 0, &[]);
    assert_eq!(site.coordinator.asked()[0].what, "GET /v1/pools/edge/self");
    assert_eq!(site.host.persisted(), None);
    let asked = site.coordinator.asked().len();
    assert_eq!(check(&site, &["--config-only"]).0, Some(0));
    assert_eq!(site.coordinator.asked().len(), asked, "the configuration alone needs no network");

    for (status, kind) in [(403, "not_in_pool"), (404, "unknown_pool"), (403, "denied")] {
        site.coordinator.always(Some(refusal(status, kind)));
        finds(&site, 1, &[(kind, "error")]);
    }
    for (flag, kind) in [("denied", "denied"), ("frozen", "pool_frozen")] {
        site.coordinator.always(Some(known("steady", Some(flag))));
        finds(&site, 1, &[(kind, "error")]);
    }
    site.coordinator.always(Some(Reply::Raw(204, String::new())));
    finds(&site, 1, &[("coordinator_bad_answer", "error")]);
    site.coordinator.always(Some(known("empty", None)));
    finds(&site, 0, &[("no_key", "warning")]);
    site.coordinator.always(Some(known("steady", None)));
    site.pki.equip(&site.host, "n1.example.org", 5);
    finds(&site, 0, &[("tls_certificate_expiring", "warning")]);
    site.pki.equip(&site.host, "n1.example.org", -1);
    finds(&site, 2, &[("tls_certificate_expired", "error"), ("coordinator_tls", "error")]);
    site.pki.equip(&site.host, "192.0.2.1", 90);
    finds(&site, 2, &[("tls_certificate_without_name", "error")]);
    site.pki.equip(&site.host, "n1.example.org", 90);
    site.host.put("node.key", b"no key", 0o444);
    finds(&site, 2, &[("secret_exposed", "error")]);
    Ca::new("test").equip(&site.host, "n1.example.org", 90);
    finds(&site, 1, &[("coordinator_tls", "error")]);
    site.pki.equip(&site.host, "n1.example.org", 90);

    let second = FakeCoordinator::start(site.host.netns(), &site.pki);
    second.always(Some(known("empty", None)));
    let config = source(&site.host, &[site.coordinator.url(), second.url()], "");
    site.coordinator.stop();
    finds(&site, 1, &[("coordinator_unreachable", "error")]);
    site.host.configure(&config, "");
    finds(&site, 0, &[("coordinator_unreachable", "warning"), ("no_key", "warning")]);
    let third = FakeCoordinator::start(site.host.netns(), &site.pki);
    third.always(Some(known("empty", None)));
    site.host.configure(&source(&site.host, &["https://127.0.0.1".to_owned()], ""), "");
    let found = check(&site, &[]).1;
    let refused = found["problems"].as_array().unwrap().iter().find(|one| one["kind"] == "coordinator_unreachable");
    let message = refused.unwrap()["message"].as_str().unwrap();
    assert!(message.contains("this was port 443") && message.contains("9443"), "{message}");
    site.host.configure(&source(&site.host, &[third.url(), second.url()], ""), "");
    finds(&site, 0, &[("no_key", "warning")]);
}

/// Accepts connections and never says a word; the node prefers it to the other one.
fn hung(site: &Site) -> (std::net::TcpListener, String) {
    loop {
        let listener = site.host.netns().run(|| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let url = format!("https://{}", listener.local_addr().unwrap());
        if tfo_engine::route::preferred("n1.example.org", &[url.clone(), site.coordinator.url()])[0] == 0 {
            return (listener, url);
        }
    }
}

#[test]
fn a_hung_first_coordinator_leaves_time_for_the_second() {
    skip_unless!(need_netns());
    let site = Site::new();
    let (_listener, url) = hung(&site);
    let source = source(&site.host, &[url, site.coordinator.url()], "");
    site.host.configure(&source, "verify_interval = \"1s\"");
    site.coordinator.tell(told(3, "staged", 1, Some(2)));
    let done = once(&site, 2);
    assert_eq!((&done["generation"], &done["changed"]), (&3.into(), &true.into()));
    // A start waits for an answer, and gets one: confirmed, not only served by its file.
    let mut daemon = start_ready(&site.host);
    let ready = daemon.messages().into_iter().find(|message| message.text.contains("READY=1")).unwrap();
    assert!(!ready.value("STATUS").unwrap().contains("unconfirmed"), "{ready:?}");
    daemon.stop();
}
