//! The network: node namespaces behind one address, client namespaces, and a router between them (the fleet process's own namespace).
//!
//! docs/kernel.md#a-fleet-under-rotation, the recipe: ECMP by ports (`fib_multipath_hash_policy=1`), so that every connection of a client meets another node;
//! the shared address on each node's `lo`; permanent neighbours, no DAD, no NAT, so that no packet waits or changes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::thread::UnshareFlags;

use super::coordinator::ADDRESS;
use super::error::DemoError;
use tfo_host::kernel::namespace::Namespace;
use tfo_host::runtime::sys;
use tfo_model::ids::NamespaceName;

/// The address that all nodes share.
pub const VIP_V4: Ipv4Addr = Ipv4Addr::new(10, 10, 10, 10);
/// The IPv6 address that all nodes share.
pub const VIP_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 0x10);
/// The port of the service.
pub const PORT: u16 = 80;
/// Client namespaces.
pub const CLIENT_NAMESPACES: u8 = 12;
/// Client addresses in one client namespace, of each family.  The kernel keeps about 5 cookies in a bucket of a table that all
/// namespaces share; with more a client measures its own forgetting (docs/kernel.md#client-side).  Two sources leave room for a
/// bucket that two namespaces share by accident.
pub const SOURCES_PER_NAMESPACE: u8 = 2;

/// Directories with iproute2: on Debian, an ordinary user's PATH lacks the sbin directories.
const IP_DIRS: [&str; 4] = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
/// The namespace of the coordinator and its operator.
const MANAGEMENT: &str = "management";
/// The management namespace's bridge, which has the address `coordinator::ADDRESS`.
const MANAGEMENT_BRIDGE: &str = "bridge";
/// A node's interface to the management bridge.
const MANAGEMENT_INTERFACE: &str = "mgmt0";
const NAMES_DIR: &str = "/run/netns";
const OWN_NETNS: &str = "/proc/thread-self/ns/net";
const SYSCTL_DIR: &str = "/proc/sys";

/// Sysctls of every namespace: no reverse-path filter drops packets, and IPv6 addresses work at once.
const SYSCTLS_ALL: [(&str, &str); 6] = [
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
];
const SYSCTLS_ROUTER: [(&str, &str); 4] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv4/fib_multipath_hash_policy", "1"),
    ("net/ipv6/fib_multipath_hash_policy", "1"),
];
/// Sysctls of a node: TFO for servers, and a listen queue that is never the limit.
const SYSCTLS_NODE: [(&str, &str); 2] = [("net/ipv4/tcp_fastopen", "2"), ("net/core/somaxconn", "4096")];
/// Sysctls of a client: TFO for clients, which a lost packet never switches off.
const SYSCTLS_CLIENT: [(&str, &str); 2] =
    [("net/ipv4/tcp_fastopen", "1"), ("net/ipv4/tcp_fastopen_blackhole_timeout_sec", "0")];

/// A place behind the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Node(u8),
    Clients(u8),
}

impl Place {
    /// Name of the namespace, and of the router's interface to it.
    fn name(self) -> String {
        match self {
            Self::Node(number) => format!("node{number}"),
            Self::Clients(number) => format!("clients{number}"),
        }
    }

    fn octets(self) -> (u8, u8) {
        match self {
            Self::Node(number) => (20, number),
            Self::Clients(number) => (30, number),
        }
    }

    fn v4(self, host: u8) -> Ipv4Addr {
        let (kind, number) = self.octets();
        Ipv4Addr::new(10, kind, number, host)
    }

    fn v6(self, host: u8) -> Ipv6Addr {
        let (kind, number) = self.octets();
        Ipv6Addr::new(0xfd00, kind.into(), number.into(), 0, 0, 0, 0, host.into())
    }

    /// Link address of one end, fixed so that neighbour entries can be permanent.
    fn mac(self, host: u8) -> String {
        let (kind, number) = self.octets();
        format!("02:00:00:{kind:02x}:{number:02x}:{host:02x}")
    }

    /// Host numbers of the addresses in this namespace; 1 is the router's.
    fn hosts(self) -> std::ops::Range<u8> {
        match self {
            Self::Node(_) => 2..3,
            Self::Clients(_) => 2..2 + SOURCES_PER_NAMESPACE,
        }
    }

    /// The `ip` commands for the router's side.
    fn router_batch(self) -> String {
        let (name, mut batch) = (self.name(), String::new());
        let mut line = |text: String| writeln!(batch, "{text}").expect("a String takes everything");
        let (ours, theirs) = (self.mac(1), self.mac(2));
        line(format!("link add {name} address {ours} type veth peer name eth0 address {theirs} netns {name}"));
        line(format!("addr add {}/24 dev {name}", self.v4(1)));
        line(format!("addr add {}/64 dev {name} nodad", self.v6(1)));
        line(format!("link set {name} up"));
        for host in self.hosts() {
            line(format!("neigh replace {} lladdr {theirs} dev {name} nud permanent", self.v4(host)));
            line(format!("neigh replace {} lladdr {theirs} dev {name} nud permanent", self.v6(host)));
        }
        batch
    }

    /// The `ip` commands for the inside of the namespace.
    fn own_batch(self) -> String {
        let mut batch = String::new();
        let mut line = |text: String| writeln!(batch, "{text}").expect("a String takes everything");
        line("link set lo up".to_owned());
        if matches!(self, Self::Node(_)) {
            line(format!("addr add {VIP_V4}/32 dev lo"));
            line(format!("addr add {VIP_V6}/128 dev lo nodad"));
        }
        for host in self.hosts() {
            line(format!("addr add {}/24 dev eth0", self.v4(host)));
            line(format!("addr add {}/64 dev eth0 nodad", self.v6(host)));
        }
        line("link set eth0 up".to_owned());
        for router in [IpAddr::from(self.v4(1)), IpAddr::from(self.v6(1))] {
            line(format!("neigh replace {router} lladdr {} dev eth0 nud permanent", self.mac(1)));
            line(format!("route add default via {router} dev eth0"));
        }
        batch
    }
}

/// The namespace that the nodes reach the coordinator in.
pub(super) fn management() -> Namespace {
    Namespace::Named(MANAGEMENT.parse().expect("letters are a name"))
}

/// The `ip` commands of the management namespace: its address on a bridge.
fn management_batch() -> String {
    format!(
        "link set lo up\nlink add {MANAGEMENT_BRIDGE} type bridge\naddr add {ADDRESS}/24 dev {MANAGEMENT_BRIDGE}\n\
         link set {MANAGEMENT_BRIDGE} up\n"
    )
}

/// The `ip` commands for a link from the management bridge to a node.
fn wire_batch(name: &str) -> String {
    format!(
        "link add {name} type veth peer name {MANAGEMENT_INTERFACE} netns {name}\n\
         link set {name} master {MANAGEMENT_BRIDGE} up\n"
    )
}

/// The `ip` commands for a node's end of that link.
fn managed_batch(node: u8) -> String {
    let [a, b, c, first] = ADDRESS.octets();
    let own = Ipv4Addr::new(a, b, c, first + node);
    format!("addr add {own}/24 dev {MANAGEMENT_INTERFACE}\nlink set {MANAGEMENT_INTERFACE} up\n")
}

/// The route by which the router spreads connections over these nodes.
fn ecmp_batch(nodes: &BTreeSet<u8>) -> String {
    let mut batch = String::new();
    let mut route = |vip: String, via: fn(Place) -> IpAddr| {
        write!(batch, "route replace {vip}").expect("a String takes everything");
        for node in nodes.iter().copied().map(Place::Node) {
            write!(batch, " nexthop via {} dev {}", via(node), node.name()).expect("a String takes everything");
        }
        batch.push('\n');
    };
    route(format!("{VIP_V4}/32"), |node| node.v4(2).into());
    route(format!("{VIP_V6}/128"), |node| node.v6(2).into());
    batch
}

/// The network, as long as our mount namespace lives.
pub struct Network {
    ip: PathBuf,
    /// Nodes that the router spreads connections over.
    announced: BTreeSet<u8>,
    /// Namespace of the coordinator and its operator.
    pub management: Namespace,
    /// Client namespaces.
    pub clients: Vec<ClientSite>,
}

/// State of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// The link carries packets.
    Up,
    /// The link is cut.
    Down,
}

/// A namespace with clients.
pub struct ClientSite {
    /// The namespace.
    pub namespace: Namespace,
    /// Source and destination of its connections, in turn.
    pub pairs: Vec<(IpAddr, SocketAddr)>,
}

impl Network {
    /// Builds the network, with nodes 1 to `nodes`.
    pub fn make(nodes: u8) -> Result<Self, DemoError> {
        let ip = find_ip()?;
        std::fs::create_dir_all(NAMES_DIR).map_err(DemoError::step(format!("make {NAMES_DIR}")))?;
        set(&[&SYSCTLS_ALL[..], &SYSCTLS_ROUTER].concat())?;
        run_ip(&ip, "the router", "link set lo up\n")?;
        make_namespace(MANAGEMENT)?;
        let management = management();
        management.within(|| {
            set(&SYSCTLS_ALL)?;
            run_ip(&ip, MANAGEMENT, &management_batch())
        })??;
        let clients = (1..=CLIENT_NAMESPACES).map(Place::Clients).map(client_site).collect();
        let network = Self { ip, announced: (1..=nodes).collect(), management, clients };
        (1..=CLIENT_NAMESPACES).map(Place::Clients).try_for_each(|place| network.add(place))?;
        (1..=nodes).try_for_each(|node| network.add_node(node))?;
        // Routes come last: the kernel does not use a route through an interface without a carrier.
        network.spread()?;
        Ok(network)
    }

    /// The namespace of a node.
    pub fn node(&self, node: u8) -> Namespace {
        namespace_of(Place::Node(node))
    }

    /// Makes a node's namespace and links.  It gets no connections until it is announced.
    pub fn add_node(&self, node: u8) -> Result<(), DemoError> {
        let place = Place::Node(node);
        self.add(place)?;
        let name = place.name();
        self.management.within(|| run_ip(&self.ip, MANAGEMENT, &wire_batch(&name)))??;
        namespace_of(place).within(|| run_ip(&self.ip, &name, &managed_batch(node)))?
    }

    fn add(&self, place: Place) -> Result<(), DemoError> {
        let name = place.name();
        make_namespace(&name)?;
        run_ip(&self.ip, "the router", &place.router_batch())?;
        let sysctls = if matches!(place, Place::Node(_)) { &SYSCTLS_NODE } else { &SYSCTLS_CLIENT };
        namespace_of(place).within(|| {
            set(&[&SYSCTLS_ALL[..], sysctls].concat())?;
            run_ip(&self.ip, &name, &place.own_batch())
        })?
    }

    /// Removes a node's namespace and links.  No process may be left in it.
    pub fn remove_node(&self, node: u8) -> Result<(), DemoError> {
        let name = Place::Node(node).name();
        let cut = format!("link del {name}\n");
        run_ip(&self.ip, "the router", &cut)?;
        self.management.within(|| run_ip(&self.ip, MANAGEMENT, &cut))??;
        let path = Path::new(NAMES_DIR).join(&name);
        let removed = rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH);
        let removed = removed.map_err(io::Error::from).and_then(|()| std::fs::remove_file(&path));
        removed.map_err(DemoError::step(format!("remove network namespace {name}")))
    }

    /// Spreads connections over this node too.
    pub fn announce(&mut self, node: u8) -> Result<(), DemoError> {
        self.announced.insert(node);
        self.spread()
    }

    /// Keeps connections away from this node.
    pub fn withdraw(&mut self, node: u8) -> Result<(), DemoError> {
        self.announced.remove(&node);
        self.spread()
    }

    fn spread(&self) -> Result<(), DemoError> {
        run_ip(&self.ip, "the routes to the nodes", &ecmp_batch(&self.announced))
    }

    /// Cuts or restores the link between a node and the coordinator.
    pub fn management_wire(&self, node: u8, wire: Wire) -> Result<(), DemoError> {
        let way = if wire == Wire::Up { "up" } else { "down" };
        let line = format!("link set {} {way}\n", Place::Node(node).name());
        self.management.within(|| run_ip(&self.ip, MANAGEMENT, &line))?
    }
}

fn client_site(place: Place) -> ClientSite {
    let pairs = place.hosts().flat_map(|host| {
        let v4 = (place.v4(host).into(), SocketAddr::from((VIP_V4, PORT)));
        let v6 = (place.v6(host).into(), SocketAddr::from((VIP_V6, PORT)));
        [v4, v6]
    });
    ClientSite { namespace: namespace_of(place), pairs: pairs.collect() }
}

fn namespace_of(place: Place) -> Namespace {
    let name: NamespaceName = place.name().parse().expect("letters and digits are a name");
    Namespace::Named(name)
}

/// Makes a network namespace and gives it a name, as `ip netns add` does.
///
/// Runs on a thread of its own: unshare changes the thread's namespace, and the name keeps the new one after the thread has ended.
fn make_namespace(name: &str) -> Result<(), DemoError> {
    let path = Path::new(NAMES_DIR).join(name);
    let made = std::thread::scope(|scope| {
        let make = || -> io::Result<()> {
            sys::unshare(UnshareFlags::NEWNET)?;
            std::fs::File::create(&path)?;
            Ok(rustix::mount::mount_bind(OWN_NETNS, &path)?)
        };
        scope.spawn(make).join()
    });
    let made = made.unwrap_or_else(|_| Err(io::Error::other("the thread that makes it panicked")));
    made.map_err(DemoError::step(format!("make network namespace {name}")))
}

fn set(sysctls: &[(&str, &str)]) -> Result<(), DemoError> {
    for (name, value) in sysctls {
        let path = Path::new(SYSCTL_DIR).join(name);
        std::fs::write(&path, value).map_err(|error| match error.kind() {
            // The /proc of a container.
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => DemoError::Namespaces(error),
            io::ErrorKind::NotFound if name.starts_with("net/ipv6/") => DemoError::NoIpv6,
            _ => DemoError::step(format!("set {}", path.display()))(error),
        })?;
    }
    Ok(())
}

/// The `ip` command.
pub fn find_ip() -> Result<PathBuf, DemoError> {
    find_program("ip").ok_or(DemoError::NoIp)
}

/// A program of the host.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(IP_DIRS.iter().map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|program| program.is_file())
}

/// Runs a batch in the calling thread's namespace.
fn run_ip(ip: &Path, place: &str, batch: &str) -> Result<(), DemoError> {
    let attempt = || DemoError::step(format!("run {}", ip.display()));
    let mut command = Command::new(ip);
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(attempt())?;
    let written = child.stdin.take().map(|mut input| input.write_all(batch.as_bytes()));
    let output = child.wait_with_output().map_err(attempt())?;
    if output.status.success() {
        // If it succeeded, it has read everything.
        return written.transpose().map(drop).map_err(attempt());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(DemoError::Ip { place: place.to_owned(), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_can_meet_every_node() {
        let batch = ecmp_batch(&(1..=3).collect());
        assert_eq!(batch.matches("nexthop").count(), 6);
        assert!(
            batch.starts_with("route replace 10.10.10.10/32 nexthop via 10.20.1.2 dev node1 nexthop via 10.20.2.2"),
            "{batch}"
        );
    }

    #[test]
    fn a_client_namespace_has_no_more_sources_than_the_kernel_remembers() {
        let site = client_site(Place::Clients(1));
        for vip in [IpAddr::from(VIP_V4), IpAddr::from(VIP_V6)] {
            let sources: Vec<_> = site.pairs.iter().filter(|(_, to)| to.ip() == vip).map(|(from, _)| from).collect();
            assert_eq!(sources.len(), 2, "docs/kernel.md#client-side");
            assert!(sources.iter().all(|source| source.is_ipv4() == vip.is_ipv4()));
        }
    }

    #[test]
    fn a_node_answers_for_the_shared_address() {
        let batch = Place::Node(64).own_batch();
        assert!(batch.contains("addr add 10.10.10.10/32 dev lo\n") && batch.contains("/128 dev lo nodad\n"), "{batch}");
        assert!(!Place::Clients(6).own_batch().contains("10.10.10.10"));
    }
}
