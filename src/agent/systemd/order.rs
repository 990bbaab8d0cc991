//! Whether servers start after the agent, and the agent after what sets sysctls at boot (docs/systemd.md#boot-order).
//!
//! The file in sysctl.d covers an ordinary boot.  At the first boot, and after a long time off, a server that starts before
//! the agent makes cookies from the kernel's own key, or from an old one.  Which listeners use TFO cannot be seen from
//! outside, so only services on the usual ports are checked, and all problems are warnings.  Listeners on loopback have no
//! clients of the fleet, and often start before the agent, such as the stub of systemd-resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{AGENT, Properties, Systemctl};
use tfo_model::problem::Problem;

const SYSCTL: &str = "systemd-sysctl.service";
/// Mail, DNS, HTTP, HTTPS, mail of clients, DNS over TLS.
const PORTS: [u16; 7] = [25, 53, 80, 443, 465, 587, 853];
/// Listening TCP sockets of this network namespace, v4 and v6 (proc(5)).
const SOCKET_TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// TCP_LISTEN in them (linux/tcp_states.h).
const LISTEN: &str = "0A";

/// Units in the wrong order; nothing if the daemon is not used.
#[must_use]
pub fn problems() -> Vec<Problem> {
    let properties = "LoadState,UnitFileState,ActiveState,Before,After";
    let shown = Systemctl::booted().and_then(|systemctl| systemctl.show(AGENT, properties));
    let Some(agent) = shown.as_ref().map(Agent::parse) else { return Vec::new() };
    let listeners = agent.is_used.then(listeners).unwrap_or_default();
    agent.judge(&listeners)
}

/// The agent's unit as systemd has it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Agent {
    /// Enabled or running.
    is_used: bool,
    before: BTreeSet<String>,
    after: BTreeSet<String>,
}

impl Agent {
    fn parse(shown: &Properties) -> Self {
        let words = |name| shown.get(name).unwrap_or_default().split(' ').map(str::to_owned).collect();
        let is_used = shown.get("LoadState") == Some("loaded")
            && (shown.get("UnitFileState") == Some("enabled") || shown.get("ActiveState") == Some("active"));
        Self { is_used, before: words("Before"), after: words("After") }
    }

    fn judge(&self, listeners: &BTreeMap<String, u16>) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !self.is_used {
            return problems;
        }
        if !self.after.contains(SYSCTL) {
            let message = format!(
                "{AGENT} is not ordered after {SYSCTL}, which may replace the agent's key with an old one at boot"
            );
            problems.push(Problem::warning("unit_order", message, format!("a drop-in for {AGENT}: After={SYSCTL}")));
        }
        for (unit, port) in listeners.iter().filter(|(unit, _)| !self.before.contains(*unit)) {
            let message = format!(
                "{unit} listens on port {port} and is not ordered after {AGENT}: at the first boot it may make cookies from \
                 the kernel's own key"
            );
            let remedy = format!("if it uses TFO: a drop-in for {unit} with [Unit] After={AGENT}");
            problems.push(Problem::warning("unit_order", message, remedy));
        }
        problems
    }
}

/// Services that listen on one of the ports, as far as this user may see the descriptors of others.
fn listeners() -> BTreeMap<String, u16> {
    let tables = SOCKET_TABLES.iter().filter_map(|table| std::fs::read_to_string(table).ok());
    let sockets: BTreeMap<String, u16> = tables.flat_map(|table| listening(&table)).collect();
    let mut found = BTreeMap::new();
    if sockets.is_empty() {
        return found;
    }
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path()) {
        let descriptors = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        let targets = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let port = targets.filter_map(|target| sockets.get(target.to_str()?).copied()).min();
        let cgroup = || std::fs::read_to_string(process.join("cgroup")).ok();
        if let Some((port, unit)) = port.and_then(|port| Some((port, service_of(&cgroup()?)?))) {
            found.insert(unit, port);
        }
    }
    found
}

/// `socket:[INODE]`, as a descriptor's link shows it, and port, of each listener on one of the ports, but for those on loopback.
fn listening(table: &str) -> Vec<(String, u16)> {
    let listener = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let (address, port) = local.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        let serves = *state == LISTEN && PORTS.contains(&port) && !address_in(address)?.is_loopback();
        serves.then(|| (format!("socket:[{inode}]"), port))
    };
    table.lines().filter_map(listener).collect()
}

/// An address as the kernel's tables show it: words of 32 bits, each as this machine has it in memory.
fn address_in(hex: &str) -> Option<IpAddr> {
    let words = (0..hex.len()).step_by(8).map(|at| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok());
    let octets: Vec<u8> = words.collect::<Option<Vec<u32>>>()?.into_iter().flat_map(u32::to_ne_bytes).collect();
    let v4 = <[u8; 4]>::try_from(octets.as_slice()).map(IpAddr::from);
    // A v4 address in v6 is what it is in v4.
    v4.or_else(|_| <[u8; 16]>::try_from(octets.as_slice()).map(|octets| IpAddr::from(octets).to_canonical())).ok()
}

/// The service that a process belongs to, by its cgroup (cgroups(7), version 2); none below a user's own service manager,
/// whose units cannot be ordered after ours.
fn service_of(cgroup: &str) -> Option<String> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
    let service = path.split('/').find(|part| part.ends_with(".service"))?;
    (!service.starts_with("user@")).then(|| service.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "LoadState=loaded\nUnitFileState=enabled\nActiveState=inactive\n\
                         Before=multi-user.target nginx.service shutdown.target\nAfter=time-set.target systemd-sysctl.service\n";

    fn kinds(shown: &str, unit: &str) -> usize {
        let listeners = BTreeMap::from([(unit.to_owned(), 443)]);
        let problems = Agent::parse(&Properties(shown.to_owned())).judge(&listeners);
        assert!(problems.iter().all(|problem| problem.kind == "unit_order"));
        problems.len()
    }

    #[test]
    fn a_server_that_the_agent_does_not_precede_is_reported() {
        assert_eq!(kinds(SHOWN, "nginx.service"), 0);
        assert_eq!(kinds(SHOWN, "proxy.service"), 1);
        assert_eq!(kinds(&SHOWN.replace(" systemd-sysctl.service", ""), "nginx.service"), 1);
        assert_eq!(kinds(&SHOWN.replace("enabled", "disabled"), "proxy.service"), 0, "the agent is not started");
        let runs = SHOWN.replace("enabled", "disabled").replace("inactive", "active");
        assert_eq!(kinds(&runs, "proxy.service"), 1);
        assert_eq!(kinds(&SHOWN.replace("LoadState=loaded", "LoadState=not-found"), "proxy.service"), 0);
    }

    #[test]
    fn listeners_are_found_in_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
           0: 00000000:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n\
           1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0\n\
           2: 0100007F:01BB 0100007F:8000 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0\n";
        assert_eq!(listening(table), [("socket:[4711]".to_owned(), 443)]);
        assert_eq!(service_of("0::/system.slice/nginx.service\n").as_deref(), Some("nginx.service"));
        assert_eq!(service_of("0::/user.slice/user-0.slice/session-1.scope\n"), None);
        let own = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/proxy.service\n";
        assert_eq!(service_of(own), None, "it cannot be ordered after ours");
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn listeners_on_loopback_are_left_out() {
        let found = |local: &str| {
            let row = format!("0: {local} 0:0 0A 0:0 00:0 0 0 0 4711 1 0\n");
            listening(&row).first().map(|(_, port)| *port)
        };
        // systemd-resolved's stub, 127.0.0.53 and 127.0.0.54.
        assert_eq!(found("3500007F:0035"), None);
        assert_eq!(found("3600007F:0035"), None);
        assert_eq!(found("00000000000000000000000001000000:0035"), None, "::1");
        assert_eq!(found("0000000000000000FFFF00000100007F:01BB"), None, "::ffff:127.0.0.1");
        assert_eq!(found("0101A8C0:0035"), Some(53), "192.168.1.1");
        assert_eq!(found("0000000000000000FFFF00000101A8C0:01BB"), Some(443), "::ffff:192.168.1.1");
        assert_eq!(found("B80D0120000000000000000001000000:01BB"), Some(443), "2001:db8::1");
        assert_eq!(found("00000000000000000000000000000000:01BB"), Some(443), "::");
        assert_eq!(found("7F:01BB"), None, "not an address");
    }
}
