//! When the node may serve, and what it does while no coordinator answers.

use crate::{reload, start_ready};
use std::fs;

use rustix::process::Signal;

use super::install::{Site, pair};
use tfo_testbed::daemon::{Daemon, key_text};
use tfo_testbed::fake_coordinator::{FakeCoordinator, source, told};
use tfo_testbed::{SOON, need_netns, poll_until, skip_unless};

const SERVER_BITS: &str = "/proc/sys/net/ipv4/tcp_fastopen";

fn is_ready(daemon: &Daemon) -> bool {
    daemon.messages().iter().any(|message| message.text.contains("READY=1"))
}

/// A host with the file of generation 5, [1, 2], and a coordinator that was stopped.
fn left_alone(start_timeout: &str) -> Site {
    let mut site = Site::new();
    site.configure(start_timeout);
    site.started(5).stop();
    site.coordinator.stop();
    site
}

/// A daemon without keys that has cleared the server bit, of the 0x403 that the host had.
fn without_keys_or_the_server_bit() -> (Site, Daemon) {
    let site = Site::new();
    site.configure("start_timeout = \"1s\"\nwait = \"1s\"\nhold_server_bit = true\nhold_until_first_key = true");
    site.host.netns().run(|| fs::write(SERVER_BITS, "1027").expect("a file of the namespace"));
    let daemon = site.host.start();
    assert!(poll_until(SOON, || server_bits(&site) == "1025"), "{}", server_bits(&site));
    (site, daemon)
}

fn server_bits(site: &Site) -> String {
    site.host.netns().run(|| fs::read_to_string(SERVER_BITS).expect("a file of the namespace").trim().to_owned())
}

#[test]
fn without_an_answer_the_file_is_served_unconfirmed_after_the_start_timeout() {
    skip_unless!(need_netns());
    let site = left_alone("start_timeout = \"3s\"");
    site.host.set_kernel(&key_text(9));
    let mut daemon = site.host.start();
    // Installed at once, but servers wait for the answer.
    assert!(poll_until(SOON, || site.host.kernel() == pair(1, 2)));
    let status = site.status("asking", |status| status["contact"] == "asking" && status["generation"] == 5);
    assert_eq!((status["last_contact_at"].is_null(), is_ready(&daemon)), (true, false));
    daemon.ready();
    let status = site.status("unconfirmed", |status| status["error"]["kind"] == "unconfirmed");
    assert_eq!((&status["contact"], &status["state"]), (&"unconfirmed".into(), &"degraded".into()));
    daemon.logs("unconfirmed");
    let ready = daemon.messages().into_iter().find(|message| message.text.contains("READY=1")).unwrap();
    assert!(ready.value("STATUS").unwrap().contains("unconfirmed"), "{ready:?}");
    // A coordinator comes back.
    let back = FakeCoordinator::start_on(site.host.netns(), &site.pki, &site.coordinator.address());
    back.tell(told(5, "steady", 1, Some(2)));
    let asked = back.acknowledged(5);
    assert_eq!(asked.body["installed"]["generation"], 5);
    site.status("confirmed", |status| status["state"] == "ok" && status["contact"] == "connected");
    daemon.stop();
}

#[test]
fn the_fence_survives_a_restart() {
    skip_unless!(need_netns());
    let site = left_alone("start_timeout = \"1s\"");
    let old = FakeCoordinator::start_on(site.host.netns(), &site.pki, &site.coordinator.address());
    old.tell(told(4, "steady", 3, Some(1)));
    let mut daemon = start_ready(&site.host);
    site.status("refused", |status| status["error"]["kind"] == "unconfirmed");
    old.expect(0, |body| body["error"] == "answer_lower_generation" && body["installed"]["generation"] == 5);
    assert_eq!((site.host.kernel(), site.host.persisted_keys()), (pair(1, 2), Some(pair(1, 2))));
    old.tell(told(6, "staged", 1, Some(3)));
    old.acknowledged(6);
    assert_eq!(site.host.kernel(), pair(1, 3));
    daemon.stop();
}

#[test]
fn nothing_new_confirms_a_file() {
    skip_unless!(need_netns());
    // Longer than the test: only an answer makes it ready.
    let site = left_alone("start_timeout = \"5m\"\nwait = \"1s\"");
    let silent = FakeCoordinator::start_on(site.host.netns(), &site.pki, &site.coordinator.address());
    let mut daemon = start_ready(&site.host);
    assert_eq!(silent.asked()[0].body["installed"]["generation"], 5);
    assert_eq!(site.host.status()["contact"], "connected");
    daemon.stop();
}

#[test]
fn without_keys_it_is_not_ready_before_a_coordinator_answers_that_the_pool_has_none() {
    skip_unless!(need_netns());
    let mut site = Site::new();
    site.configure("start_timeout = \"1s\"\nwait = \"1s\"");
    let address = site.coordinator.address();
    site.coordinator.stop();
    // Keys that the kernel made for the first listener, for example.
    site.host.set_kernel(&pair(8, 9));
    let mut daemon = site.host.start_with("export WATCHDOG_USEC=400000 WATCHDOG_PID=$$; exec \"$@\"");
    site.status("without keys", |status| status["error"]["kind"] == "no_pool_keys");
    let fed = |daemon: &Daemon| daemon.messages().iter().filter(|message| message.text.contains("WATCHDOG=1")).count();
    let before = fed(&daemon);
    assert!(poll_until(SOON, || fed(&daemon) > before + 3), "the watchdog is fed");
    assert!(!is_ready(&daemon), "{:?}", daemon.messages());
    let mut empty = FakeCoordinator::start_on(site.host.netns(), &site.pki, &address);
    daemon.ready();
    let status = site.status("empty", |status| status["contact"] == "empty_pool");
    assert_eq!((&status["state"], &status["error"]["kind"]), (&"degraded".into(), &"no_key".into()));
    assert_eq!(empty.asked()[0].body["installed"]["pool_id"], serde_json::Value::Null);
    let ready = daemon.messages().into_iter().find(|message| message.text.contains("READY=1")).unwrap();
    let shown = "degraded: pool edge has no key yet; `tfoctl rotate --first` or `tfoctl import` on an operator's machine \
                 gives it one";
    assert_eq!(ready.value("STATUS"), Some(shown));
    assert_eq!((site.host.kernel(), site.host.persisted()), (pair(8, 9), None), "nothing to install");
    assert!(empty.asked().iter().all(|asked| asked.body["error"].is_null()), "nothing is wrong with this node");
    // A coordinator that is away is an error, and the pool may have got a key meanwhile.
    empty.stop();
    site.status("away", |status| status["contact"] == "disconnected" && status["state"] == "degraded");
    let back = FakeCoordinator::start_on(site.host.netns(), &site.pki, &address);
    back.tell(told(1, "steady", 1, None));
    back.acknowledged(1);
    assert_eq!(site.host.kernel(), key_text(1));
    site.status("well", |status| status["state"] == "ok" && status["contact"] == "connected");
    // Told once is not told for ever: the next run has to hear it again.
    daemon.stop();
    drop(back);
    std::fs::remove_file(site.host.sysctl_file()).unwrap();
    let mut daemon = site.host.start();
    site.status("without keys", |status| status["error"]["kind"] == "no_pool_keys");
    assert!(!is_ready(&daemon), "{:?}", daemon.messages());
    daemon.stop();
}

#[test]
fn a_node_that_is_to_wait_for_the_first_key_is_not_ready_before_it() {
    skip_unless!(need_netns());
    let site = Site::new();
    site.configure("start_timeout = \"1s\"\nwait = \"1s\"\nhold_until_first_key = true");
    let mut daemon = site.host.start();
    let status = site.status("held", |status| status["contact"] == "empty_pool");
    assert_eq!((&status["state"], &status["error"]["kind"]), (&"failed".into(), &"no_key".into()));
    let asked = site.coordinator.asked().len();
    site.coordinator.expect(asked, |_| true);
    assert!(!is_ready(&daemon), "{:?}", daemon.messages());
    let once = site.host.once(&[]);
    assert_eq!(once.status.code(), Some(3), "the daemon runs here");
    site.coordinator.tell(told(1, "steady", 1, None));
    daemon.ready();
    assert_eq!(site.host.kernel(), key_text(1));
    daemon.stop();
    // A timer reports it as a failure, too.
    let empty = FakeCoordinator::start(site.host.netns(), &site.pki);
    std::fs::remove_file(site.host.sysctl_file()).unwrap();
    let source = source(&site.host, &[empty.url()], "hold_until_first_key = true");
    site.host.configure(&source, "");
    assert_eq!(site.host.once(&[]).status.code(), Some(1));
}

#[test]
fn the_next_coordinator_is_asked_in_a_session_of_its_own() {
    skip_unless!(need_netns());
    let mut site = Site::new();
    let second = FakeCoordinator::start_behind(&site.coordinator, "n1.example.org", site.host.netns(), &site.pki);
    // The order of the list does not count.
    let urls = [second.url(), site.coordinator.url()];
    site.host.configure(&source(&site.host, &urls, ""), "verify_interval = \"1s\"");
    site.coordinator.tell(told(1, "steady", 1, None));
    second.tell(told(2, "staged", 1, Some(2)));
    let mut daemon = start_ready(&site.host);
    site.coordinator.acknowledged(1);
    assert_eq!(second.asked().len(), 0);
    site.coordinator.stop();
    let first = second.expect(0, |_| true).body;
    assert_eq!((&first["seen"], &first["installed"]["generation"]), (&0.into(), &1.into()));
    let ordinal = |body: &serde_json::Value| -> u64 {
        body["session"].as_str().unwrap().split_once('-').unwrap().0.parse().unwrap()
    };
    assert!(ordinal(&first) > ordinal(&site.coordinator.asked()[0].body), "{first}");
    second.acknowledged(2);
    assert_eq!(site.host.kernel(), pair(1, 2));
    site.status("well", |status| status["contact"] == "connected");
    daemon.stop();
}

#[test]
fn a_time_beyond_all_clocks_never_detaches_and_ends_no_agent() {
    skip_unless!(need_netns());
    let site = Site::new();
    let mut answer = told(1, "steady", 1, Some(2));
    answer["absent_after_secs"] = u64::MAX.into();
    site.coordinator.tell(answer);
    let mut daemon = site.host.start();
    daemon.ready();
    site.coordinator.acknowledged(1);
    let status = site.status("connected", |status| status["contact"] == "connected");
    assert_eq!((&status["state"], site.host.kernel()), (&"ok".into(), pair(1, 2)), "{}", daemon.log());
    daemon.stop();
}

#[test]
fn out_of_contact_for_long_it_is_detached_and_keeps_its_keys() {
    skip_unless!(need_netns());
    let mut site = Site::new();
    let (hook, mark) = (site.host.text_path("hook"), site.host.text_path("hook-ran"));
    site.host.write("hook", format!("#!/bin/sh\necho \"$1\" >> {mark}\nexit 3\n"), 0o755);
    site.configure(&format!("on_detached = [{hook:?}, \"withdraw\"]"));
    let mut answer = told(1, "steady", 1, Some(2));
    answer["absent_after_secs"] = 2.into();
    site.coordinator.tell(answer.clone());
    let mut daemon = site.host.start_with("export WATCHDOG_USEC=400000 WATCHDOG_PID=$$; exec \"$@\"");
    daemon.ready();
    site.coordinator.acknowledged(1);
    site.coordinator.stop();
    let status = site.status("disconnected", |status| status["contact"] == "disconnected");
    assert_eq!(status["error"]["kind"], "coordinator_unreachable");
    let last_contact = status["last_contact_at"].clone();
    assert!(last_contact.is_string());
    let status = site.status("detached", |status| status["contact"] == "detached");
    assert_eq!((&status["error"]["kind"], &status["state"]), (&"detached".into(), &"degraded".into()));
    assert_eq!(status["last_contact_at"], last_contact);
    daemon.logs("on_detached failed");
    assert_eq!(fs::read_to_string(&mark).unwrap(), "withdraw\n");
    assert_eq!((site.host.kernel(), site.host.persisted_keys()), (pair(1, 2), Some(pair(1, 2))));
    // It looks after them all the same, and feeds its watchdog.
    site.host.set_kernel(&key_text(9));
    assert!(poll_until(2 * SOON, || site.host.kernel() == pair(1, 2)));
    let back = FakeCoordinator::start_on(site.host.netns(), &site.pki, &site.coordinator.address());
    back.tell(answer);
    site.status("back", |status| status["contact"] == "connected");
    assert_eq!(fs::read_to_string(&mark).unwrap(), "withdraw\n", "once for each time");
    daemon.stop();
}

#[test]
fn the_server_bit_is_held_while_there_are_no_keys() {
    skip_unless!(need_netns());
    let (site, mut daemon) = without_keys_or_the_server_bit();
    let read = || server_bits(&site);
    daemon.stop();
    // Who cleared it is known after a restart too.
    let mut daemon = site.host.start();
    site.status("without keys", |status| status["error"]["kind"] == "no_key");
    assert_eq!(read(), "1025");
    site.coordinator.tell(told(1, "steady", 1, None));
    daemon.ready();
    assert_eq!(read(), "1027");
    // An operator who switches it off is not overruled.
    site.host.netns().run(|| fs::write(SERVER_BITS, "1").unwrap());
    site.coordinator.tell(told(2, "staged", 1, Some(2)));
    site.coordinator.acknowledged(2);
    assert_eq!(read(), "1");
    daemon.stop();
}

#[test]
fn a_reload_goes_on_with_the_same_talks_and_a_broken_one_changes_nothing() {
    skip_unless!(need_netns());
    let site = Site::new();
    let mut daemon = site.started(1);
    let session = site.coordinator.asked()[0].body["session"].clone();
    let config = fs::read_to_string(site.host.config_file()).unwrap();
    for broken in [config.replace("https://", "http://"), config.replace("node.key", "no.key"), "[source".to_owned()] {
        site.host.put("etc/agent.toml", broken.as_bytes(), 0o644);
        reload(&daemon);
    }
    daemon.logs("keeping the old one");
    site.host.put("etc/agent.toml", config.replace("\"1s\"", "\"2s\"").as_bytes(), 0o644);
    reload(&daemon);
    daemon.logs("INFO reloaded");
    site.coordinator.tell(told(2, "staged", 1, Some(3)));
    let ack = site.coordinator.acknowledged(2);
    assert_eq!((&ack.body["session"], ack.connection), (&session, 0), "the same session on the same connection");
    // Other settings are other talks.
    site.host.put(
        "etc/agent.toml",
        config.replace("pool = \"edge\"", "pool = \"edge\"\nwait = \"5s\"").as_bytes(),
        0o644,
    );
    let asked = site.coordinator.asked().len();
    daemon.signal(Signal::HUP);
    let next = site.coordinator.expect(asked, |body| body["wait_secs"] == 5);
    assert_ne!(next.body["session"], session);
    assert_eq!(next.body["installed"]["generation"], 2);
    daemon.stop();
}

#[test]
fn a_reload_keeps_the_fence_and_the_time_of_the_last_answer() {
    skip_unless!(need_netns());
    let mut site = Site::new();
    let mut answer = told(5, "staged", 1, Some(2));
    answer["absent_after_secs"] = 2.into();
    site.coordinator.tell(answer);
    let mut daemon = start_ready(&site.host);
    site.coordinator.acknowledged(5);
    // The file has another place, where nothing is yet: what is held is held.
    let config = fs::read_to_string(site.host.config_file()).unwrap();
    let moved = config.replace("tcp_fastopen_key.conf", "moved.conf");
    assert_ne!(config, moved);
    site.host.put("etc/agent.toml", moved.as_bytes(), 0o644);
    site.coordinator.tell(told(4, "steady", 7, Some(8)));
    let asked = site.coordinator.asked().len();
    daemon.signal(Signal::HUP);
    site.coordinator.expect(asked, |body| body["error"] == "answer_lower_generation");
    assert_eq!(site.host.kernel(), pair(1, 2));
    // A reload does not end a silence.
    site.coordinator.stop();
    site.status("detached", |status| status["contact"] == "detached");
    let waits = moved.replace("pool = \"edge\"", "pool = \"edge\"\nwait = \"6s\"");
    site.host.put("etc/agent.toml", waits.as_bytes(), 0o644);
    reload(&daemon);
    assert_eq!(site.host.status()["contact"], "detached");
    daemon.stop();
}

#[test]
fn another_phase_of_the_same_keys_is_shown() {
    skip_unless!(need_netns());
    let site = left_alone("");
    let back = FakeCoordinator::start_on(site.host.netns(), &site.pki, &site.coordinator.address());
    back.tell(told(5, "promoted", 1, Some(2)));
    let mut daemon = start_ready(&site.host);
    let status = site.status("promoted", |status| status["phase"] == "promoted");
    assert_eq!(status["generation"], 5);
    assert!(poll_until(SOON, || site.host.persisted().unwrap().contains("# phase: promoted\n")));
    daemon.stop();
}

#[test]
fn keys_of_another_pool_do_not_serve() {
    skip_unless!(need_netns());
    let site = left_alone("start_timeout = \"1s\"");
    let back = FakeCoordinator::start_on(site.host.netns(), &site.pki, &site.coordinator.address());
    let mut answer = told(9, "steady", 7, Some(8));
    answer["pool_id"] = "ffffffffffffffffffffffffffffffff".into();
    back.tell(answer);
    let mut daemon = site.host.start();
    let status = site.status("without keys", |status| status["contact"] == "no_keys");
    assert_eq!(status["error"]["kind"], "no_pool_keys");
    back.expect(1, |body| body["error"] == "answer_other_pool");
    assert!(!is_ready(&daemon));
    assert_eq!(site.host.kernel(), pair(1, 2), "kept all the same");
    daemon.stop();
}

#[test]
fn the_server_bit_is_set_again_when_it_is_not_to_be_held_any_more() {
    skip_unless!(need_netns());
    let (site, mut daemon) = without_keys_or_the_server_bit();
    let read = || server_bits(&site);
    site.configure("start_timeout = \"1s\"\nwait = \"1s\"");
    daemon.signal(Signal::HUP);
    assert!(poll_until(SOON, || read() == "1027"), "{}", read());
    daemon.stop();
}

#[test]
fn new_certificates_are_taken_up_and_broken_ones_are_not() {
    skip_unless!(need_netns());
    let site = Site::new();
    site.configure("wait = \"1s\"");
    let mut daemon = site.started(1);
    site.host.put("node.crt", b"not yet written", 0o644);
    daemon.logs("tls_not_pem");
    let asked = site.coordinator.asked();
    assert!(asked.iter().all(|asked| asked.connection == 0));
    let next = site.coordinator.expect(asked.len(), |_| true);
    assert_eq!(next.connection, 0, "it goes on with the old one");
    assert_eq!(site.host.status()["state"], "ok");
    site.pki.equip(&site.host, "n1.example.org", 200);
    assert!(poll_until(SOON, || site.coordinator.asked().last().unwrap().connection > 0));
    daemon.logs("all problems are resolved");
    daemon.stop();
}
