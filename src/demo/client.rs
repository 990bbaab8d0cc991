//! Live clients: they connect all the time with their request in the SYN, and look whether the server took it.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use super::judge::{Outcome, Tally};
use super::network::ClientSite;
use super::server::{ANSWER, REQUEST};
use crate::kernel::namespace::NamespaceError;
use crate::runtime::sys;

/// Between two connections of one client namespace: about 100 a second each, 600 in all, which leaves most of a core free.  Every
/// client address comes round within a tenth of a second, far inside the time for which its cookie is good.
const PAUSE: Duration = Duration::from_millis(9);
/// Longest wait for one step of a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tells all clients to end.
#[derive(Clone, Default)]
pub(super) struct Whistle(Arc<AtomicBool>);

impl Whistle {
    pub(super) fn blow(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn blown(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Starts the clients of one namespace; they count into `tally` until the whistle blows.
pub(super) fn start(site: ClientSite, tally: Arc<Tally>, whistle: Whistle) -> JoinHandle<Result<(), NamespaceError>> {
    std::thread::spawn(move || {
        site.namespace.within(|| {
            for (source, target) in site.pairs.iter().cycle() {
                if whistle.blown() {
                    return;
                }
                tally.count(target.ip(), connect(*source, *target).unwrap_or(Outcome::Failed));
                // Not to wait for something: it is the rate of the load.
                std::thread::sleep(PAUSE);
            }
        })
    })
}

/// One connection: the request in the SYN if the kernel has a cookie, the answer, and what TCP_INFO says of it.
///
/// Blocking, because a non-blocking `sendto(MSG_FASTOPEN)` without a cookie queues nothing (KERNEL.md section 6).
fn connect(source: IpAddr, target: SocketAddr) -> std::io::Result<Outcome> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    rustix::net::bind(&socket, &SocketAddr::from((source, 0)))?;
    let fast_open = SendFlags::from_bits_retain(libc::MSG_FASTOPEN.cast_unsigned());
    rustix::net::sendto(&socket, REQUEST, fast_open, &target)?;
    let mut stream = TcpStream::from(socket);
    let mut answer = Vec::with_capacity(ANSWER.len());
    stream.by_ref().take(ANSWER.len() as u64 + 1).read_to_end(&mut answer)?;
    if answer != ANSWER {
        return Ok(Outcome::Failed);
    }
    Ok(Outcome::of(sys::tcp_info_head(stream.as_fd())?))
}
