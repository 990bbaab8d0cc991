//! A TCP proxy in front of a member of etcd: it delays, holds back, swallows and cuts, and can let go later what it held back.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// What becomes of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They pass.
    Pass,
    /// They pass later, in both directions.
    Delay(Duration),
    /// Requests are held back until the mode changes, and pass then, although their client has gone.
    HoldRequests,
    /// Requests pass, and answers do not.
    SwallowAnswers,
    /// [`Self::HoldRequests`] as soon as the next answer has passed.
    ThenHold,
    /// [`Self::SwallowAnswers`] as soon as the next answer has passed.
    ThenSwallow,
    /// Connections are cut at their next byte, and new ones at once.
    Cut,
}

#[derive(Debug)]
struct Shared {
    mode: Mutex<Mode>,
    changed: Condvar,
}

/// A running proxy.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Requests,
    Answers,
}

impl Proxy {
    /// In front of this address.  Its threads end with the test's process.
    pub(crate) fn before(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { mode: Mutex::new(Mode::Pass), changed: Condvar::new() });
        let state = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if state.mode() == Mode::Cut {
                    continue;
                }
                let Ok(server) = TcpStream::connect(to) else { continue };
                for (from, to, direction) in [
                    (client.try_clone().unwrap(), server.try_clone().unwrap(), Direction::Requests),
                    (server, client, Direction::Answers),
                ] {
                    let state = Arc::clone(&state);
                    std::thread::spawn(move || state.copy(from, to, direction));
                }
            }
        });
        Self { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
        self.shared.changed.notify_all();
    }
}

impl Shared {
    fn mode(&self) -> Mode {
        *self.mode.lock().unwrap()
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream, direction: Direction) {
        let mut buffer = [0; 16 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            if direction == Direction::Requests {
                let held = self.changed.wait_while(self.mode.lock().unwrap(), |mode| *mode == Mode::HoldRequests);
                drop(held.unwrap());
            }
            match self.mode() {
                Mode::Delay(time) => std::thread::sleep(time),
                Mode::SwallowAnswers if direction == Direction::Answers => continue,
                Mode::Cut => break,
                Mode::Pass | Mode::HoldRequests | Mode::SwallowAnswers | Mode::ThenHold | Mode::ThenSwallow => {}
            }
            if direction == Direction::Answers {
                let mut mode = self.mode.lock().unwrap();
                *mode = match *mode {
                    Mode::ThenHold => Mode::HoldRequests,
                    Mode::ThenSwallow => Mode::SwallowAnswers,
                    other => other,
                };
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
