//! Live clients: they connect continuously with their request in the SYN, and check whether the server accepted it.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use super::judge::{Outcome, Tally};
use super::network::ClientSite;
use super::server::{ANSWER, REQUEST};
use tfo_host::kernel::namespace::NamespaceError;
use tfo_host::runtime::sys;

/// Pause between two connections of one client namespace: about 50 a second each, 600 in all, which leaves most of a core free.  Every
/// client address connects again within a tenth of a second, long before its cookie becomes invalid.
const PAUSE: Duration = Duration::from_millis(19);
/// Timeout of one step of a connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// Stops or pauses all clients.
#[derive(Clone, Default)]
pub struct ClientControl(Arc<Calls>);

#[derive(Default)]
struct Calls {
    end: AtomicBool,
    /// Held for reading while a connection is open.
    turn: RwLock<()>,
}

impl ClientControl {
    /// Stops all clients.
    pub fn stop(&self) {
        self.0.end.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.0.end.load(Ordering::Relaxed)
    }

    /// Runs `act` while no connection is open: changing a route breaks open connections, and that is not a fault of the keys.
    pub fn between_connections<R>(&self, act: impl FnOnce() -> R) -> R {
        // A poisoned lock is harmless: it guards no data.
        let _turn = self.0.turn.write().unwrap_or_else(PoisonError::into_inner);
        act()
    }

    fn while_open<R>(&self, connect: impl FnOnce() -> R) -> R {
        let _turn = self.0.turn.read().unwrap_or_else(PoisonError::into_inner);
        connect()
    }
}

/// Starts the clients of one namespace; they count into `tally` until `control` stops them.
pub fn start(site: ClientSite, tally: Arc<Tally>, control: ClientControl) -> JoinHandle<Result<(), NamespaceError>> {
    std::thread::spawn(move || {
        site.namespace.within(|| {
            for (source, target) in site.pairs.iter().cycle() {
                if control.is_stopped() {
                    return;
                }
                let outcome = control.while_open(|| connect(*source, *target));
                tally.count(target.ip(), outcome.unwrap_or(Outcome::Failed));
                // This sleep sets the rate of the load.
                std::thread::sleep(PAUSE);
            }
        })
    })
}

/// Makes one connection: sends the request, in the SYN if the kernel has a cookie, reads the answer, and evaluates TCP_INFO.
///
/// Blocking, because a non-blocking `sendto(MSG_FASTOPEN)` without a cookie queues nothing (docs/kernel.md#client-side).
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
