//! Refusals, and answers that the agent does not accept: it keeps the installed keys, its status says why, and it
//! continues by itself.

use crate::start_ready;
use serde_json::{Value, json};

use super::install::{Site, pair};
use tfo_testbed::daemon::{Daemon, key_text};
use tfo_testbed::fake_coordinator::{FakeCoordinator, Reply, refusal, source, taught, told};
use tfo_testbed::pki::Ca;
use tfo_testbed::{SOON, need_netns, poll_until, skip_unless};

/// Gives one reply to everything until status says this kind, then answers as before until all is well.
#[track_caller]
fn refuses(site: &Site, daemon: &mut Daemon, reply: Reply, kind: &str) {
    let seen = site.coordinator.asked().len();
    site.coordinator.always(Some(reply));
    // Ends the long poll.
    site.host.set_kernel(&key_text(9));
    let status = site.status(kind, |status| status["error"]["kind"] == kind);
    assert_eq!((&status["state"], &status["contact"]), (&"degraded".into(), &"disconnected".into()), "{kind}");
    assert!(status["last_contact_at"].is_string());
    assert!(poll_until(SOON, || site.host.kernel() == pair(1, 2)), "{kind}: {}", site.host.kernel());
    assert_eq!(site.host.persisted_keys(), Some(pair(1, 2)), "{kind}");
    assert!(site.host.persisted().unwrap().contains("# generation: 5\n"), "{kind}");
    // It backs off: a handful, not hundreds.
    let asked = site.coordinator.asked().len() - seen;
    assert!(asked < 10, "{kind}: asked {asked} times");
    site.coordinator.always(None);
    site.status("well again", |status| status["state"] == "ok" && status["contact"] == "connected");
    assert!(daemon.alive());
}

fn ok(answer: &Value) -> Reply {
    Reply::Json(200, answer.clone())
}

#[test]
fn answers_that_the_fence_refuses_are_reported() {
    skip_unless!(need_netns());
    let site = Site::new();
    let mut daemon = site.started(5);
    let mut other_pool = told(6, "steady", 3, None);
    other_pool["pool_id"] = "f".repeat(32).into();
    for (answer, kind) in [
        (told(4, "steady", 3, Some(1)), "answer_lower_generation"),
        (told(5, "steady", 1, Some(3)), "answer_other_keys"),
        (other_pool, "answer_other_pool"),
        (told(u64::MAX, "steady", 3, Some(1)), "answer_too_far_ahead"),
    ] {
        let seen = site.coordinator.asked().len();
        refuses(&site, &mut daemon, ok(&answer), kind);
        let said = site.coordinator.expect(seen, |body| body["error"] == kind);
        assert_eq!(said.body["installed"]["generation"], 5, "{kind}: a restored store must see this");
        assert!(said.body["seen"].as_u64() <= Some(5), "{kind}: {}", said.body);
    }
    daemon.stop();
}

#[test]
fn a_revoked_coordinator_is_refused() {
    skip_unless!(need_netns());
    let mut site = Site::new();
    let certified = site.pki.both(&["localhost", "127.0.0.1"]);
    site.coordinator = FakeCoordinator::start_as(site.host.netns(), &site.pki, "127.0.0.1:0", &certified);
    let list = |content: String| site.host.write("crl.pem", content, 0o644);
    // Overdue, too: a date does not take the pool from a node.
    let path = list(site.pki.crl_until(&[], -3_600));
    site.configure(&format!("crl = {path:?}"));
    let mut daemon = site.started(5);
    site.status("connected", |status| status["contact"] == "connected" && status["state"] == "ok");
    daemon.logs("tls_crl_expired");
    for revoked in [site.pki.crl(&[&certified]), site.pki.crl_until(&[&certified], -3_600)] {
        list(revoked);
        // Ends the long poll.
        site.host.set_kernel(&key_text(9));
        let status = site.status("refused", |status| status["error"]["kind"] == "coordinator_tls");
        assert_eq!(status["contact"], "disconnected");
        assert!(poll_until(SOON, || site.host.kernel() == pair(1, 2)), "{}", site.host.kernel());
        list(site.pki.crl(&[]));
        site.status("connected again", |status| status["contact"] == "connected" && status["state"] == "ok");
    }
    daemon.stop();
}

#[test]
fn answers_that_contradict_themselves_are_refused() {
    skip_unless!(need_netns());
    let site = Site::new();
    let mut daemon = site.started(5);
    let mut fingerprint = told(6, "staged", 1, Some(3));
    fingerprint["backup"]["key"] = key_text(4).into();
    let mut pool = told(6, "staged", 1, Some(3));
    pool["pool"] = "upload".into();
    let mut twice = told(6, "staged", 1, None);
    twice["backup"] = taught(1);
    for answer in [fingerprint, pool, twice] {
        refuses(&site, &mut daemon, ok(&answer), "answer_broken");
    }
    daemon.stop();
}

#[test]
fn answers_that_cannot_be_read_are_refused() {
    skip_unless!(need_netns());
    let site = Site::new();
    let mut daemon = site.started(5);
    let mut phase = told(6, "staged", 1, Some(3));
    phase["phase"] = "sideways".into();
    let mut large = told(6, "staged", 1, Some(3));
    large["more"] = "x".repeat(5_000).into();
    let zero = json!({"epoch": 3, "fingerprint": "0000000000000000", "key": "00000000-00000000-00000000-00000000"});
    let mut zeros = told(6, "staged", 1, None);
    zeros["backup"] = zero;
    for reply in [Reply::Raw(200, "<html>no".into()), ok(&phase), ok(&large), Reply::Raw(302, String::new())] {
        refuses(&site, &mut daemon, reply, "coordinator_bad_answer");
    }
    refuses(&site, &mut daemon, ok(&zeros), "answer_broken");
    daemon.stop();
}

#[test]
fn what_a_coordinator_refuses_is_shown_by_its_kind() {
    skip_unless!(need_netns());
    let site = Site::new();
    let mut daemon = site.started(5);
    for (status, wire, kind) in [
        (403, "not_in_pool", "not_in_pool"),
        (403, "denied", "denied"),
        (404, "unknown_pool", "unknown_pool"),
        (409, "pool_frozen", "pool_frozen"),
        (503, "store_unavailable", "coordinator_unavailable"),
        (500, "of_a_later_release", "coordinator_refused"),
    ] {
        refuses(&site, &mut daemon, refusal(status, wire), kind);
    }
    let log = daemon.log();
    assert!(log.contains("because of not_in_pool") && log.contains("r-1"), "{log}");
    daemon.stop();
}

#[test]
fn retry_after_is_waited_for() {
    skip_unless!(need_netns());
    let site = Site::new();
    let mut daemon = site.started(5);
    let seen = site.coordinator.asked().len();
    let Reply::Json(status, body) = refusal(503, "unavailable") else { unreachable!() };
    site.coordinator.reply([Reply::RetryAfter(status, body, 6)]);
    site.host.set_kernel(&key_text(9));
    site.coordinator.expect(seen, |_| true);
    let from = tfo_testbed::now();
    site.coordinator.expect(seen + 1, |_| true);
    // Not sooner than it asked for; its own pause would have been 2 s at most.
    assert!(from.elapsed().as_millis() > 5_500, "{:?}", from.elapsed());
    daemon.stop();
}

#[test]
fn one_coordinator_that_has_not_heard_the_others_is_asked_again_at_once_and_with_patience() {
    skip_unless!(need_netns());
    let site = Site::new();
    let mut daemon = site.started(5);
    let Reply::Json(status, body) = refusal(503, "not_heard") else { unreachable!() };
    let (seen, far) = (site.coordinator.asked().len(), 3_600);
    // Once only: what is refused although it waits ends with a pause.
    let replies = [(far, &body), (1, &body)].map(|(secs, body)| Reply::RetryAfter(status, body.clone(), secs));
    site.coordinator.reply(replies);
    site.host.set_kernel(&key_text(9));
    site.coordinator.expect(seen + 2, |_| true);
    let asked = site.coordinator.asked();
    let waits: Vec<&Value> = asked[seen..].iter().map(|asked| &asked.body["wait_secs"]).collect();
    assert_eq!(waits[..3], [&json!(0), &json!(200), &json!(0)], "{waits:?}");
    // Where there are others, one of them has heard more.
    let second = FakeCoordinator::start_behind(&site.coordinator, "n1.example.org", site.host.netns(), &site.pki);
    second.tell(told(5, "steady", 1, Some(2)));
    let urls = [site.coordinator.url(), second.url()];
    site.host.configure(&source(&site.host, &urls, ""), "verify_interval = \"1s\"");
    site.coordinator.always(Some(Reply::RetryAfter(503, body, far)));
    daemon.stop();
    let seen = site.coordinator.asked().len();
    let mut daemon = site.host.start();
    second.expect(0, |_| true);
    assert_eq!(site.coordinator.asked().len() - seen, 1, "{:#?}", site.coordinator.asked());
    daemon.stop();
}

#[test]
fn a_session_that_was_closed_is_followed_by_one_above_it() {
    skip_unless!(need_netns());
    let site = Site::new();
    let mut daemon = site.started(5);
    let ordinal = 9_000_000_000_000_u64;
    let body = json!({"kind": "session_closed", "message": "m", "request_id": "r", "ordinal": ordinal});
    site.coordinator.reply([Reply::Json(409, body.clone())]);
    site.host.set_kernel(&key_text(9));
    let above = format!("{}-", ordinal + 1);
    let next = site.coordinator.expect(0, |body| body["session"].as_str().unwrap().starts_with(&above));
    assert_eq!(next.body["seen"], 0, "a new session was told nothing");
    site.status("connected", |status| status["contact"] == "connected" && status["state"] == "ok");
    // Two agents with one certificate close each other's sessions: it is told, and they do not go round in circles.
    refuses(&site, &mut daemon, Reply::Json(409, body), "session_closed");
    daemon.stop();
}

#[test]
fn a_late_answer_to_an_old_request_is_not_taken() {
    skip_unless!(need_netns());
    let site = Site::new();
    let mut daemon = site.started(5);
    let seen = site.coordinator.asked().len();
    // The request that says drift is held back; the one after it is answered.
    site.coordinator.reply([Reply::Gated(told(6, "staged", 1, Some(3)))]);
    site.host.set_kernel(&key_text(9));
    site.coordinator.expect(seen, |body| body["error"] == "drift");
    site.host.set_kernel(&key_text(9));
    let next = site.coordinator.expect(seen + 1, |_| true);
    site.coordinator.open_gate();
    assert_ne!(next.connection, site.coordinator.asked()[seen].connection, "a request is given up with its connection");
    site.coordinator.expect(seen + 2, |body| body["installed"]["generation"] == 5 && body["error"].is_null());
    assert_eq!(site.host.kernel(), pair(1, 2));
    site.coordinator.tell(told(7, "staged", 1, Some(4)));
    site.coordinator.acknowledged(7);
    assert!(site.coordinator.asked().iter().all(|asked| asked.body["installed"]["generation"] != 6));
    daemon.stop();
}

#[test]
fn certificates_that_do_not_fit_are_told_from_a_coordinator_that_is_away() {
    skip_unless!(need_netns());
    let site = Site::new();
    let mut daemon = site.started(5);
    daemon.stop();
    // Another CA on this side; another on the other side; a certificate whose time is over.
    let stranger = Ca::new("stranger");
    stranger.equip(&site.host, "n1.example.org", 90);
    wrong(&site, "invalid peer certificate");
    let other = stranger.both(&["n1.example.org"]);
    site.pki.equip(&site.host, "n1.example.org", 90);
    site.host.put("node.crt", other.cert_pem.as_bytes(), 0o644);
    site.host.put("node.key", other.key_pem.as_bytes(), 0o400);
    wrong(&site, "fatal alert");
    site.pki.equip(&site.host, "n1.example.org", -1);
    wrong(&site, "fatal alert");
    // A name that is not the server's.
    site.pki.equip(&site.host, "n1.example.org", 90);
    let other = FakeCoordinator::start_on(site.host.netns(), &site.pki, "127.0.0.2:0");
    site.host.configure(&source(&site.host, &[other.url()], "start_timeout = \"1s\""), "verify_interval = \"1s\"");
    wrong_as_configured(&site, "not valid for name");
}

/// Starts by the file, unconfirmed, and says what is wrong with TLS.
#[track_caller]
fn wrong(site: &Site, text: &str) {
    site.configure("start_timeout = \"1s\"");
    wrong_as_configured(site, text);
}

#[track_caller]
fn wrong_as_configured(site: &Site, text: &str) {
    let before = site.coordinator.asked().len();
    let mut daemon = start_ready(&site.host);
    daemon.logs("coordinator_tls");
    let status = site.status("unconfirmed", |status| status["error"]["kind"] == "unconfirmed");
    let message = status["error"]["message"].as_str().unwrap();
    assert!(message.contains(text), "{message}");
    assert!(!daemon.log().contains("INFO connected"), "{}", daemon.log());
    assert_eq!((site.coordinator.asked().len(), site.host.kernel()), (before, pair(1, 2)));
    daemon.stop();
}
