//! `get` against nginx and haproxy from Debian: accepted, asked, by the backup key, rejected, off at either end; and its
//! refusals.

use std::net::TcpListener;

use serde_json::{Value, json};

use super::bench::{Cable, FAMILIES, KEYS, Running, bits, code, ctl, pinned, shape};
use tfo_testbed::daemon::PYTHON;
use tfo_testbed::output::{stderr, stdout};
use tfo_testbed::{need_netns, need_tool, skip_unless};

/// Walks one server through everything that keys and bits can do to a request in a SYN.
fn walk(start: fn(&Cable) -> Running) {
    let cable = Cable::new();
    let server = cable.server.netns();
    cable.server.set_kernel(KEYS[0]);
    let _server = start(&cable);
    for family in &FAMILIES {
        cable.server.set_kernel(KEYS[0]);
        let url = family.url("/");
        let begin = (Cable::counters(server), Cable::counters(&cable.client));
        let rise =
            |before: &Value, after: &Value, name: &str| after[name].as_u64().unwrap() - before[name].as_u64().unwrap();
        let server_rises = || {
            let now = Cable::counters(server);
            let names =
                ["TCPFastOpenCookieReqd", "TCPFastOpenPassive", "TCPFastOpenPassiveAltKey", "TCPFastOpenPassiveFail"];
            names.map(|name| rise(&begin.0, &now, name))
        };
        let client_rises = || {
            let now = Cable::counters(&cable.client);
            ["TCPFastOpenActive", "TCPFastOpenActiveFail"].map(|name| rise(&begin.1, &now, name))
        };
        assert_eq!(cable.rides(&url), ["asked", "accepted"], "the first brings the cookie, the second uses it");
        assert_eq!((server_rises(), client_rises()), ([1, 1, 0, 0], [1, 0]));
        assert_eq!(cable.rides(&url), ["accepted"], "once is enough with a cookie");

        cable.server.set_kernel(&[KEYS[1], KEYS[0]].join(","));
        assert_eq!(cable.rides(&url), ["accepted"], "by the backup key");
        assert_eq!((server_rises(), client_rises()), ([1, 3, 1, 0], [3, 0]));

        cable.server.set_kernel(KEYS[2]);
        assert_eq!(cable.rides(&url), ["rejected", "accepted"], "no key fits, and a new cookie came with that answer");
        assert_eq!((server_rises(), client_rises()), ([1, 4, 1, 1], [4, 1]));

        bits(server, "0");
        assert_eq!(cable.rides(&url)[0], "rejected", "TFO is off by now");
        bits(server, "2");
        bits(&cable.client, "0");
        let off = cable.get(&[&url]);
        assert_eq!((&off["exchanges"][0]["syn_data"], &off["accepted"]), (&json!("client_off"), &json!(false)));
        assert!(off["exchanges"][0]["reason"].as_str().unwrap().contains("has no 0x1"), "{off}");
        bits(&cable.client, "1");
    }
}

#[test]
fn nginx_takes_the_request_in_the_syn() {
    if need_netns() && need_tool("nginx") {
        walk(Cable::nginx);
    }
}

#[test]
fn haproxy_takes_the_request_in_the_syn() {
    if need_netns() && need_tool("haproxy") {
        walk(Cable::haproxy);
    }
}

#[test]
fn a_server_without_tfo_never_gives_a_cookie() {
    skip_unless!(need_netns() && need_tool("nginx"));
    let cable = Cable::new();
    bits(cable.server.netns(), "0");
    let _nginx = cable.nginx();
    let got = cable.get(&[&FAMILIES[0].url("/")]);
    let rides: Vec<&Value> =
        got["exchanges"].as_array().unwrap().iter().map(|exchange| &exchange["syn_data"]).collect();
    assert_eq!((rides, &got["accepted"]), (vec![&json!("asked"), &json!("asked")], &json!(false)));
    let text = stdout(&cable.ctl(&["get", &FAMILIES[0].url("/")]));
    assert!(text.contains("still no cookie; TFO is off at the server, or a middlebox removes the option"), "{text}");
}

#[test]
fn an_answer_its_headers_and_its_redirect() {
    skip_unless!(need_netns() && need_tool("nginx"));
    let cable = Cable::new();
    let _nginx = cable.nginx();
    let url = FAMILIES[0].url("/a?b=c");
    let got = cable.get(&[&url, "--compare", "3", "--source", FAMILIES[0].client]);
    pinned("get", &shape(&got));
    assert_eq!((&got["url"], &got["response"]["status"]), (&json!(url), &json!(200)));
    let headers = got["response"]["headers"].as_array().unwrap();
    assert!(
        headers
            .iter()
            .any(|header| header["name"] == "Server" && header["value"].as_str().unwrap().starts_with("nginx"))
    );
    for exchange in got["exchanges"].as_array().unwrap() {
        assert_eq!(
            (&exchange["body_bytes"], &exchange["complete"], &exchange["status"]),
            (&json!(6), &json!(true), &json!(200))
        );
        let [first, total] = ["first_byte_us", "total_us"].map(|name| exchange[name].as_u64().unwrap());
        assert!(0 < first && first <= total && total < 10_000_000, "{exchange}");
    }
    assert_eq!((&got["compare"]["samples"], &got["compare"]["accepted"]), (&json!(3), &json!(3)));
    let text = stdout(&cable.ctl(&["get", &FAMILIES[1].url("/moved"), "--compare", "1"]));
    for words in [
        "1st  data in the SYN not sent: there was no cookie for this server yet",
        "2nd  data in the SYN sent and accepted",
        "HTTP/1.1 302 Moved Temporarily\n",
        "Location: http://elsewhere.example/\n",
        "redirects to http://elsewhere.example/; redirects are not followed",
        "(1 of 1 accepted)",
    ] {
        assert!(text.contains(words), "no {words:?}: {text}");
    }
}

/// A third-party client is counted like our own.
#[test]
fn curl_is_counted_by_stats() {
    skip_unless!(need_netns() && need_tool("nginx") && need_tool("curl"));
    let cable = Cable::new();
    let _nginx = cable.nginx();
    for family in &FAMILIES {
        let before = (Cable::counters(cable.server.netns()), Cable::counters(&cable.client));
        for _ in 0..4 {
            let mut curl = cable.client.command("curl");
            curl.args(["--silent", "--show-error", "--tcp-fastopen", "--max-time", "10", &family.url("/")]);
            let output = curl.output().unwrap();
            assert_eq!(stdout(&output), "hello\n", "{}", stderr(&output));
        }
        let after = (Cable::counters(cable.server.netns()), Cable::counters(&cable.client));
        let rise =
            |before: &Value, after: &Value, name: &str| after[name].as_u64().unwrap() - before[name].as_u64().unwrap();
        assert_eq!(rise(&before.0, &after.0, "TCPFastOpenCookieReqd"), 1);
        assert_eq!(rise(&before.0, &after.0, "TCPFastOpenPassive"), 3);
        assert_eq!(rise(&before.1, &after.1, "TCPFastOpenActive"), 3);
        assert_eq!(cable.rides(&family.url("/")), ["accepted"], "curl's cookie is the kernel's");
    }
}

// ---- refusals ----

#[test]
fn unsupported_urls_are_refused() {
    for (url, words) in [
        ("https://example.org/", "https:// is not supported"),
        ("ftp://example.org/", "the scheme ftp:// is not supported"),
        ("example.org", "is not a URL"),
        ("http://", "is not a URL"),
        ("http://user:pw@example.org/", "a user name or a password"),
        ("localhost:80/", "is not supported"),
    ] {
        let output = ctl(&["get", url]);
        code(&output, 2);
        assert!(stderr(&output).contains(words) && stderr(&output).contains("remedy: "), "{url}: {}", stderr(&output));
        assert!(!stderr(&output).contains("pw"), "a password is not repeated");
    }
    for arguments in [&["--timeout", "0s"][..], &["--compare", "0"], &["-4", "-6"], &["--source", "eth0"]] {
        code(&ctl(&[&["get", "http://127.0.0.1/"], arguments].concat()), 2);
    }
}

#[test]
fn each_kind_of_missing_answer_is_reported() {
    skip_unless!(need_netns() && need_tool(PYTHON));
    let cable = Cable::new();
    let failed = |arguments: &[&str], words: &str| {
        let output = cable.ctl(&[&["get", "--timeout", "1s"], arguments].concat());
        code(&output, 1);
        assert!(
            stderr(&output).contains(words) && stderr(&output).contains("remedy: "),
            "{words}: {}",
            stderr(&output)
        );
        assert_eq!(stdout(&output), "");
    };
    failed(&["http://no-such-host.invalid/"], "no-such-host.invalid has no address");
    failed(&[&FAMILIES[0].url("/")], "Connection refused");
    failed(&["http://192.0.2.1/"], "Network is unreachable");
    failed(&[&FAMILIES[0].url("/"), "-6"], "no address of the requested family");
    failed(&[&FAMILIES[0].url("/"), "--source", "198.51.100.1"], "cannot send from 198.51.100.1");
    // Accepts in its kernel, and never says a word.
    let address = (FAMILIES[0].server, 8081);
    let silent = cable.server.netns().run(|| TcpListener::bind(address)).unwrap();
    failed(&[&format!("http://{}:8081/", FAMILIES[0].server)], "it took longer than --timeout");
    drop(silent);
    // No host has this address, and no ICMP error reports that.
    failed(&["http://10.78.1.200/"], "cannot connect");
    let mut echo = cable.server.command(PYTHON);
    echo.args([concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testbed/tfo.py"), "serve", "8080"]);
    let _echo = cable.start(echo);
    failed(&[&FAMILIES[0].url("/")], "the response is unusable");
}

#[test]
fn a_host_without_ipv6_says_so() {
    skip_unless!(need_netns());
    let cable = Cable::new();
    cable.client.run(|| std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")).unwrap();
    let output = cable.ctl(&["get", &FAMILIES[1].url("/")]);
    code(&output, 1);
    assert!(stderr(&output).contains("cannot connect: "), "{}", stderr(&output));
}
