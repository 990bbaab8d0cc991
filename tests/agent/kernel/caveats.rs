//! What limits TFO although the keys are right, on real kernels: the switch, a SYNPROXY, and a kernel of before 5.3.

use std::io::Write;
use std::net::TcpListener;
use std::process::Stdio;

use tfo_testbed::cable::{self, CLIENT, SERVER};
use tfo_testbed::daemon::{DaemonHost, PYTHON, lasting};
use tfo_testbed::output::json_of;
use tfo_testbed::{NetNs, need_netns, need_tool, skip, skip_unless};

/// A SYNPROXY before a port, as nft(8) has it.
const SYNPROXY: &str = "table ip t {
chain raw { type filter hook prerouting priority raw; tcp dport 80 tcp flags syn notrack; }
chain in { type filter hook input priority filter; tcp dport 80 ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm; }
}
";

/// Kinds of what `check` finds, of those that are about TFO and not about this machine.
fn kinds(host: &DaemonHost, words: &[&str]) -> Vec<String> {
    let mut check = host.agent("check");
    if let [program, more @ ..] = words {
        let agent = check;
        check = host.command(program);
        check.args(more).arg(tfo_testbed::agent_path()).args(agent.get_args().skip(3));
    }
    let found = json_of(&check.args(["--format", "json"]).output().unwrap());
    let kinds = found["problems"].as_array().unwrap().iter().map(|problem| problem["kind"].as_str().unwrap());
    kinds.filter(|kind| !["clock_unsynchronised", "not_read_at_boot"].contains(kind)).map(str::to_owned).collect()
}

#[test]
fn bits_that_do_not_fit_are_named() {
    skip_unless!(need_netns());
    let host = DaemonHost::new();
    host.configure(&lasting(&host), "[metrics]\ntextfile = \"\"");
    for (bits, expected) in [
        ("3", &[][..]),
        ("1", &["tfo_off"]),
        ("1025", &["tfo_off", "idle_bits"]),
        ("515", &["no_cookie_needed"]),
        ("4099", &["idle_bits"]),
    ] {
        host.netns().set("ipv4/tcp_fastopen", bits);
        assert_eq!(kinds(&host, &[]), expected, "{bits}");
    }
}

#[test]
fn a_kernel_before_5_3_is_named() {
    skip_unless!(need_netns() && need_tool("setarch"));
    let host = DaemonHost::new();
    host.configure(&lasting(&host), "");
    host.netns().set("ipv4/tcp_fastopen", "3");
    // personality(2), UNAME26: the kernel says that it is 2.6.
    assert_eq!(kinds(&host, &["setarch", "--uname-2.6"]), ["old_kernel"]);
}

#[test]
fn a_synproxy_that_answers_is_named_and_one_that_rests_is_not() {
    skip_unless!(need_netns() && need_tool("nft"));
    let (host, client) = (DaemonHost::new(), NetNs::new());
    cable::connect(&client, host.netns());
    host.netns().set("ipv4/tcp_fastopen", "3");
    let textfile = host.text_path("tfo.prom");
    host.configure(&lasting(&host), &format!("[metrics]\ntextfile = {textfile:?}"));
    let mut nft = host.command("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(SYNPROXY.as_bytes()).unwrap();
    if !nft.wait().unwrap().success() {
        return skip("this kernel has no SYNPROXY");
    }
    // Otherwise the client's ACK is taken for a connection of before (nft(8), SYNPROXY), and reaches the listener.
    host.netns().set("netfilter/nf_conntrack_tcp_loose", "0");
    assert_eq!(kinds(&host, &[]), [""; 0], "it has answered nothing yet");
    let _listener = host.netns().run(|| TcpListener::bind((SERVER[0], 80))).unwrap();
    let connect =
        format!("import socket; socket.create_connection(({:?}, 80), 5, ({:?}, 0)).close()", SERVER[0], CLIENT[0]);
    assert!(
        client.command(PYTHON).args(["-c", &connect]).status().unwrap().success(),
        "the proxy answers for the server"
    );
    assert_eq!(kinds(&host, &[]), ["synproxy"]);
    host.once_ok();
    let metrics = std::fs::read_to_string(&textfile).unwrap();
    for line in ["tfo_agent_caveat{caveat=\"synproxy\"} 1", "tfo_agent_caveat{caveat=\"tfo_off\"} 0"] {
        assert!(metrics.contains(line), "no {line}: {metrics}");
    }
}
