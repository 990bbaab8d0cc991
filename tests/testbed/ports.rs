//! Ports for servers that are started later, by another process: no two tests get the same one, and no client's connection
//! takes it meanwhile.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::sync::{Mutex, PoisonError};

/// Below those that the kernel gives to connections (`ip_local_port_range` begins at 32 768): a port that was free, and is
/// not yet listened at, would otherwise be the local end of any other test's connection.
pub const PORTS: std::ops::Range<u16> = 10_000..32_768;

/// What this process has claimed, until it ends.  A name in the abstract namespace belongs to one network namespace, as a
/// port does, and leaves no file.
static CLAIMS: Mutex<Vec<UnixDatagram>> = Mutex::new(Vec::new());

/// A port of 127.0.0.1 that is free, and that no other test is given before this process ends.
pub fn free_port() -> SocketAddr {
    let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
    // Processes that start one after another begin far from each other: few meet a port that is claimed.
    let begin = usize::try_from(std::process::id()).expect("64 bits").wrapping_mul(97);
    for port in PORTS.cycle().skip(begin % PORTS.len()).take(PORTS.len()) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let name = UnixAddr::from_abstract_name(format!("tfo-fleet/port/{port}")).expect("a short name");
        let Ok(claim) = UnixDatagram::bind_addr(&name) else { continue };
        if TcpListener::bind(address).is_ok() {
            claims.push(claim);
            return address;
        }
    }
    panic!("no port of {PORTS:?} is free at 127.0.0.1")
}
