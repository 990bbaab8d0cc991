//! A TCP proxy in front of a member of etcd, or of a coordinator: it delays, holds back, swallows and cuts, and can let go later what
//! it held back.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What becomes of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// They pass.
    Pass,
    /// They pass later, in both directions.
    Delay(Duration),
    /// Requests are held back until the mode changes, and pass then, although their client has gone.
    HoldRequests,
    /// Requests pass, and answers do not.
    SwallowAnswers,
    /// [`Self::HoldRequests`] on the connection of each large request alone, with which it begins: a commit, if this is etcd.
    HoldLarge,
    /// [`Self::SwallowAnswers`] on the connection of each large request alone, after which it begins.
    SwallowLarge,
    /// Connections are cut at their next byte, and new ones at once.
    Cut,
    /// Connections over which no byte has passed for so long are cut, as balancers do it.  Set it before they begin.
    CutIdle(Duration),
}

/// A request of so many bytes is large.  What a coordinator asks of etcd has about 2 kB, a beat 1 kB; a commit has the document.
const LARGE_BYTES: usize = 3 << 10;

#[derive(Debug)]
struct Shared {
    mode: Mutex<Mode>,
    changed: Condvar,
}

/// A running proxy, or another hand of it.
#[derive(Clone)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Requests,
    Answers,
}

impl Proxy {
    /// In front of this address, on loopback.  Its threads end with the test's process.
    pub fn before(to: SocketAddr) -> Self {
        Self::on(Ipv4Addr::LOCALHOST.into(), to)
    }

    /// The same on an address of this host.
    pub fn on(own: IpAddr, to: SocketAddr) -> Self {
        let listener = TcpListener::bind((own, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { mode: Mutex::new(Mode::Pass), changed: Condvar::new() });
        let state = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if state.mode() == Mode::Cut {
                    continue;
                }
                let Ok(server) = TcpStream::connect(to) else { continue };
                if let Mode::CutIdle(time) = state.mode() {
                    std::thread::spawn(move || pass_until_idle(&client, &server, time));
                    continue;
                }
                let was_large = Arc::new(AtomicBool::new(false));
                for (from, to, direction) in [
                    (client.try_clone().unwrap(), server.try_clone().unwrap(), Direction::Requests),
                    (server, client, Direction::Answers),
                ] {
                    let (state, was_large) = (Arc::clone(&state), Arc::clone(&was_large));
                    std::thread::spawn(move || state.copy(from, to, direction, &was_large));
                }
            }
        });
        Self { address, shared }
    }

    /// `https://…` of it.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What becomes of bytes from now on.
    pub fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
        self.shared.changed.notify_all();
    }
}

/// Passes bytes both ways until one end has ended, or none came for so long.
fn pass_until_idle(client: &TcpStream, server: &TcpStream, time: Duration) {
    let last = Mutex::new(crate::now());
    std::thread::scope(|scope| {
        for (mut from, mut to) in [(client, server), (server, client)] {
            let last = &last;
            scope.spawn(move || {
                let mut buffer = [0; 16 << 10];
                loop {
                    let left = time.saturating_sub(last.lock().unwrap().elapsed());
                    if left.is_zero() || from.set_read_timeout(Some(left)).is_err() {
                        break;
                    }
                    match from.read(&mut buffer) {
                        Ok(0) => break,
                        Ok(count) if to.write_all(&buffer[..count]).is_err() => break,
                        Ok(_) => *last.lock().unwrap() = crate::now(),
                        Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {}
                        Err(_) => break,
                    }
                }
                for end in [client, server] {
                    // Already closed by its peer: nothing is left to do.
                    end.shutdown(Shutdown::Both).unwrap_or_default();
                }
            });
        }
    });
}

impl Shared {
    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap()
    }

    /// `was_large`: whether a large request has come over this connection in a mode that is about those.
    fn copy(&self, mut from: TcpStream, mut to: TcpStream, direction: Direction, was_large: &AtomicBool) {
        let mut buffer = [0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if direction == Direction::Requests {
                if count >= LARGE_BYTES && matches!(self.mode(), Mode::HoldLarge | Mode::SwallowLarge) {
                    was_large.store(true, Ordering::Relaxed);
                }
                let is_held = |mode: &mut Mode| {
                    *mode == Mode::HoldRequests || (*mode == Mode::HoldLarge && was_large.load(Ordering::Relaxed))
                };
                drop(self.changed.wait_while(self.mode.lock().unwrap(), is_held).unwrap());
            }
            match self.mode() {
                Mode::Delay(time) => std::thread::sleep(time),
                Mode::SwallowAnswers if direction == Direction::Answers => continue,
                Mode::SwallowLarge if direction == Direction::Answers && was_large.load(Ordering::Relaxed) => continue,
                Mode::Cut => break,
                Mode::Pass
                | Mode::HoldRequests
                | Mode::SwallowAnswers
                | Mode::HoldLarge
                | Mode::SwallowLarge
                | Mode::CutIdle(_) => {}
            }
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        // What was asked is done although the client has gone: the server's end stays open a while longer.
        if direction == Direction::Requests && self.mode() != Mode::Cut {
            std::thread::sleep(Duration::from_secs(2));
        }
        for end in [from, to] {
            // Already closed by its peer: nothing is left to do.
            end.shutdown(Shutdown::Both).unwrap_or_default();
        }
    }
}
