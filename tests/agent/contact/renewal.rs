//! A certificate is renewed before it ends, whatever was cut off before; and where it is not, that is told.

use std::fs;

use serde_json::Value;

use super::install::{Site, pair};
use crate::start_ready;
use tfo_testbed::daemon::key_text;
use tfo_testbed::fake_coordinator::{FakeCoordinator, Reply, refusal, renewing, told};
use tfo_testbed::output::{stderr, stdout};
use tfo_testbed::pki::{Ca, DAY};
use tfo_testbed::{SOON, need_netns, poll_until, skip_unless};

const ASK: &str = "POST /v1/pools/edge/certificate";

/// A node whose certificate was to be renewed days ago, and a coordinator that certifies for so many seconds.
fn site(certified_secs: i64) -> Site {
    let site = Site::new();
    site.pki.equip_pair(&site.host, "n1.example.org", -25 * DAY, 5 * DAY + 3_600);
    let urls = [site.coordinator.url()];
    site.host.configure(&renewing(&site.host, &urls), "verify_interval = \"1s\"");
    site.coordinator.certify(&site.pki, certified_secs, &urls);
    site.coordinator.tell(told(3, "steady", 1, Some(2)));
    site
}

impl Site {
    fn pair(&self) -> String {
        fs::read_to_string(self.host.path("node.pem")).unwrap()
    }

    fn requests(&self) -> usize {
        self.coordinator.asked().iter().filter(|asked| asked.what == ASK).count()
    }

    fn once(&self, code: i32) -> Value {
        let output = self.host.once(&["--format", "json"]);
        assert_eq!(output.status.code(), Some(code), "{}{}", stdout(&output), stderr(&output));
        serde_json::from_str(&stdout(&output)).unwrap()
    }

    fn has_next(&self) -> bool {
        self.host.path("node.pem.next").exists()
    }
}

/// The message of the problem of this kind, and its remedy.
fn problem<'a>(found: &'a Value, kind: &str) -> Option<(&'a str, &'a str)> {
    let found = found["problems"].as_array().unwrap().iter().find(|problem| problem["kind"] == kind)?;
    Some((found["message"].as_str().unwrap(), found["remedy"].as_str().unwrap()))
}

#[test]
fn a_daemon_renews_for_ever_with_a_new_key_each_time_and_loses_no_contact() {
    skip_unless!(need_netns());
    let site = site(8);
    let first = site.pair();
    let mut daemon = start_ready(&site.host);
    site.coordinator.acknowledged(3);
    assert!(poll_until(4 * SOON, || site.requests() >= 3), "{:#?}", site.coordinator.asked());
    site.coordinator.tell(told(4, "promoted", 2, Some(1)));
    site.coordinator.acknowledged(4);
    assert_eq!(site.host.kernel(), pair(2, 1));
    let asked = site.coordinator.asked();
    let requests: Vec<_> =
        asked.iter().filter(|asked| asked.what == ASK).map(|asked| asked.body["csr"].clone()).collect();
    assert!(requests.iter().enumerate().all(|(index, csr)| !requests[..index].contains(csr)), "a new key each time");
    // Each new pair is tried over a connection of its own before it replaces the old one.
    let tried = asked.iter().filter(|asked| asked.what == "GET /v1/pools/edge/self");
    let mut connections: Vec<_> = tried.map(|asked| asked.connection).collect();
    let count = connections.len();
    connections.dedup();
    assert!(count >= 2 && connections.len() == count, "{asked:#?}");
    let now = site.pair();
    assert!(now != first && now.contains("BEGIN PRIVATE KEY"));
    let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(site.host.path("node.pem")).unwrap());
    assert_eq!(mode & 0o777, 0o400);
    assert_eq!(site.host.status()["state"], "ok");
    daemon.stop();
}

#[test]
fn once_renews_too_and_only_when_it_is_time() {
    skip_unless!(need_netns());
    let site = site(30 * DAY);
    let first = site.pair();
    site.once(0);
    assert_eq!((site.requests(), site.pair() != first, site.has_next()), (1, true, false));
    let found = site.once(0);
    assert_eq!((site.requests(), found["problems"].as_array().unwrap().len()), (1, 0), "{found}");
}

#[test]
fn what_a_crash_leaves_is_used_or_replaced() {
    skip_unless!(need_netns());
    let site = site(30 * DAY);
    // Power was cut before the rename: the new pair is there, and was not tried.
    site.once(0);
    let renewed = site.pair();
    fs::rename(site.host.path("node.pem"), site.host.path("node.pem.next")).unwrap();
    site.pki.equip_pair(&site.host, "n1.example.org", -25 * DAY, 5 * DAY);
    site.once(0);
    assert_eq!(
        (site.requests(), site.pair() == renewed, site.has_next()),
        (1, true, false),
        "no other one was asked for"
    );
    // What cannot be used: half a file, another node's, an older one.
    for left in ["half", "other", "older"] {
        site.pki.equip_pair(
            &site.host,
            if left == "other" { "n2.example.org" } else { "n1.example.org" },
            -DAY,
            4 * DAY,
        );
        let text = site.pair();
        let text = if left == "half" { &text[..text.len() / 2] } else { &text };
        site.host.put("node.pem.next", text.as_bytes(), 0o400);
        site.pki.equip_pair(&site.host, "n1.example.org", -25 * DAY, 5 * DAY);
        let before = site.requests();
        site.once(0);
        assert_eq!((site.requests(), site.has_next()), (before + 1, false), "{left}");
    }
}

/// Which of the two the agent prefers, its name and their addresses decide: each refuses once.
#[test]
fn a_pair_that_one_coordinator_refuses_and_the_next_one_takes_is_kept() {
    skip_unless!(need_netns());
    for refuser in 0..2 {
        let site = site(30 * DAY);
        let first = site.pair();
        let other = FakeCoordinator::start(site.host.netns(), &site.pki);
        let both = [&site.coordinator, &other];
        let urls = both.map(FakeCoordinator::url);
        site.host.configure(&renewing(&site.host, &urls), "verify_interval = \"1s\"");
        for coordinator in both {
            coordinator.certify(&site.pki, 30 * DAY, &urls);
            coordinator.tell(told(3, "steady", 1, Some(2)));
        }
        both[refuser].on("GET /v1/pools/edge/self", [refusal(403, "not_a_node")]);
        let found = site.once(0);
        assert!(site.pair() != first && !site.has_next(), "{refuser}: {found}");
        assert_eq!(problem(&found, "certificate_ends"), None, "{refuser}: {found}");
    }
}

#[test]
fn a_renewal_that_fails_is_told_with_the_days_that_are_left_and_changes_nothing() {
    skip_unless!(need_netns());
    let site = site(30 * DAY);
    let first = site.pair();
    let sync = "POST /v1/pools/edge/sync";
    site.coordinator.ok(sync, told(3, "steady", 1, Some(2)));
    site.coordinator.on(ASK, [refusal(403, "name_not_allowed")]);
    let found = site.once(0);
    let (message, remedy) = problem(&found, "certificate_ends").unwrap();
    assert!(message.contains("in 5d") && message.contains("because of name_not_allowed"), "{message}");
    assert!(remedy.contains("tfo-agent join"), "{remedy}");
    assert_eq!((site.pair() == first, site.host.kernel()), (true, pair(1, 2)));
    let status = site.host.status();
    assert_eq!((&status["state"], &status["error"]["kind"]), (&"ok".into(), &"certificate_ends".into()), "{status}");
    // Coordinators hear of it, and it keeps nothing from being acknowledged.
    site.once(0);
    let heard = site.coordinator.asked().into_iter().rfind(|asked| asked.what == sync).unwrap().body;
    assert_eq!((&heard["note"], &heard["error"]), (&"certificate_ends".into(), &Value::Null), "{heard}");
    // Certified, but for another name, or by an authority that its chain does not have: never written.
    let stranger = Ca::new("other");
    let identity = stranger.client(&["n1.example.org"]);
    let answer = |chain: &str| serde_json::json!({"certificate": identity.cert_pem, "chain": chain, "pools": ["edge"], "urls": ["https://c"]});
    site.coordinator.ok(ASK, answer(&stranger.pem));
    let found = site.once(0);
    assert!(problem(&found, "certificate_ends").unwrap().0.contains("it is for another key"), "{found}");
    assert_eq!((site.pair() == first, site.has_next()), (true, false));
    let output = site.host.run("check", &["--format", "json", "--config-only"]);
    assert!(stdout(&output).contains("certificate_ends"), "{}", stdout(&output));
    site.host.set_kernel(&key_text(9));
    site.once(0);
    assert_eq!((site.host.kernel(), site.pair() == first), (pair(1, 2), true), "keys do not depend on it");
}

#[test]
fn a_new_pair_that_a_coordinator_refuses_is_not_kept_and_one_that_it_cannot_judge_is() {
    skip_unless!(need_netns());
    let site = site(30 * DAY);
    let first = site.pair();
    site.coordinator.ok("POST /v1/pools/edge/sync", told(3, "steady", 1, Some(2)));
    let trials = [refusal(403, "denied"), refusal(503, "store_unavailable"), Reply::Drop];
    for (trial, is_kept) in trials.into_iter().zip([false, true, true]) {
        site.coordinator.on("GET /v1/pools/edge/self", [trial.clone()]);
        site.once(0);
        assert_eq!((site.has_next(), site.pair() == first), (is_kept, true), "{trial:?}");
    }
    assert_eq!(
        site.requests(),
        2,
        "the kept one is tried again, and no other asked for: {:#?}",
        site.coordinator.asked()
    );
}

#[test]
fn the_authorities_that_come_with_a_certificate_are_trusted_from_then_on() {
    skip_unless!(need_netns());
    let site = site(30 * DAY);
    let next = Ca::new("next");
    let (old, both) = (site.pki.pem.clone(), site.pki.pem.clone() + &next.pem);
    let ca = || fs::read_to_string(site.host.path("ca.crt")).unwrap();
    let urls = [site.coordinator.url()];
    let due = || site.pki.equip_pair(&site.host, "n1.example.org", -25 * DAY, 5 * DAY);
    // An authority is to follow; then the one before it goes, and the node hears of each with its next certificate.
    for (chain, waits) in [(&both, "ca.crt.next"), (&both, "none"), (&old, "ca.crt.next")] {
        due();
        site.host.put("ca.crt", ca().as_bytes(), 0o644);
        site.coordinator.certify_with(&site.pki, 30 * DAY, chain, &urls);
        let first = site.pair();
        let found = site.once(0);
        assert_eq!((&ca(), site.pair() != first, site.has_next()), (chain, true, false), "{waits}");
        assert!(problem(&found, "authorities_not_taken").is_none(), "{found}");
        assert!(!site.host.path("ca.crt.next").exists());
    }
    // Power was cut: before both took their places, and between the two.
    for cut in ["before", "between"] {
        due();
        site.host.put("ca.crt", old.as_bytes(), 0o644);
        site.coordinator.certify_with(&site.pki, 30 * DAY, &both, &urls);
        site.once(0);
        let (renewed, asked) = (site.pair(), site.requests());
        fs::rename(site.host.path("node.pem"), site.host.path("node.pem.next")).unwrap();
        if cut == "before" {
            fs::rename(site.host.path("ca.crt"), site.host.path("ca.crt.next")).unwrap();
        }
        due();
        site.host.put("ca.crt", if cut == "before" { &old } else { &both }.as_bytes(), 0o644);
        site.once(0);
        assert_eq!((ca(), site.pair() == renewed, site.requests()), (both.clone(), true, asked), "{cut}");
    }
    // A file of another hand is left alone.
    let elsewhere = site.host.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("ca.crt"), &old).unwrap();
    due();
    let source = renewing(&site.host, &urls);
    let theirs = source.replace(&site.host.text_path("ca.crt"), &elsewhere.join("ca.crt").display().to_string());
    assert_ne!(theirs, source);
    site.host.configure(&theirs, "");
    let first = site.pair();
    let found = site.once(0);
    assert!(site.pair() != first);
    assert_eq!(fs::read_to_string(elsewhere.join("ca.crt")).unwrap(), old);
    assert!(problem(&found, "authorities_not_taken").unwrap().0.contains("are not in this file"), "{found}");
}

#[test]
fn authorities_that_do_not_vouch_for_the_coordinator_are_not_taken() {
    skip_unless!(need_netns());
    let mut site = Site::new();
    // Its own certificate is of another authority than the one that it sends.
    let servers = Ca::new("servers");
    let own = servers.both(&["localhost", "127.0.0.1"]);
    site.coordinator = FakeCoordinator::start_as(site.host.netns(), &site.pki, "127.0.0.1:0", &own);
    site.pki.equip_pair(&site.host, "n1.example.org", -25 * DAY, 5 * DAY);
    let both = site.pki.pem.clone() + &servers.pem;
    site.host.put("ca.crt", both.as_bytes(), 0o644);
    let urls = [site.coordinator.url()];
    site.host.configure(&renewing(&site.host, &urls), "");
    site.coordinator.certify(&site.pki, 30 * DAY, &urls);
    site.coordinator.tell(told(3, "steady", 1, Some(2)));
    let first = site.pair();
    let found = site.once(0);
    assert!(
        problem(&found, "authorities_not_taken").unwrap().0.contains("do not vouch for the coordinator"),
        "{found}"
    );
    assert_eq!(fs::read_to_string(site.host.path("ca.crt")).unwrap(), both);
    assert!(site.pair() != first && !site.has_next() && !site.host.path("ca.crt.next").exists());
}
