//! What others see of a running daemon: status.json, metrics, its process.

use crate::{reload, running, start_ready};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tfo_model::time::UnixTime;

use tfo_testbed::daemon::{Daemon, DaemonHost, key_text, lasting};
use tfo_testbed::{SOON, need_netns, now, poll_until, skip_unless};

fn is_time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.ends_with('Z') && text.parse::<UnixTime>().is_ok())
}

fn is_print(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_key(value: &Value) -> bool {
    keys_of(value) == ["epoch", "fingerprint"] && value["epoch"].is_u64() && is_print(&value["fingerprint"])
}

fn keys_of(value: &Value) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn status_json_is_what_was_promised() {
    skip_unless!(need_netns());
    let (host, _daemon) = running("verify_interval = \"1s\"");
    let status = host.status();
    // docs/reference/json.md, word for word.
    let mut promised = vec![
        "version",
        "state",
        "source",
        "pool",
        "generation",
        "phase",
        "primary",
        "backup",
        "installed_at",
        "next_change_at",
        "drift_repairs",
        "clock_synchronised",
        "contact",
        "last_contact_at",
        "error",
        "namespaces",
        "landlock",
    ];
    promised.sort_unstable();
    assert_eq!(keys_of(&status), promised);
    assert_eq!((&status["version"], &status["state"], &status["source"]), (&1.into(), &"ok".into(), &"derive".into()));
    assert!(status["pool"].is_null() && status["generation"].is_null() && status["last_contact_at"].is_null());
    assert!(status["phase"] == "steady" || status["phase"] == "staged");
    assert!(is_key(&status["primary"]) && is_key(&status["backup"]), "{status}");
    assert!(is_time(&status["installed_at"]) && is_time(&status["next_change_at"]), "{status}");
    assert!(status["drift_repairs"].is_u64());
    assert!(status["clock_synchronised"].is_boolean() || status["clock_synchronised"].is_null());
    assert!(status["error"].is_null());
    let namespace = &status["namespaces"][0];
    let mut promised = vec!["name", "found", "primary", "backup", "verified_at", "tcp_fastopen"];
    promised.sort_unstable();
    assert_eq!(keys_of(namespace), promised);
    assert_eq!(namespace["name"], "own");
    assert_eq!(namespace["primary"], status["primary"]["fingerprint"]);
    assert_eq!(namespace["backup"], status["backup"]["fingerprint"]);
    assert!(is_time(&namespace["verified_at"]));
    assert_eq!(namespace["tcp_fastopen"], 1, "a new namespace's default");

    let error = || host.status()["error"].clone();
    fs::remove_file(host.path("fleet.secret")).unwrap();
    assert!(poll_until(SOON, || !error().is_null()));
    assert_eq!(keys_of(&error()), ["kind", "message"]);
}

#[test]
fn status_json_is_replaced_whole_and_open_to_all() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    host.configure(&lasting(&host), "verify_interval = \"1s\"");
    let daemon = host.start_with("umask 077; exec \"$@\"");
    daemon.ready();
    let path = host.path("run/status.json");
    let mut seen = Vec::new();
    // Every look finds a whole file, while it is replaced three times.
    let three = || {
        host.status();
        let found = fs::metadata(&path).unwrap();
        assert_eq!(found.mode() & 0o7777, 0o644);
        if seen.last() != Some(&found.ino()) {
            seen.push(found.ino());
        }
        seen.len() >= 4
    };
    assert!(poll_until(SOON, three), "{seen:?}");
    let left: Vec<_> = fs::read_dir(host.path("run")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| name == "status.json" || name == "status.json.tmp"), "{left:?}");
    drop(daemon);
}

/// `name{labels}` and value of each sample, after checking the form of every line (Prometheus text format 0.0.4).
fn samples(text: &str) -> Vec<(String, f64)> {
    assert!(text.ends_with('\n'));
    let mut announced = String::new();
    let mut samples = Vec::new();
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.split(' ');
            let (kind, name) = (words.next().unwrap(), words.next().unwrap());
            match kind {
                "HELP" => assert!(words.next().is_some(), "no help: {line}"),
                "TYPE" => {
                    let kind = words.next().unwrap();
                    assert!(["gauge", "counter"].contains(&kind), "{line}");
                    assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                    name.clone_into(&mut announced);
                }
                _ => panic!("{line}"),
            }
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        assert_eq!(name, announced, "announced before: {line}");
        assert!(["tfo_agent_", "process_"].iter().any(|prefix| name.starts_with(prefix)), "{line}");
        assert!(labels.ends_with('}'), "{line}");
        samples.push((series.to_owned(), value.parse().unwrap_or_else(|_| panic!("{line}"))));
    }
    samples
}

#[test]
fn metrics_go_to_the_textfile_and_to_a_scrape() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    let textfile = host.path("tfo.prom");
    let address = "127.0.0.1:9440";
    let metrics = format!("verify_interval = \"1s\"\n[metrics]\ntextfile = {textfile:?}\nlisten = {address:?}");
    host.configure(&lasting(&host), &metrics);
    let daemon = start_ready(&host);
    let text = fs::read_to_string(&textfile).unwrap();
    assert_eq!(fs::metadata(&textfile).unwrap().mode() & 0o7777, 0o644);
    let found = samples(&text);
    let value = |series: &str| found.iter().find(|(name, _)| name == series).map(|(_, value)| *value);
    assert_eq!(value("tfo_agent_state{state=\"ok\"}"), Some(1.0), "{text}");
    assert_eq!(value("tfo_agent_state{state=\"degraded\"}"), Some(0.0));
    assert_eq!(value("tfo_agent_verified{namespace=\"own\"}"), Some(1.0));
    assert_eq!(value("tfo_agent_drift_repairs_total"), Some(0.0));
    assert_eq!(value("tfo_agent_passive_fail_total{namespace=\"own\"}"), Some(0.0));
    let primary = host.status()["primary"]["fingerprint"].as_str().unwrap().to_owned();
    let series = format!("tfo_agent_key{{fingerprint=\"{primary}\",namespace=\"own\",slot=\"primary\"}}");
    assert_eq!(value(&series), Some(1.0), "{text}");

    let page = || scrape(&host, address);
    let answer = page();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(head.to_lowercase().contains("content-type: text/plain; version=0.0.4"), "{head}");
    let names = |found: Vec<(String, f64)>| found.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    // node_exporter has process metrics of its own in the place that takes the text file.
    let (of_process, scraped): (Vec<_>, Vec<_>) =
        samples(body).into_iter().partition(|(name, _)| name.starts_with("process_"));
    assert_eq!(names(scraped), names(found));
    let of_process = names(of_process);
    assert!(of_process.iter().any(|name| name == "process_resident_memory_bytes"), "{of_process:?}");

    host.set_kernel(&key_text(9));
    assert!(poll_until(SOON, || page().contains("tfo_agent_drift_repairs_total 1\n")), "{}", page());
    assert!(poll_until(SOON, || fs::read_to_string(&textfile).unwrap().contains("tfo_agent_drift_repairs_total 1\n")));
    assert_eq!(threads(&daemon), 1);
}

#[test]
fn a_reload_does_not_close_the_scrape() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    let address = "127.0.0.1:9440";
    host.configure(&lasting(&host), &format!("verify_interval = \"1h\"\n[metrics]\nlisten = {address:?}"));
    let daemon = start_ready(&host);
    assert!(scrape(&host, address).starts_with("HTTP/1.1 200"));
    for _ in 0..2 {
        reload(&daemon);
        assert!(scrape(&host, address).starts_with("HTTP/1.1 200"), "{}", daemon.log());
        assert!(!daemon.log().contains("cannot listen"), "{}", daemon.log());
    }
    // Another address, and none: the old one is closed.
    let other = "127.0.0.2:9440";
    host.configure(&lasting(&host), &format!("verify_interval = \"1h\"\n[metrics]\nlisten = {other:?}"));
    daemon.signal(Signal::HUP);
    let open = |address: &str| host.netns().run(|| TcpStream::connect(address).is_ok());
    assert!(poll_until(SOON, || open(other) && !open(address)), "{}", daemon.log());
    // Another port: a confined agent cannot, and says so.
    if daemon.log().contains("landlock=\"full\"") {
        host.configure(&lasting(&host), "verify_interval = \"1h\"\n[metrics]\nlisten = \"127.0.0.2:9441\"");
        daemon.signal(Signal::HUP);
        daemon.logs("cannot listen on port 9441");
        assert!(open(other), "{}", daemon.log());
    }
    host.configure(&lasting(&host), "verify_interval = \"1h\"");
    daemon.signal(Signal::HUP);
    assert!(poll_until(SOON, || !open(other)), "{}", daemon.log());
}

pub(super) fn scrape(host: &DaemonHost, address: &str) -> String {
    host.netns().run(|| {
        let address: SocketAddr = address.parse().unwrap();
        let mut connection = TcpStream::connect_timeout(&address, SOON).expect("it listens");
        connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer
    })
}

/// A number in /proc/PID/status.
fn process_number(daemon: &Daemon, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
    line.trim().parse().unwrap()
}

fn threads(daemon: &Daemon) -> u64 {
    process_number(daemon, "Threads")
}

#[test]
fn an_idle_daemon_sleeps() {
    skip_unless!(need_netns());
    let [quiet, watched] = [DaemonHost::new(), DaemonHost::new()];
    for host in [&quiet, &watched] {
        host.configure(&lasting(host), "verify_interval = \"1h\"\n[metrics]\nlisten = \"127.0.0.1:9440\"");
    }
    let daemons = [quiet.start(), watched.start_with("export WATCHDOG_USEC=2000000 WATCHDOG_PID=$$; exec \"$@\"")];
    daemons.iter().for_each(|daemon| drop(daemon.ready()));
    let switches = || [&daemons[0], &daemons[1]].map(|daemon| process_number(daemon, "voluntary_ctxt_switches"));
    let fed = || daemons[1].messages().iter().filter(|message| message.text.contains("WATCHDOG=1")).count() as u64;
    // From one feeding of the watchdog to the third after it: three seconds.
    assert!(poll_until(SOON, || fed() >= 1));
    let (start, before, fed_before) = (now(), switches(), fed());
    assert!(poll_until(SOON, || fed() >= fed_before + 3));
    assert!(start.elapsed() > Duration::from_millis(2_500));
    let after = switches();
    assert_eq!(after[0] - before[0], 0, "it woke for nothing");
    // Each feeding is one sleep; a datagram may add one.
    let woke = after[1] - before[1];
    assert!((3..=7).contains(&woke), "woke {woke} times for 3 feedings");
    for daemon in &daemons {
        assert_eq!(threads(daemon), 1);
    }
}
