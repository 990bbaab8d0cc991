//! The coordinator's transport over real TLS on loopback, under an echo router: who is let in, what is refused and how,
//! new files without a restart, and the end.

mod client;
mod forms;
mod handshake;
mod harness;
mod lifecycle;
mod limits;
mod parked;
mod reload;
mod spiffe;
