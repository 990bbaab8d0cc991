//! `tfo-agent`: its command line, how it joins, the daemon, the kernel that it writes to, a coordinator that it asks, and what it must not
//! leak.

#[cfg(test)]
mod cli;
#[cfg(test)]
mod confine;
#[cfg(test)]
mod contact;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod daemon;
#[cfg(test)]
mod join;
#[cfg(test)]
mod kernel;
#[cfg(test)]
mod leaks;

use rustix::process::Signal;
use tfo_testbed::daemon::{Daemon, DaemonHost, lasting};

/// A daemon that is ready.
#[track_caller]
fn start_ready(host: &DaemonHost) -> Daemon {
    let daemon = host.start();
    daemon.ready();
    daemon
}

/// A host whose keys do not change soon, and its daemon; `install` are lines of [install].
#[track_caller]
fn running(install: &str) -> (DaemonHost, Daemon) {
    let host = DaemonHost::new();
    host.configure(&lasting(&host), install);
    let daemon = start_ready(&host);
    (host, daemon)
}

/// Reloads the configuration, and waits for the pass that follows.
#[track_caller]
fn reload(daemon: &Daemon) {
    let seen = daemon.messages().len();
    daemon.signal(Signal::HUP);
    daemon.expect(seen, "READY=1");
}
