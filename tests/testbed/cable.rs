//! Two hosts and a cable between them, v4 and v6; addresses and neighbours are known beforehand, so that no packet waits.

use std::path::Path;
use std::process::Child;

use rustix::process::Signal;

use crate::NetNs;
use crate::host::KEY_FILE;

/// Addresses of the server's end.
pub const SERVER: [&str; 2] = ["10.77.1.2", "fd77::2"];
/// Addresses of the client's end, which the kernel chooses by itself.
pub const CLIENT: [&str; 2] = ["10.77.1.1", "fd77::1"];
/// Its other addresses.
pub const OTHER_CLIENT: [&str; 2] = ["10.77.1.3", "fd77::3"];

/// Three pairs of nothing in common, as kernel text; none is a byte-wise mirror of itself.
pub const KEYS: [&str; 3] = [
    "13121110-17161514-1b1a1918-1f1e1d1c",
    "deadbeef-00000002-cafef00d-00000004",
    "0badc0de-11111111-22222222-33333333",
];

/// Connects two namespaces by the interface `cable` of each.
pub fn connect(client: &NetNs, server: &NetNs) {
    let [ours, theirs] = [mac(0, 1), mac(0, 2)];
    for netns in [client, server] {
        netns.no_dad();
    }
    let far = server.name();
    client.ip(&format!("link add cable address {ours} type veth peer name cable address {theirs} netns {far}"));
    for (netns, [v4, v6]) in [(client, CLIENT), (client, OTHER_CLIENT), (server, SERVER)] {
        netns.ip(&format!("addr add {v4}/24 dev cable"));
        // Deprecated: not what the kernel chooses by itself.
        let lifetime = if v6 == OTHER_CLIENT[1] { " preferred_lft 0" } else { "" };
        netns.ip(&format!("addr add {v6}/64 dev cable nodad{lifetime}"));
    }
    for netns in [client, server] {
        netns.ip("link set cable up");
        // Loss on purpose must not switch a client off.
        netns.set("ipv4/tcp_fastopen_blackhole_timeout_sec", "0");
    }
    for (netns, addresses, mac) in [(client, SERVER, &theirs), (server, CLIENT, &ours), (server, OTHER_CLIENT, &ours)] {
        for address in addresses {
            netns.neighbour(address, mac, "cable");
        }
    }
}

/// Link address of one end, known beforehand.
pub fn mac(number: usize, end: u8) -> String {
    format!("02:00:00:00:{number:02x}:{end:02x}")
}

impl NetNs {
    /// Sets a sysctl below `net`.
    pub fn set(&self, name: &str, value: &str) {
        self.run(|| std::fs::write(Path::new("/proc/sys/net").join(name), value)).expect("root sets it");
    }

    /// Gives the kernel these keys, as its text.
    pub fn set_keys(&self, text: &str) {
        self.run(|| std::fs::write(KEY_FILE, text)).expect("root writes the key");
    }

    /// Addresses work at once, link-local ones too.
    pub fn no_dad(&self) {
        for interfaces in ["all", "default"] {
            self.set(&format!("ipv6/conf/{interfaces}/accept_dad"), "0");
        }
    }

    /// A neighbour that need not be asked for: on a busy machine that can take longer than a SYN waits
    /// (docs/kernel.md#a-fleet-under-rotation).
    pub fn neighbour(&self, address: &str, mac: &str, interface: &str) {
        self.ip(&format!("neigh replace {address} lladdr {mac} dev {interface} nud permanent"));
    }
}

/// A process that goes when the test does.
pub struct Running(pub Child);

impl Running {
    pub fn signal(&self, signal: Signal) {
        crate::signal::send(self.0.id(), signal);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
