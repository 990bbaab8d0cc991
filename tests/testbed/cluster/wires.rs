//! Hosts of coordinators and members on the management bridge of the demo's network, and cuts between them.
//!
//! A cut drops the packets of both directions at one end, so connections stay open and silent, as behind a broken switch.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::leftovers::NETNS_DIR;
use crate::netns::ip;
use crate::output::stderr;

/// The namespace with the bridge, and the bridge (`tfo_demo::network`).
const MANAGEMENT: &str = "management";
const BRIDGE: &str = "bridge";
/// The test's own interface, and its address: it is the operator's host.
const OWN: &str = "operator";
const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 250);
/// Rules that drop what comes from, and goes to, the addresses of a set.
const RULES: &str = "table inet cut {\n set away { type ipv4_addr; }\n \
                     chain in { type filter hook input priority 0; ip saddr @away drop; }\n \
                     chain out { type filter hook output priority 0; ip daddr @away drop; }\n}\n";

/// A host on the bridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub name: String,
    pub address: Ipv4Addr,
}

impl Place {
    /// A coordinator, from 0.
    pub fn coordinator(number: usize) -> Self {
        Self::numbered("tfo", 101, number)
    }

    /// A member of etcd, from 0.
    pub fn member(number: usize) -> Self {
        Self::numbered("etcd", 111, number)
    }

    fn numbered(kind: &str, first: u8, number: usize) -> Self {
        let number = u8::try_from(number).expect("a few hosts");
        Self { name: format!("{kind}{}", number + 1), address: Ipv4Addr::new(10, 99, 0, first + number) }
    }

    /// File of its network namespace.
    pub fn netns(&self) -> PathBuf {
        PathBuf::from(NETNS_DIR).join(&self.name)
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.address.into()
    }

    /// A program on this host, which ends with the test.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns().display()));
        command.args(["--", "setpriv", "--pdeathsig", "KILL", "--", program]).stdin(Stdio::null());
        command
    }

    /// Makes its namespace; before the rest of the network, which names its own beside it.
    pub fn make(&self) {
        ip(&format!("netns add {}", self.name));
        ip(&format!("-n {} link set lo up", self.name));
    }

    /// Connects it to the bridge.
    pub fn plug(&self) {
        let Self { name, address } = self;
        ip(&format!("-n {MANAGEMENT} link add {name} type veth peer name eth0 netns {name}"));
        ip(&format!("-n {MANAGEMENT} link set {name} master {BRIDGE} up"));
        ip(&format!("-n {name} addr add {address}/24 dev eth0"));
        ip(&format!("-n {name} link set eth0 up"));
        self.nft(RULES);
    }

    /// Cuts it off from these addresses.
    pub fn cut_from(&self, others: impl IntoIterator<Item = Ipv4Addr>) {
        for other in others {
            self.nft(&format!("add element inet cut away {{ {other} }}\n"));
        }
    }

    /// Ends all of its cuts.
    pub fn heal(&self) {
        self.nft("flush set inet cut away\n");
    }

    #[track_caller]
    fn nft(&self, text: &str) {
        let mut nft = Command::new("nsenter");
        nft.arg(format!("--net={}", self.netns().display())).args(["--", "nft", text]);
        let output = nft.stdin(Stdio::null()).output().expect("nsenter starts");
        assert!(output.status.success(), "nft {text:?} in {}: {}", self.name, stderr(&output));
    }
}

/// Address of a node, from 1, on the bridge.
pub fn node_address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, 1 + u8::try_from(number).expect("a few nodes"))
}

/// Connects the test's own namespace to the bridge.
pub fn plug_operator() {
    ip(&format!("link add {OWN} type veth peer name {OWN} netns {MANAGEMENT}"));
    ip(&format!("-n {MANAGEMENT} link set {OWN} master {BRIDGE} up"));
    ip(&format!("addr add {OWN_ADDRESS}/24 dev {OWN}"));
    ip(&format!("link set {OWN} up"));
}

/// The operator's address: where proxies of the test listen, and simulated agents are.
pub fn own_address() -> Ipv4Addr {
    OWN_ADDRESS
}
