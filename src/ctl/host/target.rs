//! Servers on the command line, `HOST[:PORT]`, and the addresses behind them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use tfo_model::problem::Problem;

/// Port that most servers with TFO listen on.
const DEFAULT_PORT: u16 = 443;

/// A server as typed on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    text: String,
    host: String,
    port: u16,
}

/// The text is not a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a server is HOST, HOST:PORT, ADDRESS, ADDRESS:PORT or [IPV6]:PORT; the port is 443 if it is not given")]
pub(super) struct BadTarget;

impl FromStr for Target {
    type Err = BadTarget;

    fn from_str(text: &str) -> Result<Self, BadTarget> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, port) = rest.split_once(']').ok_or(BadTarget)?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(BadTarget)?) })
        } else if text.parse::<Ipv6Addr>().is_ok() || text.matches(':').count() > 1 {
            (text, None)
        } else {
            text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)))
        };
        let port = port.map_or(Ok(DEFAULT_PORT), str::parse).map_err(|_| BadTarget)?;
        if host.is_empty() || port == 0 || host.contains(['/', ' ', '[', ']']) {
            return Err(BadTarget);
        }
        Ok(Self { text: text.to_owned(), host: host.to_owned(), port })
    }
}

impl fmt::Display for Target {
    /// Shows the server as typed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Address families to use.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(super) struct Families {
    /// IPv4 only
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,
    /// IPv6 only
    #[arg(short = '6', long)]
    ipv6: bool,
}

impl Families {
    fn has(self, address: IpAddr) -> bool {
        if address.is_ipv4() { !self.ipv6 } else { !self.ipv4 }
    }
}

impl Target {
    /// The name or address in it.
    #[must_use]
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// The server's addresses, each once, in the resolver's order.  If there are `sources`, only addresses of their families count.
    ///
    /// # Errors
    /// Fails if the name has no address, or none of the requested families.
    pub(super) fn resolve(&self, families: Families, sources: &[IpAddr]) -> Result<Vec<SocketAddr>, Problem> {
        let found = (self.host.as_str(), self.port).to_socket_addrs().map_err(|error| {
            let remedy = "check the name, or give an address";
            Problem::error("unresolved", format!("{}: cannot resolve the name: {error}", self.host), remedy)
        })?;
        let sourced =
            |address: &IpAddr| sources.is_empty() || sources.iter().any(|source| source.is_ipv4() == address.is_ipv4());
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in found.filter(|found| families.has(found.ip()) && sourced(&found.ip())) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            let remedy = "leave out -4, -6 and --source, or use the server's address family";
            return Err(Problem::error("unresolved", format!("{}: no address of that family", self.host), remedy));
        }
        Ok(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_written_in_these_ways() {
        for (text, host, port) in [
            ("example.org", "example.org", 443),
            ("example.org:80", "example.org", 80),
            ("10.0.0.1", "10.0.0.1", 443),
            ("10.0.0.1:8080", "10.0.0.1", 8080),
            ("fd00::1", "fd00::1", 443),
            ("fe80::1%eth0", "fe80::1%eth0", 443),
            ("[fd00::1]", "fd00::1", 443),
            ("[fd00::1]:80", "fd00::1", 80),
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!((target.host.as_str(), target.port, target.to_string().as_str()), (host, port, text));
        }
        for bad in ["", ":80", "a:", "a:0", "a:65536", "a:x", "[fd00::1", "[fd00::1]80", "[]:80", "http://a", "a b"] {
            assert_eq!(bad.parse::<Target>(), Err(BadTarget), "{bad}");
        }
    }

    #[test]
    fn families_and_sources_choose_among_the_addresses() {
        let target: Target = "127.0.0.1:80".parse().unwrap();
        let (v4, v6) = (Families { ipv4: true, ipv6: false }, Families { ipv4: false, ipv6: true });
        let loopback: SocketAddr = "127.0.0.1:80".parse().unwrap();
        let other: IpAddr = "::1".parse().unwrap();
        assert_eq!(target.resolve(Families::default(), &[]).unwrap(), [loopback]);
        assert_eq!(target.resolve(v4, &[loopback.ip(), other]).unwrap(), [loopback]);
        assert_eq!(target.resolve(v6, &[]).unwrap_err().kind, "unresolved");
        assert_eq!(target.resolve(v4, &[other]).unwrap_err().kind, "unresolved");
    }
}
