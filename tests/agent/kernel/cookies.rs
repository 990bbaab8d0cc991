//! Real TFO connections between two namespaces: the kernel's cookies, and what a rotation does to them.

use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use tfo_host::kernel::netstat::{NETSTAT_PATH, TfoCounters};
use tfo_model::cookie::Cookie;
use tfo_model::key_text;

use tfo_testbed::cable::{self, CLIENT, KEYS, OTHER_CLIENT, Running, SERVER};
use tfo_testbed::daemon::{DaemonHost, PYTHON};
use tfo_testbed::output::stderr;
use tfo_testbed::{NetNs, need_netns, skip, skip_unless};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/testbed/tfo.py");
const PORT: &str = "4242";

/// A server with an agent that takes its keys from a file, and clients that are one cable away.
struct Wire {
    host: DaemonHost,
    client: NetNs,
    server: Running,
    /// What stands before the commands of the script: nothing, or `mptcp`.
    protocol: &'static [&'static str],
}

/// The addresses of one family: the server's, and two of the client's.
struct Family {
    server: &'static str,
    clients: [&'static str; 2],
}

const FAMILIES: [Family; 2] = [
    Family { server: SERVER[0], clients: [CLIENT[0], OTHER_CLIENT[0]] },
    Family { server: SERVER[1], clients: [CLIENT[1], OTHER_CLIENT[1]] },
];

/// What became of one connection with data in the SYN.
#[derive(Debug, PartialEq, Eq)]
enum Syn {
    Accepted,
    /// There was no cookie to send.
    Asked,
    /// The cookie was of no use.
    Rejected,
}

impl Wire {
    fn new(protocol: &'static [&'static str], listener_key: Option<&str>) -> Self {
        let (host, client) = (DaemonHost::new(), NetNs::new());
        cable::connect(&client, host.netns());
        host.netns().set("ipv4/tcp_fastopen", "2");
        client.set("ipv4/tcp_fastopen", "1");
        host.configure(&format!("[source]\nkind = \"file\"\npath = {:?}", host.path("keys")), "");
        let mut command = host.netns().command(PYTHON);
        command.arg(SCRIPT).args(protocol).args(["serve", PORT]).args(listener_key).stdout(Stdio::piped());
        let mut server = Running(command.spawn().expect("the server starts"));
        let mut line = String::new();
        BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self { host, client, server, protocol }
    }

    /// One phase: the agent installs these keys.
    fn install(&self, keys: &[&str]) {
        self.host.put("keys", keys.join(",").as_bytes(), 0o400);
        self.host.once_ok();
        assert_eq!(self.host.kernel(), keys.join(","));
    }

    fn connect(&self, family: &Family, client: usize) -> Syn {
        let mut command = self.client.command(PYTHON);
        command.arg(SCRIPT).args(self.protocol);
        command.args(["connect", family.clients[client], family.server, PORT]);
        let output = command.output().expect("the client starts");
        let said = stderr(&output);
        let came: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
        assert_eq!(came["echoed"], true);
        match (came["accepted"].as_bool().unwrap(), came["fail"].as_u64().unwrap()) {
            (true, 0) => Syn::Accepted,
            (false, 1) => Syn::Asked,
            (false, 2) => Syn::Rejected,
            _ => panic!("{came}"),
        }
    }

    /// The cookie that the client's kernel has stored.
    fn stored(&self, family: &Family, client: usize) -> String {
        let output = Command::new("ip").args(["-n", self.client.name(), "tcp_metrics", "show"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let of_ours = |line: &&str| {
            line.starts_with(&format!("{} ", family.server))
                && line.trim().ends_with(&format!("source {}", family.clients[client]))
        };
        let line = text.lines().find(of_ours).unwrap_or_else(|| panic!("no metrics: {text}"));
        line.split(" fo_cookie ").nth(1).unwrap_or_else(|| panic!("no cookie: {line}"))[..16].to_owned()
    }

    fn counters(&self) -> TfoCounters {
        self.host.netns().run(|| TfoCounters::read(Path::new(NETSTAT_PATH)).unwrap())
    }
}

/// The cookie that our own model makes.
fn modelled(key: &str, family: &Family, client: usize) -> String {
    let [client, server] = [family.clients[client], family.server].map(|address| address.parse::<IpAddr>().unwrap());
    Cookie::of(key_text::parse(key.as_bytes()).unwrap().primary(), client, server).unwrap().to_string()
}

#[test]
fn cookies_live_through_stage_and_promote_and_end_with_the_next_stage() {
    skip_unless!(need_netns());
    let wire = Wire::new(&[], None);
    live_through_a_rotation(&wire);
    assert!(wire.server.0.id() > 0);
}

/// Multipath TCP is what nginx, HAProxy and others listen with where it is switched on; its listeners have no key of their own.
#[test]
fn cookies_of_mptcp_listeners_live_as_long() {
    skip_unless!(need_netns() && need_mptcp());
    live_through_a_rotation(&Wire::new(&["mptcp"], None));
}

fn need_mptcp() -> bool {
    let is_on = std::fs::read_to_string("/proc/sys/net/mptcp/enabled").is_ok_and(|switch| switch.trim() == "1");
    if !is_on {
        skip("this kernel has no Multipath TCP");
    }
    is_on
}

fn live_through_a_rotation(wire: &Wire) {
    for family in &FAMILIES {
        let [first, second, third] = KEYS;
        let start = wire.counters();
        let rise = |name: &str| wire.counters().get(name).unwrap() - start.get(name).unwrap();
        let counts = || ["TCPFastOpenPassive", "TCPFastOpenPassiveAltKey", "TCPFastOpenPassiveFail"].map(rise);

        wire.install(&[first]);
        for client in [0, 1] {
            assert_eq!(wire.connect(family, client), Syn::Asked);
            assert_eq!(wire.stored(family, client), modelled(first, family, client), "the kernel's cookie is ours");
        }
        assert_eq!(wire.connect(family, 0), Syn::Accepted);
        assert_eq!(counts(), [1, 0, 0]);

        wire.install(&[first, second]);
        assert_eq!(wire.connect(family, 0), Syn::Accepted);
        assert_eq!(counts(), [2, 0, 0], "staged: the primary makes and takes them as before");

        wire.install(&[second, first]);
        assert_eq!(wire.connect(family, 0), Syn::Accepted);
        assert_eq!(counts(), [3, 1, 0], "promoted: the backup takes the old cookie");
        assert_eq!(wire.stored(family, 0), modelled(second, family, 0), "and a new one came with the answer");
        assert_eq!(wire.connect(family, 0), Syn::Accepted);
        assert_eq!(counts(), [4, 1, 0]);

        wire.install(&[second, third]);
        assert_eq!(wire.connect(family, 0), Syn::Accepted);
        assert_eq!(counts(), [5, 1, 0]);
        assert_eq!(wire.stored(family, 1), modelled(first, family, 1), "this client was away all the time");
        assert_eq!(wire.connect(family, 1), Syn::Rejected);
        assert_eq!(counts(), [5, 1, 1], "after the next stage nobody takes the first key's cookie");
        assert_eq!(wire.stored(family, 1), modelled(second, family, 1));
        assert_eq!(wire.connect(family, 1), Syn::Accepted);
        assert_eq!(counts(), [6, 1, 1]);
    }
}

#[test]
fn a_listener_key_overrides_ours() {
    skip_unless!(need_netns());
    // Raw bytes of the listener's own key, and its text.
    let wire = Wire::new(&[], Some("101112131415161718191a1b1c1d1e1f"));
    let family = &FAMILIES[0];
    wire.install(&[KEYS[1]]);
    assert_eq!(wire.connect(family, 0), Syn::Asked);
    assert_eq!(wire.stored(family, 0), modelled(KEYS[0], family, 0));
}
