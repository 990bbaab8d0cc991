//! Notifications of the service manager (`sd_notify(3)`).  Without a service manager all of this does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// The first verified install is done, or a reload is over.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The line that `systemctl status` shows.
pub fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// The main loop is alive.  To be called only from there.
pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// A reload has begun; [`ready`] ends it.  systemd 253 and later want the monotonic time with it (docs/systemd.md).
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot read the monotonic clock for the service manager"),
    }
}

/// The daemon ends now, on purpose.
pub fn stopping() {
    send(&[NotifyState::Stopping, NotifyState::Status("stopped; the installed keys stay")]);
}

/// How often [`watchdog`] must be called, if the service manager asks for it: half its limit (`sd_watchdog_enabled(3)`).
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn send(states: &[NotifyState<'_>]) {
    // A service manager that cannot be notified must not stop the work on keys.
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
