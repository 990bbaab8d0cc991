//! The coordinator's page on the host: the one thing of the demo that is reached from outside its namespaces.
//!
//! The listener is made before this process leaves the host's network, and stays there.  Each connection is passed on, byte by
//! byte, to the coordinator's plain listener, in the management namespace.  Must not know: HTTP.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::coordinator::PAGE;
use super::error::DemoError;
use super::network;

/// Connections at a time: a browser has six.
const CONNECTIONS_MAX: usize = 32;

/// A listener on the host's loopback address.
pub(super) struct Page(TcpListener);

impl Page {
    /// Listens; to be called before this process enters namespaces.
    pub(super) fn listen() -> Result<Self, DemoError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
        listener.map(Self).map_err(DemoError::step("listen for a browser on this host"))
    }

    /// What a browser is to open.
    pub(super) fn address(&self) -> Result<String, DemoError> {
        let at = self.0.local_addr().map_err(DemoError::step("listen for a browser on this host"))?;
        Ok(format!("http://{at}/"))
    }

    /// Passes connections on until the program ends.
    pub(super) fn serve(self) {
        std::thread::spawn(move || {
            let open = Arc::new(AtomicUsize::new(0));
            for browser in self.0.incoming().filter_map(Result::ok) {
                if open.fetch_add(1, Ordering::Relaxed) < CONNECTIONS_MAX {
                    let open = Arc::clone(&open);
                    std::thread::spawn(move || {
                        // What a browser sees of a failure is a connection that ends; it asks again.
                        drop(pass_on(&browser));
                        open.fetch_sub(1, Ordering::Relaxed);
                    });
                } else {
                    open.fetch_sub(1, Ordering::Relaxed);
                }
            }
        });
    }
}

fn pass_on(browser: &TcpStream) -> io::Result<()> {
    let at = SocketAddr::from(PAGE);
    // Until the fleet has its network there is no such namespace.
    let coordinator = network::management().within(|| TcpStream::connect(at)).map_err(io::Error::other)??;
    let (from_browser, to_browser) = (browser.try_clone()?, browser.try_clone()?);
    let (from_coordinator, to_coordinator) = (coordinator.try_clone()?, coordinator);
    let forth = std::thread::spawn(move || copy(from_browser, to_coordinator));
    copy(from_coordinator, to_browser);
    // A browser that still sends to a coordinator that has gone.
    drop(browser.shutdown(Shutdown::Both));
    drop(forth.join());
    Ok(())
}

/// Copies to the end of one side, and tells the other one.
fn copy(mut from: TcpStream, mut to: TcpStream) {
    drop(io::copy(&mut from, &mut to));
    drop(to.shutdown(Shutdown::Write));
}
