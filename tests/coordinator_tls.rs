//! The coordinator's transport over real TLS on loopback, under an echo router: who is let in, what is refused and how,
//! new files without a restart, and the end.

#[cfg(test)]
mod support;

#[cfg(test)]
#[path = "tls/handshake.rs"]
mod handshake;
#[cfg(test)]
#[path = "tls/harness.rs"]
mod harness;
#[cfg(test)]
#[path = "tls/lifecycle.rs"]
mod lifecycle;
#[cfg(test)]
#[path = "tls/limits.rs"]
mod limits;
#[cfg(test)]
#[path = "tls/reload.rs"]
mod reload;
