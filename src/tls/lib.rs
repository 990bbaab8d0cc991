//! TLS 1.3 with client certificates: files, reload, revocation, and the identity of a peer.
//!
//! Must not know: HTTP, pools, what a name may do.

pub mod client;
pub mod identity;
pub mod pinned;
pub mod server;
pub mod spiffe;
pub mod stream;

mod authorities;
mod chain;
#[cfg(test)]
mod forged_chains;
mod grace;
mod live;
mod pem;
mod stamp;
