//! What `probe` says about servers whose state is known.

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use tfo_host::kernel::netstat::{NETSTAT_PATH, TfoCounters};

use super::world::{A, B, Cable, at, filter_input, half_open, listen, modelled, serving};
use tfo_testbed::cable::{CLIENT, OTHER_CLIENT, SERVER};
use tfo_testbed::daemon::PYTHON;
use tfo_testbed::output::stderr;
use tfo_testbed::{NetNs, need_netns, need_tool, scratch, skip_unless};

const ON: u16 = 80;
const OFF: u16 = 81;
const CLOSED: u16 = 82;
const FILTERED: u16 = 83;

/// Result, cookie, option.
fn seen(results: &[Value]) -> Vec<(&str, Option<&str>, Option<u64>)> {
    results.iter().map(|r| (r["result"].as_str().unwrap(), r["cookie"].as_str(), r["option"].as_u64())).collect()
}

fn counters(netns: &NetNs) -> TfoCounters {
    netns.run(|| TfoCounters::read(Path::new(NETSTAT_PATH)).unwrap())
}

#[test]
fn on_off_closed_and_filtered_are_told_apart_in_both_families() {
    skip_unless!(need_netns() && need_tool("nft"));
    let cable = Cable::new();
    let _on = listen(&cable.server, ON, true);
    let _off = listen(&cable.server, OFF, false);
    let _filtered = listen(&cable.server, FILTERED, true);
    filter_input(&cable.server, &format!("tcp dport {FILTERED} drop;"));
    for (server, client) in SERVER.iter().zip(CLIENT) {
        let targets = [ON, OFF, CLOSED, FILTERED].map(|port| at(server, port));
        let arguments: Vec<&str> = ["probe"].into_iter().chain(targets.iter().map(String::as_str)).collect();
        let (results, code) = cable.results(&arguments);
        let cookie = modelled(A, client, server);
        let expected = [
            ("tfo-on", Some(&*cookie), Some(34)),
            ("tfo-off", None, None),
            ("closed", None, None),
            ("filtered", None, None),
        ];
        assert_eq!((seen(&results), code), (expected.to_vec(), 1));
        for (result, target) in results.iter().zip(&targets) {
            assert_eq!((&result["target"], &result["address"]), (&json!(target), &json!(server)));
            // On a busy machine a first SYN may go twice, and then the time is not known.
            assert!(result["rtt_us"].is_null() || result["result"] != "filtered", "{result}");
        }
        let (results, code) = cable.results(&["probe", &targets[0]]);
        assert_eq!((seen(&results), code), (vec![expected[0]], 0));
    }
    // The switch of the whole host, and the other way round: off for this listener only.
    cable.server.set("ipv4/tcp_fastopen", "1");
    let (results, code) = cable.results(&["probe", &at(SERVER[0], ON)]);
    assert_eq!((seen(&results), code), (vec![("tfo-off", None, None)], 1));
}

#[test]
fn the_option_the_source_and_the_count_are_ours_to_choose() {
    skip_unless!(need_netns());
    let cable = Cable::new();
    let _on = listen(&cable.server, ON, true);
    for (family, server) in SERVER.iter().enumerate() {
        let target = at(server, ON);
        let (results, code) = cable.results(&["probe", &target, "--experimental", "--count", "3"]);
        let cookie = modelled(A, CLIENT[family], server);
        assert_eq!((seen(&results), code), (vec![("tfo-on", Some(&*cookie), Some(254)); 3], 0));
        let (results, _) = cable.results(&["probe", &target, "--source", OTHER_CLIENT[family]]);
        assert_eq!(seen(&results)[0].1, Some(&*modelled(A, OTHER_CLIENT[family], server)));
    }
    // The next key shows with the next SYN.
    cable.server.set_keys(&format!("{B},{A}"));
    let (results, _) = cable.results(&["probe", &at(SERVER[0], ON)]);
    assert_eq!(seen(&results)[0].1, Some(&*modelled(B, CLIENT[0], SERVER[0])));
}

#[test]
fn a_probe_takes_no_place_in_the_queue() {
    skip_unless!(need_netns());
    let cable = Cable::new();
    // The listener never accepts, so a connection that took a place in its queue would keep it.
    let _on = listen(&cable.server, ON, true);
    let before = counters(&cable.server);
    let (results, code) = cable.results(&["probe", &at(SERVER[0], ON), &at(SERVER[1], ON), "--count", "400"]);
    assert_eq!((results.len(), code), (800, 0));
    assert!(results.iter().any(|result| result["rtt_us"].as_u64().is_some_and(|micros| micros > 0)));
    let after = counters(&cable.server);
    assert_eq!(after.cookie_reqd.unwrap() - before.cookie_reqd.unwrap(), 800, "each one asked once");
    for (name, counter) in
        [("Passive", after.passive), ("PassiveFail", after.passive_fail), ("Overflow", after.listen_overflow)]
    {
        assert_eq!(counter, Some(0), "{name}");
    }
    assert_eq!(half_open(&cable.server), 0);
}

#[test]
fn a_listener_with_its_own_key_shows_it() {
    skip_unless!(need_netns());
    let cable = Cable::new();
    cable.server.set_keys(B);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testbed/tfo.py");
    let mut command = cable.server.command(PYTHON);
    // Raw bytes of A.
    command.args([script, "serve", "80", "101112131415161718191a1b1c1d1e1f"]).stdout(Stdio::null());
    let _server = serving(command.spawn().unwrap(), &cable.server, ON);
    for (server, client) in SERVER.iter().zip(CLIENT) {
        let (results, _) = cable.results(&["probe", &at(server, ON)]);
        assert_eq!(seen(&results), [("tfo-on", Some(&*modelled(A, client, server)), Some(34))]);
    }
}

#[test]
fn an_ordinary_user_probes_through_the_kernel() {
    skip_unless!(need_netns() && need_tool("nft") && need_tool("setpriv"));
    let cable = Cable::new();
    let _on = listen(&cable.server, ON, true);
    let _off = listen(&cable.server, OFF, false);
    let _filtered = listen(&cable.server, FILTERED, true);
    let _swallowed = listen(&cable.server, 84, true);
    filter_input(&cable.server, &format!("tcp dport {FILTERED} drop; tcp dport 84 tcp option 34 exists drop;"));
    let before = counters(&cable.server);
    let probe = |targets: &[String]| {
        let mut command = cable.client.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", tfo_testbed::program("tfoctl")]);
        let output = command.args(["probe", "--unprivileged"]).args(targets).output().unwrap();
        (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
    };
    // Without a cookie, the probe cannot mistake another port's for its own.
    let (text, code) = probe(&[OFF, CLOSED, FILTERED, 84].map(|port| at(SERVER[0], port)));
    let words = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect()
    };
    assert_eq!(
        (words(&text), code),
        (["tfo-off", "closed", "filtered", "tfo-off"].map(str::to_owned).to_vec(), 1),
        "{text}"
    );
    for server in SERVER {
        let (first, code) = probe(&[at(server, ON)]);
        assert!(first.contains("tfo-on") && !first.contains("data") && code == 0, "{first}");
    }
    assert_eq!(counters(&cable.server).passive, before.passive, "no data went with a SYN");
    for server in SERVER {
        let (again, code) = probe(&[at(server, ON)]);
        assert!(again.contains("tfo-on") && again.contains("data in the SYN was accepted") && code == 0, "{again}");
    }
    // The kernel has a cookie of this server now, and yet the other ports are what they are.
    let (text, _) = probe(&[OFF, CLOSED, 84].map(|port| at(SERVER[0], port)));
    assert_eq!(words(&text), ["tfo-off", "closed", "tfo-off"], "{text}");
    assert!(text.trim_end().ends_with("a middlebox drops SYNs with the option"), "{text}");
    // The server's keys are others, so the cookie is an old one: refused once, and replaced.
    cable.server.set_keys(B);
    let (text, code) = probe(&[at(SERVER[0], ON)]);
    assert!(text.contains("tfo-on") && code == 0, "{text}");
    // A host whose client side is off.
    cable.client.set("ipv4/tcp_fastopen", "2");
    let output = cable.tfoctl(&["probe", "--unprivileged", &at(SERVER[0], ON)]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("the client side of TFO is off on this host"), "{output:?}");
}

#[test]
fn nginx_and_haproxy_are_seen_as_they_are_configured() {
    skip_unless!(need_netns() && need_tool("nginx") && need_tool("haproxy"));
    let cable = Cable::new();
    let dir = scratch();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let nginx = format!(
        "daemon off; master_process off; pid {pid}; error_log {log}; events {{}}\n\
         http {{ access_log off; client_body_temp_path {tmp}; proxy_temp_path {tmp}; fastcgi_temp_path {tmp}; uwsgi_temp_path {tmp};\n\
         scgi_temp_path {tmp}; server {{ listen 80 fastopen=16; listen [::]:80 fastopen=16; listen 81; listen [::]:81; }} }}\n",
        pid = path("pid"),
        log = path("log"),
        tmp = path("tmp")
    );
    std::fs::write(path("nginx.conf"), nginx).unwrap();
    let mut command = cable.server.command("nginx");
    command.args(["-c", &path("nginx.conf")]).stderr(Stdio::null());
    let _nginx = serving(command.spawn().unwrap(), &cable.server, 81);
    let haproxy = "defaults\n mode http\n timeout client 5s\n timeout connect 5s\n timeout server 5s\nfrontend on\n bind :::90 v4v6 tfo\n\
                   frontend off\n bind :::91 v4v6\n";
    std::fs::write(path("haproxy.cfg"), haproxy).unwrap();
    let mut command = cable.server.command("haproxy");
    command.args(["-db", "-q", "-f", &path("haproxy.cfg")]).stdout(Stdio::null()).stderr(Stdio::null());
    let _haproxy = serving(command.spawn().unwrap(), &cable.server, 91);
    for (server, client) in SERVER.iter().zip(CLIENT) {
        let targets = [80, 81, 90, 91].map(|port| at(server, port));
        let arguments: Vec<&str> = ["probe"].into_iter().chain(targets.iter().map(String::as_str)).collect();
        let (results, _) = cable.results(&arguments);
        let (on, off) = (("tfo-on", Some(modelled(A, client, server))), ("tfo-off", None));
        let came: Vec<_> =
            seen(&results).into_iter().map(|(word, cookie, _)| (word, cookie.map(str::to_owned))).collect();
        assert_eq!(came, [on.clone(), off.clone(), on, off]);
    }
}
